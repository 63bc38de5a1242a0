"""Results of training that can be found again: what cannot change is computed once.

A step is decided by the weights it begins with, the images, the recipe and the program; the linear probe by its
features. Who runs the same again, or a recipe that begins like one that was run, gets the result from the cache.
"""

import hashlib
import importlib.metadata
import json
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

import tlcli
from tlcli.paths import replacing
from tlcli.train import policy, prefix
from tlcli.train.checkpoint import Arrays
from tlcli.train.examples import Examples
from tlcli.train.probe import Features

if TYPE_CHECKING:
    from tlcli.train.session import Session

# What cannot be read back: NumPy and zipfile check the sums of every array.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Result:
    """What is kept: plain state, JSON-ready, and arrays in the order they were given."""

    state: dict[str, Any]
    arrays: Arrays


@dataclass(frozen=True)
class Memory:
    """A folder of results, `<key>.npz`, each written whole or not at all.

    Attributes:
        folder: Made when needed.
        budget: Bytes that all of them may take; those used longest ago go first.
    """

    folder: Path
    budget: int

    def find(self, key: str) -> Result | None:
        """What was kept; None where there is nothing, or nothing that can be believed."""
        path = self.folder / f"{key}.npz"
        try:
            # NumPy leaves a file it opened itself open when it is damaged.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                state = json.loads(archive["state"].tobytes())
                arrays = [archive[f"arr_{index}"] for index in range(len(archive.files) - 1)]
        except _DAMAGE:
            return None
        # It may belong to somebody else.
        with suppress(OSError):
            path.touch()
        return Result(state, arrays)

    def keep(self, key: str, result: Result) -> None:
        """Write a result, and remove others until all fit the budget. One that is larger than that is not written.

        Raises:
            OSError: The folder cannot be written.
        """
        if sum(array.nbytes for array in result.arrays) > self.budget:
            return
        state = np.frombuffer(json.dumps(result.state, allow_nan=False).encode(), np.uint8)
        with replacing(self.folder / f"{key}.npz") as temporary, temporary.open("wb") as stream:
            np.savez(stream, *result.arrays, state=state)
        self._evict()

    def _evict(self) -> None:
        found = []
        for path in self.folder.glob("*.npz"):
            # Another process may remove it just now.
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        excess = sum(size for _, size, _ in found) - self.budget
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def key_of_step(session: "Session", step: policy.Step) -> str:
    """A hash of everything that decides what a step brings."""
    recipe, phase = session.recipe, session.recipe.phases[step.phase]
    place = session.place_of(step)
    facts = [
        _program(),
        session.device,
        asdict(step) | {"layers": sorted(step.layers)},
        phase.model_dump(mode="json"),
        # Whether there are scores from before it.
        bool(session.outcomes),
        [place.name, place.views],
        recipe.seed,
        [part.model_dump(mode="json") for part in (recipe.head, recipe.augment, recipe.optimizer)],
        [recipe.data.class_weights, recipe.performance.batch_size],
        [recipe.performance.precision, session.frozen_precision],
        [_pictures(session, part) for part in (session.train, session.val)],
        prefix.weights_key(session.classifier.model, without=("trainable",)),
        _digest(session.pretrained) if phase.l2_sp else "",
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def key_of_probe(train: Features, val: Features, *, classes: int, balanced: bool) -> str:
    """A hash of everything that decides the optimum of the linear probe."""
    facts = [_program(), classes, balanced, _digest([train.x, train.y, val.x, val.y])]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


@cache
def _program() -> list[str]:
    """What computes: this program, to the letter, and the libraries below it."""
    digest = hashlib.sha256()
    home = Path(tlcli.__file__).parent
    for path in sorted(home.rglob("*.py")):
        digest.update(f"{path.relative_to(home).as_posix()}:".encode())
        digest.update(path.read_bytes())
    backend = keras.backend.backend()
    libraries = (f"{name} {importlib.metadata.version(name)}" for name in ("keras", backend, "numpy", "scipy"))
    return [digest.hexdigest(), *libraries]


def _pictures(session: "Session", examples: Examples) -> list[Any]:
    contents = [session.shelf.contents[row] for row in examples.rows]
    return [hashlib.sha256(json.dumps(contents).encode()).hexdigest(), _digest([examples.labels])]


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
