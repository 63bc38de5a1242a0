"""Training on stored features: it equals training on pixels, and the stored features do not change."""

import hashlib
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlcli.cache import arrays
from tlcli.recipe.schema import Recipe
from tlcli.train import checkpoint, compile, phases, policy
from tlcli.train.calibration import score
from tlcli.train.compile import batches_of
from tlcli.train.events import Advanced, BatchDone, EpochDone, StepBegun, StepDone
from tlcli.train.session import Session

WITH_HIDDEN = {"dropout": 0.3, "hidden": [{"units": 6, "batch_norm": True, "dropout": 0.2}]}
UNFREEZE = {"policy": "gradual", "epochs": 2, "lr": 0.05, "batch_norm": "affine", "layer_decay": 0.8}
# Three views of every image, dropout, and an optimiser with state.
WITH_VIEWS: dict[str, Any] = {
    "head": {"dropout": 0.2},
    "augment": {"preset": "strong", "views": 3, "label_smoothing": 0.05},
    "optimizer": {"name": "adam", "lr": 0.005, "schedule": "cosine"},
}


def weights_of(session: Session) -> dict[str, np.ndarray]:
    weights = session.classifier.model.weights
    return dict(zip((weight.path for weight in weights), checkpoint.copy_values(weights), strict=True))


