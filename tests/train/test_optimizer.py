"""Optimisers: a step with each, rates per layer group, clipping, weight decay, L2-SP, schedules."""

from typing import get_args

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.recipe.optimizer import DECAYING, PARAMETERS, OptimizerSpec
from tlcli.recipe.phase import PhaseSpec
from tlcli.train import optimizer, phases, step
from tlcli.train.calibration import ImageScores
from tlcli.train.checkpoint import Progress
from tlcli.train.compile import StepState
from tlcli.train.session import Session

NAMES = get_args(OptimizerSpec.model_fields["name"].annotation)
SCHEDULES = get_args(OptimizerSpec.model_fields["schedule"].annotation)
# Some of these descend away from zero, so that descending differs from shrinking.
START = np.array([-1.0, -2.0, 3.0], np.float32)
GRADIENT = np.array([0.3, -0.4, 0.5], np.float32)


def changes(spec: OptimizerSpec, *, scales, lr=0.1, gradients=None, names=("a", "b"), steps=1) -> list[np.ndarray]:
    """The change of each of several variables that start from equal values, `float32 (3,)` each."""
    variables = [keras.Variable(START, name=name) for name in names]
    rule = optimizer.build(spec, lr, scales=scales)
    rule.build(variables)
    for _ in range(steps):
        rule.apply([np.asarray(gradient) for gradient in gradients or [GRADIENT] * len(names)], variables)
    return [keras.ops.convert_to_numpy(variable) - START for variable in variables]


@pytest.mark.parametrize("name", NAMES)
def test_every_optimiser_takes_a_step_down(name):
    for change in changes(OptimizerSpec(name=name, weight_decay=0.0), scales=[1.0, 1.0]):
        assert np.all(np.sign(change) == -np.sign(GRADIENT))


def first_step(name: str, gradient: np.ndarray, lr: float, decay: float) -> np.ndarray:
    """The first change by each rule, in NumPy, from the published formulas with the constants of Keras."""
    match name:
        case "sgd" | "momentum":
            return -lr * gradient
        case "nesterov":  # One step along the velocity, and 0.9 of it ahead.
            return -lr * gradient - 0.9 * lr * gradient
        case "adagrad" | "ftrl":  # The sum of squares starts at 0.1. Without penalties FTRL is Adagrad.
            return -lr * gradient / np.sqrt(0.1 + gradient**2 + (1e-7 if name == "adagrad" else 0.0))
        case "rmsprop":
            return -lr * gradient / np.sqrt(0.1 * gradient**2 + 1e-7)
        case "adam" | "adamw" | "muon":  # The bias corrections of the first step cancel the decay rates.
            shrink = lr * decay * START if name != "adam" else 0.0
            return -lr * 0.1 * gradient / 0.1 / (np.sqrt(gradient**2) + 1e-7 / np.sqrt(0.001)) - shrink
        case "lion":
            return -lr * np.sign(gradient) - lr * decay * START
        case "adafactor":  # The first mean of the squares is the square; a vector is not factored.
            return -lr * np.sqrt((START**2).mean()) * np.sign(gradient)
        case _:
            raise AssertionError(name)


def clipped(gradients: list[np.ndarray], clipping: dict[str, float]) -> list[np.ndarray]:
    if "clip_value" in clipping:
        return [np.clip(gradient, -clipping["clip_value"], clipping["clip_value"]) for gradient in gradients]
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    factor = min(1.0, clipping.get("clip_norm", np.inf) / norm)
    return [factor * gradient for gradient in gradients]


