"""`tlcli recipe`."""

import json
from pathlib import Path

import click

from tlcli.cli.options import LOCAL, Group, complete_recipe, global_options, json_option
from tlcli.cli.recipe_run import run


@click.group(cls=Group)
def recipe() -> None:
    """List, show, copy, check and run recipes."""


@recipe.command("list")
@json_option
@global_options
def list_recipes(as_json: bool) -> None:
    """List the bundled recipes."""
    from tlcli.cli import console
    from tlcli.recipe import load

    rows = [{"name": name, "description": load.load(name).description} for name in load.names()]
    if as_json:
        console.print_json(rows)
    else:
        cells = [list(row.values()) for row in rows]
        console.print_table(console.out(), ["recipe", "description"], cells, text_columns=2)


@recipe.command()
@click.argument("name", metavar="RECIPE", shell_complete=complete_recipe)
@global_options
def show(name: str) -> None:
    """Print a recipe with its comments."""
    from tlcli.recipe import load

    click.echo(load.locate(name).read_text(encoding="utf-8"), nl=False)


@recipe.command()
@click.argument("name", metavar="RECIPE", shell_complete=complete_recipe)
@click.argument("file", type=LOCAL, required=False)
@global_options
def copy(name: str, file: Path | None) -> None:
    """Copy a recipe to FILE.

    The default FILE is RECIPE.yaml in the current folder. Existing files are not overwritten.
    """
    from tlcli.errors import OutputError
    from tlcli.paths import write_text
    from tlcli.recipe import load

    source = load.locate(name)
    target = file or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise OutputError("the file already exists", where=str(target), hint="Name another file, or remove it.")
    write_text(target, source.read_text(encoding="utf-8"))
    click.echo(str(target))


@recipe.command()
@click.option("--path", is_flag=True, help="Print where its file is installed, for editors.")
@global_options
def schema(path: bool) -> None:
    """Print the JSON Schema of recipes, for editors.

    With it they complete keys, explain them and mark mistakes. First line of a recipe for VS Code's YAML extension:
    # yaml-language-server: $schema=PATH
    """
    from tlcli.recipe import reference

    file = reference.schema_file()
    click.echo(str(file) if path else file.read_text(encoding="utf-8"), nl=path)


@recipe.command()
@click.argument("recipes", metavar="RECIPE…", nargs=-1, required=True, shell_complete=complete_recipe)
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="Set a value of the recipe; repeatable.")
@json_option
@global_options
def validate(recipes: tuple[str, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Check recipes and list all problems.

    RECIPE is a bundled name, a file, or a folder of files. Problems have line numbers. Exit code 2 if there are any. In
    GitHub Actions they appear beside their lines.
    """
    from tlcli.errors import Problem, RecipeError, sentences
    from tlcli.recipe import files, load
    from tlcli.report import ci

    problems: list[Problem] = []
    names = files.find(recipes)
    for name in names:
        try:
            load.load(name, settings=settings)
            if not as_json:
                click.echo(f"{name}: ok")
        except RecipeError as error:
            problems += error.problems
    if problems:
        if ci.is_github():
            for problem in problems:
                click.echo(ci.annotation(problem.where, sentences(problem.message, problem.hint)), err=True)
        raise RecipeError(problems)
    if as_json:
        click.echo(json.dumps([{"recipe": name, "valid": True} for name in names]))


@recipe.command()
@click.argument("name", metavar="RECIPE", shell_complete=complete_recipe)
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="Set a value of the recipe; repeatable.")
@global_options
def render(name: str, settings: tuple[str, ...]) -> None:
    """Print a recipe with all defaults."""
    from tlcli.recipe import load

    click.echo(load.render(load.load(name, settings=settings)), nl=False)


recipe.add_command(run)
