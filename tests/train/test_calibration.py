"""Temperature scaling: a known temperature is recovered, few images change little, the scale of the logits cancels."""

import numpy as np
import pytest

from tlcli.train import calibration


def _sample(images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, their probabilities, and labels sampled from these: perfectly calibrated."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2.0, (images, 5))
    probabilities = _softmax(logits)
    labels = np.array([rng.choice(5, p=row) for row in probabilities])
    return logits, probabilities, labels


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    logits, _, labels = _sample(4000)
    fitted = calibration.fit_temperature(_softmax(logits * temperature), labels)
    assert fitted == pytest.approx(temperature, rel=0.06)


def test_the_loss_at_the_temperature_does_not_depend_on_the_scale_of_the_logits() -> None:
    logits, _, labels = _sample(4000)
    losses = []
    for scale in (0.5, 1.0, 2.0):
        probabilities = _softmax(logits * scale)
        temperature = calibration.fit_temperature(probabilities, labels)
        correct = calibration.apply_temperature(probabilities, temperature)[np.arange(len(labels)), labels]
        losses.append(-np.log(correct).mean())
    assert losses == pytest.approx([losses[1]] * 3, abs=2e-3)


def test_a_dozen_correct_predictions_do_not_demand_certainty() -> None:
    probabilities = np.full((12, 4), 0.1)
    probabilities[:, 2] = 0.7
    assert 0.2 < calibration.fit_temperature(probabilities, np.full(12, 2)) < 1
    assert 0.7 < calibration.fit_temperature(probabilities[:1], np.array([2])) < 1


def test_temperature_1_changes_nothing_and_no_temperature_changes_predictions() -> None:
    _, probabilities, _ = _sample(50)
    assert np.allclose(calibration.apply_temperature(probabilities, 1.0), probabilities, atol=1e-6)
    for temperature in (0.3, 4.0):
        changed = calibration.apply_temperature(probabilities, temperature)
        assert np.allclose(changed.sum(axis=1), 1)
        assert np.array_equal(changed.argmax(axis=1), probabilities.argmax(axis=1))


def test_probabilities_of_0_and_1_give_finite_numbers() -> None:
    probabilities = np.eye(3)[[0, 1, 1, 2]]
    temperature = calibration.fit_temperature(probabilities, np.array([0, 1, 2, 2]))
    assert np.isfinite(temperature)
    assert temperature > 1
    assert np.isfinite(np.log(calibration.apply_temperature(probabilities, temperature))).all()
