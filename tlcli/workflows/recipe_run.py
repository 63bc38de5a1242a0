"""Run recipes in CI: each in a process of its own, so that one that fails does not stop the others."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tlcli.errors import TlcliError
from tlcli.model.structure import measure_in_subprocess
from tlcli.report.ci import Outcome, outcome_of_error, outcome_of_process, unjudged
from tlcli.workflows.before_training import checked
from tlcli.workflows.request import Request, network_of


@dataclass
class Runs:
    """Runs of recipes in processes.

    Attributes:
        observe: Receives every outcome as soon as it is there.
        is_shown: True to let each process write its progress to stderr.
        running: The processes that run now.
    """

    observe: Callable[[Outcome], None]
    is_shown: bool = False
    running: set["subprocess.Popen[str]"] = field(default_factory=set)

    def run(self, commands: Sequence[tuple[str, Sequence[str]]], *, jobs: int) -> list[Outcome]:
        """Run all recipes, at most `jobs` at a time. Returns the outcomes in the order of the recipes.

        Args:
            commands: Recipes, and the words of their command lines after `tlcli recipe run RECIPE --json`.
            jobs: Number of processes at a time.
        """
        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(self._run, *command) for command in commands]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                # They stay resumable, as after Ctrl-C.
                for process in list(self.running):
                    process.terminate()
                raise

    def _run(self, recipe: str, words: Sequence[str]) -> Outcome:
        command = [sys.executable, "-m", "tlcli", "recipe", "run", recipe, "--json", *words]
        # This process alone reports to GitHub.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
        began, stderr = time.perf_counter(), None if self.is_shown else subprocess.PIPE
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8", errors="replace"
        ) as process:
            self.running.add(process)
            stdout, errors = process.communicate()
            self.running.discard(process)
        outcome = outcome_of_process(recipe, process.returncode, stdout, errors or "", time.perf_counter() - began)
        self.observe(outcome)
        return outcome


def check(request: Request) -> Outcome:
    """The outcome of a recipe that is only checked, without reading an image. Another process may load Keras."""
    try:
        resolved = checked(request)
        network_of(request, resolved.recipe, measure=measure_in_subprocess)
    except TlcliError as error:
        return outcome_of_error(request.recipe, error, is_dry=True)
    return Outcome(request.recipe, 0, expectations=unjudged(request.recipe), is_dry=True)