@pytest.mark.parametrize("clipping", [{}, {"clip_norm": 0.5}, {"clip_value": 0.35}], ids=str)
@pytest.mark.parametrize("scales", [[1.0, 1.0], [1.0, 0.25]], ids=["no decay", "layer decay"])
@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_is_that_of_the_formula(name, scales, clipping):
    spec, gradients = (
        OptimizerSpec(name=name, **clipping).model_copy(update={"weight_decay": 0.2}),
        [GRADIENT, -2 * GRADIENT],
    )
    for schedule in SCHEDULES:
        lr = 0.1 * optimizer.rate(schedule, 0.2, plateaus=1, warmup=0.25)
        found = changes(spec, scales=scales, lr=lr, gradients=gradients)
        for change, gradient, scale in zip(found, clipped(gradients, clipping), scales, strict=True):
            expected = first_step(name, gradient, lr * scale, 0.2)
            np.testing.assert_allclose(change, expected, rtol=2e-4, atol=1e-6, err_msg=schedule)


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_every_optimiser_trains(lab, tmp_path, number):
    """With every schedule, clipping and layer decay in turn, in a compiled step."""
    clipping = ({}, {"clip_norm": 0.5}, {"clip_value": 0.1})[number % 3]
    spec = {"name": NAMES[number], "lr": 1e-3, "schedule": SCHEDULES[number % len(SCHEDULES)], **clipping}
    phase = {"train": "top:2", "epochs": 2, "batch_norm": "affine", "layer_decay": (1.0, 0.5)[number % 2]}
    trained = trained_changes(lab.session(lab.recipe(phase, optimizer=spec), tmp_path))
    changed = {path.split("/")[-2].partition("_")[0] for path, change in trained.items() if np.abs(change).max() > 0}
    assert changed == {"head", "top", "block2"}
    assert all(np.isfinite(change).all() for change in trained.values())


def test_only_one_way_of_clipping_is_accepted():
    with pytest.raises(ValueError, match=r"clip_norm and clip_value exclude each other \(got 1 and 0.5\)"):
        OptimizerSpec(clip_norm=1.0, clip_value=0.5)
    with pytest.raises(ValueError, match=r"clip_norm and clip_norm_each exclude each other \(got 1 and 2\)"):
        OptimizerSpec(clip_norm=1.0, clip_norm_each=2.0)


# A value of every parameter that differs from the default.
VALUES = {
    "momentum": 0.5, "beta_1": 0.5, "beta_2": 0.5, "epsilon": 0.5, "amsgrad": True, "rho": 0.5, "centered": True,
    "initial_accumulator_value": 2.0, "l1": 3.0, "l2": 2.0, "l2_shrinkage": 0.5, "learning_rate_power": -0.25,
    "beta_2_decay": -0.4, "clip_threshold": 0.3, "ns_steps": 2,
}  # fmt: skip
MATRIX = np.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]], np.float32)
# The largest comes first, so that the largest mean of the squares is not the last one.
SLOPES = [
    np.array([[0.9, -1.2, 1.5], [0.6, 2.7, -0.3]], np.float32),
    np.array([[0.1, 0.2, -0.3], [0.2, -0.1, 0.1]], np.float32),
    np.array([[-0.4, 0.1, 0.2], [0.3, 0.2, 0.5]], np.float32),
]


def trained_matrix(**parts) -> np.ndarray:
    variable = keras.Variable(MATRIX, name="kernel")
    rule = optimizer.build(OptimizerSpec(weight_decay=0.0, **parts), 0.1, scales=[1.0])
    rule.build([variable])
    for gradient in SLOPES:
        rule.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    return keras.ops.convert_to_numpy(variable)


def vector(spec: OptimizerSpec, gradients: list[np.ndarray]) -> np.ndarray:
    variable = keras.Variable(START, name="a")
    rule = optimizer.build(spec, 0.1, scales=[1.0])
    rule.build([variable])
    for gradient in gradients:
        rule.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))], [variable])
    return keras.ops.convert_to_numpy(variable)


# Muon updates matrices by momentum and Newton-Schulz iterations, and vectors as Adam does.
OF_VECTORS = {"muon": ("beta_1", "beta_2", "epsilon")}


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_an_optimiser_changes_the_weights(name):
    # With slow means of the squares, three of them are nearly equal.
    fast = {"beta_2": 0.5} if "beta_2" in PARAMETERS[name] else {}
    for parameter in PARAMETERS[name]:
        value = {parameter: VALUES[parameter]}
        if parameter in OF_VECTORS.get(name, ()):
            specs = OptimizerSpec(name=name, **value), OptimizerSpec(name=name)
            gradients = [np.array([0.3, -0.4, 0.5]), np.array([0.1, 0.2, 0.3])]
            found, default = (vector(spec, gradients) for spec in specs)
        else:
            others = fast if parameter == "amsgrad" else {}
            found, default = trained_matrix(name=name, **value, **others), trained_matrix(name=name, **others)
        assert np.abs(found - default).max() > 1e-4, parameter


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_of_another_optimiser_is_an_error_that_says_whose_it_is(name):
    for parameter, value in VALUES.items():
        if parameter in PARAMETERS[name]:
            continue
        with pytest.raises(ValueError, match=f"{parameter}: belongs to ") as caught:
            OptimizerSpec(name=name, **{parameter: value})
        assert all(own in str(caught.value) for own in PARAMETERS[name])


