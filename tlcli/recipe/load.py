"""Load a recipe from YAML and `--set a.b=c`; report all problems with file, line and column."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tlcli.errors import Problem, RecipeError, did_you_mean
from tlcli.paths import bundled
from tlcli.recipe import yaml_text
from tlcli.recipe.draft import Draft, KeyPath, dotted, key_path, read_draft
from tlcli.recipe.problems import line_order, problems_of
from tlcli.recipe.schema import Recipe
from tlcli.text import why_unreadable

DEFAULT = "unfreeze-until-plateau"
# Command-line options whose name differs from the last part of their recipe key.
OPTIONS = {"data.path": "DATA", "model.name": "--model"}
MAX_BYTES = 1_000_000


def names() -> list[str]:
    """Names of the bundled recipes, sorted."""
    return sorted(path.stem for path in bundled("recipes").glob("*.yaml"))


def locate(recipe: str) -> Path:
    """The file of a recipe, given by bundled name or by path.

    Raises:
        RecipeError: If there is no such recipe.
    """
    if recipe in names():
        return bundled("recipes") / f"{recipe}.yaml"
    path = Path(recipe)
    if path.is_file():
        return path
    hint = did_you_mean(recipe, names()) or f"Bundled recipes: {', '.join(names())}."
    raise RecipeError([Problem("recipe", f"there is no bundled recipe and no file '{recipe}'", hint)])


def load(recipe: str, *, settings: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Recipe:
    """Load and validate a recipe, merged with its parent, command-line options and settings.

    Args:
        recipe: Name of a bundled recipe, or a file.
        settings: `--set` texts, `a.b=c`.
        options: Values of command-line options by recipe key, for example `model.weights`. `phases.epochs` and
            `phases.lr` set the key in every phase that trains, the latter also that of the optimiser.

    Raises:
        RecipeError: With all problems.
    """
    recipe_draft, option_names = _with_options(recipe, options or {})
    return check(recipe_draft, settings=settings, option_names=option_names)


def place(key: str, recipe: str, *, settings: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> str:
    """Where a key of a valid recipe was written: `file:line:column key`, `--set key`, or the name of an option.

    For a key that was not written, it is the section that was, or else the key alone.

    Args:
        key: Such as `phases[0].train`.
        recipe: Name of a bundled recipe, or a file.
        settings: The `--set` texts that it was loaded with.
        options: The options that it was loaded with.
    """
    recipe_draft, option_names = _with_options(recipe, options or {})
    for text in settings:
        _apply_setting(recipe_draft, text, option_names)
    path = key_path(key)
    origin = recipe_draft.origin(path)
    if re.search(r":\d+:\d+$", origin):
        return f"{origin} {key}"
    if not _is_written(recipe_draft.tree, path):
        return key
    return f"{origin} {key}" if origin == "--set" else origin


def _is_written(tree: Any, path: KeyPath) -> bool:
    """True if a tree has a value at a path."""
    for part in path:
        is_there = part in tree if isinstance(tree, dict) else isinstance(tree, list) and part in range(len(tree))
        if not is_there:
            return False
        tree = tree[part]
    return True


def _with_options(recipe: str, options: Mapping[str, Any]) -> tuple[Draft, dict[KeyPath, str]]:
    """A recipe with the values of options, unchecked, and the names of the options by the keys that they set."""
    recipe_draft = draft(locate(recipe))
    values = {path: item for item in options.items() for path in _option_paths(item[0], recipe_draft.tree)}
    option_names = {path: OPTIONS.get(key, "--" + key.rpartition(".")[2]) for path, (key, _) in values.items()}
    for path, (_, value) in values.items():
        _put(recipe_draft, path, value, origin=option_names[path])
    return recipe_draft, option_names


def _option_paths(key: str, tree: Mapping[str, Any]) -> list[KeyPath]:
    """The keys that an option sets: one, or one of each phase that trains. A phase with `epochs: 0` does not."""
    section, _, name = key.rpartition(".")
    if section != "phases":
        return [key_path(key)]
    phases = tree.get("phases")
    listed = list(enumerate(phases)) if isinstance(phases, list) else []
    paths = [
        ("phases", number, name) for number, phase in listed if isinstance(phase, dict) and phase.get("epochs") != 0
    ]
    return [("optimizer", "lr"), *paths] if name == "lr" else list(paths)


def parse(text: str, *, origin: str = "recipe", settings: Sequence[str] = ()) -> Recipe:
    """Parse and validate a recipe from YAML text; messages call the text `origin`."""
    return check(_merge_parent(read_draft(text, origin), Path()), settings=settings)


def draft(path: Path) -> Draft:
    """Read a recipe file and merge it with its parent, unchecked."""
    return _merge_parent(_read_file(path), path.parent)


def _read_file(path: Path) -> Draft:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError([Problem(str(path), "is larger than 1 MB", "A recipe is a short YAML file.")])
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Problem(str(path), f"cannot be read ({why_unreadable(error)})")]) from error
    return read_draft(text, str(path))


def check(recipe: Draft, *, settings: Sequence[str] = (), option_names: Mapping[KeyPath, str] | None = None) -> Recipe:
    """Apply settings and validate.

    Args:
        recipe: Changed in place by the settings.
        settings: `--set` texts, `a.b=c`.
        option_names: Names of command-line options by the keys they have already set.

    Raises:
        RecipeError: With all problems of the settings and the schema.
    """
    problems = [problem for text in settings for problem in _apply_setting(recipe, text, option_names or {})]
    problems += recipe.problems
    try:
        checked = Recipe.model_validate(recipe.tree)
    except ValidationError as error:
        problems += problems_of(error, recipe)
    if problems:
        raise RecipeError(sorted(problems, key=line_order))
    return checked


def render(recipe: Recipe) -> str:
    """The recipe as YAML with all defaults. Loading it gives an equal recipe."""
    tree = recipe.model_copy(update={"extends": None}).model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)


def _merge_parent(child: Draft, folder: Path) -> Draft:
    """The child merged over the recipe that it `extends`: sections key by key, lists as a whole."""
    parent_name = child.tree.get("extends")
    if not isinstance(parent_name, str):
        return child
    sibling = folder / parent_name
    where = f"{child.origin(('extends',))} extends"
    try:
        path = sibling if sibling.is_file() else locate(parent_name)
        parent = _read_file(path)
    except RecipeError as error:
        # The other mistakes of the child are found all the same.
        found = error.problems[0]
        child.problems.append(replace(found, where=where) if found.where == "recipe" else found)
        child.is_part = True
        return child
    if parent.tree.get("extends"):
        problem = Problem(where, f"'{parent_name}' itself extends a recipe", "Only one level is allowed.")
        child.problems.append(problem)
        child.is_part = True
        return child
    merged = _merge(parent.tree, child.tree)
    return Draft(merged, {**parent.origins, **child.origins}, [*parent.problems, *child.problems])


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees merged key by key; values of `above` win."""
    merged = dict(below)
    for key, value in above.items():
        are_sections = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if are_sections else value
    return merged


