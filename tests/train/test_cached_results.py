"""Cached results: an identical step is not trained again, any other step is."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tlcli.cache.results import CachedResult, ResultCache
from tlcli.train import cached_results, calibration, checkpoint, linear_probe, phases, policy
from tlcli.train.budget import Budget
from tlcli.train.events import EpochDone, Noticed

HEAD = {"train": "head", "epochs": 2, "lr": 0.1}
UNFREEZE = {"train": "top:2", "epochs": 2, "lr": 0.05, "batch_norm": "train"}
RANDOM = {"head": {"dropout": 0.2}, "augment": {"preset": "light"}, "seed": 3}


@pytest.fixture
def run(lab, tmp_path, recorder):
    """Runs a recipe in a new session with the result cache of the test."""
    numbers = iter(range(100))

    def run(recipe, *, results=None, budget=None, seed=0):
        session = lab.session(recipe, tmp_path / f"run{next(numbers)}", observe=recorder(), seed=seed)
        session.results = results or ResultCache(tmp_path / "results", 10**7)
        session.budget = budget or Budget()
        phases.run(session)
        return session

    return run


def epochs(session) -> list[int]:
    return [event.epoch for event in session.observe.of(EpochDone)]


def weights(session) -> bytes:
    return b"".join(array.tobytes() for array in checkpoint.copy_values(session.classifier.model.weights))


def lines(session) -> list[dict]:
    differing = ("seconds", "from_cache", "reason")
    records = [policy.record(outcome) for outcome in session.outcomes]
    return [{key: value for key, value in record.items() if key not in differing} for record in records]


def test_an_identical_run_is_not_trained_again(lab, run):
    first, second = (run(lab.recipe(HEAD, UNFREEZE, **RANDOM)) for _ in range(2))
    assert (epochs(first), epochs(second)) == ([1, 2, 1, 2], [])
    assert weights(first) == weights(second), "BatchNorm statistics included"
    assert second.history == first.history
    assert lines(second) == lines(first)
    assert [outcome.from_cache for outcome in first.outcomes + second.outcomes] == [False, False, True, True]
    assert all(outcome.reason.endswith("; cached result") for outcome in second.outcomes)
    assert not any("cached result" in outcome.reason for outcome in first.outcomes)
    third = run(lab.recipe(HEAD, UNFREEZE, **RANDOM))
    assert third.outcomes[0].reason.count("cached result") == 1, "the cache holds the original reason"


def test_scores_after_a_cached_result_are_the_same(lab, run):
    scores = [calibration.predict(run(lab.recipe(HEAD, UNFREEZE)), lab.val) for _ in range(2)]
    np.testing.assert_array_equal(*scores)


def test_only_a_changed_later_phase_is_trained_again(lab, run):
    run(lab.recipe(HEAD, UNFREEZE))
    changed = run(lab.recipe(HEAD, {**UNFREEZE, "lr": 0.01}))
    assert [outcome.from_cache for outcome in changed.outcomes] == [True, False]


def test_a_cached_rollback_is_restored(lab, run):
    recipe = lab.recipe(HEAD, {**UNFREEZE, "until": {"min_delta": 50.0}})
    first, second = run(recipe), run(recipe)
    assert [outcome.kept for outcome in second.outcomes] == [True, False]
    assert weights(first) == weights(second)
    assert epochs(second) == []


@pytest.mark.parametrize(
    ("phase", "sections"),
    [
        ({"lr": 0.2}, {}),
        ({"epochs": 3}, {}),
        ({"batch_norm": "affine"}, {}),
        ({"train": "top:1"}, {}),
        ({}, {"seed": 1}),
        ({}, {"head": {"dropout": 0.1}}),
        ({}, {"augment": {"preset": "light"}}),
        ({}, {"augment": {"preset": "none", "label_smoothing": 0.1}}),
        ({}, {"optimizer": {"name": "adam", "lr": 0.1}}),
        ({}, {"performance": {"batch": 8}}),
        ({}, {"data": {"class_weights": "balanced"}}),
    ],
    ids=str,
)
def test_the_key_depends_on_the_recipe(lab, tmp_path, phase, sections):
    keys = []
    for phase_changes, section_changes in (({}, {}), (phase, sections)):
        session = lab.session(lab.recipe({**UNFREEZE, **phase_changes}, **section_changes), tmp_path)
        step = policy.next_step(session.recipe.phases, session.groups, [])
        keys.append(cached_results.step_key(session, step))
    assert len(set(keys)) == 2


def test_the_key_depends_on_images_labels_and_weights_but_not_on_folders(lab, tmp_path):
    recipe = lab.recipe(UNFREEZE)

    def key(lab, *, seed: int = 0, folder: str = "a") -> str:
        session = lab.session(recipe, tmp_path / folder, seed=seed)
        return cached_results.step_key(session, policy.next_step(recipe.phases, session.groups, []))

    original = key(lab)
    assert key(lab, folder="b") == original
    other_label = replace(lab.train, labels=np.where(np.arange(len(lab.train)) == 3, 1, lab.train.labels))
    other_order = replace(lab.val, rows=lab.val.rows[::-1], labels=lab.val.labels[::-1])
    other_image = [*lab.contents]
    other_image[lab.train.rows[0]] = "another"
    keys = [
        key(lab, seed=1),
        key(replace(lab, train=other_label)),
        key(replace(lab, val=other_order)),
        key(replace(lab, contents=other_image)),
    ]
    assert len({original, *keys}) == 5


def test_a_damaged_result_is_trained_again_and_replaced(lab, run, tmp_path):
    first = run(lab.recipe(UNFREEZE))
    (path,) = (tmp_path / "results").glob("*.npz")
    intact, arrays = path.read_bytes(), arrays_of(ResultCache(path.parent, 10**7).find(path.stem))
    undetected = 0
    for at in range(100, len(intact), len(intact) // 7):
        path.write_bytes(intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :])
        result = ResultCache(path.parent, 10**7).find(path.stem)
        if result is not None:
            # Some bytes of an archive, such as timestamps, have no effect on its content.
            assert arrays_of(result) == arrays
            undetected += 1
    assert undetected < 4
    path.write_bytes(intact[: len(intact) // 2])
    second = run(lab.recipe(UNFREEZE))
    assert epochs(second) == [1, 2]
    assert weights(first) == weights(second)
    assert epochs(run(lab.recipe(UNFREEZE))) == []


def arrays_of(result: CachedResult) -> list[bytes]:
    return [array.tobytes() for array in result.arrays]


def test_a_step_cut_short_by_the_budget_is_not_cached(lab, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Budget, "would_exceed", lambda *_: True)
    cut = run(lab.recipe(UNFREEZE), budget=Budget(1000.0, time.perf_counter()))
    assert epochs(cut) == [1]
    assert cut.outcomes[0].out_of_time
    assert not list((tmp_path / "results").glob("*"))


def test_a_cached_result_is_used_even_if_its_training_exceeds_the_budget(lab, run):
    first = run(lab.recipe(UNFREEZE))
    second = run(lab.recipe(UNFREEZE), budget=Budget(4.0, time.perf_counter(), flops_per_second=1.0))
    assert epochs(second) == []
    assert weights(first) == weights(second)
    assert not second.outcomes[0].out_of_time


def test_a_cache_that_cannot_be_written_is_only_a_warning(lab, run, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    session = run(lab.recipe(HEAD), results=ResultCache(tmp_path / "file" / "results", 10**7))
    (warning,) = [event for event in session.observe.of(Noticed) if event.is_warning]
    assert "cannot store the result for later runs" in warning.message
    assert warning.message.endswith("Set TLCLI_CACHE to a writable folder.")
    assert session.outcomes[0].kept


def test_the_probe_is_solved_once(lab, run, monkeypatch):
    recipe = lab.recipe({"train": "head", "init": "probe", "epochs": 0})
    first = run(recipe)
    monkeypatch.setattr(linear_probe, "solve", lambda *_, **__: pytest.fail("solved again"))
    second = run(recipe)
    assert weights(first) == weights(second)
    assert [session.outcomes[0].reason for session in (first, second)] == [
        "kept: the optimum of the linear probe",
        "kept: the optimum of the linear probe; cached result",
    ]


def test_the_probe_depends_on_features_labels_and_classes() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 3)).astype(np.float32), np.arange(8) % 2
    train, val = linear_probe.Features(x, y), linear_probe.Features(x[:4], y[:4])
    keys = [
        cached_results.probe_key(train, val, classes=2, balanced=False),
        cached_results.probe_key(train, val, classes=3, balanced=False),
        cached_results.probe_key(train, val, classes=2, balanced=True),
        cached_results.probe_key(linear_probe.Features(x, 1 - y), val, classes=2, balanced=False),
        cached_results.probe_key(linear_probe.Features(x + 1, y), val, classes=2, balanced=False),
        cached_results.probe_key(train, train, classes=2, balanced=False),
    ]
    assert len(set(keys)) == len(keys)


def keys_in(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def test_the_least_recently_used_result_is_evicted_first(tmp_path):
    arrays = [np.zeros(1000, np.float32)]
    cache = ResultCache(tmp_path / "results", 10_000)
    for number in range(2):
        cache.keep(f"{number}", CachedResult({"number": number}, arrays))
        # An hour ago.
        os.utime(cache.folder / f"{number}.npz", (time.time() - 3600 + number,) * 2)
    result = cache.find("0")
    assert result is not None
    assert result.state == {"number": 0}
    cache.keep("2", CachedResult({}, arrays))
    assert keys_in(cache.folder) == {"0", "2"}
    cache.keep("3", CachedResult({}, [np.zeros(10_000, np.float32)]))
    assert keys_in(cache.folder) == {"0", "2"}, "a result larger than the budget is not stored"
    assert cache.find("1") is None


def test_state_is_plain_json(tmp_path):
    cache = ResultCache(tmp_path, 10**6)
    state = {"outcome": {"val_loss": 0.1 + 0.2, "kept": True, "confidence": None}, "history": [{"lr": 1e-3}]}
    cache.keep("a", CachedResult(state, []))
    assert cache.find("a") == CachedResult(json.loads(json.dumps(state)), [])
