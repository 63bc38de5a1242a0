"""The messages of Caffe's files, built at run time with protobuf: names, numbers and defaults of caffe.proto.

Only fields that matter for the forward pass of a classification network are listed; protobuf skips all others. Source:
`src/caffe/proto/caffe.proto` of BVLC/caffe; `raw_data_type` and `raw_data` are NVIDIA's, for half precision.
"""

from functools import cache
from typing import Any

# One line a message, `name: fields`; a field is `number name type default`, and `*` marks repeated fields. The values
# of blobs are read as bytes, which is how packed numbers are stored: a list of millions of numbers would be slow.
_MESSAGES = """
BlobShape: *1 dim int64
BlobProto: 1 num int64, 2 channels int64, 3 height int64, 4 width int64, 7 shape BlobShape, *5 data bytes, \
*8 double_data bytes, 10 raw_data_type int32, 12 raw_data bytes
NetStateRule: 1 phase Phase, 2 min_level int64, 3 max_level int64, *4 stage string, *5 not_stage string
FillerParameter: 1 type string
TransformationParameter: 1 scale float 1, 3 crop_size uint32, *5 mean_value float, 4 mean_file string, \
7 force_gray bool
DataParameter: 2 scale float 1, 3 mean_file string, 5 crop_size uint32
ImageDataParameter: 2 scale float 1, 3 mean_file string, 5 crop_size uint32, 9 new_height uint32, 10 new_width uint32, \
11 is_color bool true
MemoryDataParameter: 2 channels uint32, 3 height uint32, 4 width uint32
InputParameter: *1 shape BlobShape
ConvolutionParameter: 1 num_output uint32, 2 bias_term bool true, *3 pad uint32, *4 kernel_size uint32, \
5 group uint32 1, *6 stride uint32, 9 pad_h uint32, 10 pad_w uint32, 11 kernel_h uint32, 12 kernel_w uint32, \
13 stride_h uint32, 14 stride_w uint32, 16 axis int32 1, *18 dilation uint32
PoolingParameter: 1 pool PoolMethod, *4 pad uint32, *2 kernel_size uint32, *3 stride uint32, 5 kernel_h uint32, \
6 kernel_w uint32, 7 stride_h uint32, 8 stride_w uint32, 9 pad_h uint32, 10 pad_w uint32, 12 global_pooling bool, \
13 round_mode RoundMode, 14 ceil_mode bool true
LRNParameter: 1 local_size uint32 5, 2 alpha float 1, 3 beta float 0.75, 4 norm_region NormRegion, 5 k float 1
InnerProductParameter: 1 num_output uint32, 2 bias_term bool true, 5 axis int32 1, 6 transpose bool
BatchNormParameter: 2 moving_average_fraction float 0.999, 3 eps float 1e-5
ScaleParameter: 1 axis int32 1, 2 num_axes int32 1, 4 bias_term bool
BiasParameter: 1 axis int32 1, 2 num_axes int32 1
ConcatParameter: 1 concat_dim uint32 1, 2 axis int32 1
EltwiseParameter: 1 operation EltwiseOp SUM, *2 coeff float
DropoutParameter: 1 dropout_ratio float 0.5
SoftmaxParameter: 2 axis int32 1
ReLUParameter: 1 negative_slope float
ELUParameter: 1 alpha float 1
PReLUParameter: 2 channel_shared bool
PowerParameter: 1 power float 1, 2 scale float 1, 3 shift float
FlattenParameter: 1 axis int32 1, 2 end_axis int32 -1
ReshapeParameter: 1 shape BlobShape, 2 axis int32, 3 num_axes int32 -1
LayerParameter: 1 name string, 2 type string, *3 bottom string, *4 top string, *7 blobs BlobProto, \
*8 include NetStateRule, *9 exclude NetStateRule, 100 transform_param TransformationParameter, \
107 data_param DataParameter, 115 image_data_param ImageDataParameter, 119 memory_data_param MemoryDataParameter, \
143 input_param InputParameter, 106 convolution_param ConvolutionParameter, 121 pooling_param PoolingParameter, \
118 lrn_param LRNParameter, 117 inner_product_param InnerProductParameter, 139 batch_norm_param BatchNormParameter, \
142 scale_param ScaleParameter, 141 bias_param BiasParameter, 104 concat_param ConcatParameter, \
110 eltwise_param EltwiseParameter, 108 dropout_param DropoutParameter, 125 softmax_param SoftmaxParameter, \
123 relu_param ReLUParameter, 140 elu_param ELUParameter, 131 prelu_param PReLUParameter, \
122 power_param PowerParameter, 135 flatten_param FlattenParameter, 133 reshape_param ReshapeParameter
V0LayerParameter: 1 name string, 2 type string
V1LayerParameter: 1 layer V0LayerParameter, *2 bottom string, *3 top string, 4 name string, 5 type LayerType, \
*6 blobs BlobProto, *32 include NetStateRule, *33 exclude NetStateRule, 36 transform_param TransformationParameter, \
11 data_param DataParameter, 15 image_data_param ImageDataParameter, 22 memory_data_param MemoryDataParameter, \
10 convolution_param ConvolutionParameter, 19 pooling_param PoolingParameter, 18 lrn_param LRNParameter, \
17 inner_product_param InnerProductParameter, 9 concat_param ConcatParameter, 24 eltwise_param EltwiseParameter, \
12 dropout_param DropoutParameter, 39 softmax_param SoftmaxParameter, 30 relu_param ReLUParameter, \
21 power_param PowerParameter
NetParameter: 1 name string, *2 layers V1LayerParameter, *3 input string, *4 input_dim int64, \
*8 input_shape BlobShape, *100 layer LayerParameter
"""
_ENUMS = {
    "Phase": {"TRAIN": 0, "TEST": 1},
    "PoolMethod": {"MAX": 0, "AVE": 1, "STOCHASTIC": 2},
    "RoundMode": {"CEIL": 0, "FLOOR": 1},
    "NormRegion": {"ACROSS_CHANNELS": 0, "WITHIN_CHANNEL": 1},
    "EltwiseOp": {"PROD": 0, "SUM": 1, "MAX": 2},
}
# Layer types of old files: name in the text, number in the binary, and the type that replaced it.
_OLD_TYPES = """
NONE 0 None, ACCURACY 1 Accuracy, BNLL 2 BNLL, CONCAT 3 Concat, CONVOLUTION 4 Convolution, DATA 5 Data,
DROPOUT 6 Dropout, EUCLIDEAN_LOSS 7 EuclideanLoss, FLATTEN 8 Flatten, HDF5_DATA 9 HDF5Data, HDF5_OUTPUT 10 HDF5Output,
IM2COL 11 Im2col, IMAGE_DATA 12 ImageData, INFOGAIN_LOSS 13 InfogainLoss, INNER_PRODUCT 14 InnerProduct, LRN 15 LRN,
MULTINOMIAL_LOGISTIC_LOSS 16 MultinomialLogisticLoss, POOLING 17 Pooling, RELU 18 ReLU, SIGMOID 19 Sigmoid,
SOFTMAX 20 Softmax, SOFTMAX_LOSS 21 SoftmaxWithLoss, SPLIT 22 Split, TANH 23 TanH, WINDOW_DATA 24 WindowData,
ELTWISE 25 Eltwise, POWER 26 Power, SIGMOID_CROSS_ENTROPY_LOSS 27 SigmoidCrossEntropyLoss, HINGE_LOSS 28 HingeLoss,
MEMORY_DATA 29 MemoryData, ARGMAX 30 ArgMax, THRESHOLD 31 Threshold, DUMMY_DATA 32 DummyData, SLICE 33 Slice,
MVN 34 MVN, ABSVAL 35 AbsVal, SILENCE 36 Silence, CONTRASTIVE_LOSS 37 ContrastiveLoss, EXP 38 Exp,
DECONVOLUTION 39 Deconvolution
"""
_OLD = [entry.split() for entry in _OLD_TYPES.replace("\n", " ").split(",")]
# The type of a layer of an old file, by its number.
NEW_TYPE = {int(number): new for _, number, new in _OLD}


@cache
def message(name: str) -> Any:
    """The class of a message, such as `NetParameter`."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"caffe.{name}"))


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, values in {**_ENUMS, "LayerType": {old: int(number) for old, number, _ in _OLD}}.items():
        # Values of enums in one scope must differ, and MAX is in two.
        scope = file.message_type.add(name=f"{name}Scope")
        enum = scope.enum_type.add(name=name)
        for key, number in values.items():
            enum.value.add(name=key, number=number)
    for line in _MESSAGES.strip().split("\n"):
        name, _, fields = line.partition(":")
        described = file.message_type.add(name=name)
        for text in fields.split(","):
            _add_field(described, text.split())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_field(described: Any, words: list[str]) -> None:
    number, name, kind, *default = words
    field = described.field.add(name=name, number=int(number.lstrip("*")))
    field.label = field.LABEL_REPEATED if number.startswith("*") else field.LABEL_OPTIONAL
    if kind in _ENUMS or kind == "LayerType":
        field.type, field.type_name = field.TYPE_ENUM, f".caffe.{kind}Scope.{kind}"
    elif kind[0].isupper():
        field.type, field.type_name = field.TYPE_MESSAGE, f".caffe.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
    if default:
        field.default_value = default[0]
