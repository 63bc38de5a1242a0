"""Load a recipe from YAML and `--set a.b=c`; report all problems with file, line and column."""

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
# Command-line options whose name differs from the last part of their recipe key.
OPTIONS = {"data.path": "DATA", "model.name": "--model"}
MAX_BYTES = 1_000_000
# Keys of earlier versions and their present names.
RENAMED = {
    "go_on": "min_relative_gain",
    "blend": "interpolate",
    "pick": "group_count",
    "recall": "reuse_results",
}


@dataclass
class Draft:
    """An unchecked recipe: the plain tree, and the place where each of its keys was written."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """The place of a key, or of the nearest key above it that was written.

        For a section with a key from `--set`, it is that `--set`: most likely it broke the rule of the section.
        """
        below = (origin for key, origin in self.origins.items() if key[: len(path)] == path and len(key) > len(path))
        if path and (option := next((origin for origin in below if origin.startswith("--set")), None)):
            return option
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return "recipe"


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
    recipe_draft = draft(locate(recipe))
    values = {path: item for item in (options or {}).items() for path in _option_paths(item[0], recipe_draft.tree)}
    option_names = {path: OPTIONS.get(key, "--" + key.rpartition(".")[2]) for path, (key, _) in values.items()}
    for path, (_, value) in values.items():
        _put(recipe_draft, path, value, origin=option_names[path])
    return check(recipe_draft, settings=settings, option_names=option_names)


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
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError([Problem(str(path), "is larger than 1 MB", "A recipe is a short YAML file.")])
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Problem(str(path), f"cannot be read ({error})")]) from error
    return _merge_parent(read_draft(text, str(path)), path.parent)


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
    try:
        checked = Recipe.model_validate(recipe.tree)
    except ValidationError as error:
        errors = sorted(_most_precise(error.errors(), recipe.tree), key=_is_unlikely_meant)
        problems += [_problem(details, recipe, _alternatives(details, errors)) for details in errors]
    if problems:
        # Pydantic reports a value once per member of a union; only the first, most likely report is kept.
        by_place = {problem.where: problem for problem in reversed(problems)}
        raise RecipeError(sorted(by_place.values(), key=_line_order))
    return checked


def render(recipe: Recipe) -> str:
    """The recipe as YAML with all defaults. Loading it gives an equal recipe."""
    tree = recipe.model_copy(update={"extends": None}).model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)


def read_draft(text: str, origin: str) -> Draft:
    """Read YAML text with keys and values, unchecked; messages call the text `origin`.

    Raises:
        RecipeError: If it is not YAML, or has a key twice.
    """
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
    duplicates = list(_record_origins(node, (), origin, origins))
    if duplicates:
        raise RecipeError(duplicates)
    return Draft(tree, origins)


def _record_origins(node: yaml.Node, path: KeyPath, origin: str, origins: dict[KeyPath, str]) -> Iterator[Problem]:
    """Fill `origins` with the place of each key below a node; yield a problem for each duplicate key."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            place = f"{origin}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if below in origins:
                yield Problem(f"{place} {_dotted(below)}", "duplicate key", "Keep one of the two.")
            origins[below] = place
            yield from _record_origins(value, below, origin, origins)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            below = (*path, index)
            origins[below] = f"{origin}:{value.start_mark.line + 1}:{value.start_mark.column + 1}"
            yield from _record_origins(value, below, origin, origins)


def _merge_parent(child: Draft, folder: Path) -> Draft:
    """The child merged over the recipe that it `extends`: sections key by key, lists as a whole."""
    parent_name = child.tree.get("extends")
    if not isinstance(parent_name, str):
        return child
    sibling = folder / parent_name
    path = sibling if sibling.is_file() else locate(parent_name)
    parent = read_draft(path.read_text(encoding="utf-8"), str(path))
    if parent.tree.get("extends"):
        where = f"{child.origin(('extends',))} extends"
        raise RecipeError([Problem(where, f"'{parent_name}' itself extends a recipe", "Only one level is allowed.")])
    return Draft(_merge(parent.tree, child.tree), {**parent.origins, **child.origins})


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
        value = yaml.safe_load(written)
    except yaml.YAMLError:
        return [Problem(where, f"the value is not valid YAML (got {written!r})")]
    if not _put(recipe, path, value, origin="--set"):
        return [Problem(where, f"there is no {_dotted(path)} in this recipe")]
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


