"""Checkpoints are written completely or not at all, leave no files behind, and report damage."""

import json
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest

from tlcli.errors import RunError
from tlcli.train import checkpoint
from tlcli.train.checkpoint import Checkpoint, assign_values, copy_values

ARRAYS = {
    # More than ten, because names sort differently from numbers.
    "moving": [np.full((2, index), index, np.float32) for index in range(12)],
    "optimizer": [np.array(7, np.int64), np.array([], np.float32), np.array([[True]]), np.float16([1.5])],
}


def names(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoint").iterdir()}


def same(actual: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(actual) == len(expected) and all(
        left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
        for left, right in zip(actual, expected, strict=True)
    )


def test_a_checkpoint_is_read_as_written(tmp_path):
    state = {"outcomes": [], "history": [{"phase": "Köpfe", "loss": 0.1 + 0.2, "val_loss": None}]}
    Checkpoint(tmp_path).write(state, ARRAYS)
    saved = Checkpoint(tmp_path).read()
    assert saved.state == state
    assert set(saved.arrays) == set(ARRAYS)
    assert all(same(saved.arrays[name], ARRAYS[name]) for name in ARRAYS)


def test_a_run_without_a_complete_checkpoint_has_none(tmp_path):
    assert Checkpoint(tmp_path).read() is None
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "start-1.npz").write_bytes(b"half a file")
    assert Checkpoint(tmp_path).read() is None


def test_a_checkpoint_replaces_the_previous_one(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    for epoch in range(3):
        checkpoint.write({"epoch": epoch}, {"moving": [np.array(epoch)], f"only{epoch}": [np.array(1)]})
    assert checkpoint.read().state == {"epoch": 2}
    assert names(tmp_path) == {"state.json", "moving-3.npz", "only2-3.npz"}
    assert same(checkpoint.read().arrays["moving"], [np.array(2)])


def test_kept_groups_are_not_written_again(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.write({}, {"start": [np.array(1)], "moving": [np.array(1)]})
    modified_ns = (tmp_path / "checkpoint" / "start-1.npz").stat().st_mtime_ns
    for epoch in (2, 3):
        checkpoint.write({}, {"moving": [np.array(epoch)]}, keep=["start", "never written"])
    saved = checkpoint.read()
    assert (int(saved.arrays["start"][0]), int(saved.arrays["moving"][0])) == (1, 3)
    assert (tmp_path / "checkpoint" / "start-1.npz").stat().st_mtime_ns == modified_ns
    assert names(tmp_path) == {"state.json", "start-1.npz", "moving-3.npz"}
    checkpoint.write({}, {"start": [np.array(4)]})
    assert names(tmp_path) == {"state.json", "start-4.npz"}


def test_checkpoints_take_a_twentieth_of_the_time(tmp_path, monkeypatch):
    now, write_json = [100.0], checkpoint.write_json

    def write_for_two_seconds(*args):
        now[0] += 2
        write_json(*args)

    monkeypatch.setattr(checkpoint, "SHARE", 0.05)
    monkeypatch.setattr(checkpoint, "write_json", write_for_two_seconds)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    written = checkpoint.Checkpoint(tmp_path)
    assert written.is_due()
    written.write({}, ARRAYS)
    assert not written.is_due()
    now[0] += 39
    assert not written.is_due()
    now[0] += 1
    assert written.is_due()
    written.write({}, ARRAYS)
    assert not written.is_due()


def test_a_crash_before_the_state_leaves_the_previous_checkpoint(tmp_path):
    """The array files of the new checkpoint are complete, but its state is not JSON."""
    checkpoint = Checkpoint(tmp_path)
    checkpoint.write({"epoch": 1}, {"start": [np.array(1)], "moving": [np.array(1)]})
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.write({"epoch": float("nan")}, {"moving": [np.array(2)]}, keep=["start"])
    assert (tmp_path / "checkpoint" / "moving-2.npz").is_file()
    # What a process leaves behind that is killed while writing.
    (tmp_path / "checkpoint" / ".moving-x1y2.npz").write_bytes(b"half")
    saved = Checkpoint(tmp_path).read()
    assert saved.state == {"epoch": 1}
    assert (int(saved.arrays["start"][0]), int(saved.arrays["moving"][0])) == (1, 1)
    Checkpoint(tmp_path).write({"epoch": 2}, {"moving": [np.array(3)]}, keep=["start"])
    assert int(Checkpoint(tmp_path).read().arrays["moving"][0]) == 3
    assert names(tmp_path) == {"state.json", "start-1.npz", "moving-2.npz"}


def test_a_crash_inside_an_array_file_leaves_the_previous_checkpoint(tmp_path):
    class Unwritable:
        def __array__(self, dtype=None, copy=None):
            raise KeyboardInterrupt

    checkpoint = Checkpoint(tmp_path)
    checkpoint.write({"epoch": 1}, {"moving": [np.array(1)]})
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write({"epoch": 2}, {"moving": [np.array(2), Unwritable()]})
    assert checkpoint.read().state == {"epoch": 1}
    assert names(tmp_path) == {"state.json", "moving-1.npz"}


def pickled(path: Path) -> None:
    np.savez(path, np.array([{"code": 1}], dtype=object))


def corrupted(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(pickle.dumps({"arr_0": 1})),
        lambda path: np.savez(path, other=np.array(1)),
        corrupted,
        pickled,
    ],
    ids=["missing", "empty", "text", "cut", "cut short", "pickle", "other names", "flipped bits", "pickle inside"],
)
def test_damaged_arrays_are_an_error(tmp_path, damage):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.write({}, {"moving": [np.arange(1000.0)]})
    damage(tmp_path / "checkpoint" / "moving-1.npz")
    with pytest.raises(RunError, match=r"checkpoint is damaged .*without --resume") as caught:
        checkpoint.read()
    assert str(tmp_path / "checkpoint") in caught.value.where


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"serial": 1, "files": {}}',
        '{"serial": 1, "state": {}}',
        '{"files": 3, "state": 1}',
    ],
)
def test_a_damaged_state_is_an_error(tmp_path, text):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.write({}, ARRAYS)
    (tmp_path / "checkpoint" / "state.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=r"checkpoint is damaged .*without --resume") as caught:
        checkpoint.read()
    assert str(tmp_path / "checkpoint") in caught.value.where


def test_a_binary_state_is_an_error(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.write({}, {})
    (tmp_path / "checkpoint" / "state.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="checkpoint is damaged"):
        checkpoint.read()


def test_a_state_cannot_refer_to_files_outside_its_folder(tmp_path):
    np.savez(tmp_path / "outside.npz", np.array(1))
    checkpoint = Checkpoint(tmp_path)
    checkpoint.write({}, {})
    state = {"serial": 1, "files": {"start": "../outside.npz"}, "state": {}}
    (tmp_path / "checkpoint" / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(RunError, match="damaged"):
        checkpoint.read()


def test_removing_leaves_no_folder(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.remove()
    checkpoint.write({}, ARRAYS)
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_values_are_copied_and_assigned_back():
    variables = [keras.Variable(np.ones((2, 2), np.float32)), keras.Variable(np.int32(3))]
    values = copy_values(variables)
    variables[0].assign(np.zeros((2, 2)))
    assert values[0].sum() == 4
    assign_values(variables, values)
    assert same(copy_values(variables), values)
    with pytest.raises(RuntimeError, match="1 saved arrays for 2 variables"):
        assign_values(variables, values[:1])
