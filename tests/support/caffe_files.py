"""Narrow versions of the networks of Caffe's model zoo, with random weights, as prototxt and caffemodel files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import h5py
import numpy as np

from tlcli.zoo.formats.caffe_schema import message

OLD_TYPES = {
    "Convolution": "CONVOLUTION",
    "Pooling": "POOLING",
    "ReLU": "RELU",
    "LRN": "LRN",
    "InnerProduct": "INNER_PRODUCT",
    "Dropout": "DROPOUT",
    "Softmax": "SOFTMAX",
}


@dataclass
class NetWriter:
    """Writes a network layer by layer; every method returns the name of the blob that the layer writes."""

    size: tuple[int, int]
    channels: int = 3
    seed: int = 0
    head: str = ""
    parts: list[str] = field(default_factory=list)
    blobs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.widths["data"] = self.channels

    def layer(self, name: str, kind: str, bottoms: list[str], settings: str = "", *, top: str = "") -> str:
        """Any layer; `top` is its name if not given."""
        lines = [f'bottom: "{bottom}"' for bottom in bottoms] + [f'top: "{top or name}"']
        self.parts.append(f'layer {{ name: "{name}" type: "{kind}" {" ".join(lines)} {settings} }}')
        self.widths.setdefault(top or name, self.widths.get(bottoms[0], 0))
        return top or name

    def conv(self, name: str, below: str, filters: int, kernel: int, settings: str = "", *, group: int = 1) -> str:
        """A convolution; `settings` are further fields, such as `stride: 2 pad: 1`."""
        fan_in = self.widths[below] // group * kernel * kernel
        blobs = [self.random.normal(0, 1.5 / fan_in**0.5, (filters, self.widths[below] // group, kernel, kernel))]
        if "bias_term: false" not in settings:
            blobs.append(self.random.normal(0, 0.1, filters))
        self.blobs[name], self.widths[name] = blobs, filters
        text = f"num_output: {filters} kernel_size: {kernel} group: {group} {settings}"
        return self.layer(name, "Convolution", [below], f"convolution_param {{ {text} }}")

    def relu(self, name: str, below: str) -> str:
        """A rectifier in place."""
        return self.layer(name, "ReLU", [below], top=below)

    def norm(self, name: str, below: str) -> str:
        """BatchNorm and Scale in place; the statistics are stored as sums over steps."""
        width = self.widths[below]
        mean, variance = self.random.normal(0, 0.3, width), self.random.uniform(0.5, 2, width)
        self.blobs[f"{name}/bn"] = [mean * 7, variance * 7, np.array([7.0])]
        self.blobs[f"{name}/scale"] = [self.random.uniform(0.5, 1.5, width), self.random.normal(0, 0.3, width)]
        self.layer(f"{name}/bn", "BatchNorm", [below], "batch_norm_param { eps: 0.001 }", top=below)
        return self.layer(f"{name}/scale", "Scale", [below], "scale_param { bias_term: true }", top=below)

    def pool(self, name: str, below: str, settings: str) -> str:
        """A pooling."""
        return self.layer(name, "Pooling", [below], f"pooling_param {{ {settings} }}")

    def lrn(self, name: str, below: str, settings: str = "local_size: 5 alpha: 0.5 beta: 0.75") -> str:
        """Local response normalisation, strong enough to be noticed."""
        return self.layer(name, "LRN", [below], f"lrn_param {{ {settings} }}")

    def dense(self, name: str, below: str, outputs: int, values: int) -> str:
        """An inner product of `values` values."""
        self.blobs[name] = [self.random.normal(0, 0.1, (outputs, values)), self.random.normal(0, 0.1, outputs)]
        return self.layer(name, "InnerProduct", [below], f"inner_product_param {{ num_output: {outputs} }}")

    def text(self, *, old: bool = False) -> str:
        """The prototxt; `old` writes `layers` with types in capitals, as before 2014."""
        shape = f"dim: 1 dim: {self.channels} dim: {self.size[0]} dim: {self.size[1]}"
        if not old:
            head = (
                self.head or f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {shape} }} }} }}'
            )
            return "\n".join(['name: "Narrow"', head, *self.parts]) + "\n"
        body = "\n".join(self.parts).replace("layer {", "layers {")
        for new, name in OLD_TYPES.items():
            body = body.replace(f'type: "{new}"', f"type: {name}")
        return f'name: "Narrow"\ninput: "data"\n{shape.replace("dim", "input_dim")}\n{body}\n'

    def binary(self, *, old: bool = False) -> bytes:
        """The caffemodel; `old` stores shapes as num, channels, height and width."""
        net = message("NetParameter")()
        for name, arrays in self.blobs.items():
            layer = (net.layers if old else net.layer).add(name=name)
            for array in arrays:
                blob = layer.blobs.add()
                blob.data.append(array.astype("<f4").tobytes())
                if old:
                    shape = (1,) * (4 - array.ndim) + array.shape
                    blob.num, blob.channels, blob.height, blob.width = shape
                else:
                    blob.shape.dim.extend(array.shape)
        return net.SerializeToString()

    def write(self, folder: Path, *, old: bool = False) -> Path:
        """Write `deploy.prototxt` and `net.caffemodel`; returns the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "deploy.prototxt").write_text(self.text(old=old), encoding="utf-8")
        (folder / "net.caffemodel").write_bytes(self.binary(old=old))
        return folder


