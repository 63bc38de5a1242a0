"""One step: order of the images, learning rates, best epoch, loss, seeds, and failures."""

import json
from dataclasses import dataclass, field, replace
from itertools import combinations

import keras
import numpy as np
import pytest

from tlcli.data.pixels import Examples
from tlcli.errors import RunError
from tlcli.train import calibration, checkpoint, compile, phases, policy
from tlcli.train.calibration import predict, score
from tlcli.train.compile import batches_of, reseed
from tlcli.train.events import Advanced, BatchDone, EpochDone, Noticed, StepBegun, StepDone
from tlcli.train.pace import pace_of


@dataclass
class WatchedArray:
    """An array, such as a pixel cache, that records which rows are read."""

    pixels: np.ndarray | None
    reads: list[np.ndarray] = field(default_factory=list)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        self.reads.append(np.array(rows))
        return self.pixels[rows]


def weights_of(session) -> list[bytes]:
    return [array.tobytes() for array in checkpoint.copy_values(session.classifier.model.weights)]


def run_watched(lab, folder, *, seed: int, epochs: int, cache: str):
    """Train a head without validation; return the session and the image rows of each batch, by epoch."""
    pixels = WatchedArray(lab.train.pixels)
    watched = replace(lab, train=replace(lab.train, pixels=pixels))
    recipe = watched.recipe(
        {"train": "head", "epochs": epochs, "lr": 0.5, "schedule": "cosine"},
        performance={"batch": 16, "cache": cache},
        seed=seed,
    )
    session = watched.session(recipe, folder, has_val=False)
    if cache == "off":
        phases.run(session)
        batches = pixels.reads
    else:
        stored = WatchedArray(None)

        def observe(event) -> None:
            if isinstance(event, StepBegun):
                stored.pixels, session.stage.plain = session.stage.plain, stored

        session.observe = observe
        phases.run(session)
        assert sorted(np.concatenate(pixels.reads)) == sorted(lab.train.rows), "exactly one pass over the images"
        batches = [np.sort(lab.train.rows)[rows] for rows in stored.reads]
    return session, [batches[start : start + 3] for start in range(0, len(batches), 3)]


@pytest.fixture(scope="module", params=["off", "auto"])
def watched_run(lab, request, tmp_path_factory):
    return *run_watched(lab, tmp_path_factory.mktemp("run"), seed=0, epochs=3, cache=request.param), request.param


def test_every_image_is_used_once_per_epoch(lab, watched_run):
    _, epochs, _ = watched_run
    assert len(epochs) == 3
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [16, 16, 10]
        assert sorted(np.concatenate(epoch)) == sorted(lab.train.rows)


def test_the_order_depends_only_on_epoch_and_seed(lab, watched_run, tmp_path):
    _, epochs, cache = watched_run
    orders = [np.concatenate(epoch).tolist() for epoch in epochs]
    assert len({tuple(order) for order in orders}) == 3
    other_cache = {"off": "auto", "auto": "off"}[cache]
    _, same_seed = run_watched(lab, tmp_path / "same", seed=0, epochs=1, cache=other_cache)
    _, other_seed = run_watched(lab, tmp_path / "other", seed=1, epochs=1, cache=cache)
    assert np.concatenate(same_seed[0]).tolist() == orders[0]
    assert np.concatenate(other_seed[0]).tolist() != orders[0]


def test_without_validation_the_last_epoch_is_kept(watched_run):
    session, _, _ = watched_run
    (outcome,) = session.outcomes
    assert (outcome.epochs, outcome.best_epoch, outcome.kept) == (3, 3, True)
    assert (outcome.val_loss, outcome.loss_before, outcome.confidence) == (None, None, None)
    assert [row["val_loss"] for row in session.history] == [None] * 3
    assert score(session, session.train).losses.mean() < session.history[0]["loss"]


# Learning rates at which the metric gets worse for a while. At the rate for accuracy, the loss keeps falling.
RATES = {"val_loss": 1.5, "val_accuracy": 0.3}


