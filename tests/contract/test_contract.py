"""docs/contract.md: commands, options, exit codes, recipe keys, run folder and JSON shapes are those of tlcli."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tlcli import errors
from tlcli.cli.main import cli
from tlcli.recipe import load

CONTRACT = (Path(__file__).resolve().parents[2] / "docs" / "contract.md").read_text(encoding="utf-8")
EVERYWHERE = {"--debug", "-q", "--quiet", "-h", "--help"}
NETWORK = "mobilenet_synthetic"


def table(heading: str) -> dict[str, str]:
    """First and last column of the table whose header line begins with `| heading |`."""
    rows = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", CONTRACT, re.MULTILINE)
    assert rows is not None, heading
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1].splitlines()]
    assert len({row[0] for row in cells}) == len(cells)
    return {row[0].strip("`"): row[-1] for row in cells}


def words(cell: str) -> list[str]:
    """The texts in backticks."""
    return re.findall(r"`([^`]+)`", cell)


COMMANDS = table("command \\| arguments")
OPTIONS = table("command \\| options")
FILES = table("file")
SHAPES = table("output")


def commands(group: click.Group = cli, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """All visible commands by name, such as `recipe run`."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


PROGRAM = dict(commands())


def at(document: Any, path: str) -> list[Any]:
    """The values at a path such as `groups[].name`. A missing key or an empty list is an error."""
    values = [document]
    for step in filter(None, path.split(".")):
        name, is_list = step.removesuffix("[]"), step.endswith("[]")
        values = [value[name] if name else value for value in values]
        if is_list:
            values = [item for items in values for item in items]
            assert values, f"nothing in {step} of {path}"
    return values


def test_at_finds_existing_values_only() -> None:
    document = {"groups": [{"name": "a"}, {"name": "b"}], "empty": []}
    assert at(document, "groups[].name") == ["a", "b"]
    assert at([document], "[].groups[].name") == ["a", "b"]
    for wrong in ("group", "groups[].names", "empty[].name"):
        with pytest.raises((KeyError, AssertionError)):
            at(document, wrong)


def test_the_commands_are_those_of_tlcli() -> None:
    assert len(PROGRAM) == 32
    assert set(COMMANDS) == set(OPTIONS) == set(PROGRAM)


@pytest.mark.parametrize("name", PROGRAM)
def test_the_arguments_are_those_of_tlcli(name: str) -> None:
    (row,) = re.findall(rf"^\| `{name}` \|(.*?)\|.*\|$", CONTRACT.partition("The other options:")[0], re.MULTILINE)
    arguments = [word.strip("[]…") for cell in words(row) for word in cell.split()]
    assert arguments == [
        (parameter.metavar or parameter.name or "").partition("|")[0].strip("[]….").upper()
        for parameter in PROGRAM[name].params
        if isinstance(parameter, click.Argument)
    ]


@pytest.mark.parametrize("name", PROGRAM)
def test_the_options_are_those_of_tlcli(name: str) -> None:
    context = click.Context(PROGRAM[name], help_option_names=["-h", "--help"])
    options = [parameter for parameter in PROGRAM[name].get_params(context) if isinstance(parameter, click.Option)]
    names = {word for option in options if not option.hidden for word in (*option.opts, *option.secondary_opts)}
    assert names == {*words(OPTIONS[name]), *EVERYWHERE}


