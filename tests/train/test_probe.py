"""The linear probe: the optimum that scikit-learn finds, as kernel and bias of plain features."""

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlcli.train import phases, probe
from tlcli.train.calibration import predict, score
from tlcli.train.events import Advanced, Noticed
from tlcli.train.probe import Features


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


def test_without_validation_the_penalty_is_a_middling_one():
    solution = probe.solve(features(60, seed=0), none(), classes=3)
    assert solution.inverse_l2 == pytest.approx(0.01)


@pytest.mark.parametrize("value", [0.0, 0.1, 12.34, -3e4, 1e-8])
def test_a_constant_feature_changes_nothing(value):
    """In float32 the deviation of equal numbers is not zero: 1e-8 for 0.1, and dividing by it ruins the head."""
    train, val = features(61, seed=0), features(60, seed=1)
    plain = probe.solve(train, val, classes=3)
    constant = [Features(np.insert(each.x, 3, np.float32(value), axis=1), each.y) for each in (train, val)]
    solution = probe.solve(*constant, classes=3)
    assert (solution.kernel[3] == 0).all()
    np.testing.assert_allclose(np.delete(solution.kernel, 3, axis=0), plain.kernel, rtol=2e-2, atol=1e-3)
    # A new image where it is not quite constant any more.
    moved = val.x + 0.0
    assert np.isfinite(solution.bias).all()
    probed = probabilities(solution, np.insert(moved, 3, np.float32(value) + np.float32(0.01), axis=1))
    np.testing.assert_allclose(probed, probabilities(plain, moved), atol=2e-2)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_large_means_do_not_blur_the_answer(offset):
    """Features as those of a channel that hardly moves; in float32 they keep three digits of what tells them apart."""
    train, val = features(400, seed=0, channels=60), features(200, seed=1, channels=60)
    deviation = train.x.std(axis=0)
    moved = [Features(each.x / deviation + np.float32(offset), each.y) for each in (train, val)]
    solution = probe.solve(*moved, classes=3)
    expected = reference(moved[0], solution.inverse_l2).predict_proba(moved[1].x.astype(np.float64))
    np.testing.assert_allclose(probabilities(solution, moved[1].x), expected, atol=2e-2)


@pytest.mark.parametrize("balanced", [False, True])
def test_it_does_not_matter_how_much_is_worked_on_at_a_time(balanced, monkeypatch):
    train, val = features(150, seed=0, shares=(0.6, 0.3, 0.1)), features(90, seed=1)
    whole = probe.solve(train, val, classes=3, balanced=balanced)
    # Seven images at a time, and the last three.
    monkeypatch.setattr(probe, "CHUNK_BYTES", 7 * 4 * 8)
    parts = probe.solve(train, val, classes=3, balanced=balanced)
    assert parts.inverse_l2 == whole.inverse_l2
    np.testing.assert_allclose(probabilities(parts, val.x), probabilities(whole, val.x), atol=1e-3)
    for mine, other in zip(probe.scored(parts, val), probe.scored(whole, val), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-2)


def test_memory_does_not_grow_with_the_images(tmp_path):
    """Features in a file that is only read: what is allocated is a few chunks and the labels' share."""
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (60_000, 100))
    y = np.arange(len(x)) % 3
    for at in range(0, len(x), 1000):
        x[at : at + 1000] = np.random.default_rng(at).normal(size=(1000, 100)) + y[at : at + 1000, None]
    x.flush()
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    tracemalloc.start()
    solution = probe.solve(Features(stored, y), none(100), classes=3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < stored.nbytes / 3
    assert probe.scored(solution, Features(stored, y))[1].mean() > 0.9


def test_a_class_without_images_is_never_guessed():
    train, val = features(60, seed=0), features(60, seed=1)
    for balanced in (False, True):
        solution = probe.solve(train, val, classes=4, balanced=balanced)
        assert solution.kernel.shape == (8, 4)
        assert probabilities(solution, val.x)[:, 3].max() < 0.05


def test_features_that_are_no_numbers_have_no_probe():
    train = features(60, seed=0)
    train.x[5, 2] = np.nan
    with pytest.raises(RuntimeError, match="no finite solution"):
        probe.solve(train, features(60, seed=1), classes=3)


def test_scores_are_of_every_image():
    train, val = features(60, seed=0), features(50, seed=1)
    solution = probe.solve(train, val, classes=3)
    losses, hits = probe.scored(solution, val)
    found = probabilities(solution, val.x)
    np.testing.assert_allclose(losses, -np.log(found[np.arange(50), val.y]), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(hits, found.argmax(axis=1) == val.y)
    assert 0.3 < hits.mean() < 1


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_cross_entropies(scale):
    random = np.random.default_rng(0)
    logits, labels = scale * random.normal(size=(20, 4)), random.integers(0, 4, 20)
    shifted = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    losses = probe.cross_entropies(logits, labels)
    np.testing.assert_allclose(losses, -shifted[np.arange(20), labels])
    if scale == 1.0:
        assert losses.mean() == pytest.approx(log_loss(labels, np.exp(shifted)))


def test_the_head_starts_from_the_optimum(lab, tmp_path, recorder):
    """Through the whole network: pooled features of the pixel cache, batch by batch, to the weights of the head."""
    recipe = lab.recipe({"train": "head", "init": "probe"}, augment={"preset": "strong"}, head={"dropout": 0.5})
    session = lab.entered(lab.session(recipe, tmp_path, observe=recorder()))
    before = score(session, session.val).losses.mean()
    phases.start_from_probe(session)
    pooled = {}
    for name in ("train", "val"):
        examples = getattr(session, name)
        maps = session.classifier.features.predict_on_batch(examples.pixels[examples.rows].astype(np.float32))
        pooled[name] = Features(maps.mean(axis=(1, 2)), examples.labels)
    solution = probe.solve(pooled["train"], pooled["val"], classes=3)
    expected = reference(pooled["train"], solution.inverse_l2).predict_proba(pooled["val"].x)
    np.testing.assert_allclose(predict(session, session.val), expected, atol=2e-3)
    assert score(session, session.val).losses.mean() < before - 0.1
    assert "linear probe" in session.observe.of(Noticed)[0].message
    assert [event.done for event in session.observe.of(Advanced)] == [74], "one pass for the step and the probe"


@pytest.mark.parametrize(("cache", "told"), [("auto", [[74], []]), ("off", [[37, 74], [37, 74]])])
def test_the_probe_reads_pooled_features_that_are_stored(lab, tmp_path, recorder, cache, told):
    """The step after it trains on the same ones, and a second run finds them; unless nothing shall be stored."""
    recipe = lab.recipe({"train": "head", "init": "probe"}, performance={"batch": 16, "cache": cache})
    sessions = [lab.session(recipe, tmp_path, observe=recorder()) for _ in range(2)]
    for session in sessions:
        phases.start_from_probe(session)
        lab.entered(session)
    assert [[event.done for event in session.observe.of(Advanced)] for session in sessions] == told
    np.testing.assert_array_equal(*(predict(session, session.val) for session in sessions))


def test_the_probe_needs_no_validation_images(lab, tmp_path):
    session = lab.entered(lab.session(lab.recipe({"train": "head", "init": "probe"}), tmp_path, has_val=False))
    phases.start_from_probe(session)
    assert score(session, session.train).hits.mean() > 0.6
