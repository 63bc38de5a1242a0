"""Distillation: ask a teacher about the training images, once, before training begins."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tlcli.cache.results import CachedResult
from tlcli.data import pixels
from tlcli.evaluate.predict import probabilities_of
from tlcli.evaluate.runtimes import fingerprint, open_model
from tlcli.train.cached_results import teacher_key
from tlcli.train.calibration import apply_temperature
from tlcli.train.events import Advanced, Observer
from tlcli.train.preparation import Prepared
from tlcli.train.session import result_cache
from tlcli.workflows.request import require_same_classes


def with_teacher(prepared: Prepared, observe: Observer) -> Prepared:
    """The images with what the teacher of the recipe, if there is one, says of those to train on.

    It sees the plain images at its own input size. Its answers are kept in the result cache.

    Raises:
        DataError: If it has other classes, or an image cannot be read.
        UsageError: If there is no such classifier.
        ModelError: If the classifier is damaged.
    """
    recipe, images = prepared.plan.recipe, prepared.plan.splits.train
    if recipe.teacher is None:
        return prepared
    require_same_classes(prepared.plan)
    path, results = recipe.teacher.run, result_cache(recipe)
    key = teacher_key(fingerprint(path), [image.sha256 for image in images], prepared.plan.classes)
    known = results.find(key) if results else None
    answers = known.arrays[0] if known else _answers(prepared, path, observe)
    if results and known is None:
        results.keep(key, CachedResult({}, [answers]))
    return replace(prepared, taught=apply_temperature(answers, recipe.teacher.temperature).astype(np.float32))


def _answers(prepared: Prepared, path: Path, observe: Observer) -> np.ndarray:
    """The probabilities `float32 (images, classes)` of the teacher, classes in the order of the plan."""
    plan, teacher = prepared.plan, open_model(path)
    paths = [prepared.index.file(image) for image in plan.splits.train]
    stage = "images through the teacher"
    probabilities = probabilities_of(
        teacher, paths, progress=lambda done, total: observe(Advanced(stage, done, total)), read=pixels.read
    )
    return probabilities[:, [teacher.classes.index(name) for name in plan.classes]]