def _apply_setting(recipe: Draft, text: str, option_names: Mapping[KeyPath, str]) -> list[Problem]:
    """Apply one `a.b=c` or `phases.1.epochs=3` to the tree. Returns problems, so that all are reported together."""
    key, equals, written = text.partition("=")
    where = f"--set {text}"
    if not equals or not key.strip():
        return [Problem(where, "must read key=value", "For example --set phases.1.epochs=3.")]
    path = key_path(key.strip())
    for other, name in option_names.items():
        # A key, a key within it, or a section around it.
        if path[: len(other)] == other[: len(path)]:
            return [Problem(where, f"is also set by {name}", "Set it once.")]
    try:
        _, value = yaml_text.read(written)
    except yaml.YAMLError:
        return [Problem(where, f"the value is not valid YAML (got {written!r})")]
    if not _put(recipe, path, value, origin="--set"):
        return [Problem(where, f"there is no {dotted(path)} in this recipe")]
    return []


def _put(recipe: Draft, path: KeyPath, value: Any, *, origin: str) -> bool:
    """Set the value at a path of the tree; False if the path leads through something that does not exist."""
    parent: Any = recipe.tree
    for part, following in pairwise(path):
        parent = _child(parent, part, following)
    is_key = isinstance(parent, dict) and isinstance(path[-1], str)
    is_item = isinstance(parent, list) and isinstance(path[-1], int) and path[-1] < len(parent)
    if not (is_key or is_item):
        return False
    parent[path[-1]] = value
    recipe.origins = {key: place for key, place in recipe.origins.items() if key[: len(path)] != path}
    recipe.origins[path] = origin
    for length in range(1, len(path)):
        recipe.origins.setdefault(path[:length], origin)
    return True


def _child(parent: Any, part: str | int, following: str | int) -> Any:
    """The child of a tree node, None if there is none. A missing section is created if `following` is a key."""
    if isinstance(parent, list):
        return parent[part] if isinstance(part, int) and part < len(parent) else None
    if not isinstance(parent, dict) or not isinstance(part, str):
        return None
    if parent.get(part) is None and isinstance(following, str):
        parent[part] = {}
    return parent.get(part)
