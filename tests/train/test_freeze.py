"""Freezing: exactly what was asked, as Keras reports it, and nothing frozen moves by a single bit."""

import keras
import numpy as np
import pytest

from tlcli.data.augment import Augment, Bounds
from tlcli.model.classifier import POOLED, cut_at
from tlcli.model.selection import select
from tlcli.train import checkpoint, freeze, phases
from tlcli.train.events import EpochDone
from tlcli.train.stage import Trainee

# What there is to train, group by group.
CONVS = {
    "stem": {"stem_conv/kernel"},
    "block1": {"block1_conv/kernel", "block1_conv/bias"},
    "block2": {"block2_conv/kernel"},
    "top": {"top_conv/kernel"},
}
NORMS = {group: {f"{group}_bn/gamma", f"{group}_bn/beta"} for group in CONVS}
STATISTICS = {group: {f"{group}_bn/moving_mean", f"{group}_bn/moving_variance"} for group in CONVS}
HEAD = {"head_dense_1/kernel", "head_dense_1/bias", "head_probabilities/kernel", "head_probabilities/bias"}
HEAD_NORM = {"head_bn_1/gamma", "head_bn_1/beta"}
HEAD_STATISTICS = {"head_bn_1/moving_mean", "head_bn_1/moving_variance"}
WITH_HIDDEN = {"dropout": 0.0, "hidden": [{"units": 4, "batch_norm": True}]}


def names(variables) -> set[str]:
    """`layer/variable`, whatever the layer is nested in."""
    return {"/".join(variable.path.split("/")[-2:]) for variable in variables}


def union(table: dict[str, set[str]], *groups: str) -> set[str]:
    return set().union(*(table[group] for group in groups))


def trainee_of(made, at: str | None = None, *, is_stored: bool = False) -> Trainee:
    """What is fitted above a frontier: on pixels, or on stored outputs of the layers below."""
    return Trainee(cut_at(made, at), None if is_stored and at else Augment(Bounds()), fed=((12, 12, 3), "uint8"))


@pytest.fixture(scope="module")
def made(lab):
    return lab.classifier(lab.recipe({"train": "all"}, head=WITH_HIDDEN))


@pytest.mark.parametrize("batch_norm", ["frozen", "affine", "train"])
@pytest.mark.parametrize(
    ("selection", "groups"),
    [
        ("head", ()),
        ("top:1", ("top",)),
        ("top:2", ("block2", "top")),
        ("block1", ("block1",)),
        ("stem,block2", ("stem", "block2")),
        ("all", tuple(CONVS)),
    ],
)
def test_exactly_the_asked_variables_are_trainable(made, lab, selection, groups, batch_norm):
    chosen = select(selection, lab.groups)
    reported = freeze.apply(made, chosen.layers, batch_norm=batch_norm)
    expected = HEAD | HEAD_NORM | union(CONVS, *groups)
    if batch_norm != "frozen":
        expected |= union(NORMS, *groups)
    assert names(reported) == expected
    assert len(reported) == len(expected)
    # What is fitted is another model around the same layers; it must see the same, wherever it is cut.
    below = lab.groups.cut_below(chosen.layers)
    cut_points = {None, below.boundary if below else None, POOLED if not groups else None}
    for trainee in (trainee_of(made, at, is_stored=is_stored) for at in cut_points for is_stored in (False, True)):
        assert {id(each) for each in trainee.trainable_variables} == {id(each) for each in reported}


@pytest.mark.parametrize("batch_norm", ["frozen", "affine", "train"])
def test_what_may_move_and_what_is_frozen_are_everything(made, lab, batch_norm):
    trainable = freeze.apply(made, select("top:3", lab.groups).layers, batch_norm=batch_norm)
    has_statistics = batch_norm == "train"
    moving = freeze.moving_variables(made, trainable, statistics=has_statistics)
    frozen = freeze.frozen_variables(made, moving)
    statistics = HEAD_STATISTICS | (union(STATISTICS, "block1", "block2", "top") if has_statistics else set())
    assert names(moving) == names(trainable) | statistics
    assert names(moving) | names(frozen) == names(made.model.weights)
    assert not names(moving) & names(frozen)


def test_single_layers(made, lab):
    chosen = select("re:block2_conv,re:stem_bn", lab.groups)
    assert names(freeze.apply(made, chosen.layers, batch_norm="affine")) == (
        HEAD | HEAD_NORM | CONVS["block2"] | NORMS["stem"]
    )
    assert names(freeze.apply(made, chosen.layers, batch_norm="frozen")) == HEAD | HEAD_NORM | CONVS["block2"]


def test_freezing_forgets_what_was_trainable_before(made, lab):
    """Thawed and frozen BatchNorm, nested too, must not linger from one phase to the next."""
    everything = select("all", lab.groups).layers
    before = names(freeze.apply(made, everything, batch_norm="train"))
    assert names(freeze.apply(made, everything, batch_norm="frozen")) == before - union(NORMS, *NORMS)
    assert names(freeze.apply(made, frozenset(), batch_norm="train")) == HEAD | HEAD_NORM
    assert names(freeze.apply(made, everything, batch_norm="train")) == before


