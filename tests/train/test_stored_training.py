"""Training above stored outputs: the same as training on pixels, and the stored outputs stay what they are."""

import hashlib
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlcli.cache import arrays
from tlcli.model import precision
from tlcli.recipe.schema import Recipe
from tlcli.train import checkpoint, compile, phases, policy
from tlcli.train.calibration import score
from tlcli.train.compile import batches_of
from tlcli.train.events import Advanced, BatchDone, EpochDone, StepBegun, StepDone
from tlcli.train.session import Session

WITH_HIDDEN = {"dropout": 0.3, "hidden": [{"units": 6, "batch_norm": True, "dropout": 0.2}]}
THAW = {"policy": "gradual", "epochs": 2, "lr": 0.05, "batch_norm": "affine", "layer_decay": 0.8}
# Three renderings of every image, dropout, and an optimiser with a state of its own.
RENDERED: dict[str, Any] = {
    "head": {"dropout": 0.2},
    "augment": {"preset": "strong", "views": 3, "label_smoothing": 0.05},
    "optimizer": {"name": "adam", "lr": 0.005, "schedule": "cosine"},
}


def weights_of(session: Session) -> dict[str, np.ndarray]:
    weights = session.classifier.model.weights
    return dict(zip((weight.path for weight in weights), checkpoint.copy_values(weights), strict=True))


def assert_alike(one: Session, other: Session, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """All weights and statistics, and what was told of every epoch, to the rounding of sums over threads."""
    for name, left, right in zip(weights_of(one), weights_of(one).values(), weights_of(other).values(), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=atol, err_msg=name)
    for left, right in zip(one.history, other.history, strict=True):
        for key in ("loss", "accuracy", "val_loss", "val_accuracy", "lr"):
            assert left[key] == pytest.approx(right[key], rel=10 * rtol), key
    assert [outcome.kept for outcome in one.outcomes] == [outcome.kept for outcome in other.outcomes]


def live(recipe: Recipe) -> Recipe:
    """The same recipe with nothing stored."""
    return recipe.model_copy(update={"performance": recipe.performance.model_copy(update={"cache": "off"})})


def files(session: Session) -> dict[str, str]:
    """Sha256 of every stored array."""
    found = session.feature_cache.folder.glob("*/data.npy")
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


STEPS = {
    "head": [{"train": "head", "epochs": 2}],
    "top:1": [{"train": "top:1", "epochs": 2}],
    "top:2": [{"train": "top:2", "epochs": 2}],
    "top:2 affine": [{"train": "top:2", "epochs": 2, "batch_norm": "affine"}],
    "top:2 train": [{"train": "top:2", "epochs": 2, "batch_norm": "train"}],
    # Frozen layers lie above what is trained, too.
    "block1 train": [{"train": "block1", "epochs": 2, "batch_norm": "train"}],
    "single layers": [{"train": "re:block2_conv", "epochs": 2}],
    "all": [{"train": "all", "epochs": 2}],
    "gradual": [{"train": "head", "epochs": 1}, {**THAW, "step": 2}],
    "to and fro": [{"train": "block1", "epochs": 1}, {"train": "top:1", "epochs": 1}, {"train": "head", "epochs": 1}],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_stored_is_as_good_as_not_stored(lab, tmp_path, steps):
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
def test_it_is_so_where_two_outputs_are_handed_on(cells_lab, tmp_path, steps):
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


def test_it_is_so_after_a_probe_with_both_kinds_of_pooling(lab, tmp_path):
    recipe = lab.recipe(
        {"train": "head", "init": "probe", "epochs": 1},
        {**THAW, "step": 2},
        head={"dropout": 0.2, "pooling": "avg_max"},
    )
    sessions = [lab.session(recipe, tmp_path / "stored"), lab.session(live(recipe), tmp_path / "live")]
    for session in sessions:
        phases.run(session)
    # The probe's search ends at slightly different places.
    assert_alike(*sessions, rtol=1e-2, atol=2e-3)


def test_half_precision_as_well(lab, tmp_path):
    with precision.use_device("cpu", "bfloat16"):
        recipe = lab.recipe({"train": "top:1", "epochs": 2}, head=WITH_HIDDEN)
        sessions = [lab.session(recipe, tmp_path / "stored"), lab.session(live(recipe), tmp_path / "live")]
        for session in sessions:
            phases.run(session)
    assert_alike(*sessions, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("train", "below"), [("top:1", "block2"), ("top:2", "block1"), ("head", "top")])
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_nothing_below_the_frontier_moves_by_a_single_bit(lab, tmp_path, train, below, batch_norm):
    recipe = lab.recipe({"train": train, "epochs": 2, "batch_norm": batch_norm}, **RENDERED)
    session = lab.session(recipe, tmp_path)
    before = {name: array.tobytes() for name, array in weights_of(session).items()}
    stored: dict[str, str] = {}
    session.observe = lambda event: stored.update(files(session)) if isinstance(event, StepBegun) else None
    phases.run(session)
    changed = {name for name, array in weights_of(session).items() if array.tobytes() != before[name]}
    groups = lab.groups.names[: lab.groups.names.index(below) + 1]
    prefix = {name for name in before if name.split("/")[-2].partition("_")[0] in groups}
    assert len(prefix) >= 6
    assert changed
    assert not prefix & changed
    assert {"moving_mean", "moving_variance"} <= {name.split("/")[-1] for name in prefix}
    assert stored
    assert files(session) == stored


# Passes


def passes(session: Session) -> int:
    """How often images went through frozen layers; what is stored of 74 images is one block."""
    return len(session.observe.of(Advanced))


def test_one_pass_for_each_rendering_serves_all_rounds(lab, tmp_path, recorder):
    """Frontiers of later rounds are stored in the passes of the first, and found after training has changed flags."""
    recipe = lab.recipe({**THAW, "until": {"patience": 9}}, augment={"preset": "light", "views": 2})
    session = lab.session(recipe, tmp_path, observe=recorder())
    phases.run(session)
    assert len(session.outcomes) == 4
    assert passes(session) == 2
    # All images plain, and at random those trained on, at three cut_points; in the last round everything learns.
    assert len(files(session)) == 6
    again = lab.session(recipe, tmp_path, observe=recorder(), seed=0)
    for outcome in session.outcomes:
        again.enter(outcome.step)
    assert passes(again) == 0


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        (["block1", "top:1", "block1", "head"], [1, 2, 2, 3]),
        # The frontier below block1 is stored beside the pooled features, that below the top when block1 has learned.
        (["head", "block1", "top:1"], [2, 2, 3]),
        (["head", "top:1", "block1"], [3, 3, 3]),
    ],
)
def test_what_a_step_will_change_is_not_stored_before_it(lab, tmp_path, steps, counts):
    session = lab.session(lab.recipe(*({"train": step} for step in steps)), tmp_path)
    kept: list[int] = []

    def observe(event) -> None:
        if isinstance(event, StepBegun):
            kept.append(len(files(session)))

    session.observe = observe
    phases.run(session)
    assert kept == counts