def assert_alike(left: Session, right: Session, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Assert that weights, statistics and histories are equal up to the rounding of sums over threads."""
    left_weights, right_weights = weights_of(left), weights_of(right)
    for name, left_array, right_array in zip(left_weights, left_weights.values(), right_weights.values(), strict=True):
        np.testing.assert_allclose(left_array, right_array, rtol=rtol, atol=atol, err_msg=name)
    for left_row, right_row in zip(left.history, right.history, strict=True):
        for key in ("loss", "accuracy", "val_loss", "val_accuracy", "lr"):
            assert left_row[key] == pytest.approx(right_row[key], rel=10 * rtol), key
    assert [outcome.kept for outcome in left.outcomes] == [outcome.kept for outcome in right.outcomes]


def live(recipe: Recipe) -> Recipe:
    """The same recipe without stored features."""
    return recipe.model_copy(update={"performance": recipe.performance.model_copy(update={"cache": "off"})})


def files(session: Session) -> dict[str, str]:
    """The SHA-256 of every stored array, by key."""
    paths = session.feature_cache.folder.glob("*/data.npy")
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


STEPS = {
    "head": [{"train": "head", "epochs": 2}],
    "top:1": [{"train": "top:1", "epochs": 2}],
    "top:2": [{"train": "top:2", "epochs": 2}],
    "top:2 affine": [{"train": "top:2", "epochs": 2, "batch_norm": "affine"}],
    "top:2 train": [{"train": "top:2", "epochs": 2, "batch_norm": "train"}],
    # There are frozen layers above the trained group.
    "block1 train": [{"train": "block1", "epochs": 2, "batch_norm": "train"}],
    "single layers": [{"train": "re:block2_conv", "epochs": 2}],
    "all": [{"train": "all", "epochs": 2}],
    "gradual": [{"train": "head", "epochs": 1}, {**UNFREEZE, "step": 2}],
    "up and down": [{"train": "block1", "epochs": 1}, {"train": "top:1", "epochs": 1}, {"train": "head", "epochs": 1}],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_stored_features_give_the_same_result_as_pixels(lab, tmp_path, steps):
    recipe = lab.recipe(*steps, head=WITH_HIDDEN)
    stored, computed = lab.session(recipe, tmp_path / "stored"), lab.session(live(recipe), tmp_path / "live")
    before = weights_of(stored)
    for session in (stored, computed):
        phases.run(session)
    assert_alike(stored, computed)
    assert max(np.abs(before[name] - array).max() for name, array in weights_of(stored).items()) > 0.01, "it must learn"
    assert not files(computed)
    assert bool(files(stored)) == (steps != STEPS["all"])
    np.testing.assert_allclose(
        score(stored, stored.val).losses, score(computed, computed.val).losses, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("steps", [STEPS["top:1"], STEPS["top:2 train"], STEPS["gradual"]])
def test_stored_features_of_two_outputs_give_the_same_result(cells_lab, tmp_path, steps):
    recipe = cells_lab.recipe(*steps, head=WITH_HIDDEN)
    stored, computed = (
        cells_lab.session(recipe, tmp_path / "stored"),
        cells_lab.session(live(recipe), tmp_path / "live"),
    )
    before = weights_of(stored)
    for session in (stored, computed):
        phases.run(session)
    assert_alike(stored, computed)
    assert max(np.abs(before[name] - array).max() for name, array in weights_of(stored).items()) > 0.01, "it must learn"
    rows = {np.load(path, mmap_mode="r").shape[1] for path in stored.feature_cache.folder.glob("*/data.npy")}
    assert rows & {cells_lab.groups[name].stored_bytes // 4 for name in ("block1", "block2")}


def test_stored_features_give_the_same_result_after_a_probe_with_both_poolings(lab, tmp_path):
    recipe = lab.recipe(
        {"train": "head", "init": "probe", "epochs": 1},
        {**UNFREEZE, "step": 2},
        head={"dropout": 0.2, "pooling": "avg_max"},
    )
    sessions = [lab.session(recipe, tmp_path / "stored"), lab.session(live(recipe), tmp_path / "live")]
    for session in sessions:
        phases.run(session)
    # The solver of the probe stops at slightly different points.
    assert_alike(*sessions, rtol=1e-2, atol=2e-3)


def test_stored_features_give_the_same_result_in_half_precision(lab, tmp_path):
    recipe = lab.recipe({"train": "top:1", "epochs": 2}, head=WITH_HIDDEN, performance={"precision": "bfloat16"})
    sessions = [lab.session(recipe, tmp_path / "stored"), lab.session(live(recipe), tmp_path / "live")]
    for session in sessions:
        phases.run(session)
    # The pass folds BatchNorm, which rounds differently, and bfloat16 has eight bits.
    assert_alike(*sessions, rtol=2e-2, atol=5e-3)


@pytest.mark.parametrize(("train", "below"), [("top:1", "block2"), ("top:2", "block1"), ("head", "top")])
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_layers_below_the_cut_point_stay_bit_identical(lab, tmp_path, train, below, batch_norm):
    recipe = lab.recipe({"train": train, "epochs": 2, "batch_norm": batch_norm}, **WITH_VIEWS)
    session = lab.session(recipe, tmp_path)
    before = {name: array.tobytes() for name, array in weights_of(session).items()}
    stored: dict[str, str] = {}
    session.observe = lambda event: stored.update(files(session)) if isinstance(event, StepBegun) else None
    phases.run(session)
    changed = {name for name, array in weights_of(session).items() if array.tobytes() != before[name]}
    groups = lab.groups.names[: lab.groups.names.index(below) + 1]
    frozen = {name for name in before if name.split("/")[-2].partition("_")[0] in groups}
    assert len(frozen) >= 6
    assert changed
    assert not frozen & changed
    assert {"moving_mean", "moving_variance"} <= {name.split("/")[-1] for name in frozen}
    assert stored
    assert files(session) == stored


# Passes


def passes(session: Session) -> int:
    """The number of passes through frozen layers. The features of 74 images are one block."""
    return len(session.observe.of(Advanced))


def test_one_pass_per_view_serves_all_rounds(lab, tmp_path, recorder):
    """The passes of the first round store the cut points of later rounds, whose keys do not depend on trained flags."""
    recipe = lab.recipe({**UNFREEZE, "until": {"patience": 9}}, augment={"preset": "light", "views": 2})
    session = lab.session(recipe, tmp_path, observe=recorder())
    phases.run(session)
    assert len(session.outcomes) == 4
    assert passes(session) == 2
    # The plain view of all images and one augmented view of the training images, at three cut points. The last round
    # trains everything.
    assert len(files(session)) == 6
    second = lab.session(recipe, tmp_path, observe=recorder(), seed=0)
    for outcome in session.outcomes:
        second.enter(outcome.step)
    assert passes(second) == 0


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        (["block1", "top:1", "block1", "head"], [1, 2, 2, 3]),
        # The cut point below block1 is stored with the pooled features, that below the top after block1 is trained.
        (["head", "block1", "top:1"], [2, 2, 3]),
        (["head", "top:1", "block1"], [3, 3, 3]),
    ],
)
def test_features_that_a_step_will_change_are_not_stored_before_it(lab, tmp_path, steps, counts):
    session = lab.session(lab.recipe(*({"train": step} for step in steps)), tmp_path)
    stored: list[int] = []

    def observe(event) -> None:
        if isinstance(event, StepBegun):
            stored.append(len(files(session)))

    session.observe = observe
    phases.run(session)
    assert stored == counts


@pytest.mark.parametrize(("seed", "count"), [(0, 0), (1, 2)])
def test_augmented_views_depend_on_the_seed_of_the_run(lab, tmp_path, recorder, seed, count):
    """The plain view does not."""
    step = {"train": "top:1", "epochs": 3}
    recipes = [lab.recipe(step, **WITH_VIEWS, seed=number) for number in (0, seed)]
    sessions = [lab.session(recipe, tmp_path, observe=recorder()) for recipe in recipes]
    for session in sessions:
        lab.entered(session)
    assert [passes(session) for session in sessions] == [3, count]


# Views


def test_every_image_takes_its_views_in_turn(lab, tmp_path):
    recipe = lab.recipe({"train": "top:1", "epochs": 7}, **WITH_VIEWS)
    session = lab.session(recipe, tmp_path)
    state = compile.prepare_step(session, policy.next_step(recipe.phases, lab.groups, []))
    stage, train = session.stage, session.train
    assert stage.placement.views == 3
    view_of = {row.tobytes(): (image, 0) for image, row in enumerate(stage.plain_inputs(train))}
    for number, features in enumerate(stage.augmented, start=1):
        view_of |= {row.tobytes(): (image, number) for image, row in enumerate(features)}
    assert len(view_of) == 3 * len(train)
    turns: dict[int, list[int]] = {image: [] for image in range(len(train))}
    for epoch in range(7):
        state.progress.epoch = epoch
        for inputs, labels, _ in batches_of(session, state.step, epoch, np.random.default_rng(epoch)):
            for row, label in zip(inputs, labels, strict=True):
                image, number = view_of[row.tobytes()]
                assert train.labels[image] == label.argmax()
                turns[image].append(number)
    for numbers in turns.values():
        assert len(numbers) == 7, "once per epoch"
        assert all(after == (before + 1) % 3 for before, after in pairwise(numbers))
    # In each epoch different images are in different views.
    assert min(Counter(numbers[0] for numbers in turns.values()).values()) >= 42 / 3 / 2


def test_scoring_uses_the_plain_view(lab, tmp_path):
    """At a learning rate that leaves the weights unchanged, the training loss differs by view and the scores do not."""
    recipe = lab.recipe({"train": "top:1", "epochs": 3, "lr": 1e-12}, **{**WITH_VIEWS, "head": {"dropout": 0.0}})
    session = lab.session(recipe, tmp_path)
    phases.run(session)
    losses = [row["loss"] for row in session.history]
    assert min(abs(left - right) for left, right in pairwise(losses)) > 1e-5
    assert len({round(row["val_loss"], 6) for row in session.history}) == 1
    plain = lab.session(live(recipe), tmp_path / "live")
    phases.run(plain)
    assert plain.history[0]["val_loss"] == pytest.approx(session.history[0]["val_loss"], rel=1e-4)


# Damage, interruption, resuming, budget


@pytest.fixture(scope="module")
def whole(lab, tmp_path_factory) -> Session:
    """An uninterrupted run on stored views: a head, then two unfreezing steps, all kept."""
    session = lab.session(recipe_with_views(lab), tmp_path_factory.mktemp("whole"))
    phases.run(session)
    assert [outcome.kept for outcome in session.outcomes] == [True, True, True]
    assert min(outcome.best_epoch for outcome in session.outcomes) > 0
    return session


def recipe_with_views(lab) -> Recipe:
    unfreeze = {"epochs": 3, "batch_norm": "train", "layer_decay": 0.8}
    return lab.recipe(
        {"train": "head", "epochs": 2}, {"train": "top:1", **unfreeze}, {"train": "top:2", **unfreeze}, **WITH_VIEWS
    )


def use_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of ten images at the widest stored cut point for all 74 images, of nine for the 42 training images."""
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 10 * 3 * 3 * 6 * 4)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    file.write_bytes(content)