def lenet() -> NetWriter:
    """Grey, convolutions without rectifiers: the pooling sees negative values."""
    net = NetWriter((28, 28), channels=1)
    x = net.pool("pool1", net.conv("conv1", "data", 6, 5), "pool: MAX kernel_size: 2 stride: 2")
    x = net.pool("pool2", net.conv("conv2", x, 8, 5), "pool: MAX kernel_size: 2 stride: 2")
    x = net.relu("relu1", net.dense("ip1", x, 10, 8 * 16))
    net.layer("prob", "Softmax", [net.dense("ip2", x, 5, 10)])
    return net


def caffenet() -> NetWriter:
    """Groups, LRN across channels, pooling that rounds up."""
    net = NetWriter((95, 95))
    x = net.relu("relu1", net.conv("conv1", "data", 8, 11, "stride: 4"))
    x = net.lrn("norm1", net.pool("pool1", x, "pool: MAX kernel_size: 3 stride: 2"))
    x = net.relu("relu2", net.conv("conv2", x, 8, 5, "pad: 2", group=2))
    x = net.lrn("norm2", net.pool("pool2", x, "pool: MAX kernel_size: 3 stride: 2"))
    x = net.relu("relu3", net.conv("conv3", x, 10, 3, "pad: 1"))
    x = net.relu("relu4", net.conv("conv4", x, 10, 3, "pad: 1", group=2))
    x = net.pool("pool5", x, "pool: MAX kernel_size: 3 stride: 2")
    x = net.relu("relu6", net.dense("fc6", x, 12, 40))
    x = net.layer("drop6", "Dropout", [x], "dropout_param { dropout_ratio: 0.5 }", top=x)
    net.layer("prob", "Softmax", [net.dense("fc8", x, 5, 12)])
    return net


def zfnet() -> NetWriter:
    """LRN within channels and padded max pooling over negative values."""
    net = NetWriter((61, 70))
    x = net.conv("conv1", "data", 8, 7, "stride: 2 pad: 1")
    x = net.pool("pool1", x, "pool: MAX kernel_size: 3 stride: 2 pad: 1")
    x = net.lrn("norm1", x, "local_size: 3 alpha: 0.7 beta: 0.75 norm_region: WITHIN_CHANNEL")
    x = net.layer("lower", "Power", [x], "power_param { scale: 0.5 shift: -1 }")
    x = net.conv("conv2", net.pool("pool2", x, "pool: MAX kernel_size: 3 stride: 2 pad: 1"), 9, 3, "stride: 2")
    x = net.pool("pool5", net.relu("relu2", x), "pool: MAX kernel_size: 2 stride: 2")
    net.layer("prob", "Softmax", [net.dense("fc8", x, 5, 9 * 4)])
    return net


def googlenet() -> NetWriter:
    """Slashes in names, branches, concatenation, an auxiliary classifier that hangs beside the trunk."""
    net = NetWriter((75, 66))
    x = net.relu("conv1/relu_7x7", net.conv("conv1/7x7_s2", "data", 8, 7, "stride: 2 pad: 3"))
    x = net.lrn("pool1/norm1", net.pool("pool1/3x3_s2", x, "pool: MAX kernel_size: 3 stride: 2"))
    for name in ("inception_3a", "inception_3b"):
        a = net.relu(f"{name}/relu_1x1", net.conv(f"{name}/1x1", x, 4, 1))
        b = net.relu(f"{name}/relu_3x3_reduce", net.conv(f"{name}/3x3_reduce", x, 4, 1))
        b = net.relu(f"{name}/relu_3x3", net.conv(f"{name}/3x3", b, 6, 3, "pad: 1"))
        c = net.conv(f"{name}/5x5", x, 3, 5, "pad: 2")
        d = net.pool(f"{name}/pool", x, "pool: MAX kernel_size: 3 stride: 1 pad: 1")
        d = net.conv(f"{name}/pool_proj", d, 3, 1)
        x = net.layer(f"{name}/output", "Concat", [a, b, c, d])
        net.widths[x] = 16
        if name.endswith("a"):
            aux = net.pool("loss1/ave_pool", x, "pool: AVE kernel_size: 5 stride: 3")
            net.dense("loss1/classifier", aux, 5, 16 * 6 * 5)
            x = net.pool("pool3/3x3_s2", x, "pool: MAX kernel_size: 3 stride: 2")
    x = net.pool("pool5/7x7_s1", x, "pool: AVE kernel_h: 9 kernel_w: 8 stride: 1")
    x = net.layer("pool5/drop_7x7_s1", "Dropout", [x], "dropout_param { dropout_ratio: 0.4 }", top=x)
    net.layer("prob", "Softmax", [net.dense("loss3/classifier", x, 5, 16)])
    return net


