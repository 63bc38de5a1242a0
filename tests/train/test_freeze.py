"""Freezing: exactly the selected layers are trainable, and frozen weights stay bit-identical."""

import keras
import numpy as np
import pytest

from tlcli.data.augment import Augment, Bounds
from tlcli.model.classifier import cut_at
from tlcli.model.head import POOLED
from tlcli.model.selection import select
from tlcli.train import checkpoint, freeze, phases
from tlcli.train.events import EpochDone
from tlcli.train.stage import Trainee

# The variables of each group.
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
    """`layer/variable`, without the models that the layer is nested in."""
    return {"/".join(variable.path.split("/")[-2:]) for variable in variables}


def union(table: dict[str, set[str]], *groups: str) -> set[str]:
    return set().union(*(table[group] for group in groups))


def trainee_of(classifier, cut_point: str | None = None, *, is_stored: bool = False) -> Trainee:
    """The trainee of a stage, on pixels or on stored features."""
    augment = None if is_stored and cut_point else Augment(Bounds())
    return Trainee(cut_at(classifier, cut_point), augment, input_signature=((12, 12, 3), "uint8"))


@pytest.fixture(scope="module")
def classifier(lab):
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
def test_exactly_the_selected_variables_are_trainable(classifier, lab, selection, groups, batch_norm):
    chosen = select(selection, lab.groups)
    reported = freeze.set_trainable(classifier, chosen.layers, batch_norm=batch_norm)
    expected = HEAD | HEAD_NORM | union(CONVS, *groups)
    if batch_norm != "frozen":
        expected |= union(NORMS, *groups)
    assert names(reported) == expected
    assert len(reported) == len(expected)
    # The trainee is another model of the same layers. It must report the same variables at every cut point.
    below = lab.groups.cut_below(chosen.layers)
    cut_points = {None, below.boundary if below else None, POOLED if not groups else None}
    for cut_point in cut_points:
        for is_stored in (False, True):
            variables = trainee_of(classifier, cut_point, is_stored=is_stored).trainable_variables
            assert {id(variable) for variable in variables} == {id(variable) for variable in reported}


@pytest.mark.parametrize("batch_norm", ["frozen", "affine", "train"])
def test_every_variable_is_either_moving_or_frozen(classifier, lab, batch_norm):
    trainable = freeze.set_trainable(classifier, select("top:3", lab.groups).layers, batch_norm=batch_norm)
    moving = freeze.moving_variables(classifier, trainable, batch_norm=batch_norm)
    frozen = freeze.frozen_variables(classifier, moving)
    statistics = HEAD_STATISTICS | (union(STATISTICS, "block1", "block2", "top") if batch_norm == "train" else set())
    assert names(moving) == names(trainable) | statistics
    assert names(moving) | names(frozen) == names(classifier.model.weights)
    assert not names(moving) & names(frozen)


def test_single_layers(classifier, lab):
    layers = select("re:block2_conv,re:stem_bn", lab.groups).layers
    affine = names(freeze.set_trainable(classifier, layers, batch_norm="affine"))
    assert affine == HEAD | HEAD_NORM | CONVS["block2"] | NORMS["stem"]
    frozen = names(freeze.set_trainable(classifier, layers, batch_norm="frozen"))
    assert frozen == HEAD | HEAD_NORM | CONVS["block2"]


def test_freezing_does_not_depend_on_the_phase_before(classifier, lab):
    """This covers BatchNorm layers, including nested ones."""
    everything = select("all", lab.groups).layers
    before = names(freeze.set_trainable(classifier, everything, batch_norm="train"))
    assert names(freeze.set_trainable(classifier, everything, batch_norm="frozen")) == before - union(NORMS, *NORMS)
    assert names(freeze.set_trainable(classifier, frozenset(), batch_norm="train")) == HEAD | HEAD_NORM
    assert names(freeze.set_trainable(classifier, everything, batch_norm="train")) == before


def test_momentum_is_limited_if_statistics_are_trained(lab):
    classifier = lab.classifier(lab.recipe({"train": "all"}))
    norms = {norm.name: norm for norm in freeze.batch_norms(*classifier.model.layers)}
    original = {name: norm.momentum for name, norm in norms.items()}
    for batch_norm in ("frozen", "affine"):
        freeze.set_trainable(classifier, select("all", lab.groups).layers, batch_norm=batch_norm)
        assert {name: norm.momentum for name, norm in norms.items()} == original
    freeze.set_trainable(classifier, select("top:3", lab.groups).layers, batch_norm="train")
    assert {name: norm.momentum for name, norm in norms.items()} == {
        "stem_bn": 0.999,
        "block1_bn": freeze.BATCH_NORM_MOMENTUM,
        "block2_bn": 0.5,
        "top_bn": freeze.BATCH_NORM_MOMENTUM,
    }