def key_path(key: str) -> KeyPath:
    """`phases[1].until.patience` or `phases.1.until.patience` as a path."""
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _dotted(path: KeyPath) -> str:
    """A path in the form of the command line.

    >>> _dotted(("phases", 1, "epochs"))
    'phases[1].epochs'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _problem(details: ErrorDetails, recipe: Draft, alternatives: str) -> Problem:
    """One of pydantic's errors, in the words of this program."""
    path = _path_in_tree(details["loc"], recipe.tree)
    message = details["msg"].removeprefix("Value error, ")
    if (named := re.match(r"([\w.]+): ", message)) and (*path, *key_path(named[1])) in recipe.origins:
        # The rule of a section was broken by the key that it begins with.
        path = (*path, *key_path(named[1]))
    origin = recipe.origin(path)
    # The name of an option says which key it sets; `--set` and a place in a file do not.
    where = origin if origin.startswith("--") and origin != "--set" else f"{origin} {_dotted(path)}".strip()
    if named and where.endswith(named[1]):
        message = message.removeprefix(named[0])
    if details["type"] == "extra_forbidden":
        return _unknown_key(where, path)
    if details["type"] == "missing":
        return Problem(where, "is missing")
    is_bool = details["type"] in ("bool_parsing", "bool_type")
    message = "should be true or false" if is_bool else message
    value = details["input"]
    got = "" if "(got" in message or isinstance(value, dict | list | BaseModel) else f" (got {shortened(value)})"
    if alternatives:
        before, _, words = message.partition("Input should be ")
        glue = ", " if " or " in words else " or "
        message = f"{before}Input should be {alternatives}{glue}{words}"
    return Problem(where, f"{message[:1].lower()}{message[1:]}{got}", _word_hint(details))


def _unknown_key(where: str, path: KeyPath) -> Problem:
    if new_name := RENAMED.get(str(path[-1])):
        return Problem(where, f"{path[-1]} was renamed", f"Write {new_name} instead.")
    siblings = _known_keys(path[:-1])
    hint = did_you_mean(str(path[-1]), siblings) or f"Known keys: {', '.join(siblings)}."
    return Problem(where, "unknown key", hint)


def _most_precise(errors: Sequence[ErrorDetails], tree: Any) -> list[ErrorDetails]:
    """The errors without those of a whole list that also has an error about one of its items."""
    paths = [_path_in_tree(details["loc"], tree) for details in errors]
    return [
        details
        for details, path in zip(errors, paths, strict=True)
        if not (isinstance(details["input"], list) and any(other[:-1] == path for other in paths))
    ]


def _alternatives(details: ErrorDetails, errors: Sequence[ErrorDetails]) -> str:
    """What a key takes besides words, such as `a number`, from the errors of the other members of its union."""
    if details["type"] != "literal_error":
        return ""
    kinds = {other["type"] for other in errors if other["loc"][:-1] == details["loc"][:-1]}
    kinds_in_words = {
        "int_parsing": "a number",
        "float_parsing": "a number",
        "string_pattern_mismatch": "a share such as 30% or 30% of parameters",
    }
    return ", ".join(dict.fromkeys(text for kind, text in kinds_in_words.items() if kind in kinds))


def _is_unlikely_meant(details: ErrorDetails) -> bool:
    """True for an error about allowed words if the value is a number, or about numbers if it is a word."""
    return isinstance(details["input"], str) != (details["type"] == "literal_error")


def shortened(value: Any) -> str:
    """A value for a message, at most 60 characters."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _word_hint(details: ErrorDetails) -> str:
    """A suggestion for a mistyped word of a fixed set, or the empty string."""
    if details["type"] != "literal_error" or not isinstance(details["input"], str):
        return ""
    expected = str(details.get("ctx", {}).get("expected", ""))
    return did_you_mean(details["input"], re.findall(r"'([^']+)'", expected))


def _path_in_tree(loc: KeyPath, tree: Any) -> KeyPath:
    """Pydantic's location without the parts that name a member of a union; the recipe does not contain those."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        is_key = isinstance(tree, dict) and isinstance(part, str) and (part in tree or index == len(loc) - 1)
        is_item = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if is_key or is_item:
            path.append(part)
            tree = tree.get(part) if isinstance(tree, dict) else tree[part]
    return tuple(path)


def _known_keys(path: KeyPath) -> list[str]:
    """Keys of the schema in the section at a path, sorted."""
    model: Any = Recipe
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> Any:
    """The first pydantic model in a type annotation; None if it has none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = [_model_in(argument) for argument in get_args(annotation)]
    return next((model for model in models if model is not None), None)


def _line_order(problem: Problem) -> tuple[str, int, int]:
    """Sort key: file, line and column as numbers."""
    match = re.match(r"(.*?):(\d+):(\d+)", problem.where)
    return (match[1], int(match[2]), int(match[3])) if match else (problem.where, 0, 0)
