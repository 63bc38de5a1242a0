"""Offline, no command opens a socket: from images to a classifier in Keras's format, and its answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Writes the name of every event of sockets, apart from pairs of connected sockets, which know no network.
AUDIT = """
import os, sys
def hook(event, arguments):
    is_new = event == "socket.__new__" and int(arguments[1]) != 1
    if is_new or event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
        with open(os.environ["SOCKETS"], "a") as file:
            print(event, file=file)
sys.addaudithook(hook)
"""


def test_no_command_opens_a_socket(photos: Path, tiny: Path, tmp_path: Path) -> None:
    hooks, log, run = tmp_path / "hooks", tmp_path / "sockets.txt", tmp_path / "run"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(AUDIT)
    log.write_text("")
    settings = {"TLCLI_OFFLINE": "1", "SOCKETS": str(log), "PYTHONPATH": os.pathsep.join([str(hooks), *sys.path])}
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
        command = [sys.executable, "-m", "tlcli", *map(str, words)]
        ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False)
        assert ended.returncode == 0, (words, ended.stderr)
        assert log.read_text() == "", words
    probe = [sys.executable, "-c", "import socket; socket.socket()"]
    subprocess.run(probe, env=os.environ | settings, check=True)
    assert "socket.__new__" in log.read_text(), "the hook works"
