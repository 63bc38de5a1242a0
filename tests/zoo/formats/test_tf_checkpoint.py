"""TensorFlow 1 checkpoints, compared with TensorFlow's own reader, and damaged ones."""

import random
import shutil
import struct

import numpy as np
import pytest
import tensorflow as tf
from slim_checkpoints import save

from tlcli.errors import WeightsError
from tlcli.zoo.formats import sorted_table
from tlcli.zoo.formats.tf_checkpoint import open_checkpoint

RNG = np.random.default_rng(0)
VALUES = {
    "net/conv/weights": RNG.standard_normal((3, 3, 4, 8)).astype(np.float32),
    "net/conv/BatchNorm/beta": RNG.standard_normal(8),
    "net/half": RNG.standard_normal((5, 2)).astype(np.float16),
    "net/scalar": np.float32(2.5),
    "net/empty": np.zeros((0, 3), np.float32),
    "global_step": np.int64(7),
    **{f"net/layer_{number}/weights": RNG.standard_normal((7, 11)).astype(np.float32) for number in range(300)},
}
FLOATS = {name: value for name, value in VALUES.items() if name != "global_step"}


@pytest.mark.parametrize("version", [1, 2])
def test_names_shapes_and_values_are_those_that_tensorflow_reads(tmp_path, version):
    # TensorFlow cannot read half precision from V1.
    expected = {name: value for name, value in FLOATS.items() if version == 2 or name != "net/half"}
    path = save(tmp_path / "model.ckpt", expected | {"global_step": np.int64(7)}, version=version)
    reader = tf.train.load_checkpoint(str(path))
    checkpoint = open_checkpoint(path)
    assert {name: list(it.shape) for name, it in checkpoint.variables.items()} == reader.get_variable_to_shape_map()
    values = dict(checkpoint.read(expected))
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, reader.get_tensor(name).astype(np.float32))


def test_bfloat16_is_read(tmp_path):
    expected = tf.cast(VALUES["net/conv/weights"], tf.bfloat16)
    checkpoint = open_checkpoint(save(tmp_path / "model.ckpt", {"a": expected}))
    np.testing.assert_array_equal(dict(checkpoint.read({"a": 0}))["a"], tf.cast(expected, tf.float32))


def test_shards_are_read(tmp_path):
    first = save(tmp_path / "part0", {"a": np.arange(3.0)})
    second = save(tmp_path / "part1", {"b": np.arange(4.0)})
    whole = str(tmp_path / "model.ckpt")
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(first), str(second)], destination_prefix=whole)
    checkpoint = open_checkpoint(tmp_path / "model.ckpt")
    assert checkpoint.shards == 2
    assert {name: value.tolist() for name, value in checkpoint.read({"b": 0, "a": 0})} == {
        "a": [0, 1, 2],
        "b": [0, 1, 2, 3],
    }


def test_a_checkpoint_is_found_by_each_of_its_paths(tmp_path):
    folder = tmp_path / "moved"
    folder.mkdir()
    prefix = save(folder / "model.ckpt-7", {"a": np.arange(3.0)})
    assert open_checkpoint(folder).path == prefix  # the only one
    save(folder / "model.ckpt-9", {"b": np.arange(3.0)})
    with pytest.raises(WeightsError, match="2 checkpoints"):
        open_checkpoint(folder)
    # A folder that was moved: the path in the file is that of another machine.
    (folder / "checkpoint").write_text('model_checkpoint_path: "/home/other/model.ckpt-7"\n')
    for path in (folder, prefix, folder / "model.ckpt-7.index", folder / "model.ckpt-7.data-00000-of-00001"):
        assert open_checkpoint(path).path == prefix
        assert list(open_checkpoint(path).variables) == ["a"]


def test_a_changed_file_is_read_again(tmp_path):
    path = save(tmp_path / "model.ckpt", {"a": np.arange(3.0)}, version=1)
    assert list(open_checkpoint(path).variables) == ["a"]
    save(path, {"b": np.arange(30.0)}, version=1)
    assert list(open_checkpoint(path).variables) == ["b"]


@pytest.mark.parametrize("version", [1, 2])
def test_a_partitioned_variable_is_an_error_only_if_it_is_read(tmp_path, version):
    halves = {"a": np.zeros((2, 3), np.float32), "b": np.ones(3, np.float32)}
    path = save(tmp_path / "model.ckpt", halves, version=version, slices={"a": "4 3 0,2:-"})
    checkpoint = open_checkpoint(path)
    assert checkpoint.variables["a"].shape == (4, 3)
    assert dict(checkpoint.read({"b": 0}))["b"].tolist() == [1, 1, 1]
    with pytest.raises(WeightsError, match=r"'a' is stored in several parts|another size than its shape"):
        dict(checkpoint.read({"a": 0}))


