"""The study of a search: which values a trial gets, which trial is stopped early, and which values mattered.

Optuna does this work, and only this module knows it. Several processes share one study, a SQLite file.

Ref: Akiba et al. 2019, arXiv 1907.10902 (Optuna); Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization
(TPE); Hutter et al. 2014, An Efficient Approach for Assessing Hyperparameter Importance (fANOVA).
"""

import random
import shutil
import sqlite3
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from tlcli.errors import RunError, UsageError
from tlcli.recipe.space import Parameter, Space, parameter_text
from tlcli.train.events import Event, StepDone
from tlcli.tune.search import KEPT, Search

NAME = "tlcli"
# The lock of the process that asks for a trial.
ASK = ".ask"
# Trials that run to their end before any is stopped early.
NEVER_PRUNED = 5
# Seconds that a process waits for the database, or for another one that asks for a trial.
WAIT_S = 60.0
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TrialPruned(RunError):
    """A trial was stopped early: its validation score is worse than the median of the trials at this step."""

    kind = "pruned"


@dataclass
class Pruner:
    """An observer that reports the score after every step, and stops a trial that is behind.

    Attributes:
        trial: The trial of Optuna.
        metric: `val_loss` or `val_accuracy`.
        best: The score of the kept steps so far.
        steps: Number of steps so far.
    """

    trial: optuna.Trial
    metric: str
    best: float | None = None
    steps: int = 0

    def __call__(self, event: Event) -> None:
        """Report the end of a step.

        Raises:
            TrialPruned: If the trial is behind.
        """
        if not isinstance(event, StepDone):
            return
        value = getattr(event.outcome, self.metric)
        if value is not None and (event.outcome.kept or self.best is None):
            self.best = value
        if self.best is not None:
            self.trial.report(self.best, self.steps)
        self.steps += 1
        if self.trial.should_prune():
            raise TrialPruned(f"{self.metric} {self.best:.4f} is behind the median after step {self.steps}")


