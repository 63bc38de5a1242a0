"""`tlcli recipe`: the bundled recipes, and yours."""

import json
from pathlib import Path

import click

from tlcli.cli.options import Group, as_json, state


@click.group(cls=Group)
def recipe() -> None:
    """List, show, copy, check and run recipes."""


@recipe.command("list")
@as_json
@state
def list_recipes(as_json: bool) -> None:
    """The bundled recipes."""
    from tlcli.cli import console
    from tlcli.recipe import load

    rows = [{"name": name, "description": load.load(name).description} for name in load.names()]
    if as_json:
        console.print_json(rows)
    else:
        console.out().print(console.table(["recipe", "what it does"], [list(row.values()) for row in rows], left=2))


@recipe.command()
@click.argument("name", metavar="RECIPE")
@state
def show(name: str) -> None:
    """Print a recipe as it is written, comments and all."""
    from tlcli.recipe import load

    click.echo(load.locate(name).read_text(encoding="utf-8"), nl=False)


@recipe.command()
@click.argument("name", metavar="RECIPE")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@state
def copy(name: str, file: Path | None) -> None:
    """Copy a recipe to FILE to change it.

    Without FILE it becomes RECIPE.yaml here. An existing file is never overwritten.
    """
    from tlcli.errors import OutputError
    from tlcli.paths import write_text
    from tlcli.recipe import load

    source = load.locate(name)
    target = file or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise OutputError("the file already exists", where=str(target), hint="Name another file, or remove this one.")
    write_text(target, source.read_text(encoding="utf-8"))
    click.echo(f"{target}", err=False)


@recipe.command()
@click.argument("files", metavar="RECIPE…", nargs=-1, required=True)
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="Change one value first; repeatable.")
@as_json
@state
def validate(files: tuple[str, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Check recipes and show all their problems.

    All problems of all recipes, with line numbers. Exit code 2 if there are any.
    """
    from tlcli.errors import Problem, RecipeError
    from tlcli.recipe import load

    problems: list[Problem] = []
    for name in files:
        try:
            load.load(name, settings=settings)
            if not as_json:
                click.echo(f"{name}: ok")
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    if as_json:
        click.echo(json.dumps([{"recipe": name, "valid": True} for name in files]))


@recipe.command()
@click.argument("name", metavar="RECIPE")
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="Change one value first; repeatable.")
@state
def render(name: str, settings: tuple[str, ...]) -> None:
    """Print a recipe with every default filled in."""
    from tlcli.recipe import load

    click.echo(load.render(load.load(name, settings=settings)), nl=False)


@recipe.command()
@click.argument("file", metavar="RECIPE")
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="Change one value first; repeatable.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Run folder. [default: runs/<data>-<model>-<n>]")
@click.option("--strict", is_flag=True, help="An unreadable image is an error instead of a warning.")
@as_json
@state
def run(file: str, data: Path | None, settings: tuple[str, ...], out: Path | None, strict: bool, as_json: bool) -> None:
    """Fine-tune and check what the recipe expects.

    For CI: by RECIPE, on DATA or the recipe's own data.path. Exit code 3 when an expectation is not met.
    """
    from tlcli.cli.finetune import run_and_tell
    from tlcli.workflows.request import Request

    options = {} if data is None else {"data.path": str(data)}
    request = Request(recipe=file, settings=settings, options=options, out=out, strict=strict)
    run_and_tell(request, as_json=as_json)
