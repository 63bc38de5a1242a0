"""Cut points and layer groups of small graphs, written by hand and generated at random."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.errors import ModelError
from tlcli.model.cut_points import LayerGraph, find_cut_points
from tlcli.model.grouping import assign
from tlcli.model.layer_groups import Layer, LayerGroups, shorten_names
from tlcli.zoo.card import GroupPattern


def graph_of(edges: dict[str, str], *, weightless: str = "", sizes: dict[str, int] | None = None) -> LayerGraph:
    """A graph from `name: inputs` in order; layers have 10 parameters (7 trainable), those in `weightless` none."""
    layers = [
        Layer(
            name=name,
            kind="Dense",
            inputs=tuple(inputs.split()),
            parameters=0 if name in weightless.split() else 10,
            trainable_parameters=0 if name in weightless.split() else 7,
            output_shape=((sizes or {}).get(name, 8), (sizes or {}).get(name, 8), 4),
            flops=100,
        )
        for name, inputs in edges.items()
    ]
    return LayerGraph(tuple(layers), layers[-1].name)


RESIDUAL = {
    "in": "",
    "conv": "in",
    "a1": "conv",
    "a2": "a1",
    "a_add": "a2 conv",
    "b1": "a_add",
    "b2": "b1",
    "b_add": "b2 a_add",
    "last": "b_add",
}


def residual() -> LayerGraph:
    return graph_of(RESIDUAL, weightless="in a_add b_add")


def patterns(*rows: tuple[str, str]) -> tuple[GroupPattern, ...]:
    return tuple(GroupPattern(name=name, pattern=pattern) for name, pattern in rows)


def names(groups: LayerGroups) -> dict[str, list[str]]:
    return {group.name: [layer.name for layer in group.layers] for group in groups}


def cuts(groups: LayerGroups) -> tuple[str, ...]:
    return tuple(group.boundary for group in groups if group.is_cut_point)


def has_path_without(graph: LayerGraph, removed: str) -> bool:
    """True if a path from an input to the output remains when a layer is removed."""
    reached = {layer.name for layer in graph.layers if not layer.inputs and layer.name != removed}
    for layer in graph.layers:
        if layer.name != removed and reached.intersection(layer.inputs):
            reached.add(layer.name)
    return graph.output in reached


@st.composite
def graphs(draw: st.DrawFn) -> LayerGraph:
    """Random graphs in which every layer leads to the output, as in a Keras model; some have several inputs."""
    count = draw(st.integers(1, 12))
    inputs: list[set[int]] = [set()]
    for node in range(1, count):
        fewest = 0 if draw(st.integers(0, 9)) == 0 and node < count - 1 else 1
        recent = st.integers(max(0, node - draw(st.integers(1, 4))), node - 1)
        inputs.append(draw(st.sets(recent, min_size=fewest, max_size=3)))
    read = set().union(*inputs)
    inputs[-1] |= {node for node in range(count - 1) if node not in read}
    layers = [
        Layer(f"n{node}", "Dense", tuple(f"n{source}" for source in sorted(sources)), parameters=node % 3)
        for node, sources in enumerate(inputs)
    ]
    return LayerGraph(tuple(layers), f"n{count - 1}")


@given(graphs())
def test_cut_points_are_the_layers_whose_removal_cuts_every_path(graph: LayerGraph) -> None:
    names = [layer.name for layer in graph.layers]
    assert set(find_cut_points(graph)) == {name for name in names if not has_path_without(graph, name)}


@given(graphs())
def test_automatic_groups_are_complete_disjoint_and_ordered(graph: LayerGraph) -> None:
    groups = assign(graph, (), name="random", input_size=(8, 8))
    weighted = [layer.name for layer in graph.layers if layer.is_weighted]
    assert sorted(layer.name for layer in groups.layers) == sorted(weighted)
    level = {layer.name: position for position, group in enumerate(groups) for layer in group.layers}
    for layer in level:
        assert all(level[below] <= level[layer] for below in graph.upstream(layer) if below in level)
    assert all(group.layers for group in groups if weighted)


def test_cut_points_of_a_residual_network() -> None:
    assert find_cut_points(residual()) == ("in", "conv", "a_add", "b_add", "last")


def test_a_layer_with_two_output_tensors_is_not_a_cut_point() -> None:
    split = Layer("split", "Split", ("in",), output_count=2)
    graph = LayerGraph((Layer("in", "InputLayer"), split, Layer("out", "Add", ("split",))), "out")
    assert find_cut_points(graph) == ("in", "out")


def test_two_inputs_merge_before_the_first_cut_point() -> None:
    graph = graph_of({"left": "", "l1": "left", "right": "", "join": "l1 right", "out": "join"})
    assert find_cut_points(graph) == ("join", "out")


def test_boundaries_move_up_to_the_next_cut_point() -> None:
    rows = patterns(("stem", "conv"), ("block_{1}", r"([ab])\d"), ("top", "last"))
    groups = assign(residual(), rows, name="tiny", input_size=(8, 8))
    assert names(groups) == {"stem": ["conv"], "block_a": ["a1", "a2"], "block_b": ["b1", "b2"], "top": ["last"]}
    assert cuts(groups) == ("conv", "a_add", "b_add", "last")
    assert [group.flops for group in groups] == [200, 300, 300, 100]


def test_layers_above_the_last_pattern_become_the_group_top() -> None:
    groups = assign(residual(), patterns(("low", "[a]1")), name="tiny", input_size=(8, 8))
    assert names(groups) == {"low": ["conv", "a1", "a2"], "top": ["b1", "b2", "last"]}
    assert groups["top"].boundary == "last"


def test_the_last_group_ends_at_the_output() -> None:
    graph = graph_of({"in": "", "conv": "in", "relu": "conv"}, weightless="in relu")
    assert assign(graph, patterns(("only", "conv")), name="tiny", input_size=(8, 8))["only"].boundary == "relu"


def test_without_a_cut_point_before_the_next_group_the_boundary_stays() -> None:
    # Up to three outputs are needed above a layer.
    edges = {"in": "", "a": "in", "b": "a in", "c": "b a in", "d": "c b a", "e": "d c"}
    groups = assign(graph_of(edges, weightless="in"), patterns(("{0}", "[abcde]")), name="tiny", input_size=(8, 8))
    assert [(group.boundary, group.is_cut_point, group.cut_point) for group in groups] == [
        ("a", True, "a/in"),
        ("b", False, "b"),
        ("c", False, "c"),
        ("d", True, "d/c"),
        ("e", True, "e"),
    ]


def test_a_second_output_that_is_read_above_is_stored_too() -> None:
    # As between the cells of NASNet.
    graph = graph_of({"in": "", "a": "in", "b": "a in", "c": "b a", "d": "c b"}, weightless="in", sizes={"in": 2})
    groups = assign(graph, patterns(("{0}", "[abcd]")), name="tiny", input_size=(8, 8))
    assert [group.cut_point for group in groups] == ["a/in", "b/a", "c/b", "d"]
    assert [group.stored_bytes for group in groups] == [256 * 4 + 64, 2048, 2048, 1024]
    assert cuts(groups) == ("a", "b", "c", "d")


def test_no_cut_below_a_second_input_or_at_a_layer_with_several_output_tensors() -> None:
    edges = {"in": "", "a": "in", "b": "a in", "c": "b a", "other": "", "d": "c b other"}
    graph = graph_of(edges, weightless="in other")
    groups = assign(graph, patterns(("{0}", "[abcd]")), name="tiny", input_size=(8, 8))
    assert [group.is_cut_point for group in groups] == [False, False, False, True]
    graph = graph_of({"in": "", "a": "in", "b": "a in", "c": "b a"}, weightless="in")
    graph = replace(graph, layers=tuple(replace(layer, output_count=1 + (layer.name == "a")) for layer in graph.layers))
    groups = assign(graph, patterns(("{0}", "[abc]")), name="tiny", input_size=(8, 8))
    assert [group.is_cut_point for group in groups] == [False, False, True]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((("stem", "conv"), ("gone", "nothing_.*")), "gone: the pattern 'nothing_.*' matches no layer"),
        ((("stem", "conv"), ("shadowed", "con.")), "shadowed: the pattern 'con.' matches no layer"),
        ((("stem", "con("),), "stem: the pattern 'con(' is not a regular expression"),
        ((("{2}", "(conv)"),), "{2}: the pattern '(conv)' has too few capture groups (got 1)"),
    ],
)
def test_invalid_patterns_are_refused(rows: tuple[tuple[str, str], ...], message: str) -> None:
    with pytest.raises(ModelError) as error:
        assign(residual(), patterns(*rows), name="tiny", input_size=(8, 8))
    assert str(error.value).startswith(message)


def test_automatic_groups_end_where_paths_merge() -> None:
    edges = {"in": "", "conv": "in"}
    for number in range(1, 6):
        below = f"add{number - 1}" if number > 1 else "conv"
        edges |= {f"p{number}": below, f"add{number}": f"p{number} {below}"}
    graph = graph_of(edges | {"out": "add5"}, weightless="in add1 add2 add3 add4 add5")
    groups = assign(graph, (), name="foreign", input_size=(8, 8))
    assert groups.names == ("stem", "block1", "block2", "block3", "block4", "top")
    assert cuts(groups) == ("add1", "add2", "add3", "add4", "add5", "out")


def test_automatic_groups_of_a_chain_end_where_the_maps_shrink() -> None:
    edges, sizes = {"in": ""}, {"in": 64}
    for stage in range(1, 6):
        edges |= {f"conv{stage}": list(edges)[-1], f"pool{stage}": f"conv{stage}"}
        sizes |= {f"conv{stage}": 2 ** (7 - stage), f"pool{stage}": 2 ** (6 - stage)}
    pools = tuple(f"pool{stage}" for stage in range(1, 6))
    graph = graph_of(edges, weightless=" ".join(("in", *pools)), sizes=sizes)
    assert cuts(assign(graph, (), name="chain", input_size=(64, 64))) == pools


@pytest.mark.parametrize(("length", "expected"), [(1, 1), (3, 3), (4, 4), (60, 4)])
def test_a_chain_is_split_into_at_least_four_groups_if_it_has_the_layers(length: int, expected: int) -> None:
    edges = {"in": "", **{f"d{number}": f"d{number - 1}" if number else "in" for number in range(length)}}
    groups = assign(graph_of(edges, weightless="in"), (), name="chain", input_size=(8, 8))
    assert (len(groups), groups.names[-1]) == (expected, "top")


def test_many_blocks_are_merged_into_thirty_groups() -> None:
    edges = {"in": "", "add0": "in"}
    for number in range(1, 81):
        edges |= {f"p{number}": f"add{number - 1}", f"add{number}": f"p{number} add{number - 1}"}
    weightless = " ".join(name for name in edges if not name.startswith("p"))
    groups = assign(graph_of(edges, weightless=weightless), (), name="deep", input_size=(8, 8))
    assert len(groups) == 30
    assert max(len(group.layers) for group in groups) <= 4


def test_a_graph_out_of_order_is_refused() -> None:
    with pytest.raises(ModelError, match="topological order"):
        LayerGraph((Layer("b", "Dense", ("a",)), Layer("a", "Dense")), "b")
    with pytest.raises(ModelError, match="the output 'z' is not a layer"):
        LayerGraph((Layer("a", "Dense"),), "z")


def groups_by_patterns() -> LayerGroups:
    rows = patterns(("stem", "conv"), ("block_{1}", r"([ab])\d"), ("top", "last"))
    return assign(residual(), rows, name="tiny", input_size=(8, 8))


def test_parameters_of_groups_are_sums() -> None:
    groups = groups_by_patterns()
    assert (groups.parameters, groups.trainable_parameters) == (60, 42)
    assert groups["block_a"].parameters == 20
    assert groups["block_a"].activation_bytes == 8 * 8 * 4 * 4
    assert groups.group_of("b2").name == "block_b"
    with pytest.raises(ModelError, match="no layer with weights 'b_add'"):
        groups.group_of("b_add")
    with pytest.raises(ModelError, match="Did you mean 'block_a'"):
        groups["blok_a"]


def test_the_cut_is_the_highest_cut_point_below_all_trained_layers() -> None:
    groups = groups_by_patterns()
    below = [groups.cut_below(trained) for trained in ({"b1"}, {"b1", "conv"}, {"a2", "last"}, set[str]())]
    assert [group and group.boundary for group in below] == ["a_add", None, "conv", "last"]


def test_two_groups_of_the_same_name_are_refused() -> None:
    group = groups_by_patterns().groups[0]
    with pytest.raises(ModelError, match="group 'stem' appears twice"):
        LayerGroups("tiny", (8, 8), (group, group))


@pytest.mark.parametrize(
    ("given_names", "expected"),
    [
        (["top"], "top"),
        (["stem", "block1", "block2", "top"], "stem, block1, block2, top"),
        (["stem", *(f"block{n}" for n in range(1, 17)), "top"], "stem, block1 … block16, top"),
        ([f"b{n}_{m}" for n in (1, 2) for m in range(3)], "b1_0 … b1_2, b2_0 … b2_2"),
        ([f"g{c}" for c in "abcdefghijklmnop"], "ga, gb, gc, gd, ge, gf, …, gl, gm, gn, go, gp"),
    ],
)
def test_long_lists_of_names_are_shortened(given_names: list[str], expected: str) -> None:
    assert shorten_names(given_names) == expected


def test_a_last_pattern_named_top_includes_all_layers_above_it() -> None:
    groups = assign(residual(), patterns(("low", "[a]1"), ("top", "b1")), name="tiny", input_size=(8, 8))
    assert names(groups) == {"low": ["conv", "a1", "a2"], "top": ["b1", "b2", "last"]}