def adam(beta_1: float, beta_2: float, epsilon: float) -> np.ndarray:
    weights, mean, square = MATRIX.astype(np.float64), 0.0, 0.0
    for number, gradient in enumerate(SLOPES, start=1):
        mean = beta_1 * mean + (1 - beta_1) * gradient
        square = beta_2 * square + (1 - beta_2) * gradient**2
        rate = 0.1 * np.sqrt(1 - beta_2**number) / (1 - beta_1**number)
        weights = weights - rate * mean / (np.sqrt(square) + epsilon)
    return weights


def momentum(share: float, *, nesterov: bool) -> np.ndarray:
    weights, velocity = MATRIX.astype(np.float64), 0.0
    for gradient in SLOPES:
        velocity = share * velocity - 0.1 * gradient
        weights = weights + (share * velocity - 0.1 * gradient if nesterov else velocity)
    return weights


def lion(beta_1: float, beta_2: float) -> np.ndarray:
    weights, mean = MATRIX.astype(np.float64), 0.0
    for gradient in SLOPES:
        weights = weights - 0.1 * np.sign(beta_1 * mean + (1 - beta_1) * gradient)
        mean = beta_2 * mean + (1 - beta_2) * gradient
    return weights


def rmsprop(rho: float, epsilon: float) -> np.ndarray:
    weights, square = MATRIX.astype(np.float64), 0.0
    for gradient in SLOPES:
        square = rho * square + (1 - rho) * gradient**2
        weights = weights - 0.1 * gradient / np.sqrt(square + epsilon)
    return weights


def ftrl(l1: float, l2: float, start: float) -> np.ndarray:
    """Each step is that of Adagrad, then shrinks each weight by the penalties at its rate."""
    weights, square = MATRIX.astype(np.float64), start
    for gradient in SLOPES:
        square = square + gradient**2
        rate = 0.1 / np.sqrt(square)
        weights = weights - rate * gradient
        weights = np.sign(weights) * np.maximum(np.abs(weights) - rate * l1, 0) / (1 + 2 * l2 * rate)
    return weights


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"name": "adam", "beta_1": 0.7, "beta_2": 0.8, "epsilon": 0.01}, adam(0.7, 0.8, 0.01)),
        ({"name": "momentum", "momentum": 0.6}, momentum(0.6, nesterov=False)),
        ({"name": "nesterov", "momentum": 0.6}, momentum(0.6, nesterov=True)),
        ({"name": "lion", "beta_1": 0.5, "beta_2": 0.6}, lion(0.5, 0.6)),
        ({"name": "rmsprop", "rho": 0.6, "epsilon": 0.1}, rmsprop(0.6, 0.1)),
        ({"name": "ftrl", "l1": 1.5, "l2": 0.5, "initial_accumulator_value": 0.3}, ftrl(1.5, 0.5, 0.3)),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_parameters_are_those_of_the_formulas(spec, expected):
    np.testing.assert_allclose(trained_matrix(**spec), expected, rtol=1e-4, atol=1e-6)


def test_ftrl_sets_weights_to_zero_but_no_biases():
    spec, names = (
        OptimizerSpec(name="ftrl", l1=100.0, l2=1.0, l2_shrinkage=1.0),
        ("kernel", "bias", "gamma", "beta", "alpha"),
    )
    kernel, *others = changes(spec, scales=[1.0] * 5, names=names)
    np.testing.assert_array_equal(kernel, -START)
    plain = changes(OptimizerSpec(name="ftrl"), scales=[1.0], names=["kernel"])[0]
    for change in others:
        np.testing.assert_allclose(change, plain, rtol=1e-5)


