"""The linear probe: the optimum that scikit-learn finds, as kernel and bias of plain features."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlcli.train import phases, probe
from tlcli.train.events import Noticed
from tlcli.train.probe import Features
from tlcli.train.session import predict, score


def features(count: int, *, seed: int, classes: int = 3, channels: int = 8, shares=None) -> Features:
    """Overlapping clouds, on scales and offsets as different as those of real features."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(classes, channels))
    y = random.choice(classes, count, p=shares)
    x = centres[y] + 2.5 * random.normal(size=(count, channels))
    return Features((x * 10.0 ** np.linspace(-2, 2, channels) + np.arange(channels)).astype(np.float32), y)


def none(channels: int = 8) -> Features:
    return Features(np.zeros((0, channels), np.float32), np.zeros(0, np.int64))


def probabilities(solution: probe.Solution, x: np.ndarray) -> np.ndarray:
    logits = x.astype(np.float64) @ solution.kernel + solution.bias
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def reference(train: Features, inverse_l2: float, *, balanced: bool = False):
    weight = "balanced" if balanced else None
    model = LogisticRegression(C=inverse_l2, max_iter=2000, tol=1e-8, class_weight=weight)
    return make_pipeline(StandardScaler(), model).fit(train.x.astype(np.float64), train.y)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("balanced", [False, True])
def test_it_is_what_scikit_learn_finds(classes, balanced):
    shares = np.arange(1, classes + 1) / sum(range(1, classes + 1))
    train, val = (features(count, seed=seed, classes=classes, shares=shares) for count, seed in ((150, 0), (90, 1)))
    solution = probe.solve(train, val, classes=classes, balanced=balanced)
    assert (solution.kernel.shape, solution.bias.shape) == ((8, classes), (classes,))
    assert solution.kernel.dtype == solution.bias.dtype == np.float32
    expected = reference(train, solution.inverse_l2, balanced=balanced).predict_proba(val.x)
    np.testing.assert_allclose(probabilities(solution, val.x), expected, atol=2e-3)


def test_balancing_changes_the_answer():
    shares = (0.8, 0.1, 0.1)
    train, val = features(200, seed=0, shares=shares), none()
    plain, balanced = (probe.solve(train, val, classes=3, balanced=each) for each in (False, True))
    rare = [probabilities(solution, train.x)[:, 1:].sum() for solution in (plain, balanced)]
    assert rare[1] > 1.3 * rare[0]


def test_the_penalty_with_the_lowest_validation_loss_is_taken():
    train, val = features(40, seed=0), features(300, seed=1)
    losses = {penalty: log_loss(val.y, reference(train, penalty).predict_proba(val.x)) for penalty in probe.PENALTIES}
    best = min(losses, key=losses.get)
    assert probe.PENALTIES[0] < best < probe.PENALTIES[-1], "the example must have its best inside the range"
    assert probe.solve(train, val, classes=3).inverse_l2 == best


def test_without_validation_the_middle_of_the_range_is_taken():
    solution = probe.solve(features(60, seed=0), none(), classes=3)
    assert solution.inverse_l2 == probe.PENALTIES[4]


@pytest.mark.parametrize("value", [0.0, 0.1, 12.34, -3e4, 1e-8])
def test_a_constant_feature_changes_nothing(value):
    """In float32 the deviation of equal numbers is not zero: 1e-8 for 0.1, and dividing by it ruins the head."""
    train, val = features(61, seed=0), features(60, seed=1)
    plain = probe.solve(train, val, classes=3)
    constant = [Features(np.insert(each.x, 3, np.float32(value), axis=1), each.y) for each in (train, val)]
    solution = probe.solve(*constant, classes=3)
    assert np.abs(solution.kernel[3]).max() < 1e-3
    np.testing.assert_allclose(np.delete(solution.kernel, 3, axis=0), plain.kernel, rtol=2e-2, atol=1e-3)
    # A new image where it is not quite constant any more.
    moved = val.x + 0.0
    assert np.isfinite(solution.bias).all()
    probed = probabilities(solution, np.insert(moved, 3, np.float32(value) + np.float32(0.01), axis=1))
    np.testing.assert_allclose(probed, probabilities(plain, moved), atol=2e-2)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_cross_entropy(scale):
    random = np.random.default_rng(0)
    logits, labels = scale * random.normal(size=(20, 4)), random.integers(0, 4, 20)
    shifted = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    assert probe.cross_entropy(logits, labels) == pytest.approx(-shifted[np.arange(20), labels].mean())
    if scale == 1.0:
        assert probe.cross_entropy(logits, labels) == pytest.approx(log_loss(labels, np.exp(shifted)))


def test_the_head_starts_from_the_optimum(lab, tmp_path, recorder):
    """Through the whole network: pooled features of the pixel cache, batch by batch, to the weights of the head."""
    recipe = lab.recipe({"train": "head", "init": "probe"}, augment={"preset": "strong"}, head={"dropout": 0.5})
    session = lab.session(recipe, tmp_path, observe=recorder())
    before = score(session, session.val).losses.mean()
    phases.start_from_probe(session)
    pooled = {}
    for name in ("train", "val"):
        examples = getattr(session, name)
        maps = session.trainee.features.predict_on_batch(examples.pixels[examples.rows].astype(np.float32))
        pooled[name] = Features(maps.mean(axis=(1, 2)), examples.labels)
    solution = probe.solve(pooled["train"], pooled["val"], classes=3)
    expected = reference(pooled["train"], solution.inverse_l2).predict_proba(pooled["val"].x)
    np.testing.assert_allclose(predict(session, session.val), expected, atol=2e-3)
    assert score(session, session.val).losses.mean() < before - 0.1
    assert "linear probe" in session.observe.of(Noticed)[0].message


def test_the_probe_needs_no_validation_images(lab, tmp_path):
    session = lab.session(lab.recipe({"train": "head", "init": "probe"}), tmp_path, has_val=False)
    phases.start_from_probe(session)
    assert score(session, session.train).hits.mean() > 0.6
