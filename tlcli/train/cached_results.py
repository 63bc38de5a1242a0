"""Cached results of steps and linear probes: their keys, and how they are stored and restored."""

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tlcli
from tlcli.cache.results import CachedResult
from tlcli.data.pixels import Examples
from tlcli.features import extraction
from tlcli.train import checkpoint, events, policy
from tlcli.train.compile import set_trainable
from tlcli.train.linear_probe import Features
from tlcli.train.lr_range import LrRange
from tlcli.train.session import Session
from tlcli.train.step import run_step


def step_key(session: Session, step: policy.Step) -> str:
    """A hash of everything that determines the result of a step."""
    recipe, phase = session.recipe, session.recipe.phases[step.phase]
    placement = session.placement_of(step)
    facts = [
        _program_version(),
        session.device,
        asdict(step) | {"layers": sorted(step.layers)},
        phase.model_dump(mode="json"),
        # A phase looks for its learning rate before its first step.
        asdict(session.lr_ranges[phase.name]) if phase.name in session.lr_ranges else None,
        # Only later steps are scored before they begin.
        bool(session.outcomes),
        [placement.name, placement.views],
        recipe.seed,
        [part.model_dump(mode="json") for part in (recipe.head, recipe.augment, recipe.optimizer)],
        [recipe.data.class_weights, recipe.data.sampling, recipe.performance.batch_size],
        recipe.loss.model_dump(mode="json"),
        None if recipe.teacher is None else [recipe.teacher.temperature, recipe.teacher.weight],
        "" if session.taught is None else _digest([session.taught]),
        [recipe.performance.precision, session.frozen_precision],
        [_images_key(session, part) for part in (session.train, session.val)],
        extraction.weights_key(session.classifier.model, without=("trainable",)),
        _digest(session.pretrained) if phase.l2_sp else "",
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def probe_key(train: Features, val: Features, *, classes: int, balanced: bool) -> str:
    """A hash of everything that determines the solution of the linear probe."""
    facts = [_program_version(), classes, balanced, _digest([train.x, train.y, val.x, val.y])]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def teacher_key(teacher: str, contents: Sequence[str], classes: Sequence[str]) -> str:
    """A hash of everything that determines the answers of a teacher: its SHA-256 and that of each image."""
    facts = ["teacher", _program_version(), teacher, *contents, *classes]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


@cache
def _program_version() -> list[str]:
    """The SHA-256 of the source of this program, and the versions of the libraries that compute."""
    digest = hashlib.sha256()
    package = Path(tlcli.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}:".encode())
        digest.update(path.read_bytes())
    backend = keras.backend.backend()
    libraries = (f"{name} {importlib.metadata.version(name)}" for name in ("keras", backend, "numpy", "scipy"))
    return [digest.hexdigest(), *libraries]


def _images_key(session: Session, examples: Examples) -> list[Any]:
    contents = [session.feature_cache.contents[row] for row in examples.rows]
    return [hashlib.sha256(json.dumps(contents).encode()).hexdigest(), _digest([examples.labels])]


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def restore_cached(session: Session, step: policy.Step) -> policy.Outcome | None:
    """Put the cached result of a step in place and return its outcome; None if there is no such result."""
    began = time.perf_counter()
    key = cache_key(session, step)
    result = session.results.find(key) if session.results and key else None
    if result is None:
        return None
    session.enter(step)
    _, moving = set_trainable(session, step)
    checkpoint.assign_values(moving, result.arrays)
    session.history += result.state["history"]
    session.precisions |= result.state["precisions"]
    session.lr_ranges |= {name: LrRange(**found) for name, found in result.state["lr_ranges"].items()}
    outcome = policy.outcome_from(step, result.state["outcome"])
    seconds = round(time.perf_counter() - began, 3)
    return replace(outcome, seconds=seconds, from_cache=True, reason=f"{outcome.reason}; cached result")


def run_and_cache(session: Session, step: policy.Step) -> policy.Outcome:
    """Run a step and cache its result, unless the time budget ended it early."""
    key = cache_key(session, step)
    rows = len(session.history)
    outcome = run_step(session, step)
    if key and not outcome.out_of_time:
        precisions = {name: value for name, value in session.precisions.items() if name == step.name}
        phase = session.recipe.phases[step.phase].name
        ranges = {name: asdict(found) for name, found in session.lr_ranges.items() if name == phase}
        state = {
            "outcome": policy.record(outcome),
            "history": session.history[rows:],
            "precisions": precisions,
            "lr_ranges": ranges,
        }
        _, moving = set_trainable(session, step)
        cache_result(session, key, CachedResult(state, checkpoint.copy_values(moving)))
    return outcome


def cache_key(session: Session, step: policy.Step) -> str | None:
    """The key of a step in the result cache; None if there is no cache or the step has no epochs."""
    return step_key(session, step) if session.results and step.epochs else None


def cache_result(session: Session, key: str, result: CachedResult) -> None:
    """Store a result in the result cache, if there is one. A cache that cannot be written is only a warning."""
    if session.results:
        try:
            session.results.keep(key, result)
        except OSError as error:
            message = f"{session.results.folder}: cannot store the result for later runs ({error.strerror})"
            session.observe(events.Noticed(message, is_warning=True))