def test_muon_makes_matrices_of_changes_nearly_orthogonal():
    """Newton-Schulz iterations bring the singular values near 1; the last layer and vectors are trained as by Adam."""
    random = np.random.default_rng(0)
    gradient = random.normal(size=(8, 20)).astype(np.float32)
    variables = [
        keras.Variable(np.zeros((8, 20), np.float32), name="kernel"),
        keras.Variable(np.zeros((8, 20), np.float32), name="head_probabilities_x"),
    ]
    variables[1]._path = "head_probabilities/kernel"
    rule = optimizer.build(OptimizerSpec(name="muon", weight_decay=0.0), 0.1, scales=[1.0, 1.0])
    rule.build(variables)
    rule.apply([keras.ops.convert_to_tensor(gradient)] * 2, variables)
    inner, last = (keras.ops.convert_to_numpy(variable) for variable in variables)
    # The change has the size of one of Adam: 0.2 times the root of the longer side.
    singular = np.linalg.svd(-inner / (0.1 * 0.2 * np.sqrt(20)), compute_uv=False)
    assert np.all((singular > 0.6) & (singular < 1.3))
    np.testing.assert_allclose(last, -0.1 * np.sign(gradient), rtol=1e-3)


def test_clip_norm_each_counts_every_variable_alone():
    gradients = [np.array([3.0, 0, 4.0]), np.array([0, 0.4, 0])]
    clipped = changes(OptimizerSpec(name="sgd", clip_norm_each=1.0), scales=[1.0, 1.0], lr=1.0, gradients=gradients)
    np.testing.assert_allclose(clipped, [[-0.6, 0, -0.8], [0, -0.4, 0]], rtol=1e-5)


def test_cosine_restarts_in_cycles_twice_as_long_as_the_ones_before():
    for start, length in ((0, 1), (1, 2), (3, 4)):
        for share in (0.0, 0.25, 0.5, 0.99):
            fraction = (start + share * length) / 7 + 1e-12
            assert optimizer.rate("cosine_restarts", fraction) == pytest.approx(
                optimizer.rate("cosine", share), abs=1e-6
            )


def test_a_plateau_lowers_the_rate_for_good():
    """As in the performance schedules of the field: a better epoch does not raise it again."""
    progress = Progress()
    state = StepState(None, PhaseSpec(name="x", policy="all"), [], [], [], "", progress)
    shares = []
    for loss in (5.0, 6.0, 6.0, 4.0, 5.0, 3.0, 5.0, 5.0, 5.0, 5.0):
        step._update_best(state, ImageScores(np.array([loss]), np.array([1.0]), np.array([0.9])))
        shares.append(optimizer.rate("plateau", 0.3, plateaus=progress.plateaus))
    assert shares == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


@pytest.mark.parametrize("steps", [1, 3])
def test_sgd_moves_in_the_ratio_of_the_scales(steps):
    full, quarter = changes(OptimizerSpec(name="sgd"), scales=[1.0, 0.25], steps=steps)
    np.testing.assert_allclose(full, -0.1 * steps * GRADIENT, rtol=1e-5)
    np.testing.assert_allclose(quarter, 0.25 * full, rtol=1e-5)


def test_ftrl_continues_from_the_current_weights():
    """Without penalties it equals Adagrad. Ftrl of Keras would set weights with small gradients to zero."""
    for scales in ([1.0, 1.0], [1.0, 0.3]):
        ftrl, adagrad = (changes(OptimizerSpec(name=name), scales=scales, steps=3) for name in ("ftrl", "adagrad"))
        np.testing.assert_allclose(ftrl, adagrad, rtol=1e-4)


