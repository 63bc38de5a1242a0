"""The documentation: it has every recipe, its commands exist, and its examples work."""

import doctest
import importlib
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import doc_blocks
import pytest

from tlcli.cli.main import cli
from tlcli.recipe import load

CHECKOUT = Path(__file__).resolve().parents[2]
MIGRATION = (CHECKOUT / "docs" / "how-to" / "migrate.md").read_text(encoding="utf-8")
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def documented() -> Iterator[tuple[str, ...]]:
    """The words of every `tlcli …` line in the code blocks of the documentation, up to a pipe or redirection."""
    for page in doc_blocks.pages():
        for block in doc_blocks.find(page):
            for line in block.script.splitlines():
                if line.startswith("tlcli "):
                    yield tuple(shlex.split(re.split(r" (?:\||\d?>|&)", line)[0], comments=True)[1:])


LINES = [*dict.fromkeys(documented())]


def recipe_examples() -> Iterator[tuple[str, ...]]:
    """The command lines in the comments of the bundled recipes."""
    for name in load.names():
        for line in load.locate(name).read_text(encoding="utf-8").splitlines():
            if line.startswith("#   tlcli "):
                yield tuple(shlex.split(line.removeprefix("#"))[1:])


def parsed(words: Iterable[str]) -> click.Context:
    """Parse a command line without running it."""
    context = cli.make_context("tlcli", list(words))
    command: click.Command = cli
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, subcommand, rest = command.resolve_command(context, rest)
        assert subcommand is not None
        command, context = subcommand, subcommand.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize("name", load.names())
def test_every_recipe_is_in_the_readme(name: str) -> None:
    assert f"| `{name}` |" in README
    assert load.load(name).description


def test_there_are_seventeen_recipes() -> None:
    assert len(load.names()) == 17
    assert len(re.findall(r"^\| `[a-z-]+` \|", README, re.MULTILINE)) == 17


def test_the_documentation_has_command_lines() -> None:
    assert len(LINES) >= 120
    assert len(list(recipe_examples())) >= 6


@pytest.mark.parametrize("words", [*dict.fromkeys([*LINES, *recipe_examples()])], ids=" ".join)
def test_every_documented_command_line_is_valid(words: tuple[str, ...]) -> None:
    if "--cluster" in words:
        pytest.importorskip("ray")
    context = parsed(words)
    assert context.command.callback is not None
    settings = context.params.get("settings", ())
    recipe = context.params.get("recipe") or load.DEFAULT
    load.load(recipe if recipe in load.names() else load.DEFAULT, settings=settings)


def test_parsed_refuses_an_invalid_command_line() -> None:
    with pytest.raises(click.UsageError):
        parsed(["finetune", "photos/", "--modle", "x"])


def test_networks_in_the_readme_have_cards() -> None:
    from tlcli.zoo import catalogue

    named = {*re.findall(r"--model (\w+)(?![\w.])", README), *re.findall(r"tlcli inspect (\w+)", README)}
    named.discard("my_network")
    assert len(named) >= 3
    assert named <= set(catalogue.load())
    assert f"the {len(catalogue.load())} networks" in README


def test_files_of_a_run_are_those_of_the_readme(finished: tuple) -> None:
    part = README.partition("## The run folder")[2].partition("`status`")[0]
    listed = set(re.findall(r"^  ([\w.]+)  ", part, re.MULTILINE))
    assert listed == {path.name for path in finished[0].iterdir()}


def is_valid_link(link: str) -> bool:
    """True if the file exists and has the linked heading, if there is one."""
    name, _, anchor = link.partition("#")
    path = CHECKOUT / name
    if not path.exists() or not anchor:
        return path.exists()
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_links_of_the_readme_are_valid() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) >= 4
    assert [link for link in links if not is_valid_link(link)] == []


@pytest.mark.parametrize("page", sorted((CHECKOUT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_links_of_the_pages_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def old_flags() -> Iterator[str]:
    """What stands in backticks in the last column of the tables of old flags."""
    for row in re.findall(r"^\|.*\| (.*) \|$", MIGRATION, re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", row)


def test_the_options_beside_old_flags_exist() -> None:
    known = {
        name
        for command in (cli.commands[name] for name in ("finetune", "export", "evaluate"))
        for option in command.params
        for name in option.opts
    }
    flags = list(old_flags())
    assert {word for flag in flags for word in re.findall(r"(?<!\S)--[a-z-]+", flag)} <= known
    settings = [re.findall(r"--set (\S+=\S+)", flag) for flag in flags]
    assert sum(map(len, settings)) >= 12
    for group in filter(None, settings):
        load.load("two-phase", settings=tuple(group))


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = (CHECKOUT / "zensical.toml").read_text(encoding="utf-8")
    pages = [path.relative_to(CHECKOUT / "docs").as_posix() for path in (CHECKOUT / "docs").rglob("*.md")]
    listed = re.findall(r'= "([\w/-]+\.md)"', navigation)
    assert sorted(listed) == sorted(page for page in pages if page == "adr/index.md" or not page.startswith("adr/"))


def test_the_plain_keras_example_of_the_readme_works(
    finished: tuple, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[0]
    code = code.replace("runs/photos-efficientnet_lite0-1", str(finished[0])).replace("new/one.jpg", "new/one.bmp")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "one.bmp").write_bytes((photos / "red" / "01.bmp").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    label, probability = capsys.readouterr().out.split()
    assert label in (finished[0] / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert 1 / 3 <= float(probability) <= 1


def test_examples_in_docstrings_are_right() -> None:
    sources = [path for path in (CHECKOUT / "tlcli").rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")]
    attempted = 0
    for path in sources:
        module = importlib.import_module(".".join(path.relative_to(CHECKOUT).with_suffix("").parts))
        result = doctest.testmod(module)
        assert result.failed == 0
        attempted += result.attempted
    assert attempted >= 8