def test_the_exit_codes_are_those_of_the_errors() -> None:
    def subclasses(kind: type[errors.TlcliError]) -> Iterator[type[errors.TlcliError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from subclasses(child)

    codes = {kind.exit_code for kind in subclasses(errors.TlcliError)}
    assert {int(code) for code in table("exit code")} == codes | {0, 130}


def test_the_recipe_is_the_default_recipe_with_every_key(tlcli: Callable) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", CONTRACT, re.DOTALL | re.MULTILINE)
    assert block == tlcli("recipe", "render", load.DEFAULT).stdout


def test_the_policies_are_those_of_the_schema() -> None:
    from typing import get_args

    from tlcli.recipe.phase import Policy

    (line,) = re.findall(r"^Policies: (.*)$", CONTRACT, re.MULTILINE)
    assert set(words(line)) == set(get_args(Policy))


def test_the_run_folder_has_the_files_of_the_contract(finished: tuple) -> None:
    (block,) = re.findall(r"^```\n(run\.json\n.*?)^```", CONTRACT, re.DOTALL | re.MULTILINE)
    assert set(block.split()) == {path.name for path in finished[0].iterdir()}


def test_the_columns_of_the_run_folder_are_those_of_the_contract(finished: tuple) -> None:
    for name in ("splits.csv", "history.csv", "predictions.csv"):
        with (finished[0] / name).open(encoding="utf-8", newline="") as stream:
            assert next(csv.reader(stream)) == words(FILES[name])
    for line in (finished[0] / "phases.jsonl").read_text(encoding="utf-8").splitlines():
        assert list(json.loads(line)) == words(FILES["phases.jsonl"])


@pytest.fixture(scope="module")
def documents(
    finished: tuple,
    photos: Path,
    tiny: Path,
    tlcli: Callable,
    draw: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Any]:
    """Runs the command of an output and returns its JSON document."""
    run, finetuned = finished
    home = tmp_path_factory.mktemp("contract")
    copies = draw(home / "copies", count=12)
    (copies / "red" / "copy.bmp").write_bytes((copies / "red" / "00.bmp").read_bytes())
    weights = home / "net.keras"
    weights.write_bytes((run / "model.keras").read_bytes())
    (home / "space.yaml").write_text("head.dropout: [0.0, 0.2]", encoding="utf-8")
    lines: dict[str, tuple[object, ...]] = {
        "plan": ("plan", photos, "--model", NETWORK),
        "inspect": ("inspect", NETWORK),
        "inspect --by layer": ("inspect", NETWORK, "--by", "layer"),
        "inspect --train": ("inspect", NETWORK, "--train", "top:2"),
        "inspect --diff": ("inspect", "--diff", run, run),
        "check": ("check", copies, "--model", NETWORK, "--fail-on", "never"),
        "probe": ("probe", photos, "--model", NETWORK, "--size", 32, 32),
        "evaluate": ("evaluate", run),
        "evaluate --tta": ("evaluate", run, "--tta", 2),
        "predict": ("predict", run, photos / "red"),
        "export": ("export", run, "--to", "keras", "--out", home / "bundle"),
        "compare": ("compare", run, run),
        "report": ("report", run, "--out", home / "page.html"),
        "tune": (
            *("tune", photos, "--recipe", "head-only", "--model", NETWORK, "--set", "data.size=[32,32]"),
            *("--space", home / "space.yaml", "--trials", 1, "--out", home / "search"),
        ),
        "pretrain": ("pretrain", copies, "--epochs", 1, "--size", 32, "--batch-size", 8, "--out", home / "mine.yaml"),
        "recipe list": ("recipe", "list"),
        "recipe validate": ("recipe", "validate", "two-phase"),
        "recipe run": ("recipe", "run", tiny, photos, "--out", home / "run"),
        "recipe run --dry-run": ("recipe", "run", tiny, "head-only", "--data", photos, "--dry-run"),
        "zoo list": ("zoo", "list"),
        "zoo show": ("zoo", "show", NETWORK),
        "zoo pull": ("zoo", "pull", NETWORK),
        "zoo verify": ("zoo", "verify"),
        "zoo pack": ("zoo", "pack", "contract", "--out", home / "zoo.zip"),
        "zoo unpack": ("zoo", "unpack", home / "zoo.zip"),
        "zoo add": ("zoo", "add", weights, "--name", "contract"),
        "zoo remove": ("zoo", "remove", "contract"),
        "zoo import": (
            "zoo",
            "import",
            *foreign_weights(home),
            "--architecture",
            "cifar_resnet20",
            "--name",
            "imported",
        ),
        "doctor": ("doctor",),
        "an error": ("plan", home / "nowhere"),
    }

    def document(output: str) -> Any:
        if output == "run.json":
            return json.loads((run / "run.json").read_text(encoding="utf-8"))
        if output == "finetune":
            return finetuned.document
        # Every test has a zoo of its own.
        for needed in {"zoo pack": ["zoo add"], "zoo unpack": ["zoo add", "zoo pack"], "zoo remove": ["zoo add"]}.get(
            output, []
        ):
            (home / "zoo.zip").unlink(missing_ok=True)
            assert tlcli(*lines[needed]).code == 0
        if output == "zoo pack":
            (home / "zoo.zip").unlink(missing_ok=True)
        result = tlcli(*lines[output], "--json")
        assert result.code == (2 if output == "an error" else 0), result.stderr
        return result.document

    return document


def foreign_weights(home: Path) -> tuple[object, ...]:
    """A weights file for `zoo import`, and the option for its map."""
    import numpy as np

    from tlcli.zoo.sources import state_dict

    card = state_dict.find_card("cifar_resnet20")
    network = state_dict.network(card, size=(32, 32), arguments={}, weights=False)
    weights = {f"{layer.name}.{weight.name}": weight.numpy() for layer in network.layers for weight in layer.weights}
    np.savez(home / "weights.npz", **weights)
    rule = "{match: '(.+)[.](.+)', layer: '{1}', variable: '{2}', transpose: none}"
    (home / "map.yaml").write_text(f"rules: [{rule}]", encoding="utf-8")
    return home / "weights.npz", "--map", home / "map.yaml"


@pytest.mark.parametrize("output", SHAPES)
def test_json_has_the_keys_of_the_contract(output: str, documents: Callable[[str], Any]) -> None:
    document, paths = documents(output), words(SHAPES[output])
    if SHAPES[output].startswith("all of"):
        paths = [*words(SHAPES[paths[0]]), *paths[1:]]
    assert paths
    for path in paths:
        at(document, path)


def test_every_command_with_json_has_a_documented_shape() -> None:
    with_json = {name for name, cell in OPTIONS.items() if "`--json`" in cell}
    assert with_json <= set(SHAPES)