def test_ftrl_keeps_the_weights_when_the_rate_changes():
    variable = keras.Variable(START, name="kernel")
    rule = optimizer.build(OptimizerSpec(name="ftrl"), 0.1, scales=[1.0])
    rule.build([variable])
    rule.apply([GRADIENT], [variable])
    before = keras.ops.convert_to_numpy(variable)
    rule.learning_rate = 1e-5
    rule.apply([GRADIENT], [variable])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), before, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_scaling_equals_another_rate(name):
    spec = OptimizerSpec(name=name).model_copy(update={"weight_decay": 0.1})
    first, second = changes(spec, scales=[0.3, 0.7], lr=0.1, steps=3)
    np.testing.assert_allclose(first, changes(spec, scales=[1.0, 1.0], lr=0.03, steps=3)[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(second, changes(spec, scales=[1.0, 1.0], lr=0.07, steps=3)[0], rtol=1e-4, atol=1e-6)


def test_scales_belong_to_variables_not_to_positions():
    """Keras may apply gradients in another order than that of the variables in `build`."""
    variables = [keras.Variable(START, name=name) for name in "ab"]
    rule = optimizer.build(OptimizerSpec(name="sgd"), 0.1, scales=[1.0, 0.5])
    rule.build(variables)
    rule.apply([GRADIENT, GRADIENT], variables[::-1])
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(variables[1]) - START,
        0.5 * (keras.ops.convert_to_numpy(variables[0]) - START),
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", NAMES)
def test_equal_scales_keep_the_optimiser_of_keras(name):
    assert "update_step" not in vars(optimizer.build(OptimizerSpec(name=name), 0.1, scales=[1.0, 1.0]))
    assert "update_step" in vars(optimizer.build(OptimizerSpec(name=name), 0.1, scales=[1.0, 0.9]))


def test_clip_norm_counts_all_variables_together():
    gradients = [np.array([3.0, 0, 0]), np.array([0, 4.0, 0])]
    clipped = changes(OptimizerSpec(name="sgd", clip_norm=1.0), scales=[1.0, 1.0], lr=1.0, gradients=gradients)
    np.testing.assert_allclose(clipped, [[-0.6, 0, 0], [0, -0.8, 0]], rtol=1e-5)
    unclipped = changes(OptimizerSpec(name="sgd", clip_norm=10.0), scales=[1.0, 1.0], lr=1.0, gradients=gradients)
    np.testing.assert_allclose(unclipped, [[-3, 0, 0], [0, -4, 0]], rtol=1e-5)


def test_clip_value_counts_each_number():
    gradients = [np.array([3.0, -0.2, 0.5]), np.array([-4.0, 0, 0])]
    clipped = changes(OptimizerSpec(name="sgd", clip_value=0.5), scales=[1.0, 1.0], lr=1.0, gradients=gradients)
    np.testing.assert_allclose(clipped, [[-0.5, 0.2, -0.5], [0.5, 0, 0]], rtol=1e-5)


def test_adamw_does_not_decay_biases_and_scales():
    names, zeros = ("kernel", "depthwise_kernel", "bias", "gamma", "beta"), [np.zeros(3)] * 5
    decayed = changes(OptimizerSpec(name="adamw", weight_decay=0.5), scales=[1.0] * 5, gradients=zeros, names=names)
    for name, change in zip(names, decayed, strict=True):
        expected = -0.1 * 0.5 * START if "kernel" in name else np.zeros(3)
        np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-7, err_msg=name)


def test_adamw_decays_at_the_rate_of_the_group():
    decayed = changes(
        OptimizerSpec(name="adamw", weight_decay=0.5),
        scales=[1.0, 0.2, 0.2],
        gradients=[np.zeros(3)] * 3,
        names=("kernel", "kernel", "bias"),
    )
    np.testing.assert_allclose(decayed, [-0.05 * START, -0.01 * START, np.zeros(3)], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DECAYING])
def test_no_other_optimiser_decays(name):
    spec = OptimizerSpec(name=name).model_copy(update={"weight_decay": 1.0})
    np.testing.assert_allclose(changes(spec, scales=[1.0], gradients=[np.zeros(3)])[0], np.zeros(3), atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "start", "end"),
    [
        ("cosine_restarts", 1.0, 0.0),
        ("none", 1.0, 1.0),
        ("piecewise", 1.0, 0.01),
        ("plateau", 1.0, 1.0),
        ("exponential", 1.0, 0.01),
        ("power", 1.0, 0.1),
        ("cosine", 1.0, 0.0),
        ("one_cycle", 0.04, 0.0),
    ],
)
def test_schedules_at_their_ends(schedule, start, end):
    assert optimizer.rate(schedule, 0.0) == pytest.approx(start)
    assert optimizer.rate(schedule, 1.0) == pytest.approx(end, abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "fraction", "share"),
    [
        ("piecewise", 0.49, 1.0),
        ("piecewise", 0.5, 0.1),
        ("piecewise", 0.75, 0.01),
        ("exponential", 0.5, 0.1),
        ("power", 0.5, 1 / 5.5),
        ("cosine", 0.5, 0.5),
        ("one_cycle", 0.15, 0.52),
        ("one_cycle", 0.3, 1.0),
        ("one_cycle", 0.65, 0.5),
    ],
)
def test_schedules_in_between(schedule, fraction, share):
    assert optimizer.rate(schedule, fraction) == pytest.approx(share)