def vgg() -> NetWriter:
    """Odd sizes under pooling by two."""
    net, x = NetWriter((45, 37)), "data"
    for block, width in ((1, 6), (2, 8), (3, 8)):
        for number in (1, 2):
            x = net.conv(f"conv{block}_{number}", x, width, 3, "pad: 1")
            x = net.relu(f"relu{block}_{number}", x)
        x = net.pool(f"pool{block}", x, "pool: MAX kernel_size: 2 stride: 2")
    net.layer("prob", "Softmax", [net.dense("fc8", x, 5, 8 * 6 * 5)])
    return net


def squeezenet() -> NetWriter:
    """Its top is a convolution below the global pooling."""
    net = NetWriter((63, 58))
    x = net.relu("relu_conv1", net.conv("conv1", "data", 8, 3, "stride: 2"))
    x = net.pool("pool1", x, "pool: MAX kernel_size: 3 stride: 2")
    for name in ("fire2", "fire3"):
        low = net.relu(f"{name}/relu_squeeze1x1", net.conv(f"{name}/squeeze1x1", x, 4, 1))
        a = net.relu(f"{name}/relu_expand1x1", net.conv(f"{name}/expand1x1", low, 6, 1))
        b = net.relu(f"{name}/relu_expand3x3", net.conv(f"{name}/expand3x3", low, 6, 3, "pad: 1"))
        x = net.layer(f"{name}/concat", "Concat", [a, b])
        net.widths[x] = 12
    x = net.layer("drop9", "Dropout", [x], "dropout_param { dropout_ratio: 0.5 }", top=x)
    x = net.relu("relu_conv10", net.conv("conv10", x, 5, 1))
    net.layer("prob", "Softmax", [net.pool("pool10", x, "pool: AVE global_pooling: true")])
    return net


def resnet() -> NetWriter:
    """BatchNorm and Scale, shortcuts, average pooling to one position."""
    net = NetWriter((64, 51))
    x = net.relu("conv1_relu", net.norm("1", net.conv("conv1", "data", 8, 7, "stride: 2 pad: 3 bias_term: false")))
    x = net.pool("pool1", x, "pool: MAX kernel_size: 3 stride: 2")
    for name, stride in (("res2a", 1), ("res3a", 2)):
        width = 8 * stride
        short = net.norm(f"{name}1", net.conv(f"{name}_branch1", x, width, 1, f"stride: {stride} bias_term: false"))
        y = net.norm(f"{name}2a", net.conv(f"{name}_2a", x, width, 3, f"stride: {stride} pad: 1 bias_term: false"))
        y = net.conv(f"{name}_2b", net.relu(f"{name}_2a_relu", y), width, 3, "pad: 1 bias_term: false")
        y = net.norm(f"{name}2b", y)
        x = net.relu(f"{name}_relu", net.layer(name, "Eltwise", [short, y]))
    x = net.pool("pool5", x, "pool: AVE kernel_h: 8 kernel_w: 7 stride: 1")
    net.layer("prob", "Softmax", [net.dense("fc1000", x, 5, 16)])
    return net


def mobilenet() -> NetWriter:
    """Depthwise convolutions as groups; its top is a convolution above the global pooling."""
    net = NetWriter((49, 64))
    x = net.relu("relu1", net.norm("conv1", net.conv("conv1", "data", 8, 3, "stride: 2 pad: 1 bias_term: false")))
    for number, stride, width in ((2, 1, 12), (3, 2, 16)):
        x = net.conv(
            f"conv{number}/dw", x, net.widths[x], 3, f"stride: {stride} pad: 1 bias_term: false", group=net.widths[x]
        )
        x = net.relu(f"relu{number}/dw", net.norm(f"conv{number}/dw", x))
        x = net.norm(f"conv{number}/sep", net.conv(f"conv{number}/sep", x, width, 1, "bias_term: false"))
        x = net.relu(f"relu{number}/sep", x)
    x = net.pool("pool6", x, "pool: AVE global_pooling: true")
    net.layer("prob", "Softmax", [net.conv("fc7", x, 5, 1)])
    return net


