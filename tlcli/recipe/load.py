"""Load a recipe from YAML and `--set a.b=c`; report every problem with file, line and column."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tlcli.errors import Problem, RecipeError, did_you_mean
from tlcli.paths import bundled
from tlcli.recipe.schema import Recipe

KeyPath = tuple[str | int, ...]
DEFAULT = "unfreeze-until-plateau"
# Command-line names of keys that are not called so.
OPTIONS = {"data.path": "DATA", "model.name": "--model"}
MAX_BYTES = 1_000_000
# Keys of former versions, and what they are called now.
RENAMED = {
    "go_on": "min_relative_gain",
    "blend": "interpolate",
    "pick": "group_count",
    "recall": "reuse_results",
}


@dataclass
class Draft:
    """A recipe while it is put together: the plain tree, and where each of its keys was written."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """The place of a key, or of the nearest key above it that was written down.

        Of a section, the `--set` by which something in it was set: that is what a rule of the section met first.
        """
        below = (origin for key, origin in self.origins.items() if key[: len(path)] == path and len(key) > len(path))
        if path and (typed := next((origin for origin in below if origin.startswith("--set")), None)):
            return typed
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return "recipe"


def names() -> list[str]:
    """The bundled recipes, sorted."""
    return sorted(path.stem for path in bundled("recipes").glob("*.yaml"))


def locate(recipe: str) -> Path:
    """The file of a bundled recipe or of a path.

    Raises:
        RecipeError: If there is neither.
    """
    if recipe in names():
        return bundled("recipes") / f"{recipe}.yaml"
    path = Path(recipe)
    if path.is_file():
        return path
    hint = did_you_mean(recipe, names()) or f"Bundled recipes: {', '.join(names())}."
    raise RecipeError([Problem("recipe", f"no bundled recipe and no file is called '{recipe}'", hint)])


def load(recipe: str, *, settings: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe by bundled name or path, apply its parent, options and settings, and check all of it.

    Args:
        recipe: A bundled recipe's name, or a file.
        settings: `--set` texts, `a.b=c`.
        options: Values of named command-line options by recipe key, for example `model.weights`.

    Raises:
        RecipeError: With every problem found.
    """
    found = draft(locate(recipe))
    given = {_path(key): OPTIONS.get(key, "--" + key.rpartition(".")[2]) for key in options or {}}
    for key, value in (options or {}).items():
        _put(found, _path(key), value, origin=given[_path(key)])
    return check(found, settings=settings, given=given)


def parse(text: str, *, origin: str = "recipe", settings: Sequence[str] = ()) -> Recipe:
    """A recipe from YAML text; `origin` names it in messages."""
    return check(_extended(_read(text, origin), Path()), settings=settings)


def draft(path: Path) -> Draft:
    """The unchecked tree of a recipe file, its parent merged in."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError([Problem(str(path), "is larger than 1 MB", "A recipe is a short YAML file.")])
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Problem(str(path), f"cannot be read ({error})")]) from error
    return _extended(_read(text, str(path)), path.parent)


def check(recipe: Draft, *, settings: Sequence[str] = (), given: Mapping[KeyPath, str] | None = None) -> Recipe:
    """Apply settings and validate. `given`: what other options have set already, and their names.

    Raises:
        RecipeError: With every problem found, settings and schema together.
    """
    problems = [problem for text in settings for problem in _set(recipe, text, given or {})]
    try:
        checked = Recipe.model_validate(recipe.tree)
    except ValidationError as error:
        found = sorted(error.errors(), key=_is_beside_the_point)
        problems += [_problem(details, recipe, _alternatives(details, found)) for details in found]
    if problems:
        # A value that fits no member of a union is reported once for each member: the first says it best.
        once = {problem.where: problem for problem in reversed(problems)}
        raise RecipeError(sorted(once.values(), key=_by_place))
    return checked


def render(recipe: Recipe) -> str:
    """The fully rendered recipe as YAML; loading it gives an equal recipe."""
    tree = recipe.model_copy(update={"extends": None}).model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)


def _read(text: str, origin: str) -> Draft:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark else origin
        raise RecipeError([Problem(where, f"is not valid YAML ({error.problem or error})")]) from error
    except yaml.YAMLError as error:
        raise RecipeError([Problem(origin, f"is not valid YAML ({error})")]) from error
    if not isinstance(tree, dict) or node is None:
        raise RecipeError([Problem(origin, "is not a recipe: the top level must be keys and values")])
    origins: dict[KeyPath, str] = {(): origin}
    doubled = list(_walk(node, (), origin, origins))
    if doubled:
        raise RecipeError(doubled)
    return Draft(tree, origins)


def _walk(node: yaml.Node, path: KeyPath, origin: str, origins: dict[KeyPath, str]) -> Iterator[Problem]:
    """Note the place of every key; yields a problem for each key that stands twice."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            place = f"{origin}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if below in origins:
                yield Problem(f"{place} {_dotted(below)}", "stands twice", "Keep one of the two.")
            origins[below] = place
            yield from _walk(value, below, origin, origins)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            below = (*path, index)
            origins[below] = f"{origin}:{value.start_mark.line + 1}:{value.start_mark.column + 1}"
            yield from _walk(value, below, origin, origins)


