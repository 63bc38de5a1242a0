"""The policies on invented histories: what is trained next, what is kept, and what is written down."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.errors import ModelError
from tlcli.model.groups import Layer, LayerGroup, LayerGroups
from tlcli.recipe.phase import PhaseSpec, UntilSpec
from tlcli.train import policy
from tlcli.train.policy import Outcome, Step

NAMES = ("stem", "block1", "block2", "block3", "top")
HEAD = PhaseSpec(name="head", train="head")
THAW = PhaseSpec(name="thaw", policy="gradual")
NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)


def groups(names: tuple[str, ...] = NAMES) -> LayerGroups:
    """Each group has a convolution and a BatchNorm."""
    made = []
    for name in names:
        layers = tuple(Layer(f"{name}_{kind}", kind, parameters=4, trainable_parameters=2) for kind in ("conv", "bn"))
        made.append(LayerGroup(name, layers, f"{name}_bn", is_cut_point=True, output_shape=(1, 1, 4), flops=1))
    return LayerGroups("invented", (8, 8), tuple(made))


def layers_of(*names: str) -> frozenset[str]:
    return frozenset(f"{name}_{kind}" for name in names for kind in ("conv", "bn"))


def outcome(step: Step, *, kept: bool) -> Outcome:
    return Outcome(step, 10, 3, 2, 1.0, 0.5, 0.9, 0.6, 0.8, kept, "because", 1.5)


def walk(phase: PhaseSpec, kept: list[bool], known: LayerGroups) -> list[Step]:
    """The steps of a phase when the i-th is kept or not; stops where the policy stops, or the list ends."""
    done: list[Outcome] = []
    for is_kept in kept:
        step = policy.next_step([phase], known, done)
        if step is None:
            break
        done.append(outcome(step, kept=is_kept))
    return [each.step for each in done]


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


def test_single_layers_name_the_groups_they_touch():
    step = policy.next_step([PhaseSpec(name="p", train="re:block[13]_conv")], groups(), [])
    assert step.layers == {"block1_conv", "block3_conv"}
    assert step.groups == ("block1", "block3")


def test_phases_follow_each_other():
    phases = [HEAD, THAW, PhaseSpec(name="polish", policy="all")]
    first = policy.next_step(phases, groups(), [])
    done = [outcome(first, kept=True)]
    second = policy.next_step(phases, groups(), done)
    done.append(outcome(second, kept=False))
    third = policy.next_step(phases, groups(), done)
    assert [(step.phase, step.number, step.name) for step in (first, second, third)] == [
        (0, 0, "head"),
        (1, 0, "thaw 1"),
        (2, 0, "polish"),
    ]
    assert policy.next_step(phases, groups(), [*done, outcome(third, kept=False)]) is None


def test_thawing_goes_on_while_it_helps_and_ends_with_everything():
    steps = walk(THAW, [True] * 9, groups())
    assert [step.groups for step in steps] == [NAMES[-count:] for count in (1, 2, 3, 4, 5)]
    assert [step.layers for step in steps] == [layers_of(*NAMES[-count:]) for count in (1, 2, 3, 4, 5)]
    assert [step.name for step in steps] == ["thaw 1", "thaw 2", "thaw 3", "thaw 4", "thaw 5"]


@pytest.mark.parametrize(
    ("patience", "kept", "steps"),
    [
        (1, [False], 1),
        (1, [True, True, False], 3),
        (2, [False, False], 2),
        (2, [False, True, False, False], 4),
        (3, [False, True, False, False, True], 5),
    ],
)
def test_thawing_stops_after_fruitless_steps_in_a_row(patience, kept, steps):
    phase = replace_until(THAW, patience=patience)
    known = groups()
    assert len(walk(phase, kept, known)) == steps
    longer = walk(phase, [*kept, True], known)
    assert len(longer) == steps


def test_a_kept_step_makes_patience_start_anew():
    phase = replace_until(THAW, patience=2)
    assert len(walk(phase, [False, True, False, True, True], groups())) == 5


def replace_until(phase: PhaseSpec, **until) -> PhaseSpec:
    return phase.model_copy(update={"until": UntilSpec(**until)})


@given(
    kept=st.lists(st.booleans(), min_size=40, max_size=40),
    step=st.integers(1, 7),
    patience=st.integers(1, 4),
    count=st.integers(1, 20),
)
def test_thawing_is_cumulative_from_the_top(kept, step, patience, count):
    names = tuple(f"g{index}" for index in range(count))
    phase = replace_until(THAW.model_copy(update={"step": step}), patience=patience)
    steps = walk(phase, kept, groups(names))
    assert [each.number for each in steps] == list(range(len(steps)))
    for number, each in enumerate(steps, start=1):
        assert each.groups == names[-min(number * step, count) :]
        assert each.layers == layers_of(*each.groups)
    # The same set is never tried twice.
    assert len({each.layers for each in steps}) == len(steps)
    was_fruitless = len(steps) >= patience and not any(kept[len(steps) - patience : len(steps)])
    assert was_fruitless or steps[-1].groups == names


@given(
    step=st.integers(1, 7),
    count=st.integers(1, 20),
    phases=st.lists(st.sampled_from([HEAD, THAW, PhaseSpec(name="all", policy="all")]), min_size=1, max_size=4),
)
def test_what_lies_ahead_is_what_comes_while_everything_is_kept(step, count, phases):
    known = groups(tuple(f"g{index}" for index in range(count)))
    phases = [phase.model_copy(update={"step": step}) for phase in phases]
    done: list[Outcome] = []
    while following := policy.next_step(phases, known, done):
        assert policy.upcoming_steps(phases, known, done[-1].step if done else None)[0] == following
        done.append(outcome(following, kept=True))
    steps = [each.step for each in done]
    assert [each for index, phase in enumerate(phases) for each in policy.steps_of(phase, index, known)] == steps
    for place, each in enumerate(steps):
        assert policy.upcoming_steps(phases, known, each) == steps[place + 1 :]


def test_where_rounds_go_part_of_the_way_others_go_on_from_there():
    blended = THAW.model_copy(update={"step": 3, "interpolate": True})
    assert policy.rounds(blended, groups()) == [3, 5, 5, 5]
    steps = walk(blended, [True] * 4, groups())
    assert [(each.name, each.groups) for each in steps[2:]] == [("thaw 3", NAMES), ("thaw 4", NAMES)]
    assert len(walk(blended, [True, True, False, True], groups())) == 3
    assert policy.rounds(THAW.model_copy(update={"step": 3}), groups()) == [3, 5]


def test_rounds_that_only_a_large_gain_brings_are_not_likely():
    known, phases = groups(), [HEAD, THAW.model_copy(update={"step": 2})]
    ahead = policy.upcoming_steps(phases, known, None)
    assert [each.name for each in ahead] == ["head", "thaw 1", "thaw 2", "thaw 3"]
    assert policy.likely_steps(phases, known, None) == ahead
    asking = [HEAD, replace_until(phases[1], min_relative_gain=0.5)]
    assert [each.name for each in policy.likely_steps(asking, known, None)] == ["head", "thaw 1"]
    assert [each.name for each in policy.likely_steps(asking, known, ahead[0])] == ["thaw 1"]
    assert [each.name for each in policy.likely_steps(asking, known, ahead[1])] == ["thaw 2"]


def test_all_steps_of_a_gradual_phase():
    steps = policy.steps_of(THAW.model_copy(update={"step": 2}), 3, groups())
    assert [(each.phase, each.number, each.name) for each in steps] == [
        (3, 0, "thaw 1"),
        (3, 1, "thaw 2"),
        (3, 2, "thaw 3"),
    ]
    assert [each.groups for each in steps] == [NAMES[-2:], NAMES[-4:], NAMES]
    assert policy.steps_of(HEAD, 0, groups()) == [Step(0, 0, "head", (), frozenset(), 10)]


def test_a_selection_that_matches_nothing_is_told():
    with pytest.raises(ModelError, match="no layer group 'block9'"):
        policy.next_step([PhaseSpec(name="p", train="block9")], groups(), [])


MAYBE = st.none() | st.floats(0, 10)
OUTCOMES = st.builds(
    Outcome,
    step=st.just(Step(1, 2, "thaw 3", ("block3", "top"), layers_of("block3", "top"), 4)),
    trainable_parameters=st.integers(0, 10**9),
    epochs=st.integers(0, 100),
    best_epoch=st.integers(0, 100),
    loss_before=MAYBE,
    accuracy_before=MAYBE,
    val_loss=MAYBE,
    val_accuracy=MAYBE,
    confidence=MAYBE,
    kept=st.booleans(),
    reason=st.text(),
    seconds=st.floats(0, 1e6),
)


@given(OUTCOMES)
def test_an_outcome_survives_json(result):
    line = json.loads(json.dumps(policy.record(result), allow_nan=False))
    assert line["step"] == "thaw 3"
    assert line["trained_groups"] == ["block3", "top"]
    assert policy.outcome_from(result.step, line) == result


def test_the_record_has_the_keys_of_the_contract():
    line = policy.record(replace(outcome(policy.next_step([HEAD], groups(), []), kept=True), val_loss=0.25))
    assert {"trained_groups", "trainable_parameters", "epochs", "val_loss", "val_accuracy", "kept"} <= set(line)
    assert (line["val_loss"], line["kept"], line["reason"]) == (0.25, True, "because")


@pytest.mark.parametrize(("metric", "before", "after"), [("val_loss", 0.8, 0.5), ("val_accuracy", 0.2, 0.5)])
@pytest.mark.parametrize(("min_relative_gain", "rounds"), [(0.0, 5), (0.37, 5), (0.38, 1)])
def test_what_brought_little_is_kept_but_is_the_last(metric, before, after, min_relative_gain, rounds):
    """The loss, or the share of wrong answers, fell by three eighths."""
    phase = PhaseSpec(
        name="thaw", policy="gradual", epochs=1, until={"min_relative_gain": min_relative_gain, "metric": metric}
    )
    names = ("loss_before", "val_loss") if metric == "val_loss" else ("accuracy_before", "val_accuracy")
    done = []
    while step := policy.next_step([phase], groups(), done):
        done.append(replace(outcome(step, kept=True), **dict(zip(names, (before, after), strict=True))))
    assert len(done) == rounds
    told = policy.with_end_reason(done[-1], phase).reason
    assert told == "because" if rounds > 1 else f"by 38% (until.min_relative_gain: {min_relative_gain:.0%})" in told
    assert policy.with_end_reason(replace(done[-1], kept=False), phase).reason == "because"


@pytest.mark.parametrize(("step", "first"), [("40%", 2), ("1%", 1), ("100%", 5), (3, 3)])
def test_a_round_takes_a_number_or_a_share_of_the_groups(step, first):
    found = walk(PhaseSpec(name="thaw", policy="gradual", step=step), [True] * 5, groups())
    assert found[0].groups == NAMES[-first:]
    assert found[-1].groups == NAMES


def test_rounds_double():
    assert policy.rounds(PhaseSpec(name="thaw", policy="gradual", step="double"), groups()) == [1, 2, 4, 5]
    assert policy.rounds(PhaseSpec(name="thaw", policy="gradual", step="double"), groups(NAMES[:4])) == [1, 2, 4]


@pytest.mark.parametrize(
    ("share", "expected"),
    # 1, 1, 1, 3 and 4 of 10 parameters, from the bottom: the top alone has 40 %, with the next 70 %.
    [("10% of parameters", [1, 2, 3, 4, 5]), ("50% of parameters", [2, 5]), ("100% of parameters", [5])],
)
def test_rounds_by_share_of_the_parameters(share, expected):
    known = groups()
    sizes = dict(zip(NAMES, (1, 1, 1, 3, 4), strict=True))
    weighted = LayerGroups(
        "invented",
        (8, 8),
        tuple(
            replace(group, layers=(Layer(f"{group.name}_conv", "conv", parameters=size, trainable_parameters=size),))
            for group, size in zip(known.groups, sizes.values(), strict=True)
        ),
    )
    assert policy.rounds(PhaseSpec(name="thaw", policy="gradual", step=share), weighted) == expected


@given(
    step=st.sampled_from(["double", "all", "7%", "30%", "5% of parameters", "35% of parameters"]) | st.integers(1, 9),
    count=st.integers(1, 20),
)
def test_rounds_grow_until_everything(step, count):
    found = policy.rounds(PhaseSpec(name="thaw", policy="gradual", step=step), groups(tuple(map(str, range(count)))))
    assert found == sorted(set(found))
    assert found[0] >= 1
    assert found[-1] == count


def test_lp_ft_is_the_probe_and_then_everything():
    first, second = walk(PhaseSpec(name="both", policy="lp_ft", epochs=7), [True, True], groups())
    assert (first.groups, first.epochs, first.name) == ((), 0, "both head")
    assert (second.groups, second.epochs, second.name) == (NAMES, 7, "both")


NORMS = {"stem": 0.2, "block1": 0.0, "block2": 0.8, "block3": 0.1, "top": 0.4}


def test_surgery_wants_a_survey_first():
    phase = PhaseSpec(name="cut", policy="surgical")
    assert policy.next_step([HEAD, phase], groups(), [outcome(policy.next_step([HEAD], groups(), []), kept=True)]) == (
        policy.GradientSurvey(1, layers_of(*NAMES))
    )


def test_surgery_trains_all_at_rates_by_their_gradients():
    phase = PhaseSpec(name="cut", policy="surgical")
    step = policy.next_step([phase], groups(), [], {0: NORMS})
    assert step.groups == NAMES
    assert dict(step.rates) == {"stem": 0.25, "block1": 0.0, "block2": 1.0, "block3": 0.125, "top": 0.5}
    assert policy.next_step([phase], groups(), [outcome(step, kept=True)], {0: NORMS}) is None


def test_surgery_picks_the_groups_of_the_largest_gradients():
    step = policy.next_step([PhaseSpec(name="cut", policy="surgical", group_count=2)], groups(), [], {0: NORMS})
    assert step.groups == ("block2", "top")
    assert step.layers == layers_of("block2", "top")
    assert step.rates == ()


def test_without_any_gradient_surgery_trains_all_alike():
    step = policy.next_step([PhaseSpec(name="c", policy="surgical")], groups(), [], {0: dict.fromkeys(NAMES, 0.0)})
    assert set(dict(step.rates).values()) == {1.0}


def test_everything_in_one_round():
    phase = PhaseSpec(name="thaw", policy="gradual", step="all")
    (step,) = walk(phase, [True, True], groups())
    assert step.groups == NAMES


@pytest.mark.parametrize("name", ["lr", "step", "layer_decay", "batch_norm"])
def test_what_is_left_to_the_card_must_be_settled(name):
    phase = PhaseSpec(name="thaw", policy="gradual", **{name: "auto"})
    ask = {
        "lr": lambda phase: phase.learning_rate(1.0),
        "step": lambda phase: phase.groups_per_round,
        "layer_decay": lambda phase: phase.decay,
        "batch_norm": lambda phase: phase.batch_norm_policy,
    }[name]
    with pytest.raises(RuntimeError, match=f"phase thaw: {name} is still auto"):
        ask(phase)
    wishes = {"lr": 0.25, "step": 3, "layer_decay": 0.5, "batch_norm": "affine"}
    assert ask(phase.fill_auto(wishes)) == wishes[name]
    # What the recipe says itself stays.
    assert PhaseSpec(name="thaw", train="head", lr=0.125).fill_auto(wishes).lr == 0.125
