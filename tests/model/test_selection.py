"""The grammar of selections, on the bundled structure of MobileNetV2, without Keras."""

from pathlib import Path

import pytest

from tlcli.errors import ModelError
from tlcli.model import structure
from tlcli.model.layer_groups import LayerGroups
from tlcli.model.selection import Selection, select
from tlcli.zoo import catalogue

BLOCKS = tuple(f"block{number}" for number in range(1, 17))


def whole_groups(selection: Selection, groups: LayerGroups) -> tuple[str, ...]:
    """Names of the groups with all layers selected, bottom to top."""
    return tuple(group.name for group in groups if all(layer.name in selection.layers for layer in group.layers))


def partial_groups(selection: Selection, groups: LayerGroups) -> tuple[str, ...]:
    """Names of the groups with some but not all layers selected, bottom to top."""
    names = [group.name for group in groups if any(layer.name in selection.layers for layer in group.layers)]
    return tuple(name for name in names if name not in whole_groups(selection, groups))


@pytest.fixture(scope="module")
def groups() -> LayerGroups:
    bundled = structure.find(catalogue.find("mobilenet_v2"), {}, (224, 224), cache=Path("nowhere"))
    assert bundled is not None
    return bundled


@pytest.mark.parametrize(
    ("text", "expected", "trains_head"),
    [
        ("none", (), False),
        ("head", (), True),
        ("all", ("stem", *BLOCKS, "top"), True),
        ("top:1", ("top",), True),
        ("top:3", ("block15", "block16", "top"), True),
        ("top:18", ("stem", *BLOCKS, "top"), True),
        ("top:30%", ("block16", "top"), True),
        ("top: 0.1 %", ("top",), True),
        ("top:100%", ("stem", *BLOCKS, "top"), True),
        ("block13..top", ("block13", "block14", "block15", "block16", "top"), True),
        ("stem .. block2", ("stem", "block1", "block2"), True),
        ("block5..block5", ("block5",), True),
        ("block1[3-6]", ("block13", "block14", "block15", "block16"), True),
        ("*1", ("block1", "block11"), True),
        ("block?", BLOCKS[:9], True),
        ("top", ("top",), True),
        ("stem, top", ("stem", "top"), True),
        ("top:1,block15..block16,block16", ("block15", "block16", "top"), True),
        ("head,none", (), True),
        (r"re:^block_1_", ("block1",), True),
        (r"re:^block_1{1,2}_,top", ("block1", "block11", "top"), True),
        (r"re:^(block_3_|[C(,]onv_1), stem", ("stem", "block3", "top"), True),
        (r"re:^block_(1|2)_,re:^block_4_", ("block1", "block2", "block4"), True),
    ],
)
def test_selections_of_whole_groups(
    groups: LayerGroups, text: str, expected: tuple[str, ...], trains_head: bool
) -> None:
    selection = select(text, groups)
    assert set(whole_groups(selection, groups)) == set(expected)
    assert selection.trains_head is trains_head
    assert selection.text == text


def test_an_expression_can_select_parts_of_groups(groups: LayerGroups) -> None:
    selection = select("re:block_1[0-3]_project$", groups)
    assert selection.layers == {f"block_{number}_project" for number in range(10, 14)}
    assert whole_groups(selection, groups) == ()
    assert partial_groups(selection, groups) == ("block10", "block11", "block12", "block13")


def test_an_expression_matches_weighted_layers_only(groups: LayerGroups) -> None:
    assert all("relu" not in layer for layer in select("re:block_3_depthwise", groups).layers)
    with pytest.raises(ModelError, match="no layer with weights"):
        select("re:_relu$", groups)


@pytest.mark.parametrize("percent", [1, 10, 25, 50, 75, 99])
def test_a_percentage_selects_the_fewest_groups_that_hold_it(groups: LayerGroups, percent: int) -> None:
    chosen = whole_groups(select(f"top:{percent}%", groups), groups)
    parameters = [groups[name].trainable_parameters for name in chosen]
    required = percent / 100 * groups.trainable_parameters
    assert sum(parameters) >= required > sum(parameters[1:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty part"),
        ("  ", "empty part"),
        ("head,", "empty part"),
        ("top:0", "got '0'"),
        ("top:19", "Take 1 to 18"),
        ("top:-1", "got '-1'"),
        ("top:two", "got 'two'"),
        ("top:0%", "got '0%'"),
        ("top:101%", "got '101%'"),
        ("top:nan%", "got 'nan%'"),
        ("top..block3", "from bottom to top: block3..top"),
        ("block13..tpo", "Did you mean 'top'?"),
        ("..top", "no layer group ''"),
        ("blok7", "Did you mean 'block7'?"),
        ("heads", "Did you mean 'head'?"),
        ("block9x", "Groups: stem, block1 … block16, top."),
        ("conv*", "Groups: stem, block1 … block16, top."),
        ("re:(", "is not a regular expression"),
        ("re:", "matches ''"),
        ("re:nothing_here", "tlcli inspect --by layer"),
        ("top,re:nothing_here", "matches 'nothing_here'"),
    ],
)
def test_errors_name_what_is_allowed(groups: LayerGroups, text: str, message: str) -> None:
    with pytest.raises(ModelError) as error:
        select(text, groups, where="phases[1].train")
    assert str(error.value).startswith("phases[1].train: ")
    assert message in str(error.value)
    assert error.value.hint