@dataclass
class Study:
    """The study of a search, in one of its processes.

    Attributes:
        search: The search.
        space: Its space.
        worker: Number of the process, from 0.
        study: The study of Optuna.
    """

    search: Search
    space: Space
    worker: int = 0
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        search = self.search
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # The path is handed over as it is: in an address, some characters have a meaning.
            storage = optuna.storages.RDBStorage(
                "sqlite:///study.db",
                engine_kwargs={"creator": lambda: sqlite3.connect(search.database, timeout=WAIT_S)},
            )
            self.study = optuna.create_study(
                storage=storage,
                study_name=NAME,
                direction="minimize" if search.metric == "val_loss" else "maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=NEVER_PRUNED, n_warmup_steps=1),
            )
            self.study.sampler = self._sampler()

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """The sampler. A grid is a queue of trials instead, so that processes share it."""
        # A resumed search continues with other numbers, and every process has its own.
        seed = self.search.seed + 1000 * self.worker + len(self.trials())
        if self.search.sampler != "tpe":
            return optuna.samplers.RandomSampler(seed=seed)
        # The first third is drawn at random, so that the model has something to learn from.
        first = max(3, min(10, self.search.trials // 3))
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=first, constant_liar=self.search.jobs > 1)

    def prepare(self) -> None:
        """Queue the grid of a new search, and the trials that an interrupted one did not end.

        Raises:
            RecipeError: If there is no grid of this space.
        """
        for trial in self.trials():
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
                shutil.rmtree(self.search.trial(trial.number + 1), ignore_errors=True)
                if len(values := _values(trial)) == len(self.space.parameters):
                    self.study.enqueue_trial(values)
        if self.search.sampler == "grid":
            known = [_values(trial) for trial in self.trials() if not is_cut_off(trial)]
            combinations = self.space.grid()
            random.Random(self.search.seed).shuffle(combinations)
            # More trials may be asked for than before.
            for values in combinations[: self.search.trials]:
                if values not in known:
                    self.study.enqueue_trial(values)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states, or all."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def ask(self) -> optuna.Trial | None:
        """The next trial with its values; None after the last one."""
        with FileLock(self.search.out / ASK, timeout=WAIT_S):
            waiting = len(self.trials(TrialState.WAITING))
            begun = [trial for trial in self.trials() if trial.state != TrialState.WAITING and not is_cut_off(trial)]
            if len(begun) >= self.search.trials or (self.search.sampler == "grid" and not waiting):
                return None
            trial = self.study.ask()
            for parameter in self.space.parameters:
                _suggest(trial, parameter)
            return trial

    def end(self, trial: optuna.Trial, value: float | None, facts: dict[str, Any]) -> None:
        """Record the end of a trial.

        Args:
            trial: The trial.
            value: Its score; None if it failed.
            facts: What else is known of it, ready for JSON. With `pruned` it was stopped early.
        """
        for key, fact in facts.items():
            trial.set_user_attr(key, fact)
        if facts.get("pruned"):
            self.study.tell(trial, state=TrialState.PRUNED)
        elif value is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, value)

    def ranked(self) -> list[int]:
        """The numbers of the complete trials, counted from 1, best first. Of equal ones the lower loss is better."""
        sign = 1 if self.search.metric == "val_loss" else -1

        def key(trial: FrozenTrial) -> tuple[float, float, int]:
            return sign * float(trial.value or 0), float(trial.user_attrs.get("val_loss", 0.0)), trial.number

        done = [trial for trial in self.trials(TrialState.COMPLETE) if trial.value is not None]
        return [trial.number + 1 for trial in sorted(done, key=key)]

    def losers(self) -> list[int]:
        """The numbers of the ended trials that are not among the best, counted from 1."""
        best = self.ranked()[:KEPT]
        return [trial.number + 1 for trial in self.trials(*STATES) if trial.number + 1 not in best]

    def rows(self) -> list[dict[str, Any]]:
        """The ended trials in their order, ready for JSON; without those that were cut off."""
        ended = [trial for trial in self.trials(*STATES) if not is_cut_off(trial)]
        return [self._row(trial) for trial in ended]

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        known = [parameter for parameter in self.space.parameters if parameter.key in trial.params]
        facts = {"val_loss": None, "val_accuracy": None, "seconds": None, "cold": False, "steps": 0, "message": ""}
        return {
            "trial": trial.number + 1,
            "state": STATES[trial.state],
            "values": {parameter.key: parameter_text(parameter, trial.params[parameter.key]) for parameter in known},
            **{key: trial.user_attrs.get(key, value) for key, value in facts.items()},
        }

    def importance(self) -> dict[str, float]:
        """Share (0-1) of the differences between complete trials that each key explains; empty if too few or none."""
        complete = self.trials(TrialState.COMPLETE)
        if len(complete) < 4 or len(self.space.parameters) < 2 or len({trial.value for trial in complete}) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.search.seed)
            try:
                found = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
            except (RuntimeError, ValueError):
                return {}
        return {key: round(float(share), 4) for key, share in found.items()}


def is_cut_off(trial: FrozenTrial) -> bool:
    """True for a trial that its process did not end."""
    return trial.state == TrialState.FAIL and "seconds" not in trial.user_attrs


def _values(trial: FrozenTrial) -> dict[str, Any]:
    """The values of a trial; of a queued one those that it will get, even if it was cut off before it asked for all."""
    return dict(trial.system_attrs.get("fixed_params") or trial.params)


def _suggest(trial: optuna.Trial, parameter: Parameter) -> None:
    """Have a value chosen for a parameter."""
    if parameter.choices:
        trial.suggest_categorical(parameter.key, parameter.choices)
    elif parameter.is_int:
        step = int(parameter.step or 1)
        trial.suggest_int(parameter.key, int(parameter.low), int(parameter.high), step=step, log=parameter.log)
    else:
        trial.suggest_float(parameter.key, parameter.low, parameter.high, step=parameter.step, log=parameter.log)


def require_ended(rows: Sequence[dict[str, Any]]) -> None:
    """Check that a trial ended with a score.

    Raises:
        RunError: If none did, with the reason of the first.
        UsageError: If no trial was made in the time budget.
    """
    if not rows:
        raise UsageError("no trial ended", where="--budget", hint="Allow more time.")
    if all(row["state"] != "complete" for row in rows):
        first = next((row["message"] for row in rows if row["message"]), "")
        raise RunError(f"none of {len(rows)} trials ended with a score. The first: {first}", hint="Change the space.")