def test_flipped_bits_are_detected_and_repaired(lab, whole, tmp_path, recorder, monkeypatch):
    use_small_blocks(monkeypatch)
    first = lab.session(recipe_with_views(lab), tmp_path)
    phases.run(first)
    intact = files(first)
    assert len(intact) == 8, "pooled features in two views, and two cut points in three"
    for file in first.feature_cache.folder.glob("*/data.npy"):
        flip_a_bit(file)
    assert not set(files(first).values()) & set(intact.values())
    second = lab.session(recipe_with_views(lab), tmp_path, observe=recorder())
    phases.run(second)
    assert Counter(event.total for event in second.observe.of(Advanced)) == {10: 3, 9: 5}, "one block of each"
    assert files(second) == intact
    assert_alike(second, whole)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(1, id="plain", marks=pytest.mark.slow),
        pytest.param(2, id="first random", marks=pytest.mark.slow),
        pytest.param(3, id="second random"),
    ],
)
def test_an_interrupted_pass_is_repeated(lab, whole, tmp_path, recorder, monkeypatch, number):
    use_small_blocks(monkeypatch)
    first_blocks: list[Advanced] = []

    def stop(event) -> bool:
        if isinstance(event, Advanced) and event.done <= 10:
            first_blocks.append(event)
        return isinstance(event, Advanced) and len(first_blocks) == number and event.done > event.total / 2

    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(recipe_with_views(lab), tmp_path, observe=recorder(stop)))
    resumed = lab.session(recipe_with_views(lab), tmp_path, observe=recorder(), seed=99)
    phases.run(resumed, saved=resumed.checkpoint.read())
    started = [event for event in resumed.observe.of(Advanced) if event.done <= 10]
    assert len(started) == 4 - number, "complete arrays are read, the others are computed from their start"
    assert_alike(resumed, whole)


