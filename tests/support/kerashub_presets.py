"""Small KerasHub presets, one of every family, saved to folders as KerasHub itself saves them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 32
SCALE = [1 / 255 / 0.2, 1 / 255 / 0.3, 1 / 255 / 0.25]
OFFSET = [-0.4 / 0.2, -0.5 / 0.3, -0.45 / 0.25]
SHAPE = (SIDE, SIDE, 3)
TRANSFORMER = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16}


def _resnet(models: Any) -> Any:
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 16],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )


def _resnet_vd(models: Any) -> Any:
    return models.ResNetBackbone(
        input_conv_filters=[4, 4, 8],
        input_conv_kernel_sizes=[3, 3, 3],
        stackwise_num_filters=[64, 16],
        stackwise_num_blocks=[1, 2],
        stackwise_num_strides=[1, 2],
        block_type="bottleneck_block_vd",
    )


def _efficientnet(models: Any, kind: str = "v1", **options: Any) -> Any:
    return models.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 5],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 16],
        stackwise_expansion_ratios=[1, 4],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=[kind] * 2,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        **options,
    )


def _efficientnet_lite(models: Any) -> Any:
    return _efficientnet(models, activation="relu6", dropout=0.2)


def _efficientnet_v2(models: Any) -> Any:
    return _efficientnet(models, "fused")


def _mobilenet(models: Any) -> Any:
    return models.MobileNetBackbone(
        stackwise_expansion=[[16], [24, 24]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[8], [16, 16]],
        stackwise_kernel_size=[[3], [5, 5]],
        stackwise_num_strides=[[2], [1, 1]],
        stackwise_se_ratio=[[None], [0.25, 0.25]],
        stackwise_activation=[["relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1], [2, 2]],
        output_num_filters=32,
        depthwise_filters=8,
        depthwise_stride=1,
        depthwise_residual=False,
        last_layer_filter=32,
        squeeze_and_excite=0.5,
    )


def _mobilenetv5(models: Any) -> Any:
    def same(first: Any, second: Any) -> list[list[Any]]:
        return [[first], [second, second]]

    return models.MobileNetV5Backbone(
        stackwise_block_types=[["er"], ["uir", "mqa"]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=same(8, 16),
        stackwise_strides=[[2], [2, 1]],
        stackwise_act_layers=same("relu", "relu"),
        stackwise_exp_ratios=same(2.0, 2.0),
        stackwise_se_ratios=same(0.0, 0.0),
        stackwise_dw_kernel_sizes=same(0, 3),
        stackwise_dw_start_kernel_sizes=same(0, 3),
        stackwise_dw_end_kernel_sizes=same(0, 0),
        stackwise_exp_kernel_sizes=same(3, 0),
        stackwise_pw_kernel_sizes=same(1, 0),
        stackwise_num_heads=same(0, 2),
        stackwise_key_dims=same(0, 8),
        stackwise_value_dims=same(0, 8),
        stackwise_kv_strides=same(0, 1),
        stackwise_use_cpe=same(False, False),
        num_features=16,
        msfa_output_resolution=2,
        layer_scale_init_value=0.1,
    )


def _hgnetv2(models: Any) -> Any:
    return models.HGNetV2Backbone(
        depths=[1, 2],
        embedding_size=8,
        hidden_sizes=[8, 16],
        stem_channels=[3, 4, 8],
        hidden_act="relu",
        use_learnable_affine_block=True,
        stackwise_stage_filters=[(8, 4, 8, 1, 1, 3), (8, 8, 16, 2, 1, 3)],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, True],
    )


def _cspnet(models: Any) -> Any:
    return models.CSPNetBackbone(
        stem_filters=8,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 2],
        stackwise_strides=[2, 2],
        stackwise_num_filters=[8, 16],
        block_type="dark_block",
        stage_type="csp",
        expand_ratio=[2.0, 1.0],
        bottle_ratio=[0.5, 1.0],
        block_ratio=[1.0, 0.5],
        down_growth=True,
    )


def _xception(models: Any) -> Any:
    return models.XceptionBackbone(
        stackwise_conv_filters=[[8, 8], [8, 16], [16, 16]], stackwise_pooling=[False, True, False]
    )


def _densenet(models: Any) -> Any:
    return models.DenseNetBackbone(stackwise_num_repeats=[1, 2], growth_rate=4)


def _vgg(models: Any) -> Any:
    return models.VGGBackbone(stackwise_num_repeats=[1, 2], stackwise_num_filters=[8, 16])


def _mit(models: Any, depths: tuple[int, int] = (1, 2)) -> Any:
    return models.MiTBackbone(
        layerwise_depths=list(depths),
        image_shape=SHAPE,
        hidden_dims=[8, 16],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
    )


def _swin(models: Any) -> Any:
    return models.SwinTransformerBackbone(
        image_shape=SHAPE, embed_dim=8, depths=(2, 1), num_heads=(1, 2), window_size=4, patch_size=2
    )


def _vit(models: Any) -> Any:
    return models.ViTBackbone(image_shape=SHAPE, patch_size=8, mlp_dim=32, dropout_rate=0.1, **TRANSFORMER)


def _deit(models: Any) -> Any:
    return models.DeiTBackbone(image_shape=SHAPE, patch_size=8, intermediate_dim=32, **TRANSFORMER)


def _dinov2(models: Any) -> Any:
    return models.DINOV2Backbone(
        patch_size=8,
        intermediate_dim=32,
        num_register_tokens=2,
        image_shape=SHAPE,
        position_embedding_shape=(48, 48, 3),
        **TRANSFORMER,
    )


def _dinov2_giant(models: Any) -> Any:
    return models.DINOV2Backbone(
        patch_size=8,
        intermediate_dim=32,
        use_swiglu_ffn=True,
        image_shape=SHAPE,
        position_embedding_shape=SHAPE,
        **TRANSFORMER,
    )


def _dinov3(models: Any) -> Any:
    return models.DINOV3Backbone(patch_size=8, intermediate_dim=32, image_shape=SHAPE, **TRANSFORMER)


def _siglip(models: Any) -> Any:
    vision = models.SigLIPVisionEncoder(patch_size=8, intermediate_dim=32, image_shape=SHAPE, **TRANSFORMER)
    text = models.SigLIPTextEncoder(
        vocabulary_size=20, embedding_dim=16, intermediate_dim=32, max_sequence_length=8, **TRANSFORMER
    )
    return models.SigLIPBackbone(vision, text)


def _clip(models: Any) -> Any:
    vision = models.CLIPVisionEncoder(patch_size=8, intermediate_dim=32, image_shape=SHAPE, **TRANSFORMER)
    text = models.CLIPTextEncoder(
        vocabulary_size=20, embedding_dim=16, intermediate_dim=32, max_sequence_length=8, **TRANSFORMER
    )
    return models.CLIPBackbone(vision, text, projection_dim=12)


def _metaclip_2(models: Any) -> Any:
    vision = models.MetaCLIP2VisionEncoder(patch_size=8, intermediate_dim=32, image_shape=SHAPE, **TRANSFORMER)
    text = models.MetaCLIP2TextEncoder(
        vocabulary_size=20, embedding_dim=16, intermediate_dim=32, max_sequence_length=8, **TRANSFORMER
    )
    return models.MetaCLIP2Backbone(vision, text, projection_dim=12)


def _segformer(models: Any) -> Any:
    return models.SegFormerBackbone(image_encoder=_mit(models, (1, 1)), projection_filters=8)


def _deeplab_v3(models: Any) -> Any:
    return models.DeepLabV3Backbone(
        image_encoder=_resnet_vd(models),
        spatial_pyramid_pooling_key="P3",
        upsampling_size=2,
        dilation_rates=[2],
        image_shape=SHAPE,
    )


def _retinanet(models: Any) -> Any:
    return models.RetinaNetBackbone(
        image_encoder=_resnet_vd(models), min_level=2, max_level=4, use_p5=False, image_shape=SHAPE
    )


def _depth_anything(models: Any) -> Any:
    encoder = models.DINOV2Backbone(
        patch_size=4,
        num_layers=4,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        image_shape=SHAPE,
        position_embedding_shape=SHAPE,
        apply_layernorm=True,
    )
    keys = [f"stage{number}" for number in range(1, 5)]
    return models.DepthAnythingBackbone(
        image_encoder=encoder,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[8, 8, 8, 8],
        fusion_hidden_dim=8,
        head_hidden_dim=8,
        head_in_index=-1,
        feature_keys=keys,
    )


BUILDERS: dict[str, Callable[[Any], Any]] = {
    name.removeprefix("_"): function
    for name, function in list(globals().items())
    if name.startswith("_") and callable(function) and not name.startswith("__")
}


def save(family: str, folder: Path, *, converter: bool = True) -> Any:
    """Build a small backbone of a family with random weights and statistics, and save it; returns the backbone."""
    import keras
    import keras_hub
    import numpy as np

    keras.utils.set_random_seed(7)
    backbone = BUILDERS[family](keras_hub.models)
    random = np.random.default_rng(7)
    for weight in backbone.weights:
        if weight.dtype == "float32":
            low, high = (0.5, 1.5) if "variance" in weight.path or "gamma" in weight.path else (-0.25, 0.25)
            weight.assign(random.uniform(low, high, weight.shape))
    backbone.save_to_preset(str(folder))
    if converter:
        kind = next(
            value
            for value in vars(keras_hub.layers).values()
            if isinstance(value, type)
            and issubclass(value, keras_hub.layers.ImageConverter)
            and value.backbone_cls is type(backbone)
        )
        kind(image_size=(SIDE, SIDE), scale=SCALE, offset=OFFSET).save_to_preset(str(folder))
    return backbone


def add_task(folder: Path, **config: Any) -> None:
    """Write the task.json of a classifier with `config`, as far as it is read."""
    backbone = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = backbone["class_name"].replace("Backbone", "ImageClassifier")
    task = {"class_name": kind, "registered_name": f"keras_hub>{kind}", "config": {"num_classes": 3, **config}}
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
