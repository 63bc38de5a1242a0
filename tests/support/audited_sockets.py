"""Programs whose use of sockets is written down."""

import os
import subprocess
import sys
from pathlib import Path

# Writes the name of every event of sockets, apart from pairs of connected sockets, which know no network.
_HOOK = """
import os, sys
def hook(event, arguments):
    is_new = event == "socket.__new__" and int(arguments[1]) != 1
    if is_new or event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
        with open(os.environ["SOCKETS"], "a") as file:
            print(event, file=file)
sys.addaudithook(hook)
"""


def run_python(folder: Path, *words: object, **environment: str) -> tuple[int, str, set[str]]:
    """Run Python with these arguments; returns its exit code, its output, and the events of sockets."""
    hooks, log = folder / "hooks", folder / "sockets.txt"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(_HOOK)
    log.write_text("")
    paths = os.pathsep.join([str(hooks), *sys.path])
    known = os.environ | environment | {"PYTHONPATH": paths, "SOCKETS": str(log)}
    command = [sys.executable, *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, env=known, timeout=300, check=False)
    return result.returncode, result.stdout + result.stderr, set(log.read_text().split())