@pytest.mark.parametrize(("seed", "count"), [(0, 0), (1, 2)])
def test_a_rendering_follows_from_the_seed_of_the_run(lab, tmp_path, recorder, seed, count):
    """The plain one does not."""
    sessions = [
        lab.session(lab.recipe({"train": "top:1", "epochs": 3}, **RENDERED, seed=each), tmp_path, observe=recorder())
        for each in (0, seed)
    ]
    for session in sessions:
        lab.entered(session)
    assert [passes(session) for session in sessions] == [3, count]


# Renderings


def test_every_image_takes_its_renderings_in_turn(lab, tmp_path):
    recipe = lab.recipe({"train": "top:1", "epochs": 7}, **RENDERED)
    session = lab.session(recipe, tmp_path)
    running = compile.prepare_step(session, policy.next_step(recipe.phases, lab.groups, []))
    stage, train = session.stage, session.train
    assert stage.footing.views == 3
    rendering_of = {row.tobytes(): (image, 0) for image, row in enumerate(stage.fed(train))}
    for number, view in enumerate(stage.random, start=1):
        rendering_of |= {row.tobytes(): (image, number) for image, row in enumerate(view)}
    assert len(rendering_of) == 3 * len(train)
    turns: dict[int, list[int]] = {image: [] for image in range(len(train))}
    for epoch in range(7):
        running.progress.epoch = epoch
        for inputs, labels, _ in batches_of(session, running.step, epoch, np.random.default_rng(epoch)):
            for row, label in zip(inputs, labels, strict=True):
                image, number = rendering_of[row.tobytes()]
                assert train.labels[image] == label.argmax()
                turns[image].append(number)
    for seen in turns.values():
        assert len(seen) == 7, "once an epoch"
        assert all(after == (before + 1) % 3 for before, after in pairwise(seen))
    # Not all images show the same rendering in an epoch.
    assert min(Counter(seen[0] for seen in turns.values()).values()) >= 42 / 3 / 2


def test_scoring_sees_the_plain_rendering(lab, tmp_path):
    """At a rate at which the weights stay, an epoch is the mean over renderings; scores stay what they are."""
    recipe = lab.recipe({"train": "top:1", "epochs": 3, "lr": 1e-12}, **{**RENDERED, "head": {"dropout": 0.0}})
    session = lab.session(recipe, tmp_path)
    phases.run(session)
    losses = [row["loss"] for row in session.history]
    assert min(abs(one - other) for one, other in pairwise(losses)) > 1e-5
    assert len({round(row["val_loss"], 6) for row in session.history}) == 1
    plain = lab.session(live(recipe), tmp_path / "live")
    phases.run(plain)
    assert plain.history[0]["val_loss"] == pytest.approx(session.history[0]["val_loss"], rel=1e-4)


# Damage, interruption, resuming, budget


