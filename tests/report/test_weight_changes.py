"""Weight changes: bitwise equality, and the relative change of what differs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.errors import ModelError
from tlcli.report.weight_changes import HEAD, Weight, compare_weights

GROUP_OF = {"stem": "stem", "bn": "block1", "conv": "block1", "head_dense": HEAD}


def network(**changed: np.ndarray) -> list[Weight]:
    values = {
        "stem": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "conv": np.linspace(1, 2, 8, dtype=np.float32),
        "bn": np.zeros(4, np.float32),
        "head_dense": np.ones((4, 3), np.float32),
    } | changed
    return [Weight(layer, "value", value, is_statistic=layer == "bn") for layer, value in values.items()]


def changes(a: list[Weight], b: list[Weight], *, by_layer: bool = True) -> dict:
    return compare_weights(a, b, GROUP_OF, names=("A", "B"), by_layer=by_layer)


def test_equal_weights_are_identical_bit_for_bit() -> None:
    odd = np.array([np.nan, -0.0, np.inf, 1], np.float32)
    result = changes(network(bn=odd), network(bn=odd.copy()))
    assert result["identical"]
    assert result["relative_change"] == 0
    assert all(group["identical"] for group in result["groups"])
    assert [group["name"] for group in result["groups"]] == ["stem", "block1", "head"]
    assert (result["only_a"], result["only_b"]) == ([], [])


def test_minus_zero_differs_from_zero() -> None:
    result = changes(network(), network(bn=np.full(4, -0.0, np.float32)))
    assert not result["identical"]
    assert result["relative_change"] == 0


@given(st.floats(1e-3, 10))
def test_the_change_is_relative_to_the_first_network(share: float) -> None:
    before = network()
    after = network(conv=(before[1].value.astype(np.float64) * (1 + share)).astype(np.float32))
    result = changes(before, after)
    layers = {layer["name"]: layer for layer in result["layers"]}
    assert layers["conv"]["relative_change"] == pytest.approx(share, rel=1e-3)
    assert layers["stem"]["identical"]
    groups = {group["name"]: group for group in result["groups"]}
    assert groups["block1"]["most_changed_layer"] == "conv"
    assert (groups["block1"]["changed_weights"], groups["block1"]["weights"]) == (1, 2)
    assert groups["block1"]["statistics_identical"]
    assert groups["stem"]["statistics_identical"] is None


def test_statistics_do_not_hide_the_change_of_kernels() -> None:
    before, after = network(bn=np.full(4, 1e6, np.float32)), network(bn=np.full(4, 1.1e6, np.float32))
    block = {group["name"]: group for group in changes(before, after)["groups"]}["block1"]
    assert (block["relative_change"], block["identical"]) == (0, False)
    assert block["relative_change_statistics"] == pytest.approx(0.1)
    kernels = network(bn=np.full(4, 1e6, np.float32), conv=np.linspace(2, 4, 8, dtype=np.float32))
    block = {group["name"]: group for group in changes(before, kernels)["groups"]}["block1"]
    assert (block["relative_change"], block["relative_change_statistics"]) == (pytest.approx(1), 0)


def test_identical_weights_do_not_hide_the_change_of_kernels() -> None:
    group_of = {"scale": "block1", "conv": "block1"}
    before = [Weight("scale", "value", np.full(4, 1e3)), Weight("conv", "value", np.ones(8))]
    after = [before[0], Weight("conv", "value", np.full(8, 1.5))]
    result = compare_weights(before, after, group_of, names=("A", "B"), by_layer=False)
    assert result["groups"][0]["relative_change"] == pytest.approx(0.5)
    assert (result["changed_weights"], result["weights"]) == (1, 2)


def test_changes_from_zero_and_to_nan_have_no_relative_change() -> None:
    for value in (np.ones(4, np.float32), np.full(4, np.nan, np.float32)):
        layers = {layer["name"]: layer for layer in changes(network(), network(bn=value))["layers"]}
        assert layers["bn"]["relative_change"] is None
        assert not layers["bn"]["identical"]


def test_weights_of_different_dtypes_differ() -> None:
    assert not changes(network(), network(conv=np.linspace(1, 2, 8, dtype=np.float64)))["identical"]


def test_heads_for_different_numbers_of_classes_are_different_heads() -> None:
    result = changes(network(), network(head_dense=np.ones((4, 5), np.float32)))
    assert result["only_a"] == [{"group": "head", "layer": "head_dense", "parameters": 12}]
    assert result["only_b"] == [{"group": "head", "layer": "head_dense", "parameters": 20}]
    assert result["identical"]


def test_weights_of_one_network_only_are_listed() -> None:
    result = changes(network(), network()[:-1], by_layer=False)
    assert [row["layer"] for row in result["only_a"]] == ["head_dense"]
    assert "layers" not in result


def test_different_shapes_are_named_with_their_layers() -> None:
    with pytest.raises(ModelError, match=r"weights of A and B differ in shape: conv/value 8 and 2×4") as caught:
        changes(network(), network(conv=np.ones((2, 4), np.float32)))
    assert "model.arguments" in caught.value.hint


def test_unrelated_networks_are_refused() -> None:
    with pytest.raises(ModelError, match="A and B share too few layers"):
        changes(network(), [Weight("other", "kernel", np.ones(3))])
