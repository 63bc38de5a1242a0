"""Inputs of all training images on the device: the same training as with batches that are sent to it."""

import numpy as np
import pytest

from tlcli.model.compiled import rounded_up
from tlcli.train import phases, policy
from tlcli.train import session as sessions
from tlcli.train.compile import batches_of, prepare_step

VIEWS = {"augment": {"preset": "strong", "views": 3}}
STEPS = [{"train": "head", "epochs": 2}, {"train": "top:1", "epochs": 3, "lr": 0.01}]
LIVE = {"performance": {"cache": "off"}}


def trained(lab, recipe, folder, monkeypatch, limit: int):
    monkeypatch.setattr(sessions, "table_bytes", lambda: limit)
    session = lab.session(recipe, folder)
    phases.run(session)
    return session


OPTIONS = {
    "stored views": VIEWS,
    "pixels": VIEWS | LIVE,
    "one view": {},
    "balanced": VIEWS | {"data": {"sampling": "balanced"}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_training_from_a_table_is_the_same(lab, tmp_path, monkeypatch, options):
    recipe = lab.recipe(*STEPS, **options)
    sent = trained(lab, recipe, tmp_path / "sent", monkeypatch, 0)
    kept = trained(lab, recipe, tmp_path / "kept", monkeypatch, 10**9)
    assert sent.stage.trainee.table is None
    assert kept.stage.trainee.table.shape[0] == rounded_up(len(kept.train) * (1 + len(kept.stage.augmented)))
    for left, right in zip(sent.classifier.model.weights, kept.classifier.model.weights, strict=True):
        np.testing.assert_allclose(left.numpy(), right.numpy(), rtol=1e-4, atol=1e-6)
    for left, right in zip(sent.history, kept.history, strict=True):
        assert left["val_loss"] == pytest.approx(right["val_loss"], rel=1e-4)
    assert sent.history[0]["loss"] != sent.history[-1]["loss"]


def test_positions_in_the_table_are_the_inputs_that_would_be_sent(lab, tmp_path, monkeypatch):
    recipe = lab.recipe(STEPS[1], **VIEWS)
    batches = []
    for number, limit in enumerate((0, 10**9)):
        monkeypatch.setattr(sessions, "table_bytes", lambda limit=limit: limit)
        session = lab.session(recipe, tmp_path / str(number))
        state = prepare_step(session, policy.next_step(recipe.phases, lab.groups, []))
        batches.append([batch for epoch in range(3) for batch in batches_of(session, state.step, epoch, random(epoch))])
    table = session.stage.trainee.table.numpy()
    for (inputs, *rest), (positions, *same) in zip(*batches, strict=True):
        assert positions.dtype == np.int32
        np.testing.assert_array_equal(table[positions], inputs)
        for left, right in zip(rest, same, strict=True):
            np.testing.assert_array_equal(left, right)


def random(epoch: int) -> np.random.Generator:
    return np.random.default_rng(epoch)


@pytest.mark.parametrize(
    ("options", "limit"), [({"augment": {"mixup": 0.2}}, 10**9), ({}, 1000)], ids=["mixed", "large"]
)
def test_mixed_or_too_many_inputs_are_sent(lab, tmp_path, monkeypatch, options, limit):
    session = trained(lab, lab.recipe({"train": "top:1", "epochs": 1}, **options), tmp_path, monkeypatch, limit)
    assert session.stage.trainee.table is None
    assert len(session.history) == 1