@pytest.fixture(scope="module")
def whole(lab, tmp_path_factory) -> Session:
    """An uninterrupted run above stored renderings: a head, then two rounds of thawing, each kept."""
    session = lab.session(rendered(lab), tmp_path_factory.mktemp("whole"))
    phases.run(session)
    assert [outcome.kept for outcome in session.outcomes] == [True, True, True]
    assert min(outcome.best_epoch for outcome in session.outcomes) > 0
    return session


def rendered(lab) -> Recipe:
    thaw = {"epochs": 3, "batch_norm": "train", "layer_decay": 0.8}
    return lab.recipe(
        {"train": "head", "epochs": 2}, {"train": "top:1", **thaw}, {"train": "top:2", **thaw}, **RENDERED
    )


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all 74 images ten a block at the widest frontier that is stored, of the 42 trained on nine."""
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 10 * 3 * 3 * 6 * 4)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    file.write_bytes(content)


def test_flipped_bits_are_noticed_and_repaired(lab, whole, tmp_path, recorder, monkeypatch):
    small_blocks(monkeypatch)
    first = lab.session(rendered(lab), tmp_path)
    phases.run(first)
    sound = files(first)
    assert len(sound) == 8, "pooled features in two renderings, and two cut_points in three"
    for file in first.feature_cache.folder.glob("*/data.npy"):
        flip_a_bit(file)
    assert not set(files(first).values()) & set(sound.values())
    again = lab.session(rendered(lab), tmp_path, observe=recorder())
    phases.run(again)
    assert Counter(event.total for event in again.observe.of(Advanced)) == {10: 3, 9: 5}, "one block of each"
    assert files(again) == sound
    assert_alike(again, whole)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(1, id="plain", marks=pytest.mark.slow),
        pytest.param(2, id="first random", marks=pytest.mark.slow),
        pytest.param(3, id="second random"),
    ],
)
def test_an_interrupted_pass_does_no_harm(lab, whole, tmp_path, recorder, monkeypatch, number):
    small_blocks(monkeypatch)
    first_blocks: list[Advanced] = []

    def stop(event) -> bool:
        if isinstance(event, Advanced) and event.done <= 10:
            first_blocks.append(event)
        return isinstance(event, Advanced) and len(first_blocks) == number and event.done > event.total / 2

    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(rendered(lab), tmp_path, observe=recorder(stop)))
    again = lab.session(rendered(lab), tmp_path, observe=recorder(), seed=99)
    phases.run(again, saved=again.checkpoint.read())
    begun = [event for event in again.observe.of(Advanced) if event.done <= 10]
    assert len(begun) == 4 - number, "what was complete is found, the rest computed from its beginning"
    assert_alike(again, whole)


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
        # The head has two epochs, and so many renderings; a third one is made when it is needed.
        ("in the head", True, 1),
        pytest.param("in a step", True, 0, marks=pytest.mark.slow),
        pytest.param("after a step", True, 0, marks=pytest.mark.slow),
        pytest.param("in a later step", True, 0, marks=pytest.mark.slow),
        ("in a step", False, 3),
    ],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(whole, lab, tmp_path, recorder, stop, is_cache_left, count):
    """Taken up by another session, which finds what the first one stored."""
    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(rendered(lab), tmp_path, observe=recorder(STOPS[stop])))
    if not is_cache_left:
        shutil.rmtree(tmp_path / "activations")
    again = lab.session(rendered(lab), tmp_path, observe=recorder(), seed=99)
    phases.run(again, saved=again.checkpoint.read())
    assert_alike(again, whole)
    assert passes(again) == count


def test_a_frontier_beyond_the_budget_is_trained_live(lab, tmp_path):
    """To the same result."""
    small = {"batch": 16, "cache_budget": "10kB"}
    sessions = [
        lab.session(
            lab.recipe({"train": "top:1", "epochs": 2}, head=WITH_HIDDEN, performance=performance), tmp_path / name
        )
        for name, performance in (("small", small), ("large", {"batch": 16}))
    ]
    for session in sessions:
        phases.run(session)
    places = [session.stage.footing for session in sessions]
    assert [place.views for place in places] == [0, 1]
    assert places[0].why == "stored activations take more than 10kB"
    assert places[1].bytes == 74 * 3 * 3 * 6 * 4 > 10_000
    assert not files(sessions[0])
    assert_alike(*sessions)


def test_the_cache_stays_within_its_budget(lab, tmp_path):
    """Of two runs on it, the second evicts what the first stored, and ends all the same."""
    performance = {"batch": 16, "cache_budget": "50kB"}
    sizes = []
    for seed in (0, 1):
        recipe = lab.recipe({"train": "top:1", "epochs": 3}, **RENDERED, performance=performance)
        session = lab.session(recipe, tmp_path, seed=seed)
        phases.run(session)
        sizes.append(sum(path.stat().st_size for path in session.feature_cache.folder.rglob("data.npy")))
        assert session.stage.footing.views == 3
    assert max(sizes) <= 50_000
    assert sizes[0] > 25_000, "the example must need to evict"
