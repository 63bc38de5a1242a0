"""Backbones of KerasHub as flat graphs: composite encoders are opened, so that each transformer block is one layer.

The layers themselves are reused, not copied, so they keep their weights. In all opened families the names are `stem_*`,
then `block1` … or `block1_*` …, then `top_*`; `zoo.presets` has the patterns for them.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

TOKEN, MEAN = "token", "gap"

# Layers of KerasHub whose get_config leaves a constructor argument out, and where the argument is.
_HIDDEN_ARGUMENTS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("SwinTransformerBlock", "qkv_bias"): lambda block: block.attn.qkv_bias,
    ("SwinTransformerBlock", "dropout_rate"): lambda block: block.attn.proj_drop_rate,
    ("SwinTransformerBlock", "attention_dropout"): lambda block: block.attn.attn_drop_rate,
    ("SwinTransformerBlock", "drop_path"): lambda block: getattr(block.drop_path, "drop_prob", 0.0),
    ("HierarchicalTransformerEncoder", "sr_ratio"): lambda block: block.attn.sr_ratio,
    ("HierarchicalTransformerEncoder", "drop_prob"): lambda block: block.drop_prop,
    ("HierarchicalTransformerEncoder", "layer_norm_epsilon"): lambda block: block.norm1.epsilon,
}


class Step(NamedTuple):
    """One layer of a chain, the name it gets, and the arguments of its call besides the input."""

    name: str
    layer: Callable[..., Any]
    options: dict[str, Any] = {}  # noqa: RUF012


def features(backbone: Any, images: Any, pooling: str, *, weights: bool) -> Any:
    """Apply a backbone to symbolic images, layer by layer.

    Args:
        backbone: A KerasHub backbone of a family in `zoo.presets`; of CLIP and SigLIP models the vision tower is used.
        images: Symbolic float (batch, height, width, 3), scaled as the preset expects.
        pooling: `token` or `gap`, for encoders that leave the choice between class token and mean to the task.
        weights: False if the weights have no values.

    Returns:
        (batch, height, width, channels) of convolutional networks and MiT, else (batch, channels).
    """
    chain = _CHAINS.get(type(backbone).__name__)
    if chain is None:
        _forget_calls(backbone)
        return _last(backbone.call(images))
    if type(backbone).__name__ == "DINOV2Backbone":
        backbone.embeddings = _at_own_size(backbone.embeddings, copy_weights=weights)
    return _run(chain(backbone, pooling), images)


def make_savable(network: keras.Model) -> keras.Model:
    """Make layers of KerasHub in a network give all their constructor arguments, and no others, when they are saved.

    Some of them cannot be read back otherwise: KerasHub saves whole backbones, of which only the arguments are stored.
    """
    for layer in network.layers:
        if type(layer).__module__.startswith("keras_hub."):
            layer.get_config = _config_of(layer)
            if getattr(layer.build, "_is_default", False):
                # Only a call can build it.
                layer.get_build_config = lambda: None
            if type(layer).__name__ == "DINOV2Embedding" and _has_own_size(layer):
                layer.save_own_variables = _saver_of_positions(layer)
    return network


def _has_own_size(embedding: Any) -> bool:
    return tuple(embedding.position_embedding_shape) == tuple(embedding.image_shape)


def _saver_of_positions(embedding: Any) -> Callable[[Any], None]:
    """Saves the trained positions in place of those they came from, which are what is read back.

    KerasHub does so only if the sum of their differences is positive.
    """

    def save(store: Any) -> None:
        for number, variable in enumerate(embedding._trainable_variables + embedding._non_trainable_variables):
            is_origin = variable is embedding.position_embeddings
            store[f"{number}"] = embedding.interpolated_position_embeddings if is_origin else variable

    return save


def make_names_valid(network: keras.Model) -> None:
    """Replace slashes in layer names, and number names that occur twice."""
    taken: set[str] = set()
    for operation in network.operations:
        base = name = operation.name.replace("/", "_")
        number = 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        operation.name = name


def _config_of(layer: Any) -> Callable[[], dict[str, Any]]:
    original = layer.get_config
    parameters = inspect.signature(type(layer).__init__).parameters
    base = set(keras.layers.Layer.get_config(keras.layers.Identity()))

    def complete() -> dict[str, Any]:
        config = original()
        kept = {name: value for name, value in config.items() if name in parameters or name in base}
        for name in parameters:
            read = _HIDDEN_ARGUMENTS.get((type(layer).__name__, name))
            if read is not None:
                kept[name] = read(layer)
            elif name not in kept and isinstance(getattr(layer, name, None), bool | int | float | str | tuple):
                kept[name] = getattr(layer, name)
        return kept

    return complete


def _run(steps: Iterator[Step], images: Any) -> Any:
    x = images
    for step in steps:
        if isinstance(step.layer, keras.Operation):
            _forget_calls(step.layer)
            step.layer.name = step.name
        x = step.layer(x, **step.options)
        if not isinstance(step.layer, keras.Operation):
            x._keras_history.operation.name = step.name
    return x


def _forget_calls(layer: Any) -> None:
    """Forget the calls of a layer in other graphs, so that `layer.output` is that of the new graph."""
    for part in (layer, *getattr(layer, "operations", ())):
        part._inbound_nodes.clear()
        part._outbound_nodes.clear()


def _last(outputs: Any) -> Any:
    """The output of the last stage, for backbones that return several stages."""
    return list(outputs.values())[-1] if isinstance(outputs, dict) else outputs


def _part(backbone: Any, name: str) -> Any:
    return backbone.get_layer(name)


def _pooled(pooling: str) -> Step:
    if pooling == MEAN:
        return Step("top_mean", keras.layers.GlobalAveragePooling1D())
    return Step("top_token", lambda tokens: tokens[:, 0])


def _blocks(layers: list[Any]) -> Iterator[Step]:
    yield from (Step(f"block{number}", layer) for number, layer in enumerate(layers, start=1))


def _vit(backbone: Any, pooling: str) -> Iterator[Step]:
    encoder = _part(backbone, "vit_encoder")
    yield Step("stem_patches", _part(backbone, "vit_patching_and_embedding"))
    yield Step("stem_dropout", encoder.dropout)
    yield from _blocks(encoder.encoder_layers)
    yield Step(f"block{len(encoder.encoder_layers)}_norm", encoder.layer_norm)
    yield _pooled(pooling if backbone.use_class_token else MEAN)


def _deit(backbone: Any, pooling: str) -> Iterator[Step]:
    encoder = _part(backbone, "deit_encoder")
    yield Step("stem_patches", _part(backbone, "deit_patching_and_embedding"))
    for number, block in enumerate(encoder.encoder_layers, start=1):
        # Called as a whole, the block also returns its attention, and has no output to cut at.
        yield Step(f"block{number}", _deit_block(block, f"block{number}"))
    yield Step(f"block{len(encoder.encoder_layers)}_norm", encoder.layer_norm)
    yield _pooled(pooling)


def _deit_block(block: Any, name: str) -> Callable[[Any], Any]:
    parts = {
        "norm1": block.layer_norm_1,
        "attention": block.mha,
        "add1": keras.layers.Add(),
        "norm2": block.layer_norm_2,
        "mlp": block.mlp,
        "output": block.output_layer,
    }

    def call(tokens: Any) -> Any:
        for part, layer in parts.items():
            _forget_calls(layer)
            layer.name = f"{name}_{part}"
        normed = parts["norm1"](tokens)
        x = parts["add1"]([parts["attention"](normed, normed), tokens])
        return parts["output"](parts["mlp"](parts["norm2"](x)), x)

    return call


def _dinov2(backbone: Any, _pooling: str) -> Iterator[Step]:
    yield Step("stem_patches", backbone.embeddings)
    yield from _blocks(backbone.encoder.layers)
    yield Step(f"block{len(backbone.encoder.layers)}_norm", backbone.layernorm)
    yield _pooled(TOKEN)


def _dinov3(backbone: Any, _pooling: str) -> Iterator[Step]:
    yield Step("stem_patches", _without_mask_token(backbone.embeddings))
    for number, block in enumerate(backbone.encoder.layers, start=1):
        yield Step(f"block{number}", _rotary_block(backbone, block, f"block{number}"))
    yield Step(f"block{len(backbone.encoder.layers)}_norm", backbone.layernorm)
    yield _pooled(TOKEN)


def _at_own_size(embedding: Any, *, copy_weights: bool) -> Any:
    """An embedding of DINOv2 whose positions are those of its own input size, and that has no token for hidden patches.

    KerasHub stores the positions at the size of the pretraining: those trained at another size would be interpolated
    when they are saved and again when they are read, and change.
    """
    config = {**embedding.get_config(), "position_embedding_shape": embedding.image_shape, "use_mask_token": False}
    own = type(embedding).from_config(config)
    own.build((None, *embedding.image_shape, 3))
    if copy_weights:
        positions = embedding.interpolated_position_embeddings
        own.position_embeddings.assign(positions)
        own.interpolated_position_embeddings.assign(positions)
        own.cls_token.assign(embedding.cls_token)
        if own.num_register_tokens:
            own.register_tokens.assign(embedding.register_tokens)
        own.patch_embeddings.set_weights(embedding.patch_embeddings.get_weights())
    return own


def _without_mask_token(embedding: Any) -> Any:
    """The embedding without the token for hidden patches, which only pretraining uses: it would have no gradient."""
    if embedding.use_mask_token:
        embedding._untrack_variable(embedding.mask_token)
        embedding.use_mask_token = False
    return embedding


def _rotary_block(backbone: Any, block: Any, name: str) -> Callable[[Any], Any]:
    """A block that computes its rotary positions from its own input, which makes the input a cut point.

    The positions depend only on the number of patches; one patch of the image is one pixel of the grid of tokens.
    """
    rope, prefix = backbone.rope_embedding, 1 + backbone.num_register_tokens
    height, width = (side // backbone.patch_size for side in backbone.image_shape[:2])
    grid = keras.layers.Reshape((height, width, backbone.hidden_dim), name=f"{name}_grid")
    config = {**rope.get_config(), "patch_size": 1, "name": f"{name}_positions"}

    def call(tokens: Any) -> Any:
        patches = tokens[:, prefix:]
        patches._keras_history.operation.name = f"{name}_patches"
        positions = type(rope).from_config(config)(grid(patches))
        _forget_calls(block)
        return block(tokens, position_embeddings=positions, num_prefix_tokens=prefix)

    return call


def _swin(backbone: Any, _pooling: str) -> Iterator[Step]:
    patches = backbone.patch_embedding
    yield Step("stem_patches", patches.proj)
    yield Step("stem_tokens", keras.layers.Reshape((-1, patches.embed_dim)))
    if patches.norm is not None:
        yield Step("stem_norm", patches.norm)
    yield Step("stem_dropout", _part(backbone, "pos_drop"))
    number = 0
    for stage in backbone.stages:
        for block in stage.blocks:
            number += 1
            yield Step(f"block{number}", block)
        if stage.downsample is not None:
            height, width = stage.input_resolution
            yield Step(f"block{number}_merge", stage.downsample, {"H": height, "W": width})
    yield Step(f"block{number}_norm", backbone.norm)
    yield _pooled(MEAN)


def _mit(backbone: Any, _pooling: str) -> Iterator[Step]:
    # Between its inputs and outputs the backbone is already a chain.
    number, stage = 0, -1
    for layer in backbone.layers[1:]:
        kind = type(layer).__name__
        if kind == "OverlappingPatchingAndEmbedding":
            stage += 1
            yield Step(f"block{number + 1}_patches" if stage else "stem_patches", layer)
        elif kind == "HierarchicalTransformerEncoder":
            number += 1
            yield Step(f"block{number}", layer)
        else:
            yield Step(f"block{number}_{'map' if kind == 'Reshape' else 'norm'}", layer)


def _siglip(backbone: Any, _pooling: str) -> Iterator[Step]:
    tower = getattr(backbone, "vision_encoder", backbone)
    yield Step("stem_patches", tower.embedding)
    yield from _blocks(tower.encoder_layers)
    yield Step("top_norm", tower.post_layer_norm)
    yield Step("top_pool", tower.head)


def _clip(backbone: Any, _pooling: str) -> Iterator[Step]:
    tower = backbone.vision_encoder
    yield Step("stem_patches", tower.embedding)
    yield Step("stem_norm", tower.pre_layer_norm)
    yield from _blocks(tower.encoder_layers)
    if hasattr(tower, "layer_norm"):
        yield Step("top_norm", tower.layer_norm)
    yield _pooled(TOKEN)
    if hasattr(backbone, "vision_post_layer_norm"):
        yield Step("top_norm", backbone.vision_post_layer_norm)
    yield Step("top_projection", backbone.vision_projection)


def _hgnetv2(backbone: Any, _pooling: str) -> Iterator[Step]:
    stem, encoder = backbone.layers[1:]
    yield Step("stem_convolutions", stem)
    number = 0
    for stage in encoder.stages_list:
        if stage.current_stage_is_downsample_active:
            yield Step(f"block{number + 1}_downsample", stage.downsample_layer)
        for block in stage.blocks_list:
            number += 1
            yield Step(f"block{number}", block)


_CHAINS: dict[str, Callable[[Any, str], Iterator[Step]]] = {
    "CLIPBackbone": _clip,
    "DINOV2Backbone": _dinov2,
    "DINOV3Backbone": _dinov3,
    "DeiTBackbone": _deit,
    "HGNetV2Backbone": _hgnetv2,
    "MetaCLIP2Backbone": _clip,
    "MiTBackbone": _mit,
    "SigLIPBackbone": _siglip,
    "SwinTransformerBackbone": _swin,
    "ViTBackbone": _vit,
}
