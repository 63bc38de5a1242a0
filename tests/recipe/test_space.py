"""Search spaces: every mistake is reported with its line before a trial begins."""

import re

import pytest

from tlcli.errors import RecipeError
from tlcli.recipe import load, space

TINY = """\
recipe: 1
name: tiny
phases:
  - {name: head, train: head, epochs: 1}
  - {name: unfreeze, policy: gradual, epochs: 2}
"""
RECIPE = load.parse(TINY)


def parse(text: str) -> space.Space:
    return space.parse(text, RECIPE, origin="space.yaml")


def test_lists_and_ranges_nested_or_dotted() -> None:
    found = parse(
        "head: {dropout: [0.0, 0.2]}\n"
        "phases.1.lr: {low: 1e-4, high: 0.1, log: true}\n"
        "phases[1].epochs: {low: 2, high: 6, step: 2}\n"
        "size: [64, [32, 48]]\n"
        "augment.preset: [none, light]\n"
    )
    assert [parameter.key for parameter in found.parameters] == [
        *("head.dropout", "phases.1.lr", "phases.1.epochs", "data.size", "augment.preset"),
    ]
    dropout, rate, epochs, size, _ = found.parameters
    assert dropout.choices == ("0.0", "0.2")
    assert (rate.low, rate.high, rate.log, rate.is_int) == (1e-4, 0.1, True, False)
    assert (epochs.is_int, epochs.values()) == (True, [2, 4, 6])
    assert size.choices == ("[64, 64]", "[32, 48]")
    values = {"head.dropout": "0.2", "phases.1.lr": 0.00012345678, "phases.1.epochs": 4}
    recipe = load.parse(TINY, settings=found.settings(values | {"data.size": "[32, 48]", "augment.preset": "none"}))
    assert (recipe.head.dropout, recipe.data.size, recipe.augment.preset) == (0.2, (32, 48), "none")
    assert (recipe.phases[1].lr, recipe.phases[1].epochs) == (0.0001235, 4)


def test_a_grid_has_every_combination_once() -> None:
    grid = parse("head.dropout: [0.0, 0.2]\nphases.1.epochs: {low: 1, high: 3}").grid()
    assert len(grid) == 6
    assert {(values["head.dropout"], values["phases.1.epochs"]) for values in grid} == {
        (dropout, epochs) for dropout in ("0.0", "0.2") for epochs in (1, 2, 3)
    }


@pytest.mark.parametrize("sampled", ["phases.1.lr: {low: 0.1, high: 0.2}", "phases.1.epochs: {low: 1, high: 1000}"])
def test_a_grid_needs_few_values(sampled: str) -> None:
    with pytest.raises(RecipeError, match=r"space.yaml:1:1 .*a grid needs a list"):
        parse(sampled).grid()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head.dropuot: [0.1]", r"space.yaml:1:1 head.dropuot: unknown key. Did you mean 'dropout'\?"),
        ("head.dropout: [0.1, 1.5]", r"space.yaml:1:1 head.dropout: .*less than 1 \(got 1.5\)"),
        ("augment.preset: [light, stronk]", r"preset: .*stronk.*Did you mean 'strong'"),
        ("\nphases.7.lr: [0.1]", r"space.yaml:2:1 phases.7.lr: there is no phases\[7\].lr"),
        ("head.dropout: 0.2", r"needs a list of values, or a range \(got 0.2\)"),
        ("head.dropout: []", "needs a list of values"),
        ("head.dropout: [0.1, 0.1]", "has the value 0.1 twice"),
        ("head.dropout: [0.1]\nhead: {dropout: [0.2]}", r"space.yaml:2:8 head.dropout: is given twice"),
        ("data.val: [0.1, 0.2]", "data.val is the same for all trials"),
        ("seed: [1, 2]", "seed is the same for all trials"),
        ("performance: {budget: [1m, 2m]}", "performance.budget is the same for all trials"),
        ("phases.1.lr: {low: 1, hihg: 2}", "a range has no 'hihg'. Did you mean 'high'"),
        ("phases.1.lr: {low: 2, high: 1}", "low must be below high"),
        ("phases.1.lr: {low: 0, high: 1, log: true}", "log needs low above 0"),
        ("phases.1.lr: {low: .nan, high: 1}", "needs numbers low and high"),
        ("phases.1.lr: {low: 0.1, high: 50}", r"phases.1.lr: .*less than or equal to 10 \(got 50"),
        ("phases.1.lr: {lwo: 1, hihg: 2}", r"no 'lwo' and no 'hihg'. Did you mean 'low'\? Did you mean 'high'"),
        ("phases.1.epochs: {low: 1.0, high: 4}", r"takes some numbers .*integer.*Write whole numbers, such as low: 1"),
        ("phases.1.epochs: {low: 1, high: 6, step: 2}", r"do not end at high \(got 6\). Write high: 5 or high: 7"),
        (f"phases.1.epochs: {{low: 1, high: 1{'0' * 400}}}", "needs numbers low and high"),
        ("phases: [{lr: [0.1]}]", r"Write the number of a phase, such as phases.0.lr"),
        ("", "the top level must be keys and values"),
        ("head.dropout: [0.1", "is not valid YAML"),
        ("[1, 2]", "the top level must be keys and values"),
    ],
)
def test_mistakes_name_line_and_remedy(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(RecipeError) as caught:
        parse("head.dropuot: [0.1]\nseed: [1]\nhead.dropout: [0.1]\nhead: {dropout: [0.2]}\ndata.val: [0.1]")
    assert [problem.where.split()[0] for problem in caught.value.problems] == [
        f"space.yaml:{place}" for place in ("1:1", "2:1", "4:8", "5:1")
    ]


@pytest.mark.parametrize("name", load.names())
def test_every_bundled_recipe_has_a_default_space(name: str) -> None:
    recipe = load.load(name)
    found = space.parse(space.default_text(recipe), recipe)
    assert len(found.parameters) >= 4
