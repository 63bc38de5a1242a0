"""Weights files: all formats of Keras, loaded as a whole or not at all; and saving."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5, save_weights_to_hdf5_group

from tlcli.errors import WeightsError
from tlcli.zoo.sources import weights_file

APPLICATIONS = keras.applications


def builder(kind: str, **arguments) -> Callable[..., keras.Model]:
    """A function that builds a network, with or without top. Each seed gives other weights."""

    def build(include_top: bool = False, classes: int = 1000, seed: int = 0) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return getattr(APPLICATIONS, kind)(
            weights=None, include_top=include_top, classes=classes, input_shape=(64, 64, 3), **arguments
        )

    return build


mobilenet = builder("MobileNet", alpha=0.25)


def tiny(include_top: bool = False, classes: int = 1000, seed: int = 0) -> keras.Model:
    """A small network in the style of keras.applications."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(x))
    x = keras.layers.BatchNormalization()(keras.layers.DepthwiseConv2D(3)(x))
    x = keras.layers.SeparableConv2D(6, 3)(x)
    if include_top:
        x = keras.layers.Dropout(0.1)(keras.layers.GlobalAveragePooling2D()(x))
        x = keras.layers.Dense(classes)(keras.layers.Dense(5)(x))
    return keras.Model(inputs, x, name="tiny")


def load(network: keras.Model, path: Path, build: Callable[..., keras.Model] = mobilenet) -> None:
    weights_file.load(network, path, with_top=lambda: build(include_top=True))


def share_weights(network: keras.Model, other: keras.Model) -> bool:
    """True if the weights of `network` equal the first weights of `other`."""
    pairs = zip(network.get_weights(), other.get_weights(), strict=False)
    return all(np.array_equal(one, two) for one, two in pairs)


def with_random_weights(network: keras.Model) -> keras.Model:
    """The network with random values in all weights, including BatchNorm statistics."""
    random = np.random.default_rng(1)
    network.set_weights([random.random(weight.shape).astype("float32") for weight in network.get_weights()])
    return network


def save(network: keras.Model, path: Path, *, legacy: str = "") -> Path:
    """Save in the format of Keras 3, or with `legacy` of Keras 2: `weights` or `whole`."""
    if legacy == "weights":
        with h5py.File(path, "w") as file:
            save_weights_to_hdf5_group(file, network)
    elif legacy == "whole":
        save_model_to_hdf5(network, str(path), include_optimizer=False)
    elif path.suffix == ".keras":
        network.save(path)
    else:
        network.save_weights(path)
    return path


FORMATS = [
    ("w.weights.h5", ""),
    ("w.keras", ""),
    ("w.h5", "weights"),
    ("w.hdf5", "whole"),
    ("misnamed.weights.h5", "weights"),
]


@pytest.mark.parametrize(("name", "legacy"), FORMATS)
@pytest.mark.parametrize("classes", [None, 7])
def test_every_format_loads_with_and_without_top(tmp_path, name, legacy, classes):
    source = with_random_weights(tiny(include_top=classes is not None, classes=classes or 1, seed=1))
    path = save(source, tmp_path / name, legacy=legacy)
    network = tiny(seed=2)
    assert not share_weights(network, source)
    load(network, path, tiny)
    assert share_weights(network, source)


@pytest.mark.parametrize("legacy", ["", "weights"])
def test_a_network_with_nested_layers_loads(tmp_path, legacy):
    build = builder("ConvNeXtTiny")
    source = build(include_top=True, classes=3, seed=1)
    path = save(source, tmp_path / f"w{'' if legacy else '.weights'}.h5", legacy=legacy)
    network = build(seed=2)
    load(network, path, build)
    assert share_weights(network, source)


@pytest.mark.slow
def test_a_network_with_many_branches_gives_equal_outputs(tmp_path):
    build = builder("NASNetMobile")
    source = build(include_top=True, classes=3, seed=1)
    network = build(seed=2)
    load(network, save(source, tmp_path / "w.h5", legacy="weights"), build)
    pooled = keras.Model(source.inputs[0], source.layers[-2].output)
    image = np.random.default_rng(0).random((1, 64, 64, 3), "float32")
    np.testing.assert_allclose(network(image).numpy().mean((1, 2)), pooled(image), rtol=1e-4, atol=1e-5)


def squeezenet() -> keras.Model:
    """SqueezeNet 1.1 without top."""

    def conv(filters: int, size: int, x, **options):
        return keras.layers.Conv2D(filters, size, activation="relu", **options)(x)

    inputs = keras.Input((64, 64, 3))
    x = keras.layers.MaxPooling2D(3, 2)(conv(64, 3, inputs, strides=2))
    for number, width in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        narrow = conv(width, 1, x)
        wide = [conv(4 * width, 1, narrow), conv(4 * width, 3, narrow, padding="same")]
        x = keras.layers.Concatenate()(wide)
        if number in (1, 3):
            x = keras.layers.MaxPooling2D(3, 2)(x)
    return keras.Model(inputs, x)


