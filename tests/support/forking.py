"""Many short processes of the program, forked from one that has loaded its libraries, so that they start at once."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Nothing has been computed before the fork, so TensorFlow has no threads yet that a child would miss.
SERVER = """
import json, os, signal, sys, time
import h5py, keras, matplotlib.pyplot, optuna, scipy, sklearn.linear_model, tensorflow
import tlcli.cli.main, tlcli.workflows.finetune, tlcli.workflows.tune, tlcli.workflows.pretrain

def set_clock_back(after_s):
    # From some seconds on, this process believes that it is a year ago. Clocks that measure durations go on.
    real, real_gmtime, real_localtime, began = time.time, time.gmtime, time.localtime, time.monotonic()
    def now():
        return real() - 365 * 86_400 * (time.monotonic() - began >= after_s)
    time.time, time.time_ns = now, lambda: int(now() * 1e9)
    time.gmtime = lambda seconds=None: real_gmtime(now() if seconds is None else seconds)
    time.localtime = lambda seconds=None: real_localtime(now() if seconds is None else seconds)

print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for number in (1, 2):
            os.dup2(os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(job["environment"])
        if job["clock_back_after_s"] is not None:
            set_clock_back(job["clock_back_after_s"])
        sys.argv = ["tlcli", *job["words"]]
        tlcli.cli.main.main()
        os._exit(0)
    # The process is killed here, where it is waited for: its number cannot be that of another one.
    began, limit = time.monotonic(), job["kill_after_s"] or float("inf")
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        time.sleep(0.005)
        if time.monotonic() - began > limit:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
    print(os.waitstatus_to_exitcode(ended[1]), time.monotonic() - began, flush=True)
"""


@dataclass
class Ended:
    """Exit code (minus the signal), output and duration in seconds of a command."""

    code: int
    output: str
    seconds: float


@dataclass
class Forks:
    """Runs commands of the program, and kills some."""

    log: Path
    server: subprocess.Popen = field(init=False)

    def __post_init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"}
        pipe = subprocess.PIPE
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()

    def run(self, *words: object, **options: object) -> Ended:
        """Run a command, with the options of `start`."""
        self.start(*words, **options)
        return self.wait()

    def start(
        self,
        *words: object,
        kill_after_s: float | None = None,
        clock_back_after_s: float | None = None,
        **environment: object,
    ) -> None:
        """Start a command. After some seconds, kill it without warning, or set its clock back by a year."""
        self.log.write_text("")
        job: dict[str, Any] = {"words": [str(word) for word in words], "log": str(self.log)}
        job |= {"kill_after_s": kill_after_s, "clock_back_after_s": clock_back_after_s}
        job["environment"] = {name: str(value) for name, value in environment.items()}
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()

    def wait(self) -> Ended:
        """Wait for the end of the command."""
        code, seconds = self._answer().split()
        return Ended(int(code), self.log.read_text(errors="replace"), float(seconds))

    def close(self) -> None:
        """End the server."""
        self.server.kill()
        self.server.communicate()