def test_missing_files_are_named(tmp_path):
    prefix = save(tmp_path / "model.ckpt", {"a": np.arange(3.0)})
    data, index = tmp_path / "model.ckpt.data-00000-of-00001", tmp_path / "model.ckpt.index"
    shutil.move(data, tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=r"model\.ckpt: the file model\.ckpt\.data-00000-of-00001 .* is missing"):
        open_checkpoint(prefix)
    shutil.move(tmp_path / "elsewhere", data)
    index.unlink()
    with pytest.raises(WeightsError, match=r"the file model\.ckpt\.index of this checkpoint is missing"):
        open_checkpoint(data)
    with pytest.raises(WeightsError, match=r"no such checkpoint\. Give the prefix"):
        open_checkpoint(prefix)


def test_other_files_and_types_are_refused(tmp_path):
    text = tmp_path / "notes.ckpt"
    text.write_text("no checkpoint" * 100)
    with pytest.raises(WeightsError, match=r"notes\.ckpt: is not a TensorFlow checkpoint"):
        open_checkpoint(text)
    text.write_bytes(b"")
    with pytest.raises(WeightsError, match="is not a TensorFlow checkpoint"):
        open_checkpoint(text)
    checkpoint = open_checkpoint(save(tmp_path / "model.ckpt", VALUES))
    with pytest.raises(WeightsError, match="'global_step' is not of floating-point type"):
        dict(checkpoint.read({"global_step": 0}))


@pytest.mark.parametrize("version", [1, 2])
def test_a_truncated_checkpoint_is_an_error(tmp_path, version):
    path = save(tmp_path / "model.ckpt", VALUES, version=version)
    file = path if version == 1 else tmp_path / "model.ckpt.data-00000-of-00001"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"model\.ckpt.*not complete.*fetch it again"):
        dict(open_checkpoint(path).read(FLOATS))


@pytest.mark.parametrize("version", [1, 2])
def test_damaged_bytes_end_in_a_weights_error_or_other_values(tmp_path, version):
    """Never in another error, and never without end."""
    small = {name: VALUES[name] for name in list(VALUES)[:12] if name != "net/empty"}
    path = save(tmp_path / "model.ckpt", small, version=version)
    file = path if version == 1 else tmp_path / "model.ckpt.index"
    original, draw, failures = file.read_bytes(), random.Random(version), 0
    for _ in range(600):
        changed = bytearray(original)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        file.write_bytes(changed)
        try:
            checkpoint = open_checkpoint(path)
            known = {name: 0 for name, variable in checkpoint.variables.items() if variable.dtype is not None}
            dict(checkpoint.read(known))
        except WeightsError:
            failures += 1
    assert failures > 100


def table(content: bytes, compression: int) -> memoryview:
    """A table with one block of entries."""
    index_entry = b"\x00\x01\x02z" + bytes([0, len(content)])
    index = index_entry + struct.pack("<II", 0, 1)
    blocks = content + bytes([compression]) + bytes(4) + index + bytes(5)
    footer = bytes([0, 0, len(content) + 5, len(index)]).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    return memoryview(blocks + footer)


def test_compressed_blocks_are_read():
    """Older versions of TensorFlow compress with snappy. The bytes follow its format description."""
    block = b"\x00\x02\x0ckeabcdabcdabcd" + struct.pack("<II", 0, 1)
    # 9 bytes as they are, 8 that repeat the last 4, 8 as they are.
    packed = (
        bytes([len(block)]) + bytes([8 << 2]) + block[:9] + bytes([(8 - 4) << 2 | 1, 4]) + bytes([7 << 2]) + block[17:]
    )
    for content, compression in ((block, 0), (packed, 1)):
        assert [(key, bytes(value)) for key, value in sorted_table.entries(table(content, compression))] == [
            (b"ke", b"abcdabcdabcd")
        ]
    for wrong in (packed[:12], bytes([200, 1]) + packed[1:], packed[:11] + b"\xff" + packed[12:]):
        with pytest.raises(sorted_table.DamagedError):
            list(sorted_table.entries(table(wrong, 1)))