def test_a_given_momentum_is_used_as_it_is_and_only_in_its_phase(lab):
    classifier = lab.classifier(lab.recipe({"train": "all"}))
    layers = select("all", lab.groups).layers
    (norm,) = [layer for layer in freeze.batch_norms(*classifier.model.layers) if layer.name == "block2_bn"]
    for momentum, expected in ((0.99, 0.99), (0.2, 0.2), (None, 0.5)):
        freeze.set_trainable(classifier, layers, batch_norm="train", momentum=momentum)
        assert norm.momentum == expected


def test_an_unknown_layer_is_an_error(classifier):
    with pytest.raises(RuntimeError, match="nowhere"):
        freeze.set_trainable(classifier, {"nowhere"}, batch_norm="frozen")


def inner_norm(model):
    return model.get_layer("block1_nested").layers[1]


@pytest.mark.parametrize(
    ("flip", "named"),
    [
        (lambda model: setattr(model.get_layer("stem_conv"), "trainable", True), "stem_conv/kernel"),
        (lambda model: setattr(model.get_layer("stem_bn"), "trainable", True), "stem_bn"),
        (lambda model: setattr(model.get_layer("top_conv"), "trainable", False), "top_conv/kernel"),
        (lambda model: setattr(model.get_layer("top_bn"), "trainable", True), "top_bn"),
        (lambda model: setattr(inner_norm(model), "trainable", True), "block1_bn"),
        (
            lambda model: setattr(model.get_layer("head_probabilities"), "trainable", False),
            "head_probabilities",
        ),
        (
            lambda model: setattr(model.get_layer("top_conv").kernel, "trainable", False),
            "top_conv/kernel",
        ),
        (lambda model: setattr(model, "trainable", False), "conv"),
    ],
)
def test_a_flipped_flag_is_an_error(classifier, lab, flip, named):
    layers = select("top:3", lab.groups).layers
    freeze.set_trainable(classifier, layers, batch_norm="frozen")
    freeze.verify(classifier, layers, batch_norm="frozen")
    flip(classifier.model)
    with pytest.raises(RuntimeError, match=f"another trainable set.*{named}"):
        freeze.verify(classifier, layers, batch_norm="frozen")


def bytes_of(classifier) -> dict[str, bytes]:
    weights = classifier.model.weights
    return {
        "/".join(variable.path.split("/")[-2:]): array.tobytes()
        for variable, array in zip(weights, checkpoint.copy_values(weights), strict=True)
    }


@pytest.mark.parametrize("cache", ["auto", "off"])
@pytest.mark.parametrize("batch_norm", ["frozen", "affine", "train"])
def test_a_phase_changes_exactly_its_moving_variables(lab, tmp_path, batch_norm, cache):
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


def test_only_the_trainee_protects_batch_norm_statistics(lab):
    """See ADR 4: `base(x, training=False)` does not protect the statistics of trainable layers."""
    pixels = lab.train.pixels[lab.train.rows].astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[lab.train.labels]

    def changes_statistics(build) -> bool:
        classifier = lab.classifier(lab.recipe({"train": "all"}))
        freeze.set_trainable(classifier, select("all", lab.groups).layers, batch_norm="affine")
        model = build(classifier)
        model.compile(optimizer="sgd", loss="categorical_crossentropy")
        statistics = [norm.moving_mean for norm in freeze.batch_norms(*classifier.model.layers)]
        before = freeze.fingerprint(statistics)
        model.fit(pixels, labels, batch_size=21, epochs=1, verbose=0)
        return freeze.fingerprint(statistics) != before

    def nested(classifier) -> keras.Model:
        image = keras.Input((12, 12, 3))
        return keras.Model(image, classifier.head(classifier.features(image, training=False)))

    assert changes_statistics(nested)
    assert not changes_statistics(trainee_of)


@pytest.mark.parametrize(("train", "layer"), [("top:1", "stem_bn"), ("block1", "top_bn"), ("head", "top_bn")])
def test_a_changed_frozen_weight_stops_the_run(lab, tmp_path, train, layer):
    """The bytes are compared, below and above the cut point, whatever changed them."""
    session = lab.session(lab.recipe({"train": train}), tmp_path)
    statistic = session.classifier.model.get_layer(layer).moving_mean

    def change_statistic(event) -> None:
        if isinstance(event, EpochDone):
            statistic.assign(statistic + 1e-6)

    session.observe = change_statistic
    with pytest.raises(RuntimeError, match=r"frozen weights changed in step 'phase0'"):
        phases.run(session)


def test_a_fingerprint_changes_with_a_single_bit():
    values = np.ones((3, 4), np.float32)
    variable = keras.Variable(values)
    before = freeze.fingerprint([variable])
    variable.assign(values)
    assert freeze.fingerprint([variable]) == before
    values[2, 3] = np.nextafter(np.float32(1), np.float32(2))
    variable.assign(values)
    assert freeze.fingerprint([variable]) != before
