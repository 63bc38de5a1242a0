"""The linear probe: it reaches the optimum of scikit-learn, as kernel and bias of features as they are."""

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from tlcli.train import linear_probe, phases
from tlcli.train.calibration import predict, score
from tlcli.train.events import Advanced, Noticed
from tlcli.train.linear_probe import Features


def features(count: int, *, seed: int, classes: int = 3, channels: int = 8, shares=None) -> Features:
    """Overlapping clusters whose scales and offsets differ, as those of real features do."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(classes, channels))
    y = random.choice(classes, count, p=shares)
    x = centres[y] + 2.5 * random.normal(size=(count, channels))
    return Features((x * 10.0 ** np.linspace(-0.5, 0.5, channels) + np.arange(channels)).astype(np.float32), y)


def no_features(channels: int = 8) -> Features:
    return Features(np.zeros((0, channels), np.float32), np.zeros(0, np.int64))


def probabilities(solution: linear_probe.Solution, x: np.ndarray) -> np.ndarray:
    logits = x.astype(np.float64) @ solution.kernel + solution.bias
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def reference(train: Features, inverse_l2: float, *, balanced: bool = False):
    weight = "balanced" if balanced else None
    model = LogisticRegression(C=inverse_l2, max_iter=2000, tol=1e-8, class_weight=weight)
    x = train.x.astype(np.float64)
    scale = np.sqrt(x.var(axis=0).mean())
    # Centred for the solver; the intercept has no penalty.
    centred = FunctionTransformer(lambda new: (new - x.mean(axis=0)) / scale)
    return make_pipeline(centred, model).fit(x, train.y)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_solution_is_that_of_scikit_learn(classes, balanced):
    shares = np.arange(1, classes + 1) / sum(range(1, classes + 1))
    train, val = (features(count, seed=seed, classes=classes, shares=shares) for count, seed in ((150, 0), (90, 1)))
    solution = linear_probe.solve(train, val, classes=classes, balanced=balanced)
    assert (solution.kernel.shape, solution.bias.shape) == ((8, classes), (classes,))
    assert solution.kernel.dtype == solution.bias.dtype == np.float32
    expected = reference(train, solution.inverse_l2, balanced=balanced).predict_proba(val.x)
    np.testing.assert_allclose(probabilities(solution, val.x), expected, atol=2e-3)


def test_balancing_raises_the_probability_of_rare_classes():
    shares = (0.8, 0.1, 0.1)
    train, val = features(200, seed=0, shares=shares), no_features()
    plain, balanced = (linear_probe.solve(train, val, classes=3, balanced=balanced) for balanced in (False, True))
    rare = [probabilities(solution, train.x)[:, 1:].sum() for solution in (plain, balanced)]
    assert rare[1] > 1.3 * rare[0]


def test_the_penalty_with_the_lowest_validation_loss_is_chosen():
    train, val = features(40, seed=0), features(300, seed=1)
    losses = {c: log_loss(val.y, reference(train, c).predict_proba(val.x)) for c in linear_probe.INVERSE_L2}
    best = min(losses, key=losses.get)
    assert linear_probe.INVERSE_L2[0] < best < linear_probe.INVERSE_L2[-1], (
        "the optimum of the example must be inside the range"
    )
    assert linear_probe.solve(train, val, classes=3).inverse_l2 == best


def test_without_validation_images_the_default_penalty_is_used():
    solution = linear_probe.solve(features(60, seed=0), no_features(), classes=3)
    assert solution.inverse_l2 == pytest.approx(0.01)


@pytest.mark.parametrize("value", [0.0, 0.1, 12.34, -3e4, 1e-8])
def test_a_constant_feature_changes_nothing(value):
    """In float32, the deviation of equal numbers is not zero: it is 1e-8 for 0.1, and dividing by it ruins the head."""
    train, val = features(61, seed=0), features(60, seed=1)
    plain = linear_probe.solve(train, val, classes=3)
    constant = [Features(np.insert(split.x, 3, np.float32(value), axis=1), split.y) for split in (train, val)]
    solution = linear_probe.solve(*constant, classes=3)
    # The one scale of all features is the mean over one more.
    np.testing.assert_allclose(np.delete(solution.kernel, 3, axis=0), plain.kernel, rtol=0.15, atol=5e-3)
    assert np.isfinite(solution.bias).all()
    # In new images, the feature is not quite constant any more.
    changed = np.insert(val.x, 3, np.float32(value) + np.float32(0.01), axis=1)
    np.testing.assert_allclose(probabilities(solution, changed), probabilities(plain, val.x), atol=4e-2)


def test_a_feature_that_hardly_ever_differs_gets_no_large_weight():
    """Divided by its deviation, it would get a weight hundreds of times as large as those of all others."""
    train, val = features(150, seed=0), features(90, seed=1)
    rare = [np.where(split.y == 1, 0.01, 0.0) * (np.arange(len(split.y)) % 5 == 0) for split in (train, val)]
    added = [
        Features(np.insert(split.x, 3, one, axis=1), split.y) for split, one in zip((train, val), rare, strict=True)
    ]
    kernel = np.abs(linear_probe.solve(*added, classes=3).kernel)
    assert kernel[3].max() < np.delete(kernel, 3, axis=0).max()


@pytest.mark.parametrize(("scale", "is_told"), [(1.0, False), (1e-18, True), (1e-36, False)])
def test_features_near_zero_give_a_finite_head_and_are_named(scale, is_told):
    """Untrained deep networks have such features. Where float32 ends, they count as constant."""
    train, val = (
        Features(split.x * np.float32(scale), split.y) for split in (features(150, seed=0), features(90, seed=1))
    )
    solution = linear_probe.solve(train, val, classes=3)
    assert np.isfinite(solution.kernel).all()
    assert np.isfinite(solution.bias).all()
    assert ("hardly differ" in solution.warning) == is_told
    if scale > 1e-30:
        plain = linear_probe.solve(features(150, seed=0), features(90, seed=1), classes=3)
        np.testing.assert_allclose(probabilities(solution, val.x), probabilities(plain, val.x / scale), atol=1e-2)


def test_features_that_are_all_constant_predict_the_shares_of_the_classes():
    y = np.repeat([0, 1, 2], [30, 20, 10])
    train = Features(np.full((60, 8), 0.1, np.float32), y)
    found = probabilities(linear_probe.solve(train, no_features(), classes=3), train.x)
    np.testing.assert_allclose(found, np.tile([1 / 2, 1 / 3, 1 / 6], (60, 1)), atol=1e-2)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_large_means_do_not_change_the_solution(offset):
    """Features that hardly differ between images. At offset 1e4, float32 keeps three digits of the differences."""
    train, val = features(400, seed=0, channels=60), features(200, seed=1, channels=60)
    deviation = train.x.std(axis=0)
    train, val = (Features(split.x / deviation + np.float32(offset), split.y) for split in (train, val))
    solution = linear_probe.solve(train, val, classes=3)
    expected = reference(train, solution.inverse_l2).predict_proba(val.x.astype(np.float64))
    np.testing.assert_allclose(probabilities(solution, val.x), expected, atol=2e-2)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_chunk_size_does_not_change_the_solution(balanced, monkeypatch):
    train, val = features(150, seed=0, shares=(0.6, 0.3, 0.1)), features(90, seed=1)
    whole = linear_probe.solve(train, val, classes=3, balanced=balanced)
    # Chunks of seven images, and one of three.
    monkeypatch.setattr(linear_probe, "CHUNK_BYTES", 7 * 4 * 8)
    chunked = linear_probe.solve(train, val, classes=3, balanced=balanced)
    assert chunked.inverse_l2 == whole.inverse_l2
    np.testing.assert_allclose(probabilities(chunked, val.x), probabilities(whole, val.x), atol=1e-3)
    for scores, expected in zip(linear_probe.score(chunked, val), linear_probe.score(whole, val), strict=True):
        np.testing.assert_allclose(scores, expected, atol=1e-2)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """With features in a read-only file, only a few chunks and per-image numbers are allocated."""
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (60_000, 100))
    y = np.arange(len(x)) % 3
    for start in range(0, len(x), 1000):
        chunk = slice(start, start + 1000)
        x[chunk] = np.random.default_rng(start).normal(size=(1000, 100)) + y[chunk, None]
    x.flush()
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    tracemalloc.start()
    solution = linear_probe.solve(Features(stored, y), no_features(100), classes=3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < stored.nbytes / 3
    assert linear_probe.score(solution, Features(stored, y))[1].mean() > 0.9


def test_a_class_without_images_is_never_predicted():
    train, val = features(60, seed=0), features(60, seed=1)
    for balanced in (False, True):
        solution = linear_probe.solve(train, val, classes=4, balanced=balanced)
        assert solution.kernel.shape == (8, 4)
        assert probabilities(solution, val.x)[:, 3].max() < 0.05


def test_nan_features_are_an_error():
    train = features(60, seed=0)
    train.x[5, 2] = np.nan
    with pytest.raises(RuntimeError, match="no finite solution"):
        linear_probe.solve(train, features(60, seed=1), classes=3)


def test_there_is_one_score_per_image():
    train, val = features(60, seed=0), features(50, seed=1)
    solution = linear_probe.solve(train, val, classes=3)
    losses, hits = linear_probe.score(solution, val)
    expected = probabilities(solution, val.x)
    np.testing.assert_allclose(losses, -np.log(expected[np.arange(50), val.y]), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(hits, expected.argmax(axis=1) == val.y)
    assert 0.3 < hits.mean() < 1


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_cross_entropies_of_logits(scale):
    random = np.random.default_rng(0)
    logits, labels = scale * random.normal(size=(20, 4)), random.integers(0, 4, 20)
    shifted = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    losses = linear_probe.cross_entropies(logits, labels)
    np.testing.assert_allclose(losses, -shifted[np.arange(20), labels])
    if scale == 1.0:
        assert losses.mean() == pytest.approx(log_loss(labels, np.exp(shifted)))


def test_the_head_starts_from_the_optimum(lab, tmp_path, recorder):
    """The whole way from the pixel cache through the network to the weights of the head."""
    recipe = lab.recipe({"train": "head", "init": "probe"}, augment={"preset": "strong"}, head={"dropout": 0.5})
    session = lab.entered(lab.session(recipe, tmp_path, observe=recorder()))
    before = score(session, session.val).losses.mean()
    phases.start_from_probe(session)
    pooled = {}
    for name in ("train", "val"):
        examples = getattr(session, name)
        maps = session.classifier.features.predict_on_batch(examples.pixels[examples.rows].astype(np.float32))
        pooled[name] = Features(maps.mean(axis=(1, 2)), examples.labels)
    solution = linear_probe.solve(pooled["train"], pooled["val"], classes=3)
    expected = reference(pooled["train"], solution.inverse_l2).predict_proba(pooled["val"].x)
    np.testing.assert_allclose(predict(session, session.val), expected, atol=2e-3)
    assert score(session, session.val).losses.mean() < before - 0.1
    assert "linear probe" in session.observe.of(Noticed)[0].message
    assert [event.done for event in session.observe.of(Advanced)] == [74], "the step and the probe share one pass"


@pytest.mark.parametrize(("cache", "passes"), [("auto", [[74], []]), ("off", [[37, 74], [37, 74]])])
def test_the_probe_reads_stored_pooled_features(lab, tmp_path, recorder, cache, passes):
    """The next step trains on the same features and a second run reads them from the cache, unless it is off."""
    recipe = lab.recipe({"train": "head", "init": "probe"}, performance={"batch": 16, "cache": cache})
    sessions = [lab.session(recipe, tmp_path, observe=recorder()) for _ in range(2)]
    for session in sessions:
        phases.start_from_probe(session)
        lab.entered(session)
    assert [[event.done for event in session.observe.of(Advanced)] for session in sessions] == passes
    np.testing.assert_array_equal(*(predict(session, session.val) for session in sessions))


def test_the_probe_needs_no_validation_images(lab, tmp_path):
    session = lab.entered(lab.session(lab.recipe({"train": "head", "init": "probe"}), tmp_path, has_val=False))
    phases.start_from_probe(session)
    assert score(session, session.train).hits.mean() > 0.6