def test_momentum_is_lowered_where_statistics_are_trained(lab):
    made = lab.classifier(lab.recipe({"train": "all"}))
    found = {norm.name: norm for norm in freeze.batch_norms(*made.model.layers)}
    untouched = {name: norm.momentum for name, norm in found.items()}
    for batch_norm in ("frozen", "affine"):
        freeze.apply(made, select("all", lab.groups).layers, batch_norm=batch_norm)
        assert {name: norm.momentum for name, norm in found.items()} == untouched
    freeze.apply(made, select("top:3", lab.groups).layers, batch_norm="train")
    assert {name: norm.momentum for name, norm in found.items()} == {
        "stem_bn": 0.999,
        "block1_bn": freeze.TRAINED_MOMENTUM,
        "block2_bn": 0.5,
        "top_bn": freeze.TRAINED_MOMENTUM,
    }


def test_layers_that_are_not_there_are_an_error(made):
    with pytest.raises(RuntimeError, match="nowhere"):
        freeze.apply(made, {"nowhere"}, batch_norm="frozen")


def inner_norm(made):
    return made.model.get_layer("block1_nested").layers[1]


@pytest.mark.parametrize(
    ("flip", "named"),
    [
        (lambda made: setattr(made.model.get_layer("stem_conv"), "trainable", True), "stem_conv/kernel"),
        (lambda made: setattr(made.model.get_layer("stem_bn"), "trainable", True), "stem_bn"),
        (lambda made: setattr(made.model.get_layer("top_conv"), "trainable", False), "top_conv/kernel"),
        (lambda made: setattr(made.model.get_layer("top_bn"), "trainable", True), "top_bn"),
        (lambda made: setattr(inner_norm(made), "trainable", True), "block1_bn"),
        (lambda made: setattr(made.model.get_layer("head_probabilities"), "trainable", False), "head_probabilities"),
        (lambda made: setattr(made.model.get_layer("top_conv").kernel, "trainable", False), "top_conv/kernel"),
        (lambda made: setattr(made.model, "trainable", False), "conv"),
    ],
)
def test_a_flipped_flag_is_seen(made, lab, flip, named):
    layers = select("top:3", lab.groups).layers
    freeze.apply(made, layers, batch_norm="frozen")
    freeze.verify(made, layers, batch_norm="frozen")
    flip(made)
    with pytest.raises(RuntimeError, match=f"another trainable set.*{named}"):
        freeze.verify(made, layers, batch_norm="frozen")


def bytes_of(made) -> dict[str, bytes]:
    return {
        "/".join(variable.path.split("/")[-2:]): array.tobytes()
        for variable, array in zip(made.model.weights, checkpoint.copy_values(made.model.weights), strict=True)
    }


@pytest.mark.parametrize("cache", ["auto", "off"])
@pytest.mark.parametrize("batch_norm", ["frozen", "affine", "train"])
def test_a_phase_changes_what_it_may_and_nothing_else(lab, tmp_path, batch_norm, cache):
    phase = {"train": "top:3", "batch_norm": batch_norm, "epochs": 2}
    recipe = lab.recipe(phase, head=WITH_HIDDEN, performance={"batch": 16, "cache": cache})
    session = lab.session(recipe, tmp_path)
    before = bytes_of(session.classifier)
    phases.run(session)
    after = bytes_of(session.classifier)
    trained = ("block1", "block2", "top")
    expected = HEAD | HEAD_NORM | HEAD_STATISTICS | union(CONVS, *trained)
    if batch_norm != "frozen":
        expected |= union(NORMS, *trained)
    if batch_norm == "train":
        expected |= union(STATISTICS, *trained)
    assert session.outcomes[0].best_epoch > 0
    assert {name for name in before if before[name] != after[name]} == expected


def test_why_the_trainee_exists(lab):
    """The trap of ADR 4: `base(x, training=False)` does not protect statistics once the layers are trainable."""
    pixels = lab.train.pixels[lab.train.rows].astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[lab.train.labels]

    def moved(build) -> bool:
        made = lab.classifier(lab.recipe({"train": "all"}))
        freeze.apply(made, select("all", lab.groups).layers, batch_norm="affine")
        model = build(made)
        model.compile(optimizer="sgd", loss="categorical_crossentropy")
        statistics = [norm.moving_mean for norm in freeze.batch_norms(*made.model.layers)]
        before = freeze.fingerprint(statistics)
        model.fit(pixels, labels, batch_size=21, epochs=1, verbose=0)
        return freeze.fingerprint(statistics) != before

    def nested(made) -> keras.Model:
        image = keras.Input((12, 12, 3))
        return keras.Model(image, made.head(made.features(image, training=False)))

    assert moved(nested)
    assert not moved(trainee_of)


@pytest.mark.parametrize(("train", "layer"), [("top:1", "stem_bn"), ("block1", "top_bn"), ("head", "top_bn")])
def test_a_change_of_anything_frozen_stops_the_run(lab, tmp_path, train, layer):
    """The last line of defence: the bytes are compared, whoever changed them, below stored outputs and above."""
    session = lab.session(lab.recipe({"train": train}), tmp_path)
    victim = session.classifier.model.get_layer(layer).moving_mean

    def sabotage(event) -> None:
        if isinstance(event, EpochDone):
            victim.assign(victim + 1e-6)

    session.observe = sabotage
    with pytest.raises(RuntimeError, match=r"frozen weights changed in step 'phase0'"):
        phases.run(session)


def test_a_fingerprint_sees_one_bit():
    values = np.ones((3, 4), np.float32)
    variable = keras.Variable(values)
    before = freeze.fingerprint([variable])
    variable.assign(values)
    assert freeze.fingerprint([variable]) == before
    values[2, 3] = np.nextafter(np.float32(1), np.float32(2))
    variable.assign(values)
    assert freeze.fingerprint([variable]) != before