@pytest.fixture(scope="module", params=RATES)
def stopped(lab, request, tmp_path_factory, recorder):
    """A run at too high a learning rate, with its events, weights after each epoch, and rates of each batch."""
    phase = {"train": "top:2", "epochs": 12, "patience": 2, "lr": RATES[request.param], "schedule": "cosine"}
    recipe = lab.recipe({**phase, "until": {"metric": request.param}})
    session = lab.session(recipe, tmp_path_factory.mktemp("run"))
    record, weights, rates = recorder(), [], []

    def observe(event) -> None:
        record(event)
        if isinstance(event, EpochDone):
            weights.append(weights_of(session))
            rates.extend(pace_of(session.stage.trainee.optimizer).rates.numpy()[:3])

    session.observe = observe
    phases.run(session)
    return session, request.param, record, weights, rates


def test_the_best_epoch_is_restored(stopped):
    session, metric, _, weights, _ = stopped
    (outcome,) = session.outcomes
    values = [row[metric] for row in session.history]
    best = (min if metric == "val_loss" else max)(values)
    assert outcome.best_epoch == 1 + values.index(best) < outcome.epochs
    assert weights_of(session) == weights[outcome.best_epoch - 1] != weights[-1]
    scored = score(session, session.val)
    assert scored.losses.mean() == pytest.approx(outcome.val_loss, rel=1e-6)
    assert scored.hits.mean() == outcome.val_accuracy


def test_training_stops_when_patience_runs_out(stopped):
    session, metric, record, _, _ = stopped
    (outcome,) = session.outcomes
    sign = 1 if metric == "val_loss" else -1
    best, stale = float("inf"), []
    for row in session.history:
        stale.append(0 if sign * row[metric] < best else stale[-1] + 1)
        best = min(best, sign * row[metric])
    assert stale[-1] == 2, "the example must run out of patience"
    assert 2 not in stale[:-1]
    assert [event.is_best for event in record.of(EpochDone)] == [count == 0 for count in stale]
    assert outcome.epochs == len(stale) < 12


def test_events_come_in_order(stopped):
    session, _, record, _, _ = stopped
    kinds = [type(event) for event in record.recorded]
    epochs = session.outcomes[0].epochs
    assert kinds == [Advanced, StepBegun, *([BatchDone] * 3 + [EpochDone]) * epochs, StepDone]
    advanced, begun, done = record.recorded[0], record.recorded[1], record.recorded[-1]
    assert (advanced.done, advanced.total) == (74, 74)
    # Two convolutions without bias, and the head.
    assert begun.trainable_parameters == 6 * 6 * 9 + 6 * 8 + 8 * 3 + 3
    assert (begun.epochs, begun.batches, begun.images) == (12, 3, 42)
    assert done.outcome == session.outcomes[0]
    assert [(event.epoch, event.batch) for event in record.of(BatchDone)] == [
        (epoch, batch) for epoch in range(1, epochs + 1) for batch in (1, 2, 3)
    ]


def test_the_history_agrees_with_the_events(stopped):
    session, _, record, _, _ = stopped
    for row, event, last in zip(session.history, record.of(EpochDone), record.of(BatchDone)[2::3], strict=True):
        assert row["phase"] == "phase0"
        for name in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr"):
            assert row[name] == getattr(event, name)
        assert (last.loss, last.accuracy) == (pytest.approx(row["loss"]), pytest.approx(row["accuracy"]))
        assert event.seconds > 0 < event.images_per_second


def test_the_learning_rate_follows_the_schedule_in_each_batch(stopped):
    session, metric, _, _, rates = stopped
    batches = np.arange(len(rates))
    np.testing.assert_allclose(rates, RATES[metric] * 0.5 * (1 + np.cos(np.pi * batches / (12 * 3))), rtol=1e-5)
    assert [row["lr"] for row in session.history] == rates[2::3]


