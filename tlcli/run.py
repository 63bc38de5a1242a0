"""The story of a run, from recipe to record, top to bottom."""

import hashlib
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlcli.data.pixels import Pixels
from tlcli.evaluate import metrics
from tlcli.model import backbone, classifier, measure
from tlcli.model.contract import Origin
from tlcli.paths import cache_dir, write_text
from tlcli.prepare import Chosen, Prepared, Request, Settled, choose, output_bytes, output_folder, prepare
from tlcli.probing import search
from tlcli.probing.job import pretrained
from tlcli.recipe.load import render
from tlcli.recipe.schema import Recipe
from tlcli.report import advice, folder, record
from tlcli.report.folder import RunFolder
from tlcli.report.record import RunRecord
from tlcli.train import checkpoint, device, phases, prefix, session
from tlcli.train.budget import Budget, seconds_of
from tlcli.train.events import EpochDone, Event, FolderMade, Noticed, Observer, StepDone
from tlcli.train.examples import Examples
from tlcli.train.footing import bytes_of
from tlcli.train.memory import Memory
from tlcli.train.plan import TrainPlan, make
from tlcli.train.temperature import EPSILON

# Training images that are scored once more, for the advice.
MOST_TRAIN_SCORED = 2000


def finetune(request: Request, settled: Settled, observe: Observer) -> tuple[Path, RunRecord]:
    """Fine-tune as asked, or take up an unfinished run. Returns the run folder and its record.

    `settled` is what `check_first` made of the request.

    Raises:
        TlcliError: If something is wrong with what was asked, the images, the network or the machine.
    """
    began = time.perf_counter()
    recipe = settled.recipe
    for notice in settled.notices:
        observe(Noticed(notice, is_warning=True))
    with device.use(request.device, recipe.performance.precision) as machine:
        chosen = choose(recipe, measure=measure.layer_groups)
        saved = checkpoint.Checkpoint(request.resume).read() if request.resume else None
        # Weights that are missing or do not fit are told before any image is read. A resumed run has them in its
        # checkpoint and needs the architecture only.
        weights = "random" if saved else None
        built = pretrained(recipe, chosen, weights=weights)
        prepared = prepare(recipe, chosen, strict=request.strict, observe=observe, reading=settled.reading)
        choice = None
        if search.is_wanted(recipe):
            choice = search.choose(prepared, built, observe)
            prepared = replace(prepared, plan=_cut(prepared.plan, choice, chosen))
            built = pretrained(prepared.plan.recipe, chosen, weights=weights)
        out = output_folder(request, prepared.plan)
        with folder.owned(out, resume=request.resume is not None, need_bytes=output_bytes(prepared.plan)) as run:
            observe(FolderMade(str(out)))
            note = record.begun(prepared.plan, machine, before=record.read(out) if request.resume else None)
            note.model |= {} if choice is None else {"depth_search": choice.to_json()}
            note.warnings = [*settled.notices, *note.warnings]
            if saved:
                # A killed run did not note what it took.
                note.seconds["total"] = max(note.seconds.get("total", 0.0), round(saved.state["taken_s"], 2))
            with folder.recorded(run, note, began):
                if saved is None:
                    note.model |= {"weights": built.weights_origin, "weights_sha256": built.weights_sha256}
                splits = folder.splits_csv(prepared.plan.splits, prepared.plan.classes)
                run.write_start(note, render(prepared.plan.recipe), splits, resumed=saved is not None)
                budget = _budget(prepared.plan.recipe, settled.began, spent_s=note.seconds.get("total", 0.0))
                _train(prepared, built, run, note, budget=budget, saved=saved, observe=observe)
    return out, note


def _cut(plan: TrainPlan, choice: search.Choice, chosen: Chosen) -> TrainPlan:
    """The plan for as many groups as the depth search keeps."""
    recipe = search.settled(plan.recipe, choice)
    return make(recipe, plan.card, groups=chosen.groups, splits=plan.splits, classes=plan.classes, speed=None)


def _budget(recipe: Recipe, began: float, *, spent_s: float) -> Budget:
    """What the run may take, less what an interrupted one has taken already."""
    total = recipe.performance.budget
    return Budget(math.inf if total is None else seconds_of(total), began, spent_s)