def test_a_keras_1_file_with_slashes_in_its_names_loads(sample):
    path = sample("squeezenet_v1.1_imagenet") / "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
    network = squeezenet()
    load(network, path, squeezenet)
    with h5py.File(path) as file:
        assert np.array_equal(network.layers[3].kernel, file["fire2/squeeze1x1/uniform2"][()])


def test_both_published_mobilenet_v1_files_give_the_same_backbone(sample):
    folder = sample("mobilenet_v1_0.25_224_imagenet")
    networks = [mobilenet(seed=seed) for seed in (1, 2)]
    load(networks[0], folder / "mobilenet_v1_0.25_224.h5")
    load(networks[1], folder / "mobilenet_v1_0.25_224.weights.h5")
    assert share_weights(*networks)
    with h5py.File(folder / "mobilenet_v1_0.25_224.h5") as file:
        kernel = file["model_weights/conv_pw_13/conv_pw_13/kernel:0"][()]
    assert np.array_equal(networks[0].get_layer("conv_pw_13").kernel, kernel)


def test_a_published_file_without_top_loads_as_in_keras(sample):
    path = sample("mobilenet_v2_0.35_224_imagenet_notop") / "mobilenet_v2_0.35_224_no_top.weights.h5"
    build = builder("MobileNetV2", alpha=0.35)
    network, reference = build(seed=1), build(seed=2)
    load(network, path, build)
    reference.load_weights(path)
    assert share_weights(network, reference)


def test_another_width_lists_layers_and_suggests_alpha(sample):
    path = sample("mobilenet_v2_0.35_224_imagenet_notop") / "mobilenet_v2_0.35_224_no_top.weights.h5"
    build = builder("MobileNetV2", alpha=0.5)
    network = build()
    before = network.get_weights()
    with pytest.raises(WeightsError) as caught:
        load(network, path, build)
    text = str(caught.value)
    # 0.35 and 0.5 share the first convolution and part where the first block projects.
    assert "block_1_expand kernel: network (1, 1, 8, 48)" not in text
    assert "expanded_conv_project" not in text
    assert "block_1_project kernel: network (1, 1, 48, 16), file (1, 1, 48, 8)" in text
    assert text.count("network (") == 5
    assert "; block_2_expand kernel: network (1, 1, 16, 96), file (1, 1, 8, 48)" in text
    assert "more layers." in text
    assert "alpha" in text
    assert "mobilenetv2_0.35_224" in text
    assert all(np.array_equal(now, then) for now, then in zip(network.get_weights(), before, strict=True))


@pytest.mark.parametrize("legacy", ["", "weights"])
def test_another_network_is_refused_and_nothing_is_loaded(tmp_path, legacy):
    path = save(builder("MobileNetV2", alpha=0.35)(), tmp_path / f"w{'' if legacy else '.weights'}.h5", legacy=legacy)
    network = mobilenet()
    before = network.get_weights()
    with pytest.raises(WeightsError, match=r"does not fit mobilenet_0.25_64.*another network"):
        load(network, path)
    assert all(np.array_equal(now, then) for now, then in zip(network.get_weights(), before, strict=True))


@pytest.mark.parametrize("legacy", ["", "weights"])
def test_a_top_that_is_not_the_networks_own_is_refused(tmp_path, legacy):
    base = mobilenet()
    pooled = keras.layers.GlobalAveragePooling2D()(base.outputs[0])
    source = keras.Model(base.inputs[0], keras.layers.Dense(4, name="flowers")(pooled))
    path = save(source, tmp_path / f"w{'' if legacy else '.weights'}.h5", legacy=legacy)
    with pytest.raises(WeightsError, match="conv_preds"):
        load(mobilenet(), path)


def test_a_file_with_a_missing_array_is_refused(tmp_path):
    path = save(mobilenet(), tmp_path / "w.weights.h5")
    with h5py.File(path, "r+") as file:
        del file["layers/batch_normalization_3/vars/2"]
    with pytest.raises(
        WeightsError, match=r"1 of 135 arrays differ: conv_dw_2_bn moving_mean: .* file nothing.*incomplete"
    ):
        load(mobilenet(), path)


def test_half_precision_files_load(tmp_path):
    source = mobilenet(seed=1)
    path = save(source, tmp_path / "w.weights.h5")
    with h5py.File(path, "r+") as file:
        half = file["layers/conv2d/vars/0"][()].astype("float16")
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = half
    network = mobilenet()
    load(network, path)
    assert np.array_equal(network.get_layer("conv1").kernel, half.astype("float32"))


def test_bfloat16_files_load(tmp_path):
    source = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, dtype="bfloat16", name="c")])
    path = save(source, tmp_path / "w.weights.h5")
    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="c")])
    weights_file.load(network, path, with_top=lambda: network)
    assert np.array_equal(network.get_layer("c").kernel, source.get_layer("c").kernel.numpy().astype("float32"))