def mixed() -> NetWriter:
    """What the others lack: average pooling past the border, gates, lone layers, dilation, oblong windows."""
    net = NetWriter((53, 62))
    x = net.conv("conv1", "data", 8, 3, "pad_h: 2 pad_w: 0 dilation: 2")
    x = net.layer("elu", "ELU", [x], "elu_param { alpha: 0.5 }")
    x = net.pool("pool1", x, "pool: AVE kernel_size: 3 stride: 2 pad: 1")
    x = net.pool("pool2", x, "pool: AVE kernel_size: 5 stride: 3")
    net.blobs["prelu"] = [net.random.uniform(0.1, 0.4, 8)]
    x = net.layer("prelu", "PReLU", [net.conv("conv2", x, 8, 3, "pad: 1 stride_h: 1 stride_w: 1", group=4)])
    net.blobs["lone"] = [net.random.uniform(0.5, 1.5, 8), net.random.normal(0, 0.3, 8)]
    x = net.layer("lone", "Scale", [x], "scale_param { bias_term: true }")
    left = net.layer("tanh", "TanH", [x])
    right = net.layer("leaky", "ReLU", [x], "relu_param { negative_slope: 0.2 }")
    x = net.layer("sum", "Eltwise", [left, right], "eltwise_param { operation: SUM coeff: 2 coeff: -0.5 }")
    x = net.layer("most", "Eltwise", [x, left], "eltwise_param { operation: MAX }")
    x = net.layer("product", "Eltwise", [x, right], "eltwise_param { operation: PROD }")
    x = net.layer("absolute", "AbsVal", [x])
    x = net.layer("power", "Power", [x], "power_param { power: 1.5 scale: 0.7 shift: 0.1 }")
    net.conv("last", x, 6, 3, "pad: 1")
    return net


def squeezenet_of(weights: Path) -> NetWriter:
    """SqueezeNet v1.1 with the trained weights of a Keras file, whose convolutions are in the order of the network."""
    net = NetWriter((227, 227))
    with h5py.File(weights) as file:
        names = [name for name in file["layers"] if name.startswith("conv2d")]
        order = sorted(names, key=lambda name: int(name.removeprefix("conv2d").lstrip("_") or 0))
        arrays = [[file[f"layers/{name}/vars/{number}"][()] for number in (0, 1)] for name in order]
    remaining = iter(arrays)

    def conv(name: str, below: str, settings: str = "") -> str:
        kernel, bias = next(remaining)
        top = net.relu(f"relu_{name}", net.conv(name, below, len(bias), kernel.shape[0], settings))
        net.blobs[name] = [kernel.transpose(3, 2, 0, 1), bias]
        return top

    x = conv("conv1", "data", "stride: 2")
    for number in range(2, 10):
        if number in (2, 4, 6):
            x = net.pool(f"pool{number - 1}", x, "pool: MAX kernel_size: 3 stride: 2")
        low = conv(f"fire{number}/squeeze1x1", x)
        both = [conv(f"fire{number}/expand1x1", low), conv(f"fire{number}/expand3x3", low, "pad: 1")]
        x = net.layer(f"fire{number}/concat", "Concat", both)
        net.widths[x] = 2 * net.widths[both[0]]
    x = net.layer("drop9", "Dropout", [x], top=x)
    net.layer("prob", "Softmax", [net.pool("pool10", conv("conv10", x), "pool: AVE global_pooling: true")])
    return net


def reference(folder: Path, layer: str, inputs: np.ndarray) -> np.ndarray:
    """The output of a layer in OpenCV, from inputs as Caffe expects them, channels last."""
    net = cv2.dnn.readNetFromCaffe(str(folder / "deploy.prototxt"), str(folder / "net.caffemodel"))
    net.setInput(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2), np.float32))
    return net.forward(layer).transpose(0, 2, 3, 1)


def as_caffe(pixels: np.ndarray, mean: tuple[float, ...], scale: float) -> np.ndarray:
    """RGB 0-255 as Caffe expects it: BGR, or grey for one mean, minus the mean, times the scale; channels last."""
    if len(mean) == 3:
        return (pixels[..., ::-1] - np.array(mean, np.float32)) * np.float32(scale)
    grey = 0.299 * pixels[..., :1] + 0.587 * pixels[..., 1:2] + 0.114 * pixels[..., 2:]
    return (grey - mean[0]) * np.float32(scale)


# Each network, and the layer whose output is that of the network without top.
NETS: dict[str, tuple[Callable[[], NetWriter], str]] = {
    "lenet": (lenet, "pool2"),
    "caffenet": (caffenet, "pool5"),
    "zfnet": (zfnet, "pool5"),
    "googlenet": (googlenet, "inception_3b/output"),
    "vgg": (vgg, "pool3"),
    "squeezenet": (squeezenet, "fire3/concat"),
    "resnet": (resnet, "res3a_relu"),
    "mobilenet": (mobilenet, "relu3/sep"),
    "mixed": (mixed, "last"),
}
