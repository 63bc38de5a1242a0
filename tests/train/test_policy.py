"""The policies on synthetic histories: the next step, the end of a phase, and the record of an outcome."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.errors import ModelError
from tlcli.model.layer_groups import Layer, LayerGroup, LayerGroups
from tlcli.recipe.phase import PhaseSpec, UntilSpec
from tlcli.train import policy
from tlcli.train.policy import Outcome, Step

NAMES = ("stem", "block1", "block2", "block3", "top")
HEAD = PhaseSpec(name="head", train="head")
UNFREEZE = PhaseSpec(name="unfreeze", policy="gradual")
NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)


def groups(names: tuple[str, ...] = NAMES) -> LayerGroups:
    """Each group has a convolution and a BatchNorm."""
    result = []
    for name in names:
        layers = tuple(Layer(f"{name}_{kind}", kind, parameters=4, trainable_parameters=2) for kind in ("conv", "bn"))
        result.append(LayerGroup(name, layers, f"{name}_bn", is_cut_point=True, output_shape=(1, 1, 4), flops=1))
    return LayerGroups("synthetic", (8, 8), tuple(result))


def layers_of(*names: str) -> frozenset[str]:
    return frozenset(f"{name}_{kind}" for name in names for kind in ("conv", "bn"))


def outcome(step: Step, *, kept: bool) -> Outcome:
    return Outcome(step, 10, 3, 2, 1.0, 0.5, 0.9, 0.6, 0.8, kept, "because", 1.5)


def walk(phase: PhaseSpec, kept: list[bool], network: LayerGroups) -> list[Step]:
    """The steps of a phase if `kept[i]` decides on the i-th; ends with the phase or the list."""
    outcomes: list[Outcome] = []
    for is_kept in kept:
        step = policy.next_step([phase], network, outcomes)
        if step is None:
            break
        outcomes.append(outcome(step, kept=is_kept))
    return [result.step for result in outcomes]


@pytest.mark.parametrize(
    ("spec", "trained"),
    [
        ({"train": "head"}, ()),
        ({"train": "top:2"}, ("block3", "top")),
        ({"train": "stem"}, ("stem",)),
        ({"train": "block1..block2"}, ("block1", "block2")),
        ({"train": "all"}, NAMES),
        ({"policy": "all"}, NAMES),
    ],
)
def test_fixed_and_all_are_one_step(spec, trained):
    phase = PhaseSpec(name="only", **spec)
    step = policy.next_step([phase], groups(), [])
    assert step == Step(0, 0, "only", trained, layers_of(*trained), 10)
    assert policy.next_step([phase], groups(), [outcome(step, kept=False)]) is None


def test_a_step_of_single_layers_names_their_groups():
    step = policy.next_step([PhaseSpec(name="p", train="re:block[13]_conv")], groups(), [])
    assert step.layers == {"block1_conv", "block3_conv"}
    assert step.groups == ("block1", "block3")


def test_phases_follow_each_other():
    phases = [HEAD, UNFREEZE, PhaseSpec(name="polish", policy="all")]
    first = policy.next_step(phases, groups(), [])
    outcomes = [outcome(first, kept=True)]
    second = policy.next_step(phases, groups(), outcomes)
    outcomes.append(outcome(second, kept=False))
    third = policy.next_step(phases, groups(), outcomes)
    assert [(step.phase, step.number, step.name) for step in (first, second, third)] == [
        (0, 0, "head"),
        (1, 0, "unfreeze 1"),
        (2, 0, "polish"),
    ]
    assert policy.next_step(phases, groups(), [*outcomes, outcome(third, kept=False)]) is None


def test_rounds_continue_while_kept_until_everything_is_unfrozen():
    steps = walk(UNFREEZE, [True] * 9, groups())
    assert [step.groups for step in steps] == [NAMES[-count:] for count in (1, 2, 3, 4, 5)]
    assert [step.layers for step in steps] == [layers_of(*NAMES[-count:]) for count in (1, 2, 3, 4, 5)]
    assert [step.name for step in steps] == ["unfreeze 1", "unfreeze 2", "unfreeze 3", "unfreeze 4", "unfreeze 5"]


@pytest.mark.parametrize(
    ("patience", "kept", "steps"),
    [
        (1, [False], 1),
        (1, [True, True, False], 3),
        (2, [False, False], 2),
        (2, [False, True, False, False], 4),
        (3, [False, True, False, False, True], 5),
        ([2, 2, 1], [False, False], 2),
        ([2, 2, 1], [False, True, False], 3),
        ([2, 2, 1], [True, False, True, False], 4),
    ],
)
def test_unfreezing_stops_after_several_rollbacks_in_a_row(patience, kept, steps):
    phase = replace_until(UNFREEZE, patience=patience)
    assert len(walk(phase, kept, groups())) == steps
    longer = walk(phase, [*kept, True], groups())
    assert len(longer) == steps


@pytest.mark.parametrize(
    ("after_rollback", "learnable", "steps"),
    [("always", 0.1, 2), ("if_learnable", 0.1, 1), ("if_learnable", 0.96, 2), ("if_learnable", None, 2)],
)
def test_a_round_after_a_rollback_can_need_learnable_errors(after_rollback, learnable, steps):
    phase = replace_until(UNFREEZE, patience=2, after_rollback=after_rollback)
    outcomes = []
    while (step := policy.next_step([phase], groups(), outcomes)) and len(outcomes) < 2:
        outcomes.append(replace(outcome(step, kept=False), learnable=learnable))
    assert len(outcomes) == steps
    ended = policy.with_end_reason(outcomes[0], phase)
    assert ("do not look learnable" in ended.reason) == (steps == 1)


def test_a_kept_step_resets_the_patience():
    phase = replace_until(UNFREEZE, patience=2)
    assert len(walk(phase, [False, True, False, True, True], groups())) == 5


def replace_until(phase: PhaseSpec, **until) -> PhaseSpec:
    return phase.model_copy(update={"until": UntilSpec(**until)})


@given(
    kept=st.lists(st.booleans(), min_size=40, max_size=40),
    step=st.integers(1, 7),
    patience=st.integers(1, 4),
    count=st.integers(1, 20),
)
def test_unfreezing_is_cumulative_from_the_top(kept, step, patience, count):
    names = tuple(f"g{index}" for index in range(count))
    phase = replace_until(UNFREEZE.model_copy(update={"step": step}), patience=patience)
    steps = walk(phase, kept, groups(names))
    assert [found.number for found in steps] == list(range(len(steps)))
    for number, found in enumerate(steps, start=1):
        assert found.groups == names[-min(number * step, count) :]
        assert found.layers == layers_of(*found.groups)
    # No set of layers is tried twice.
    assert len({found.layers for found in steps}) == len(steps)
    is_out_of_patience = len(steps) >= patience and not any(kept[len(steps) - patience : len(steps)])
    assert is_out_of_patience or steps[-1].groups == names


@given(
    step=st.integers(1, 7),
    count=st.integers(1, 20),
    phases=st.lists(st.sampled_from([HEAD, UNFREEZE, PhaseSpec(name="all", policy="all")]), min_size=1, max_size=4),
)
def test_upcoming_steps_come_true_if_each_is_kept(step, count, phases):
    network = groups(tuple(f"g{index}" for index in range(count)))
    phases = [phase.model_copy(update={"step": step}) for phase in phases]
    outcomes: list[Outcome] = []
    while following := policy.next_step(phases, network, outcomes):
        assert policy.upcoming_steps(phases, network, outcomes[-1].step if outcomes else None)[0] == following
        outcomes.append(outcome(following, kept=True))
    steps = [result.step for result in outcomes]
    planned = [found for index, phase in enumerate(phases) for found in policy.steps_of(phase, index, network)]
    assert planned == steps
    for position, found in enumerate(steps):
        assert policy.upcoming_steps(phases, network, found) == steps[position + 1 :]


def test_rounds_of_everything_repeat_if_weights_are_interpolated():
    interpolated = UNFREEZE.model_copy(update={"step": 3, "interpolate": True})
    assert policy.rounds(interpolated, groups()) == [3, 5, 5, 5]
    steps = walk(interpolated, [True] * 4, groups())
    assert [(found.name, found.groups) for found in steps[2:]] == [("unfreeze 3", NAMES), ("unfreeze 4", NAMES)]
    assert len(walk(interpolated, [True, True, False, True], groups())) == 3
    assert policy.rounds(UNFREEZE.model_copy(update={"step": 3}), groups()) == [3, 5]


def test_rounds_that_need_a_minimum_gain_are_not_likely():
    network, phases = groups(), [HEAD, UNFREEZE.model_copy(update={"step": 2})]
    upcoming = policy.upcoming_steps(phases, network, None)
    assert [step.name for step in upcoming] == ["head", "unfreeze 1", "unfreeze 2", "unfreeze 3"]
    assert policy.likely_steps(phases, network, None) == upcoming
    demanding = [HEAD, replace_until(phases[1], min_relative_gain=0.5)]
    assert [step.name for step in policy.likely_steps(demanding, network, None)] == ["head", "unfreeze 1"]
    assert [step.name for step in policy.likely_steps(demanding, network, upcoming[0])] == ["unfreeze 1"]
    assert [step.name for step in policy.likely_steps(demanding, network, upcoming[1])] == ["unfreeze 2"]


def test_all_steps_of_a_gradual_phase():
    steps = policy.steps_of(UNFREEZE.model_copy(update={"step": 2}), 3, groups())
    assert [(step.phase, step.number, step.name) for step in steps] == [
        (3, 0, "unfreeze 1"),
        (3, 1, "unfreeze 2"),
        (3, 2, "unfreeze 3"),
    ]
    assert [step.groups for step in steps] == [NAMES[-2:], NAMES[-4:], NAMES]
    assert policy.steps_of(HEAD, 0, groups()) == [Step(0, 0, "head", (), frozenset(), 10)]


def test_a_selection_that_matches_nothing_is_an_error():
    with pytest.raises(ModelError, match="no layer group 'block9'"):
        policy.next_step([PhaseSpec(name="p", train="block9")], groups(), [])


OPTIONAL = st.none() | st.floats(0, 10)
OUTCOMES = st.builds(
    Outcome,
    step=st.just(Step(1, 2, "unfreeze 3", ("block3", "top"), layers_of("block3", "top"), 4)),
    trainable_parameters=st.integers(0, 10**9),
    epochs=st.integers(0, 100),
    best_epoch=st.integers(0, 100),
    loss_before=OPTIONAL,
    accuracy_before=OPTIONAL,
    val_loss=OPTIONAL,
    val_accuracy=OPTIONAL,
    confidence=OPTIONAL,
    kept=st.booleans(),
    reason=st.text(),
    seconds=st.floats(0, 1e6),
)


@given(OUTCOMES)
def test_an_outcome_survives_json(result):
    line = json.loads(json.dumps(policy.record(result), allow_nan=False))
    assert line["step"] == "unfreeze 3"
    assert line["trained_groups"] == ["block3", "top"]
    assert policy.outcome_from(result.step, line) == result


def test_the_record_has_its_documented_keys():
    line = policy.record(replace(outcome(policy.next_step([HEAD], groups(), []), kept=True), val_loss=0.25))
    assert {"trained_groups", "trainable_parameters", "epochs", "val_loss", "val_accuracy", "kept"} <= set(line)
    assert (line["val_loss"], line["kept"], line["reason"]) == (0.25, True, "because")


@pytest.mark.parametrize(("metric", "before", "after"), [("val_loss", 0.8, 0.5), ("val_accuracy", 0.2, 0.5)])
@pytest.mark.parametrize(("min_relative_gain", "rounds"), [(0.0, 5), (0.37, 5), (0.38, 1)])
def test_a_small_gain_is_kept_but_ends_the_phase(metric, before, after, min_relative_gain, rounds):
    """Each step reduces the loss, or the error rate, by three eighths."""
    phase = PhaseSpec(
        name="unfreeze", policy="gradual", epochs=1, until={"min_relative_gain": min_relative_gain, "metric": metric}
    )
    names = ("loss_before", "val_loss") if metric == "val_loss" else ("accuracy_before", "val_accuracy")
    outcomes = []
    while step := policy.next_step([phase], groups(), outcomes):
        outcomes.append(replace(outcome(step, kept=True), **dict(zip(names, (before, after), strict=True))))
    assert len(outcomes) == rounds
    quantity = "loss" if metric == "val_loss" else "error rate"
    end = f"because; no further round: {quantity} reduced by 38 % (until.min_relative_gain: 38 %)"
    assert policy.with_end_reason(outcomes[-1], phase).reason == ("because" if rounds > 1 else end)
    assert policy.with_end_reason(replace(outcomes[-1], kept=False), phase).reason == "because"


@pytest.mark.parametrize(
    ("min_relative_gain", "accuracy", "rounds"), [(0.0, 0.99, 5), (0.3, 0.98, 5), (0.3, 0.99, 1), (0.3, 1.0, 1)]
)
def test_a_round_that_must_pay_needs_wrong_answers(min_relative_gain, accuracy, rounds):
    phase = PhaseSpec(name="unfreeze", policy="gradual", epochs=1, until={"min_relative_gain": min_relative_gain})
    outcomes = []
    while step := policy.next_step([phase], groups(), outcomes):
        found = replace(outcome(step, kept=True), loss_before=0.8, val_loss=0.5, val_accuracy=accuracy)
        outcomes.append(policy.with_end_reason(found, phase))
    assert len(outcomes) == rounds
    end = f"because; no further round: {100 * accuracy:.0f} % of the validation answers are right"
    assert outcomes[-1].reason == ("because" if rounds > 1 else end)


@pytest.mark.parametrize(("step", "first"), [("40%", 2), ("1%", 1), ("100%", 5), (3, 3)])
def test_a_round_takes_a_number_or_a_share_of_the_groups(step, first):
    steps = walk(PhaseSpec(name="unfreeze", policy="gradual", step=step), [True] * 5, groups())
    assert steps[0].groups == NAMES[-first:]
    assert steps[-1].groups == NAMES


def test_rounds_double():
    assert policy.rounds(PhaseSpec(name="unfreeze", policy="gradual", step="double"), groups()) == [1, 2, 4, 5]
    assert policy.rounds(PhaseSpec(name="unfreeze", policy="gradual", step="double"), groups(NAMES[:4])) == [1, 2, 4]


@pytest.mark.parametrize(
    ("share", "expected"),
    # The groups have 1, 1, 1, 3 and 4 of 10 parameters: the top group has 40 %, the top two have 70 %.
    [("10% of parameters", [1, 2, 3, 4, 5]), ("50% of parameters", [2, 5]), ("100% of parameters", [5])],
)
def test_rounds_by_share_of_the_parameters(share, expected):
    sizes = dict(zip(NAMES, (1, 1, 1, 3, 4), strict=True))
    weighted = LayerGroups(
        "synthetic",
        (8, 8),
        tuple(
            replace(group, layers=(Layer(f"{group.name}_conv", "conv", parameters=size, trainable_parameters=size),))
            for group, size in zip(groups().groups, sizes.values(), strict=True)
        ),
    )
    assert policy.rounds(PhaseSpec(name="unfreeze", policy="gradual", step=share), weighted) == expected


@given(
    step=st.sampled_from(["double", "all", "7%", "30%", "5% of parameters", "35% of parameters"]) | st.integers(1, 9),
    count=st.integers(1, 20),
)
def test_rounds_grow_until_everything(step, count):
    network = groups(tuple(map(str, range(count))))
    counts = policy.rounds(PhaseSpec(name="unfreeze", policy="gradual", step=step), network)
    assert counts == sorted(set(counts))
    assert counts[0] >= 1
    assert counts[-1] == count


def test_lp_ft_trains_the_probe_and_then_everything():
    first, second = walk(PhaseSpec(name="both", policy="lp_ft", epochs=7), [True, True], groups())
    assert (first.groups, first.epochs, first.name) == ((), 0, "both head")
    assert (second.groups, second.epochs, second.name) == (NAMES, 7, "both")


NORMS = {"stem": 0.2, "block1": 0.0, "block2": 0.8, "block3": 0.1, "top": 0.4}


def test_a_surgical_phase_needs_a_survey_first():
    phase = PhaseSpec(name="cut", policy="surgical")
    assert policy.next_step([HEAD, phase], groups(), [outcome(policy.next_step([HEAD], groups(), []), kept=True)]) == (
        policy.GradientSurvey(1, layers_of(*NAMES))
    )


def test_a_surgical_phase_trains_all_groups_at_rates_by_their_gradients():
    phase = PhaseSpec(name="cut", policy="surgical")
    step = policy.next_step([phase], groups(), [], {0: NORMS})
    assert step.groups == NAMES
    assert dict(step.rates) == {"stem": 0.25, "block1": 0.0, "block2": 1.0, "block3": 0.125, "top": 0.5}
    assert policy.next_step([phase], groups(), [outcome(step, kept=True)], {0: NORMS}) is None


def test_a_surgical_phase_trains_the_groups_with_the_largest_gradients():
    step = policy.next_step([PhaseSpec(name="cut", policy="surgical", group_count=2)], groups(), [], {0: NORMS})
    assert step.groups == ("block2", "top")
    assert step.layers == layers_of("block2", "top")
    assert step.rates == ()


def test_without_gradients_a_surgical_phase_trains_all_groups_at_full_rate():
    step = policy.next_step([PhaseSpec(name="c", policy="surgical")], groups(), [], {0: dict.fromkeys(NAMES, 0.0)})
    assert set(dict(step.rates).values()) == {1.0}


def test_all_groups_in_one_round():
    phase = PhaseSpec(name="unfreeze", policy="gradual", step="all")
    (step,) = walk(phase, [True, True], groups())
    assert step.groups == NAMES


@pytest.mark.parametrize("name", ["lr", "step", "layer_decay", "batch_norm"])
def test_auto_values_must_be_resolved_first(name):
    phase = PhaseSpec(name="unfreeze", policy="gradual", **{name: "auto"})
    read = {
        "lr": lambda phase: phase.learning_rate(1.0),
        "step": lambda phase: phase.groups_per_round,
        "layer_decay": lambda phase: phase.decay,
        "batch_norm": lambda phase: phase.batch_norm_policy,
    }[name]
    with pytest.raises(RuntimeError, match=f"{name} is still auto"):
        read(phase)
    values = {"lr": 0.25, "step": 3, "layer_decay": 0.5, "batch_norm": "affine"}
    assert read(phase.fill_auto(values)) == values[name]
    # A value of the recipe stays.
    assert PhaseSpec(name="unfreeze", train="head", lr=0.125).fill_auto(values).lr == 0.125


def test_lists_have_one_value_per_round_and_zero_trains_the_same_groups_again():
    phase = PhaseSpec(name="unfreeze", policy="gradual", step=[2, 0, 1], epochs=[3, 6])
    steps = walk(phase, [True] * 9, groups())
    assert [len(step.groups) for step in steps] == [2, 2, 3, 4, 5]
    assert [step.epochs for step in steps] == [3, 6, 6, 6, 6]


def test_a_list_of_required_gains_has_one_value_per_round():
    until = UntilSpec(min_relative_gain=[0.0, 0.5])
    phase = PhaseSpec(name="unfreeze", policy="gradual", step=[2, 0, 1], until=until)
    # Each outcome lowers the loss by a tenth.
    assert len(walk(phase, [True] * 9, groups())) == 2