def test_normalization_uses_the_loaded_weights(tmp_path):
    def build() -> keras.Model:
        return keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Normalization(), keras.layers.Conv2D(1, 1)])

    source, network = build(), build()
    source.layers[0].adapt(np.random.default_rng(0).random((9, 4, 4, 3)) * 50)
    load(network, save(source, tmp_path / "w.weights.h5"), build)
    image = np.ones((1, 4, 4, 3), "float32")
    np.testing.assert_allclose(network(image), source(image), rtol=1e-5)


def damaged_copy(path: Path, tmp_path: Path, damage: str) -> Path:
    """A damaged copy of a weights file."""
    copy = tmp_path / "spoilt.h5"
    if damage == "truncated":
        copy.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "text":
        copy.write_text("<html>404</html>")
    elif damage == "empty":
        copy.write_bytes(b"")
    elif damage == "elsewhere":
        with h5py.File(copy, "w") as file:
            for key in ("layers", "vars"):
                file[key] = h5py.ExternalLink(str(path), key)
    else:
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file["layers/conv2d/vars/0"][0] = np.nan
    return copy


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "elsewhere", "not a number"])
def test_damaged_files_are_refused_and_nothing_is_loaded(tmp_path, damage):
    path = damaged_copy(save(tiny(seed=1), tmp_path / "w.weights.h5"), tmp_path, damage)
    network = tiny()
    before = network.get_weights()
    with pytest.raises(WeightsError, match=r"spoilt\.h5: cannot be read"):
        load(network, path, tiny)
    assert all(np.array_equal(now, then) for now, then in zip(network.get_weights(), before, strict=True))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.h5: there is no such file"):
        load(mobilenet(), tmp_path / "gone.h5")


def nested_layers(seed: int) -> keras.Model:
    """A network with a nested model, several layers of one kind, dropout and scalar weights."""
    keras.utils.set_random_seed(seed)
    block = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(4, 3), keras.layers.Dropout(0.5)])
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Normalization()(inputs)
    x = block(keras.layers.Conv2D(4, 3, padding="same")(x))
    return keras.Model(inputs, keras.layers.SeparableConv2D(2, 3)(keras.layers.BatchNormalization()(x)))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("build", [nested_layers, lambda seed: mobilenet(seed=seed)], ids=["nested", "mobilenet"])
def test_a_saved_file_loads_equally_here_and_in_keras(tmp_path, build, half):
    source, ours, theirs = with_random_weights(build(1)), build(2), build(3)
    path = tmp_path / "w.weights.h5"
    digest = weights_file.save(source, path, half=half)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [file.name for file in tmp_path.iterdir()] == ["w.weights.h5"]
    load(ours, path, build)
    theirs.load_weights(path)
    for saved, one, other in zip(source.get_weights(), ours.get_weights(), theirs.get_weights(), strict=True):
        expected = saved.astype("float16").astype("float32") if half and saved.ndim > 1 else saved
        assert one.dtype == saved.dtype
        assert np.array_equal(one, expected)
        assert np.array_equal(other, expected)
    with h5py.File(path) as file:
        kinds: dict[bool, set[str]] = {True: set(), False: set()}
        file.visititems(
            lambda key, item: (
                kinds[item.ndim > 1].add(item.dtype.name)
                if isinstance(item, h5py.Dataset) and "seed" not in key
                else None
            )
        )
    assert kinds[True] == {"float16" if half else "float32"}
    assert "float16" not in kinds[False]


def test_half_precision_shrinks_the_file(tmp_path):
    source = mobilenet()
    for half in (False, True):
        weights_file.save(source, tmp_path / f"{half}.weights.h5", half=half)
    sizes = [(tmp_path / f"{half}.weights.h5").stat().st_size for half in (True, False)]
    assert sizes[0] < 0.7 * sizes[1]


def test_kernels_out_of_the_half_precision_range_stay_float32(tmp_path):
    network = tiny()
    network.layers[1].kernel.assign(network.layers[1].kernel + 1e5)
    weights_file.save(network, tmp_path / "w.weights.h5", half=True)
    loaded = tiny(seed=1)
    load(loaded, tmp_path / "w.weights.h5", tiny)
    assert np.array_equal(loaded.layers[1].kernel, network.layers[1].kernel)


def test_equal_weights_give_equal_files_that_replace_the_old_one(tmp_path):
    path, network = tmp_path / "w.weights.h5", tiny()
    path.write_text("old")
    first = weights_file.save(network, path, half=True)
    data = path.read_bytes()
    kernel = network.layers[1].kernel.numpy()
    network.layers[1].kernel.assign(kernel + 1)
    assert weights_file.save(network, path, half=True) != first
    network.layers[1].kernel.assign(kernel)
    assert weights_file.save(network, path, half=True) == first
    assert path.read_bytes() == data


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "w.weights.h5"
    path.write_text("old")

    class Broken(keras.layers.Layer):
        def save_own_variables(self, store):
            raise OSError("disk full")

    network = keras.Sequential([keras.Input((4,)), Broken(), keras.layers.Dense(2)])
    with pytest.raises(OSError, match="disk full"):
        weights_file.save(network, path, half=True)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["w.weights.h5"]
