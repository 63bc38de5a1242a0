"""Steps that were trained before, exactly so, are not trained again; whatever differs trains anew."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tlcli.cache.results import CachedResult, ResultCache
from tlcli.train import cached_results, calibration, checkpoint, phases, policy, probe
from tlcli.train.budget import Budget
from tlcli.train.events import EpochDone, Noticed

HEAD = {"train": "head", "epochs": 2, "lr": 0.1}
THAW = {"train": "top:2", "epochs": 2, "lr": 0.05, "batch_norm": "train"}
RANDOM = {"head": {"dropout": 0.2}, "augment": {"preset": "light"}, "seed": 3}


@pytest.fixture
def run(lab, tmp_path, recorder):
    """Runs a recipe with the memory of the test, as a process started anew would."""
    numbers = iter(range(100))

    def run(recipe, *, kept=None, budget=None, seed=0):
        session = lab.session(recipe, tmp_path / f"run{next(numbers)}", observe=recorder(), seed=seed)
        session.results = kept or ResultCache(tmp_path / "results", 10**7)
        session.budget = budget or Budget()
        phases.run(session)
        return session

    return run


def epochs(session) -> list[int]:
    return [event.epoch for event in session.observe.of(EpochDone)]


def weights(session) -> bytes:
    return b"".join(array.tobytes() for array in checkpoint.copy_values(session.classifier.model.weights))


def lines(session) -> list[dict]:
    own = ("seconds", "from_cache", "reason")
    return [{key: value for key, value in policy.record(each).items() if key not in own} for each in session.outcomes]


def test_the_same_again_is_not_trained(lab, run):
    first, second = (run(lab.recipe(HEAD, THAW, **RANDOM)) for _ in range(2))
    assert (epochs(first), epochs(second)) == ([1, 2, 1, 2], [])
    assert weights(first) == weights(second), "statistics of BatchNorm and all"
    assert second.history == first.history
    assert lines(second) == lines(first)
    assert [each.from_cache for each in first.outcomes + second.outcomes] == [False, False, True, True]
    assert all(each.reason.endswith("; as trained before") for each in second.outcomes)
    assert not any("as trained before" in each.reason for each in first.outcomes)
    third = run(lab.recipe(HEAD, THAW, **RANDOM))
    assert third.outcomes[0].reason.count("as trained before") == 1, "what is kept is what was trained"


def test_what_is_scored_after_it_is_the_same(lab, run):
    scores = [calibration.predict(run(lab.recipe(HEAD, THAW)), lab.val) for _ in range(2)]
    np.testing.assert_array_equal(*scores)


def test_a_later_phase_alone_is_trained_anew(lab, run):
    run(lab.recipe(HEAD, THAW))
    changed = run(lab.recipe(HEAD, {**THAW, "lr": 0.01}))
    assert [each.from_cache for each in changed.outcomes] == [True, False]


def test_a_step_that_was_rolled_back_is_rolled_back_again(lab, run):
    recipe = lab.recipe(HEAD, {**THAW, "until": {"min_delta": 50.0}})
    first, second = run(recipe), run(recipe)
    assert [each.kept for each in second.outcomes] == [True, False]
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
def test_what_the_recipe_says_decides(lab, tmp_path, phase, sections):
    keys = []
    for changes, others in (({}, {}), (phase, sections)):
        session = lab.session(lab.recipe({**THAW, **changes}, **others), tmp_path)
        step = policy.next_step(session.recipe.phases, session.groups, [])
        keys.append(cached_results.step_key(session, step))
    assert len(set(keys)) == 2


def test_images_labels_and_weights_decide_and_places_do_not(lab, tmp_path):
    recipe = lab.recipe(THAW)

    def key(lab, *, seed: int = 0, folder: str = "a") -> str:
        session = lab.session(recipe, tmp_path / folder, seed=seed)
        return cached_results.step_key(session, policy.next_step(recipe.phases, session.groups, []))

    base = key(lab)
    assert key(lab, folder="b") == base
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
    assert len({base, *keys}) == 5


def test_a_damaged_result_is_trained_anew_and_replaced(lab, run, tmp_path):
    first = run(lab.recipe(THAW))
    (path,) = (tmp_path / "results").glob("*.npz")
    sound, told = path.read_bytes(), weights_of(ResultCache(path.parent, 10**7).find(path.stem))
    believed = 0
    for at in range(100, len(sound), len(sound) // 7):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        found = ResultCache(path.parent, 10**7).find(path.stem)
        if found is not None:
            # Some bytes of an archive, such as the times in it, mean nothing.
            assert weights_of(found) == told
            believed += 1
    assert believed < 4
    path.write_bytes(sound[: len(sound) // 2])
    again = run(lab.recipe(THAW))
    assert epochs(again) == [1, 2]
    assert weights(first) == weights(again)
    assert epochs(run(lab.recipe(THAW))) == []


def weights_of(result: CachedResult) -> list[bytes]:
    return [array.tobytes() for array in result.arrays]


def test_what_a_budget_cut_short_is_not_kept(lab, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Budget, "would_exceed", lambda *_: True)
    cut = run(lab.recipe(THAW), budget=Budget(1000.0, time.perf_counter()))
    assert epochs(cut) == [1]
    assert cut.outcomes[0].out_of_time
    assert not list((tmp_path / "results").glob("*"))


def test_what_is_known_already_is_worth_more_than_what_fits_a_budget(lab, run):
    first = run(lab.recipe(THAW))
    again = run(lab.recipe(THAW), budget=Budget(4.0, time.perf_counter(), flops_per_second=1.0))
    assert epochs(again) == []
    assert weights(first) == weights(again)
    assert not again.outcomes[0].out_of_time


def test_a_folder_that_cannot_be_written_is_told_and_stops_nothing(lab, run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    session = run(lab.recipe(HEAD), kept=ResultCache(tmp_path / "file" / "results", 10**7))
    (said,) = [event for event in session.observe.of(Noticed) if event.is_warning]
    assert "cannot be kept for another run" in said.message
    assert session.outcomes[0].kept


def test_the_probe_is_solved_once(lab, run, monkeypatch):
    recipe = lab.recipe({"train": "head", "init": "probe", "epochs": 0})
    first = run(recipe)
    monkeypatch.setattr(probe, "solve", lambda *_, **__: pytest.fail("solved again"))
    second = run(recipe)
    assert weights(first) == weights(second)
    assert second.outcomes[0].reason == "kept: the optimum of the linear probe"


def test_the_probe_depends_on_features_labels_and_classes() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 3)).astype(np.float32), np.arange(8) % 2
    train, val = probe.Features(x, y), probe.Features(x[:4], y[:4])
    keys = [
        cached_results.probe_key(train, val, classes=2, balanced=False),
        cached_results.probe_key(train, val, classes=3, balanced=False),
        cached_results.probe_key(train, val, classes=2, balanced=True),
        cached_results.probe_key(probe.Features(x, 1 - y), val, classes=2, balanced=False),
        cached_results.probe_key(probe.Features(x + 1, y), val, classes=2, balanced=False),
        cached_results.probe_key(train, train, classes=2, balanced=False),
    ]
    assert len(set(keys)) == len(keys)


def kept(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def test_those_used_longest_ago_go_first(tmp_path):
    arrays = [np.zeros(1000, np.float32)]
    feature_cache = ResultCache(tmp_path / "results", 10_000)
    for number in range(2):
        feature_cache.keep(f"{number}", CachedResult({"number": number}, arrays))
        # As if an hour ago.
        os.utime(feature_cache.folder / f"{number}.npz", (time.time() - 3600 + number,) * 2)
    found = feature_cache.find("0")
    assert found is not None
    assert found.state == {"number": 0}
    feature_cache.keep("2", CachedResult({}, arrays))
    assert kept(feature_cache.folder) == {"0", "2"}
    feature_cache.keep("3", CachedResult({}, [np.zeros(10_000, np.float32)]))
    assert kept(feature_cache.folder) == {"0", "2"}, "what is larger than the budget is not written"
    assert feature_cache.find("1") is None


def test_state_is_plain_json(tmp_path):
    feature_cache = ResultCache(tmp_path, 10**6)
    state = {"outcome": {"val_loss": 0.1 + 0.2, "kept": True, "confidence": None}, "history": [{"lr": 1e-3}]}
    feature_cache.keep("a", CachedResult(state, []))
    assert feature_cache.find("a") == CachedResult(json.loads(json.dumps(state)), [])
