"""Offline, no command opens a socket: from images to a classifier in Keras's format, and its answers."""

from pathlib import Path

import pytest
from audited_sockets import run_python

pytestmark = pytest.mark.slow


def test_no_command_opens_a_socket(photos: Path, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    image = next(photos.rglob("*.bmp"))
    for words in (
        ("finetune", photos, "-r", tiny, "--out", run),
        ("evaluate", run),
        ("predict", run, image),
        ("export", run, "--to", "keras", "-o", tmp_path / "bundle"),
        ("predict", tmp_path / "bundle", image),
        ("report", run),
        ("zoo", "list"),
        ("doctor",),
    ):
        code, text, events = run_python(tmp_path, "-m", "tlcli", *words, TLCLI_OFFLINE="1")
        assert (code, events) == (0, set()), (words, text)
    _, _, events = run_python(tmp_path, "-c", "import socket; socket.socket()")
    assert "socket.__new__" in events, "the hook works"
