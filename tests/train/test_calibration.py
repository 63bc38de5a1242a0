"""The temperature: found again where it is known, unmoved by a few images, blind to how loud a network speaks."""

import numpy as np
import pytest

from tlcli.train import calibration


def _drawn(images: int, spread: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, their probabilities, and labels drawn from them: perfectly calibrated."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (images, 5))
    probabilities = _softmax(logits)
    labels = np.array([rng.choice(5, p=row) for row in probabilities])
    return logits, probabilities, labels


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("known", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found_again(known: float) -> None:
    logits, _, labels = _drawn(4000)
    assert calibration.fit_temperature(_softmax(logits * known), labels) == pytest.approx(known, rel=0.06)


def test_the_loss_at_the_temperature_does_not_hang_on_how_loud_the_network_speaks() -> None:
    logits, _, labels = _drawn(4000)
    losses = []
    for loudness in (0.5, 1.0, 2.0):
        said = _softmax(logits * loudness)
        right = calibration.apply_temperature(said, calibration.fit_temperature(said, labels))[
            np.arange(len(labels)), labels
        ]
        losses.append(-np.log(right).mean())
    assert losses == pytest.approx([losses[1]] * 3, abs=2e-3)


def test_a_dozen_images_all_right_do_not_ask_for_certainty() -> None:
    probabilities = np.full((12, 4), 0.1)
    probabilities[:, 2] = 0.7
    assert 0.2 < calibration.fit_temperature(probabilities, np.full(12, 2)) < 1
    alone = calibration.fit_temperature(probabilities[:1], np.array([2]))
    assert 0.7 < alone < 1


def test_one_is_no_change_and_guesses_stay_what_they_are() -> None:
    _, probabilities, _ = _drawn(50)
    assert np.allclose(calibration.apply_temperature(probabilities, 1.0), probabilities, atol=1e-6)
    for level in (0.3, 4.0):
        changed = calibration.apply_temperature(probabilities, level)
        assert np.allclose(changed.sum(axis=1), 1)
        assert np.array_equal(changed.argmax(axis=1), probabilities.argmax(axis=1))


def test_certain_and_impossible_guesses_give_numbers() -> None:
    probabilities = np.eye(3)[[0, 1, 1, 2]]
    level = calibration.fit_temperature(probabilities, np.array([0, 1, 2, 2]))
    assert np.isfinite(level)
    assert level > 1
    assert np.isfinite(np.log(calibration.apply_temperature(probabilities, level))).all()