def in_epoch(kind: type, step: str, epoch: int):
    return lambda event: isinstance(event, kind) and (event.step.name, event.epoch) == (step, epoch)


STOPS = {
    "in the head": in_epoch(BatchDone, "phase0", 2),
    "in a step": in_epoch(BatchDone, "phase1", 3),
    "after a step": lambda event: isinstance(event, StepDone) and event.outcome.step.name == "phase1",
    "in a later step": in_epoch(EpochDone, "phase2", 1),
}


@pytest.mark.parametrize(
    ("stop", "is_cache_left", "count"),
    [
        # The head has two epochs and needs two views. The third view is computed for the next step.
        ("in the head", True, 1),
        pytest.param("in a step", True, 0, marks=pytest.mark.slow),
        pytest.param("after a step", True, 0, marks=pytest.mark.slow),
        pytest.param("in a later step", True, 0, marks=pytest.mark.slow),
        ("in a step", False, 3),
    ],
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(whole, lab, tmp_path, recorder, stop, is_cache_left, count):
    """The session that resumes the run reads the features that the first one stored."""
    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(recipe_with_views(lab), tmp_path, observe=recorder(STOPS[stop])))
    if not is_cache_left:
        shutil.rmtree(tmp_path / "activations")
    resumed = lab.session(recipe_with_views(lab), tmp_path, observe=recorder(), seed=99)
    phases.run(resumed, saved=resumed.checkpoint.read())
    assert_alike(resumed, whole)
    assert passes(resumed) == count


def test_features_beyond_the_budget_are_not_stored(lab, tmp_path):
    """The result is the same."""
    small = {"batch": 16, "cache_budget": "10kB"}
    sessions = [
        lab.session(
            lab.recipe({"train": "top:1", "epochs": 2}, head=WITH_HIDDEN, performance=performance), tmp_path / name
        )
        for name, performance in (("small", small), ("large", {"batch": 16}))
    ]
    for session in sessions:
        phases.run(session)
    placements = [session.stage.placement for session in sessions]
    assert [placement.views for placement in placements] == [0, 1]
    assert placements[0].reason == "the features exceed the cache budget of 10kB"
    assert placements[1].bytes == 74 * 3 * 3 * 6 * 4 > 10_000
    assert not files(sessions[0])
    assert_alike(*sessions)


def test_the_cache_stays_within_its_budget(lab, tmp_path):
    """The second of two runs evicts the features of the first."""
    performance = {"batch": 16, "cache_budget": "50kB"}
    sizes = []
    for seed in (0, 1):
        recipe = lab.recipe({"train": "top:1", "epochs": 3}, **WITH_VIEWS, performance=performance)
        session = lab.session(recipe, tmp_path, seed=seed)
        phases.run(session)
        sizes.append(sum(path.stat().st_size for path in session.feature_cache.folder.rglob("data.npy")))
        assert session.stage.placement.views == 3
    assert max(sizes) <= 50_000
    assert sizes[0] > 25_000, "the example must need to evict"
