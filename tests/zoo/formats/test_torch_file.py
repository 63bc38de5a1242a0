"""Reading PyTorch files: their values, both forms, and files that try more than holding tensors."""

import os
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_files import Raw, View, archive, closed, legacy, name, text

from tlcli.errors import WeightsError
from tlcli.zoo.formats import torch_file

RANDOM = np.random.default_rng(7)
STATE = {
    "conv.weight": RANDOM.normal(size=(4, 3, 3, 3)).astype("<f4"),
    "conv.bias": RANDOM.normal(size=4).astype("<f8"),
    "half": RANDOM.normal(size=(2, 5)).astype("<f2"),
    "bn.num_batches_tracked": np.array(17, "<i8"),
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 3), "<f4"),
}
FORMS = {"legacy": legacy, "zip": archive}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


@pytest.fixture
def read(tmp_path):
    def read_bytes(data):
        path = tmp_path / "net.pth"
        path.write_bytes(data)
        return torch_file.read(path)

    return read_bytes


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)
        assert found[key].flags.c_contiguous


def test_a_state_dict_is_read_exactly(form, read):
    assert_same(read(form(STATE)), STATE)


def test_strided_views_of_one_storage(form, read):
    block = np.arange(24, dtype="<f4")
    views = {
        "transposed": View("0", block, 0, (4, 6), (1, 4)),
        "offset": View("0", block, 20, (4,), (1,)),
        "expanded": View("0", block, 3, (5, 2), (0, 1)),
    }
    found = read(form(views))
    np.testing.assert_array_equal(found["transposed"], block.reshape(6, 4).T)
    np.testing.assert_array_equal(found["offset"], [20, 21, 22, 23])
    np.testing.assert_array_equal(found["expanded"], [[3, 4]] * 5)


def test_bfloat16_becomes_float32(form, read):
    upper = np.array([0x3F80, 0xC040, 0x7F80], "<u2")
    found = read(form({"w": View("0", upper, 0, (3,), (1,), kind="BFloat16Storage")}))
    np.testing.assert_array_equal(found["w"], np.array([1, -3, np.inf], np.float32))


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"epoch": 3, "state_dict": {"w": STATE["conv.bias"]}, "best": STATE["half"]}, ["w"]),
        ({"model_state_dict": {"w": STATE["half"]}, "optimizer": {"state": {0: {"avg": STATE["half"]}}}}, ["w"]),
        ({"ema": {"w": STATE["half"]}, "epoch": 3}, ["w"]),
        ({"state_dict": {"module.a.w": STATE["half"], "module.b": STATE["half"]}}, ["a.w", "b"]),
        ({"a": {"w": STATE["half"]}, "b": {"w": STATE["half"]}}, ["a.w", "b.w"]),
    ],
)
def test_the_network_of_a_checkpoint(form, read, tree, names):
    assert list(read(form(tree))) == names


W = STATE["conv.bias"]
HOSTILE = {
    "os.system": (Raw(name("os", "system") + b"(" + text("touch owned") + b"tR"), "'os.system', which is code"),
    "posix by stack": (Raw(text("posix") + text("system") + b"\x93(" + text("touch owned") + b"tR"), "posix.system"),
    "eval": (Raw(name("builtins", "eval") + b"(" + text("1+1") + b"tR"), "'builtins.eval'"),
    "getattr in torch": (Raw(name("torch", "load")), "'torch.load'"),
    "instance": (Raw(b"(ios\nsystem\n"), "INST"),
    "new object": (Raw(b")" + name("collections", "OrderedDict") + b"\x81"), "NEWOBJ"),
    "extension code": (Raw(b"\x82\x01"), "EXT1"),
    "call of a string": (Raw(text("x") + b")R"), "calls what is no function"),
    "state of a list": (Raw(b"]}b"), "state of an object"),
    "key that is a deep tuple": (Raw(b"}" + b")" + b"\x85" * 5000 + b"Ns"), "keys are not names"),
    "impossible shape": (View("0", W, 0, (2**60, 2**60), (0, 0)), "impossible size"),
    "negative stride": (View("0", W, 3, (2,), (-1,)), "impossible size"),
    "beyond the storage": (View("0", W, 2, (3,), (1,)), "larger than its storage"),
    "expanded without limit": (View("0", W, 0, (2**40,), (0,)), "declared larger"),
    "no tensor": ({"epoch": 3}, "no named tensors"),
    "memo of nothing": (Raw(b"h\x07"), "refers to a value"),
    "stack underflow": (Raw(b"R"), "empty stack"),
    "dict in itself": (Raw(b"}q\x00" + text("a") + b"h\x00s"), "deeply nested"),
    "dicts that double": (
        Raw(
            b"}q\x00"
            + b"".join(
                b"}"
                + b"".join(text(str(key)) + b"h" + bytes([level]) + b"s" for key in range(99))
                + b"q"
                + bytes([level + 1])
                for level in range(7)
            )
        ),
        "too many",
    ),
    "whole model": (Raw(b"(" + text("module") + b"tQ"), "whole model"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_tensor_is_refused_and_never_run(form, read, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value, words = HOSTILE[case]
    tree = value if case in ("no tensor", "dicts that double", "dict in itself") else {"w": value, "v": W}
    with pytest.raises(WeightsError, match=words) as caught:
        read(form(tree))
    assert caught.value.where.endswith("net.pth")
    assert caught.value.hint
    assert os.listdir(tmp_path) == ["net.pth"]


def test_big_endian_is_refused(read):
    for data in (legacy({"w": W}, little_endian=False), archive({"w": W}, byteorder=b"big")):
        with pytest.raises(WeightsError, match="big-endian"):
            read(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a PyTorch file"),
        (b"\x89HDF\r\n", "is not a PyTorch file"),
        (closed(b"N"), "not of PyTorch"),
        (legacy({"w": W})[:-9], "ends 9 bytes early"),
        (archive(STATE)[:-9], "is damaged"),
        (archive(STATE, folder="../.."), "not of PyTorch"),
        (archive(STATE, extra=["constants.pkl"]), "TorchScript"),
        (archive({"w": np.zeros(10**7, "<f4")}, compression=zipfile.ZIP_DEFLATED), "packed by another program"),
        (archive({"w": View("../../secret", W, 0, (4,), (1,))}), "a storage has no name"),
        (archive({"w": W}).replace(b"archive/data/0", b"archive/data/1"), "no member 'archive/data/0'"),
        (legacy({"w": W}).replace(struct.pack("<q", 4), struct.pack("<q", 2**62)), "storages are not those"),
    ],
)
def test_damaged_files(read, data, words):
    with pytest.raises(WeightsError, match=words):
        read(data)


def test_a_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        torch_file.read(tmp_path / "absent.pth")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_raises_anything_else(tmp_path, data):
    form = data.draw(st.sampled_from([legacy, archive]))
    original = form({"state_dict": STATE, "epoch": 3})
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        replacement = data.draw(st.binary(max_size=4))
        content[place : place + data.draw(st.integers(0, 4))] = replacement
    path = tmp_path / "mutated.pth"
    path.write_bytes(content)
    # Any other exception fails the test.
    with suppress(WeightsError):
        torch_file.read(path)
