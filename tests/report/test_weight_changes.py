"""What differs between two sets of weights: exact where nothing does, in proportion where something does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.errors import ModelError
from tlcli.report.weight_changes import HEAD, Weight, compare_weights

HOMES = {"stem": "stem", "bn": "block1", "conv": "block1", "head_dense": HEAD}


def network(**changed: np.ndarray) -> list[Weight]:
    values = {
        "stem": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "conv": np.linspace(1, 2, 8, dtype=np.float32),
        "bn": np.zeros(4, np.float32),
        "head_dense": np.ones((4, 3), np.float32),
    } | changed
    return [Weight(layer, "value", value, is_statistic=layer == "bn") for layer, value in values.items()]


def found(a: list[Weight], b: list[Weight], *, by_layer: bool = True) -> dict:
    return compare_weights(a, b, HOMES, names=("A", "B"), by_layer=by_layer)


def test_the_same_is_identical_to_the_bit() -> None:
    odd = np.array([np.nan, -0.0, np.inf, 1], np.float32)
    told = found(network(bn=odd), network(bn=odd.copy()))
    assert told["identical"]
    assert told["relative_change"] == 0
    assert all(group["identical"] for group in told["groups"])
    assert [group["name"] for group in told["groups"]] == ["stem", "block1", "head"]
    assert (told["only_a"], told["only_b"]) == ([], [])


def test_minus_nothing_is_not_nothing() -> None:
    told = found(network(), network(bn=np.full(4, -0.0, np.float32)))
    assert not told["identical"]
    assert told["relative_change"] == 0


@given(st.floats(1e-3, 10))
def test_the_change_is_relative_to_what_was_there(share: float) -> None:
    before = network()
    after = network(conv=(before[1].value.astype(np.float64) * (1 + share)).astype(np.float32))
    told = found(before, after)
    layers = {layer["name"]: layer for layer in told["layers"]}
    assert layers["conv"]["relative_change"] == pytest.approx(share, rel=1e-3)
    assert layers["stem"]["identical"]
    groups = {group["name"]: group for group in told["groups"]}
    assert groups["block1"]["most_changed_layer"] == "conv"
    assert (groups["block1"]["changed_weights"], groups["block1"]["weights"]) == (1, 2)
    assert groups["block1"]["statistics_identical"]
    assert groups["stem"]["statistics_identical"] is None


def test_statistics_do_not_hide_what_kernels_did() -> None:
    before, after = network(bn=np.full(4, 1e6, np.float32)), network(bn=np.full(4, 1.1e6, np.float32))
    block = {group["name"]: group for group in found(before, after)["groups"]}["block1"]
    assert (block["relative_change"], block["identical"]) == (0, False)
    assert block["relative_change_statistics"] == pytest.approx(0.1)
    kernels = network(bn=np.full(4, 1e6, np.float32), conv=np.linspace(2, 4, 8, dtype=np.float32))
    block = {group["name"]: group for group in found(before, kernels)["groups"]}["block1"]
    assert (block["relative_change"], block["relative_change_statistics"]) == (pytest.approx(1), 0)


def test_frozen_neighbours_do_not_hide_what_kernels_did() -> None:
    homes = {"scale": "block1", "conv": "block1"}
    before = [Weight("scale", "value", np.full(4, 1e3)), Weight("conv", "value", np.ones(8))]
    after = [before[0], Weight("conv", "value", np.full(8, 1.5))]
    told = compare_weights(before, after, homes, names=("A", "B"), by_layer=False)
    assert told["groups"][0]["relative_change"] == pytest.approx(0.5)
    assert (told["changed_weights"], told["weights"]) == (1, 2)


def test_from_zero_and_to_nan_have_no_share() -> None:
    for value in (np.ones(4, np.float32), np.full(4, np.nan, np.float32)):
        layers = {layer["name"]: layer for layer in found(network(), network(bn=value))["layers"]}
        assert layers["bn"]["relative_change"] is None
        assert not layers["bn"]["identical"]


def test_another_dtype_is_another_weight() -> None:
    assert not found(network(), network(conv=np.linspace(1, 2, 8, dtype=np.float64)))["identical"]


def test_a_head_for_other_classes_is_another_head() -> None:
    told = found(network(), network(head_dense=np.ones((4, 5), np.float32)))
    assert told["only_a"] == [{"group": "head", "layer": "head_dense", "parameters": 12}]
    assert told["only_b"] == [{"group": "head", "layer": "head_dense", "parameters": 20}]
    assert told["identical"]


def test_what_is_on_one_side_only_is_listed() -> None:
    told = found(network(), network()[:-1], by_layer=False)
    assert [each["layer"] for each in told["only_a"]] == ["head_dense"]
    assert "layers" not in told


def test_other_shapes_are_told_with_their_layers() -> None:
    with pytest.raises(ModelError, match=r"weights of A and B differ in shape: conv/value 8 and 2×4") as told:
        found(network(), network(conv=np.ones((2, 4), np.float32)))
    assert "model.arguments" in told.value.hint


def test_strangers_are_refused() -> None:
    with pytest.raises(ModelError, match="A and B share hardly a layer"):
        found(network(), [Weight("other", "kernel", np.ones(3))])
