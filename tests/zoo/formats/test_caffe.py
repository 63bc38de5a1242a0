"""Reading Caffe's files: phases, old formats, limits, and damaged or hostile files."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caffe_files import NETS, NetWriter, googlenet, lenet, mobilenet, resnet, squeezenet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlcli.errors import ModelError, WeightsError
from tlcli.zoo.formats import caffe, caffe_graph
from tlcli.zoo.formats.caffe_schema import message
from tlcli.zoo.sources import caffe as source

FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def graph_of(path: Path, text: str) -> caffe_graph.CaffeGraph:
    path.write_text(text, encoding="utf-8")
    return caffe_graph.backbone(caffe.read_prototxt(path))


def with_layers(*layers: str) -> str:
    head = 'input: "data" input_shape { dim: 1 dim: 3 dim: 40 dim: 40 }\n'
    settings = "convolution_param { num_output: 4 kernel_size: 3 }"
    conv = f'layer {{ name: "c" type: "Convolution" bottom: "data" top: "c" {settings} }}\n'
    return head + conv + "\n".join(layers)


def test_rules_choose_the_layers_of_the_test_phase(tmp_path: Path) -> None:
    rules = {
        "a": "include { phase: TRAIN }",
        "b": "include { phase: TEST }",
        "c1": "exclude { phase: TEST }",
        "d": "exclude { phase: TRAIN }",
        "e": "include { phase: TRAIN } include { min_level: 0 not_stage: 'x' }",
        "f": "include { min_level: 1 }",
        "g": "include { max_level: -1 }",
        "h": 'include { stage: "deploy" }',
    }
    layers = [f'layer {{ name: "{name}" type: "TanH" bottom: "c" top: "c" {rule} }}' for name, rule in rules.items()]
    graph = graph_of(tmp_path / "x.prototxt", with_layers(*layers))
    assert [node.name for node in graph.nodes[2:]] == ["b", "d", "e"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ('type: "Data" data_param { crop_size: 7 }', (3, 7, 7)),
        ('type: "ImageData" image_data_param { new_height: 8 new_width: 9 }', (3, 8, 9)),
        (
            'type: "ImageData" image_data_param { new_height: 8 is_color: false } transform_param { crop_size: 6 }',
            (1, 6, 6),
        ),
        ('type: "MemoryData" memory_data_param { channels: 1 height: 5 width: 4 }', (1, 5, 4)),
        ('type: "Data" transform_param { force_gray: true }', (1, None, None)),
        ('type: "Input" input_param { shape { dim: 1 dim: 3 dim: 5 dim: 4 } }', (3, 5, 4)),
    ],
)
def test_layers_that_read_images_give_the_size(
    layer: str, shape: tuple[int | None, int | None, int | None], tmp_path: Path
) -> None:
    (tmp_path / "x.prototxt").write_text(f'layer {{ name: "d" top: "pixels" top: "label" {layer} }}')
    file = caffe.read_prototxt(tmp_path / "x.prototxt")
    assert (file.input, file.input_shape) == ("pixels", shape)


def test_unknown_settings_are_skipped(tmp_path: Path) -> None:
    text = with_layers('layer { name: "r" type: "ReLU" bottom: "c" top: "r" new_param { a: [1, 2] b { c: FOO } } }')
    assert graph_of(tmp_path / "x.prototxt", text + "\ndebug_info: true # why\n").shapes[-1] == (4, 38, 38)


def test_split_and_equal_names_are_resolved(tmp_path: Path) -> None:
    text = with_layers(
        'layer { name: "s" type: "Split" bottom: "c" top: "s1" top: "s2" }',
        'layer { name: "a/b" type: "TanH" bottom: "s1" top: "t1" }',
        'layer { name: "a_b" type: "TanH" bottom: "s2" top: "t2" }',
        'layer { name: "head_x" type: "Eltwise" bottom: "t1" bottom: "t2" top: "u" }',
    )
    nodes = graph_of(tmp_path / "x.prototxt", text).nodes
    assert [node.name for node in nodes] == ["data", "c", "a_b", "a_b_2", "net_head_x"]
    assert nodes[-1].inputs == (2, 3)


@pytest.mark.parametrize(
    ("make", "output"),
    [(squeezenet, "fire3/concat"), (mobilenet, "relu3/sep"), (resnet, "res3a_relu"), (lenet, "pool2")],
)
def test_the_top_is_cut(make: Callable[[], NetWriter], output: str, tmp_path: Path) -> None:
    """A classifying convolution belongs to the top, below or above the pooling."""
    assert graph_of(tmp_path / "x.prototxt", make().text()).nodes[-1].layer.name == output


def test_a_convolution_without_softmax_above_it_is_kept(tmp_path: Path) -> None:
    text = squeezenet().text()
    text = text[: text.index('layer { name: "prob"')]
    assert graph_of(tmp_path / "x.prototxt", text).nodes[-1].layer.name == "relu_conv10"


def test_the_largest_networks_are_read_fast(tmp_path: Path) -> None:
    """ResNet-152 has about 500 layers, weights of 240 MB."""
    text = with_layers(*(f'layer {{ name: "l{i}" type: "ReLU" bottom: "c" top: "c" }}' for i in range(2000)))
    net = message("NetParameter")()
    net.layer.add(name="c").blobs.add().data.append(np.zeros(25_000_000, "<f4").tobytes())
    net.layer[0].blobs[0].shape.dim.append(25_000_000)
    (tmp_path / "x.caffemodel").write_bytes(net.SerializeToString())
    began = time.perf_counter()
    assert len(graph_of(tmp_path / "x.prototxt", text).nodes) == 2002
    assert caffe.read_weights(tmp_path / "x.caffemodel")["c"][0].shape == (25_000_000,)
    assert time.perf_counter() - began < 30


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('layers { layer { name: "c" type: "conv" } bottom: "data" top: "c" }', "Caffe before 2014.*upgrade_net_proto"),
        (
            "layers { type: CONVOLUTED }",
            r":1: is not a prototxt of Caffe .*\"LayerType\" has no value named CONVOLUTED\)",
        ),
        ("", "has no layers"),
        ('net: "train.prototxt" base_lr: 0.1', "has no layers.*a solver file names it"),
        ('layer { name: "r" type: "ReLU" bottom: "c" top: "c" }', "has no input for images"),
        ("layer {" + "a {" * 5000, "is not a prototxt"),
        ("\x00\xff", "is not a prototxt"),
        (with_layers('layer { name: "x" type: "Slice" bottom: "c" top: "a" top: "b" }'), "'x'.*1 inputs and 2 outputs"),
        (
            with_layers('layer { name: "x" type: "Deconvolution" bottom: "c" top: "x" }'),
            r":3: layer 'x' \(Deconvolution",
        ),
        (
            with_layers('layer { type: "LRN" bottom: "c" top: "x" lrn_param { local_size: 4 } }'),
            "size 4; it must be odd",
        ),
        (
            with_layers(
                'layer { type: "Pooling" bottom: "c" top: "x" pooling_param { pool: STOCHASTIC kernel_size: 2 } }'
            ),
            "pools at random",
        ),
        (
            with_layers('layer { type: "Pooling" bottom: "c" top: "x" pooling_param { kernel_size: 1 stride: 9 } }'),
            "window of 1 positions in steps of 9",
        ),
        (with_layers('layer { type: "Concat" bottom: "c" bottom: "data" top: "x" }'), "joins 4 x 38 x 38, 3 x 40 x 40"),
        (with_layers('layer { type: "Pooling" bottom: "c" top: "x" }'), "invalid window"),
        (
            with_layers().replace("num_output: 4", "num_output: 60000").replace("kernel_size: 3", "kernel_size: 39"),
            "parameters; at most",
        ),
        (with_layers().replace("num_output: 4", "num_output: 4000000000"), "has 4000000000 outputs"),
        (with_layers().replace("dim: 40", "dim: 100000"), "has an input of 3 x 100000 x 100000"),
        (with_layers().replace("kernel_size: 3", "kernel_size: 3 pad: 4000000"), "invalid window, step or padding"),
    ],
    ids=range(18),
)
def test_networks_that_cannot_be_read_say_why(text: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"(?s)x.prototxt.*{found}"):
        graph_of(tmp_path / "x.prototxt", text)


def test_too_large_files_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.prototxt").open("wb") as file:
        file.truncate(caffe.MAX_TEXT_BYTES + 1)
    with pytest.raises(ModelError, match="is too large"):
        caffe.read_prototxt(tmp_path / "x.prototxt")
    with (tmp_path / "x.caffemodel").open("wb") as file:
        file.truncate(caffe.MAX_BINARY_BYTES + 1)
    with pytest.raises(WeightsError, match="is too large"):
        caffe.read_weights(tmp_path / "x.caffemodel")


@pytest.mark.parametrize("dims", [[5], [2**62, 2**62], [-1, -4], [4, -1], [4, *[1] * 99]])
def test_shapes_that_do_not_fit_the_values_are_refused(dims: list[int], tmp_path: Path) -> None:
    net = message("NetParameter")()
    blob = net.layer.add(name="c").blobs.add(data=[np.zeros(4, "<f4").tobytes()])
    blob.shape.dim.extend(dims)
    (tmp_path / "x.caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(WeightsError, match=r"x.caffemodel: has 4 values in layer 'c' for the shape"):
        caffe.read_weights(tmp_path / "x.caffemodel")


# Fuzzing

WORDS = (
    "{",
    "}",
    ":",
    '"',
    "\n",
    "dim: 0",
    "-1",
    "4294967295",
    "1e9",
    "nan",
    "layer",
    "type",
    "[",
    "\\377",
    "group: 7",
)
NETWORKS = [make().text() for make, _ in NETS.values()] + [googlenet().text(old=True)]


def error_of(action: Callable[[], object]) -> ModelError | None:
    """The error of an action if it is one of tlcli; all others fail the test."""
    try:
        action()
    except ModelError as error:
        return error
    return None


def is_clear(error: ModelError | None, path: Path) -> bool:
    """True if there is no error, or one that says where in one line what is wrong."""
    return error is None or bool(path.name in error.where and error.message and "\n" not in error.message)


@FUZZ
@given(data=st.data())
def test_mutated_prototxt_gives_only_clear_errors(data: st.DataObject, tmp_path: Path) -> None:
    text = data.draw(st.sampled_from(NETWORKS))
    for _ in range(data.draw(st.integers(1, 4))):
        tokens = re.split(r"(\s+)", text)
        position = data.draw(st.integers(0, len(tokens) - 1))
        other = data.draw(st.sampled_from([*WORDS, *tokens[:60], ""]))
        tokens[position : position + data.draw(st.integers(0, 3))] = [other]
        text = "".join(tokens)
    path = tmp_path / "x.prototxt"
    (tmp_path / "x.caffemodel").write_bytes(b"")

    def read() -> None:
        path.write_text(text, encoding="utf-8")
        card = source.find_card(str(path))
        graph = caffe_graph.backbone(caffe.read_prototxt(path))
        graph.at((card.min_size, card.min_size))
        caffe_graph.match_weights(graph, {}, str(path))

    assert is_clear(error_of(read), path)


@FUZZ
@given(data=st.data())
def test_mutated_caffemodel_gives_only_clear_errors(data: st.DataObject, tmp_path: Path) -> None:
    net = lenet()
    graph = graph_of(tmp_path / "x.prototxt", net.text())
    binary = bytearray(net.binary(old=data.draw(st.booleans())))
    # Headers of the messages, where lengths, fields and shapes are, are hit more often than the values between them.
    near_names = [match.start() for match in re.finditer(rb"conv\d|ip\d", bytes(binary))]
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.sampled_from([0, len(binary) // 2, *near_names])) + data.draw(st.integers(-20, 40))
        start = min(max(start, 0), len(binary))
        binary[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path = tmp_path / "x.caffemodel"
    path.write_bytes(binary)
    error = error_of(lambda: caffe_graph.match_weights(graph, caffe.read_weights(path), str(path)))
    assert is_clear(error, path)


@FUZZ
@given(binary=st.binary(max_size=60))
def test_any_bytes_as_a_mean_image_give_only_clear_errors(binary: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.binaryproto"
    path.write_bytes(binary)
    assert is_clear(error_of(lambda: caffe.read_mean(path)), path)