def test_the_loss_is_weighted_smoothed_and_penalised(lab, tmp_path):
    """The loss equals its formula, at a learning rate that leaves the weights unchanged."""
    chosen = np.flatnonzero((lab.train.labels != 2) | (np.arange(42) < 12))
    uneven = replace(lab, train=Examples(lab.train.pixels, lab.train.rows[chosen], lab.train.labels[chosen]))
    recipe = uneven.recipe(
        {"train": "head", "lr": 1e-12},
        data={"class_weights": "balanced"},
        head={"dropout": 0.0, "l1": 0.01, "l2": 0.1},
        augment={"preset": "none", "label_smoothing": 0.2},
    )
    session = uneven.entered(uneven.session(recipe, tmp_path))
    labels = session.train.labels
    counts = np.bincount(labels)
    assert counts.tolist() == [14, 14, 4]
    log_probabilities = np.log(predict(session, session.train).astype(np.float64))
    targets = 0.8 * np.eye(3)[labels] + 0.2 / 3
    weights = len(labels) / (3 * counts)
    kernel = session.classifier.model.get_layer("head_probabilities").kernel.numpy()
    penalty = 0.01 * np.abs(kernel).sum() + 0.1 * (kernel**2).sum()
    expected = (weights[labels] * -(targets * log_probabilities).sum(axis=1)).mean() + penalty
    phases.run(session)
    assert session.history[0]["loss"] == pytest.approx(expected, rel=1e-4)
    # The validation loss has no weights, smoothing or penalty, and is computed at the fitted temperature.
    probabilities, labels = predict(session, session.val), session.val.labels
    temperature = calibration.fit_temperature(probabilities, labels)
    correct = calibration.apply_temperature(probabilities, temperature)[np.arange(32), labels]
    assert session.history[0]["val_loss"] == pytest.approx(-np.log(correct).mean(), rel=1e-5)


def first_batches(lab, session) -> list:
    """The batches of the first epoch of the first step."""
    state = compile.prepare_step(session, policy.next_step(session.recipe.phases, lab.groups, []))
    return list(batches_of(session, state.step, 0, np.random.default_rng(0)))


def test_class_weights_have_mean_one_over_images(lab, tmp_path):
    uneven = replace(lab, train=replace(lab.train, labels=np.array([0] * 30 + [1] * 10 + [2] * 2)))
    session = uneven.session(uneven.recipe({"train": "head"}, data={"class_weights": "balanced"}), tmp_path)
    batches = first_batches(uneven, session)
    weights, labels = np.concatenate([batch[2] for batch in batches]), np.concatenate([batch[1] for batch in batches])
    assert weights.mean() == pytest.approx(1)
    assert weights @ labels == pytest.approx([14, 14, 14])


def test_mixup_mixes_images_and_labels_alike(lab, tmp_path):
    """The grey level of each image is its class, so that the image shows the mixture."""
    labels = np.repeat([0, 1, 2], 14)
    pixels = np.broadcast_to((80 * labels).astype(np.uint8)[:, None, None, None], (42, 12, 12, 3))
    flat = replace(lab, train=Examples(pixels, np.arange(42), labels))
    session = flat.session(flat.recipe({"train": "head"}, augment={"preset": "none", "mixup": 0.5}), tmp_path)
    mixed = 0
    for images, targets, _ in first_batches(flat, session):
        assert images.dtype == targets.dtype == np.float32
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
        assert targets.min() >= 0
        np.testing.assert_allclose(images[:, 0, 0, 0], targets @ [0, 80, 160], atol=1e-3)
        np.testing.assert_array_equal(images.min(axis=(1, 2, 3)), images.max(axis=(1, 2, 3)))
        mixed += ((targets > 0.01) & (targets < 0.99)).any()
    assert mixed, "the example must mix something"