def _train(
    prepared: Prepared,
    built: backbone.Backbone,
    run: RunFolder,
    note: RunRecord,
    *,
    budget: Budget,
    saved: checkpoint.Saved | None,
    observe: Observer,
) -> None:
    plan = prepared.plan
    keras.utils.set_random_seed(plan.recipe.seed)
    made = classifier.assemble(built, plan.recipe.head, classes=plan.classes, resize=plan.recipe.data.resize)
    train, val, test = (_examples(prepared, name) for name in ("train", "val", "test"))
    shelf = prefix.Shelf(
        cache_dir() / "activations", bytes_of(plan.recipe.performance.cache_budget), _contents(prepared.pixels)
    )
    work = session.Session(
        plan.recipe, made, plan.groups, train, val, test, shelf, checkpoint.Checkpoint(run.path), observe
    )
    work.device, work.budget = note.hardware["device"], budget
    work.observe, work.memory = _Writer(work, run, observe), _memory(plan.recipe)
    run.write_history(work.history)
    run.write_decisions(work.outcomes)
    phases.run(work, saved=saved)
    observe(Noticed("scoring and saving"))
    if len(val):
        note.model["temperature"] = phases.calibrate(work)
    for name, examples in (("val", val), ("test", test)):
        if len(examples):
            note.scores[name] = metrics.score(examples.labels, session.predict(work, examples), plan.classes).to_json()
    note.scores["train"] = _train_score(work)
    classifier.save(made, run.path / "model.keras", origin=_origin(plan, note.scores))
    write_text(run.path / "labels.txt", "".join(f"{name}\n" for name in plan.classes))
    note.model["sha256"] = hashlib.sha256((run.path / "model.keras").read_bytes()).hexdigest()
    note.hardware["precision"] = {"asked": plan.recipe.performance.precision, "measured": work.precisions}
    record.close(note, work.outcomes, prefix_s=work.prefix_s)
    found = advice.advise(note, run.path)
    note.advice = None if found is None else found.to_json()
    work.checkpoint.remove()


def _origin(plan: TrainPlan, scores: dict[str, Any]) -> Origin | None:
    """What the classifier's file tells of its network. A file elsewhere is not told: it may be gone."""
    if not plan.card.source.startswith("keras:"):
        return None
    # The weights are in the file; whose they were is not for the file to say.
    card = plan.card.model_copy(update={"weights": None, "sha256": None})
    data = None if plan.recipe.data.path is None else Path(plan.recipe.data.path).name
    found = {name: {key: each[key] for key in ("accuracy", "loss", "count")} for name, each in scores.items()}
    model = plan.recipe.model
    return Origin(card=card, arguments=model.arguments, drop_top=model.drop_top, data=data, scores=found)


def _memory(recipe: Recipe) -> Memory | None:
    """Where results are found again: beside the activations, an eighth of what those may take."""
    spec = recipe.performance
    if spec.cache == "off" or not spec.recall:
        return None
    return Memory(cache_dir() / "results", bytes_of(spec.cache_budget) // 8)


def _train_score(work: session.Session) -> dict[str, Any]:
    """Accuracy and loss on training images as they are, at most so many as say enough."""
    chosen = np.random.default_rng(work.recipe.seed).permutation(len(work.train))[:MOST_TRAIN_SCORED]
    examples = Examples(work.train.pixels, work.train.rows[chosen], work.train.labels[chosen])
    found = session.predict(work, examples)
    right = found[np.arange(len(chosen)), examples.labels].astype(np.float64)
    return {
        "count": len(chosen),
        "accuracy": float((found.argmax(axis=1) == examples.labels).mean()),
        "loss": float(-np.log(np.clip(right, EPSILON, 1.0)).mean()),
    }


@dataclass(frozen=True)
class _Writer:
    """Keeps history.csv and phases.jsonl up with the run, and passes every event on."""

    work: session.Session
    run: RunFolder
    pass_on: Observer

    def __call__(self, event: Event) -> None:
        # A step that was found again brings its epochs along.
        if isinstance(event, (EpochDone, StepDone)):
            self.run.write_history(self.work.history)
        if isinstance(event, StepDone):
            self.run.write_decisions(self.work.outcomes)
        self.pass_on(event)


def _contents(pixels: Pixels) -> list[str]:
    """The content behind each row of the pixel cache; empty where it could not be read."""
    contents = [""] * len(pixels.array)
    for content, row in pixels.rows.items():
        contents[row] = content
    return contents


def _examples(prepared: Prepared, split: str) -> Examples:
    images = getattr(prepared.plan.splits, split)
    labels = np.array([image.label for image in images], dtype=np.int64)
    return Examples(prepared.pixels.array, prepared.pixels.rows_of(images), labels)