@given(st.sampled_from(SCHEDULES), st.floats(0, 1), st.integers(0, 50))
def test_shares_are_within_0_and_1(schedule, fraction, plateaus):
    assert 0 <= optimizer.rate(schedule, fraction, plateaus=plateaus) <= 1


@given(st.sampled_from(SCHEDULES), st.floats(0, 1), st.floats(0, 1))
def test_rates_fall_after_the_warm_up(schedule, one, other):
    early, late = sorted((one, other))
    if schedule != "cosine_restarts" and (schedule != "one_cycle" or early >= 0.3):
        assert optimizer.rate(schedule, early) >= optimizer.rate(schedule, late) - 1e-12


def test_layer_decay_reaches_every_layer(lab, tmp_path):
    """With one step of plain SGD, decay scales the change of each group, nested layers included."""

    def step(decay: float, folder: str) -> dict[str, np.ndarray]:
        (tmp_path / folder).mkdir()
        phase = {"train": "all", "batch_norm": "affine", "layer_decay": decay, "lr": 1.0}
        session = lab.session(lab.recipe(phase, performance={"batch": 64}), tmp_path / folder, has_val=False)
        return trained_changes(session)

    plain, decayed = step(1.0, "plain"), step(0.5, "decayed")
    depth = {"head": 0, "top": 1, "block2": 2, "block1": 3, "stem": 4}
    for path, change in plain.items():
        share = 0.5 ** depth[path.split("/")[-2].partition("_")[0]]
        np.testing.assert_allclose(decayed[path], share * change, rtol=1e-3, atol=1e-6, err_msg=path)
        assert np.abs(change).max() > 1e-3, path


def trained_changes(session: Session) -> dict[str, np.ndarray]:
    """The change of each variable by a run, without moving statistics."""
    variables = [variable for variable in session.classifier.model.weights if "moving" not in variable.path]
    before = {variable.path: keras.ops.convert_to_numpy(variable) for variable in variables}
    phases.run(session)
    return {variable.path: keras.ops.convert_to_numpy(variable) - before[variable.path] for variable in variables}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_pull_leads_back_to_the_anchor(name):
    """With zero gradients, a variable with an anchor moves to it, and one without an anchor stays."""
    anchored, free = keras.Variable(START, name="a"), keras.Variable(START, name="b")
    anchor = START + np.array([0.5, -0.5, 0.25], np.float32)
    rule = optimizer.build(
        OptimizerSpec(name=name, weight_decay=0.0), 0.05, scales=[1.0, 1.0], pull=optimizer.Pull(1.0, [anchor, None])
    )
    rule.build([anchored, free])
    for _ in range(150):
        rule.apply([np.zeros(3, np.float32)] * 2, [anchored, free])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(anchored), anchor, atol=0.02)
    assert keras.ops.convert_to_numpy(free).tobytes() == START.tobytes()


def test_a_pull_is_the_gradient_of_the_squared_distance():
    """strength / 2 * ||w - w0||², together with scaled rates. Ref: Li et al. 2018."""
    variable, anchor = keras.Variable(START, name="a"), np.array([1.0, 1.0, 1.0], np.float32)
    rule = optimizer.build(OptimizerSpec(name="sgd"), 0.1, scales=[0.5], pull=optimizer.Pull(0.2, [anchor]))
    rule.build([variable])
    rule.apply([GRADIENT], [variable])
    expected = START - 0.5 * 0.1 * (GRADIENT + 0.2 * (START - anchor))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_rises_to_the_schedule(schedule):
    rates = [optimizer.rate(schedule, percent / 100, warmup=0.2) for percent in range(101)]
    plain = [optimizer.rate(schedule, percent / 100) for percent in range(101)]
    assert rates[20:] == plain[20:]
    assert all(rate < full for rate, full in zip(rates[:20], plain[:20], strict=True))
    assert rates[10] == pytest.approx(0.5 * plain[10])
    assert rates[0] > 0