@pytest.mark.parametrize(
    ("cache", "train", "dtype", "shape"),
    [
        ("off", "head", np.uint8, (12, 12, 3)),
        ("auto", "head", np.float32, (8,)),
        ("auto", "top:1", np.float32, (3, 3, 6)),
    ],
)
def test_without_mixup_inputs_are_images_or_stored_features(lab, tmp_path, cache, train, dtype, shape):
    recipe = lab.recipe({"train": train}, performance={"batch": 16, "cache": cache})
    inputs, targets, weights = first_batches(lab, lab.session(recipe, tmp_path))[0]
    assert (type(inputs), inputs.dtype, inputs.shape) == (np.ndarray, dtype, (16, *shape))
    assert set(np.unique(targets)) == {0, 1}
    assert np.all(weights == 1)


def test_random_layers_are_seeded_by_epoch(lab, tmp_path):
    head = {"dropout": 0.2, "hidden": [{"units": 4, "dropout": 0.3}]}
    recipe = lab.recipe({"train": "head"}, head=head, performance={"batch": 16, "cache": "off"})
    trainee = lab.entered(lab.session(recipe, tmp_path)).stage.trainee
    stored = lab.entered(lab.session(lab.recipe({"train": "head"}, head=head), tmp_path)).stage.trainee

    def states(trainee, seed: int) -> list[bytes]:
        reseed(trainee, np.random.default_rng(seed))
        layers = [trainee.top.get_layer(name) for name in ("head_dropout_1", "head_dropout")]
        layers += [trainee.augment] if trainee.augment else []
        return [layer.seed_generator.state.numpy().tobytes() for layer in layers]

    first = states(trainee, 1)
    assert len(set(first)) == 3
    assert not set(first) & set(states(trainee, 2))
    assert states(trainee, 1) == first
    assert states(stored, 1) == first[:2], "stored features do not change the seeds of the layers above"


def test_the_order_after_seeding_does_not_depend_on_stored_features(lab, tmp_path):
    orders = []
    for cache in ("off", "auto"):
        recipe = lab.recipe({"train": "head"}, head={"dropout": 0.2}, performance={"batch": 16, "cache": cache})
        order = np.random.default_rng(1)
        reseed(lab.entered(lab.session(recipe, tmp_path)).stage.trainee, order)
        orders.append(order.permutation(42).tolist())
    assert orders[0] == orders[1]


def test_live_views_differ_by_epoch(lab, tmp_path):
    """Weights and images stay the same; only the views change the loss."""
    phase = {"train": "head", "epochs": 3, "lr": 1e-12}
    session = lab.session(lab.recipe(phase, augment={"preset": "strong", "views": "live"}), tmp_path)
    phases.run(session)
    losses = [row["loss"] for row in session.history]
    assert min(abs(left - right) for left, right in combinations(losses, 2)) > 1e-4
    # Scoring uses the plain view.
    assert len({round(row["val_loss"], 5) for row in session.history}) == 1


@pytest.mark.parametrize("use", [score, predict])
def test_scoring_needs_a_step(lab, tmp_path, use):
    session = lab.session(lab.recipe({"train": "head"}), tmp_path)
    with pytest.raises(RuntimeError, match="no step has begun"):
        use(session, session.val)


def test_a_nan_training_loss_stops_the_run(lab, tmp_path):
    session = lab.session(lab.recipe({"train": "head", "lr": 0.4}), tmp_path)
    kernel = session.classifier.model.get_layer("head_probabilities").kernel
    kernel.assign(kernel * np.nan)
    with pytest.raises(RunError, match=r"phase phase0: the training loss is nan in epoch 1.*phases.0.lr=0.04"):
        phases.run(session)
    assert session.outcomes == session.history == []