def _extended(child: Draft, folder: Path) -> Draft:
    """Merge the recipe named by `extends` under the child: sections key by key, lists whole."""
    parent_name = child.tree.get("extends")
    if not isinstance(parent_name, str):
        return child
    sibling = folder / parent_name
    path = sibling if sibling.is_file() else locate(parent_name)
    parent = _read(path.read_text(encoding="utf-8"), str(path))
    if parent.tree.get("extends"):
        where = f"{child.origin(('extends',))} extends"
        raise RecipeError([Problem(where, f"'{parent_name}' extends another recipe itself", "One level is allowed.")])
    return Draft(_merged(parent.tree, child.tree), {**parent.origins, **child.origins})


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _set(recipe: Draft, text: str, given: Mapping[KeyPath, str]) -> list[Problem]:
    """Apply one `a.b=c` or `phases.1.epochs=3` to the tree; problems instead of exceptions, to be shown together."""
    key, equals, written = text.partition("=")
    where = f"--set {text}"
    if not equals or not key.strip():
        return [Problem(where, "must read key=value", "For example --set phases.1.epochs=3.")]
    path = _path(key.strip())
    if path in given:
        return [Problem(where, f"is said by {given[path]}, too", "Say it once.")]
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError:
        return [Problem(where, f"the value is not valid YAML (got {written!r})")]
    if not _put(recipe, path, value, origin="--set"):
        return [Problem(where, f"there is no {_dotted(path)} in this recipe")]
    return []


def _put(recipe: Draft, path: KeyPath, value: Any, *, origin: str) -> bool:
    """Put a value at a path of the tree; False where the path leads through something that is not there."""
    place: Any = recipe.tree
    for part, following in pairwise(path):
        place = _entered(place, part, following)
    is_key = isinstance(place, dict) and isinstance(path[-1], str)
    is_item = isinstance(place, list) and isinstance(path[-1], int) and path[-1] < len(place)
    if not (is_key or is_item):
        return False
    place[path[-1]] = value
    recipe.origins = {known: at for known, at in recipe.origins.items() if known[: len(path)] != path}
    recipe.origins[path] = origin
    for length in range(1, len(path)):
        recipe.origins.setdefault(path[:length], origin)
    return True


def _entered(place: Any, part: str | int, following: str | int) -> Any:
    if isinstance(place, list):
        return place[part] if isinstance(part, int) and part < len(place) else None
    if not isinstance(place, dict) or not isinstance(part, str):
        return None
    if place.get(part) is None and isinstance(following, str):
        place[part] = {}
    return place.get(part)


def _path(key: str) -> KeyPath:
    """`phases[1].until.patience` or `phases.1.until.patience` as a path."""
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _dotted(path: KeyPath) -> str:
    """A path as it is written on the command line.

    >>> _dotted(("phases", 1, "epochs"))
    'phases[1].epochs'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _problem(details: ErrorDetails, recipe: Draft, alternatives: str) -> Problem:
    path = _written(details["loc"], recipe.tree)
    origin = recipe.origin(path)
    # An option of its own says what it is about; a place in a file, and --set, do not.
    where = origin if origin.startswith("--") and origin != "--set" else f"{origin} {_dotted(path)}".strip()
    if details["type"] == "extra_forbidden" and path[-1] in RENAMED:
        return Problem(where, f"{path[-1]} was renamed", f"Write {RENAMED[str(path[-1])]} instead.")
    if details["type"] == "extra_forbidden":
        siblings = _fields_at(path[:-1])
        hint = did_you_mean(str(path[-1]), siblings) or f"Known keys: {', '.join(siblings)}."
        return Problem(where, "unknown key", hint)
    if details["type"] == "missing":
        return Problem(where, "is missing")
    is_truth = details["type"] in ("bool_parsing", "bool_type")
    message = "should be true or false" if is_truth else details["msg"].removeprefix("Value error, ")
    got = details["input"]
    shown = "" if "(got" in message or isinstance(got, dict | list | BaseModel) else f" (got {_brief(got)})"
    if alternatives:
        before, _, words = message.partition("Input should be ")
        glue = ", " if " or " in words else " or "
        message = f"{before}Input should be {alternatives}{glue}{words}"
    return Problem(where, f"{message[:1].lower()}{message[1:]}{shown}", _near(details, got))


def _alternatives(details: ErrorDetails, found: Sequence[ErrorDetails]) -> str:
    """What may stand in the place of a word besides words, where other members of a union were tried: `a number`."""
    if details["type"] != "literal_error":
        return ""
    kinds = {other["type"] for other in found if other["loc"][:-1] == details["loc"][:-1]}
    named = {
        "int_parsing": "a number",
        "float_parsing": "a number",
        "string_pattern_mismatch": "a share such as 30% or 30% of parameters",
    }
    return ", ".join(dict.fromkeys(text for kind, text in named.items() if kind in kinds))


def _is_beside_the_point(details: ErrorDetails) -> bool:
    """Whether it tells one who wrote a number which words there are, or one who wrote a word about numbers."""
    return isinstance(details["input"], str) != (details["type"] == "literal_error")


def _brief(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _near(details: ErrorDetails, got: Any) -> str:
    if details["type"] != "literal_error" or not isinstance(got, str):
        return ""
    return did_you_mean(got, re.findall(r"'([^']+)'", str(details.get("ctx", {}).get("expected", ""))))


def _written(loc: KeyPath, tree: Any) -> KeyPath:
    """Pydantic's location without the parts that name a member of a union, which nobody wrote."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        is_key = isinstance(tree, dict) and isinstance(part, str) and (part in tree or index == len(loc) - 1)
        is_item = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if is_key or is_item:
            path.append(part)
            tree = tree.get(part) if isinstance(tree, dict) else tree[part]
    return tuple(path)


def _fields_at(path: KeyPath) -> list[str]:
    """The keys that the schema knows at a path."""
    model: Any = Recipe
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(argument) for argument in get_args(annotation)]
    return next((model for model in found if model is not None), None)


def _by_place(problem: Problem) -> tuple[str, int, int]:
    match = re.match(r"(.*?):(\d+):(\d+)", problem.where)
    return (match[1], int(match[2]), int(match[3])) if match else (problem.where, 0, 0)