def test_a_nan_validation_loss_stops_the_run(lab, tmp_path):
    """The training loss of the only batch is computed before the update that diverges."""
    recipe = lab.recipe({"train": "top:1", "lr": 10}, performance={"batch": 64})
    session = lab.session(recipe, tmp_path)
    scale = session.classifier.model.get_layer("block2_bn").gamma
    scale.assign(scale * 1e30)
    session.classifier.model.get_layer("head_probabilities").kernel.assign(np.full((8, 3), 1e-32))
    with pytest.raises(RunError, match=r"phase phase0: the validation loss is nan in epoch 1\. .* rate 10 .*lr=1\."):
        phases.run(session)
    assert checkpoint.Checkpoint(tmp_path).read().state["history"] == []


def test_an_epoch_with_a_nan_validation_loss_is_never_the_best(lab, tmp_path):
    """By accuracy it could be: without a largest probability, the answer is the first class."""
    barely = {"train": "head", "lr": 1e-38}
    wild = {"train": "top:1", "lr": 10, "epochs": 1, "until": {"metric": "val_accuracy"}}
    val = replace(lab.val, labels=np.zeros_like(lab.val.labels))
    session = replace(lab, val=val).session(lab.recipe(barely, wild, performance={"batch": 64}), tmp_path)
    scale = session.classifier.model.get_layer("block2_bn").gamma
    scale.assign(scale * 1e30)
    kernel = np.full((8, 3), 1e-32)
    kernel[:, 0] = 0
    session.classifier.model.get_layer("head_probabilities").kernel.assign(kernel)
    phases.run(session)
    assert "validation loss is nan" in session.outcomes[1].reason
    json.dumps([policy.record(outcome) for outcome in session.outcomes], allow_nan=False)


def test_a_diverged_step_is_rolled_back_by_name_and_the_next_one_trains(lab, tmp_path, recorder):
    """The features of an untrained deep network are so small that the weights of the probe are huge."""
    wild = {"train": "top:1", "lr": 10, "epochs": 3, "batch_norm": "affine", "soup": 2, "interpolate": True}
    recipe = lab.recipe({"train": "head", "init": "probe", "epochs": 0}, wild, {"train": "head", "lr": 1e-3})
    session = lab.session(recipe, tmp_path, observe=recorder())
    lab.shrink_features(session)
    phases.run(session)
    head, diverged, after = session.outcomes
    assert [outcome.kept for outcome in (head, diverged)] == [True, False]
    assert diverged.reason.startswith("rolled back: the ")
    assert " loss is nan in epoch 1. The learning rate 10 is probably too high. " in diverged.reason
    assert diverged.reason.endswith("Try --set phases.1.lr=1")
    assert after.loss_before == diverged.loss_before
    assert {row["phase"] for row in session.history} == {"phase2"}
    assert np.isfinite(score(session, session.val).losses).all()
    json.dumps([policy.record(outcome) for outcome in session.outcomes], allow_nan=False)
    told = [event.message for event in session.observe.of(Noticed) if "hardly differ" in event.message]
    assert len(told) == 1
    assert told[0].startswith("linear probe: the features of the frozen network hardly differ")


def test_half_precision_runs_can_be_resumed(lab, tmp_path, recorder):
    """In float16 the optimiser is wrapped in a loss scale, whose state is in the checkpoint."""
    phase = {"train": "top:1", "epochs": 2, "lr": 0.01, "layer_decay": 0.5}
    recipe = lab.recipe(phase, performance={"precision": "float16"})
    whole = lab.session(recipe, tmp_path)
    phases.run(whole)
    stop = recorder(lambda event: isinstance(event, BatchDone) and event.epoch == 2)
    with pytest.raises(KeyboardInterrupt):
        phases.run(lab.session(recipe, tmp_path, observe=stop))
    resumed = lab.session(recipe, tmp_path, seed=1)
    phases.run(resumed, saved=resumed.checkpoint.read())
    assert isinstance(whole.stage.trainee.optimizer, keras.optimizers.LossScaleOptimizer)
    for left, right in zip(whole.classifier.model.weights, resumed.classifier.model.weights, strict=True):
        np.testing.assert_allclose(left.numpy(), right.numpy(), rtol=1e-6, atol=1e-7, err_msg=left.path)
