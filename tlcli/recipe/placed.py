"""Where the user wrote a key of a recipe. Errors about its value, or about the file that it names, say so."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlcli.errors import OutputError, RecipeError, TlcliError
from tlcli.recipe import load
from tlcli.recipe.schema import Recipe

_KEY = re.compile(rf"({'|'.join(Recipe.model_fields)})(\.\w+|\[\d+\])*")
_PLACE = re.compile(r"(.+):(\d+):\d+ (\S+)")
DATA = load.OPTIONS["data.path"]


@contextmanager
def placed(recipe: str, *, settings: Sequence[str], options: Mapping[str, Any]) -> Iterator[None]:
    """Errors within the context say where in the recipe, or by which option, their value or file was given.

    Args:
        recipe: Name of a bundled recipe, or a file.
        settings: The `--set` texts that it is loaded with.
        options: The options that it is loaded with.
    """
    try:
        yield
    except TlcliError as error:
        # A recipe that cannot be loaded has problems with places already.
        with suppress(RecipeError):
            _place(error, _Written(recipe, settings, options))
        raise


@dataclass(frozen=True)
class _Written:
    """A recipe as it was written, and the settings and options that it was loaded with."""

    recipe: str
    settings: Sequence[str]
    options: Mapping[str, Any]

    def place(self, where: str) -> str:
        """The place of a key; any other text as it is."""
        if not _KEY.fullmatch(where):
            return where
        # `model` is short for its name.
        key = "model.name" if where == "model" else where
        return load.place(key, self.recipe, settings=self.settings, options=self.options)

    def source(self, key: str) -> str:
        """What names the file of a key: `--weights`, or `data.path in w.yaml:4`."""
        place = self.place(key)
        found = _PLACE.fullmatch(place)
        return f"{found[3]} in {found[1]}:{found[2]}" if found else place

    def key_of(self, file: str) -> str | None:
        """The key that names a file or folder; None if none does."""
        recipe = load.load(self.recipe, settings=self.settings, options=self.options)
        data, model, teacher = recipe.data, recipe.model, recipe.teacher
        named = {f"data.{name}": getattr(data, name) for name in ("path", "val", "test", "exclude")}
        named |= {"model.name": model.name, "model.weights": model.weights}
        named |= {} if teacher is None else {"teacher.run": teacher.run}
        paths = {key: value for key, value in named.items() if isinstance(value, str | Path)}
        return next((key for key, path in paths.items() if file in _spellings(path)), None)


def _spellings(path: str | Path) -> tuple[str, str]:
    """A path as it was written, and as messages have it."""
    return str(path), str(Path(path).expanduser().resolve())


def _place(error: TlcliError, written: _Written) -> None:
    """Put places into an error."""
    if isinstance(error, RecipeError):
        error.problems = tuple(replace(problem, where=written.place(problem.where)) for problem in error.problems)
        error.where = error.problems[0].where
        return
    where = written.place(error.where)
    is_file = where == error.where and not isinstance(error, OutputError)
    error.where = where
    # A line of the file may follow.
    key = written.key_of(re.sub(r":\d+$", "", where)) if is_file else None
    if key is not None:
        error.message = _with_source(error.message, key, written.source(key))


def _with_source(message: str, key: str, source: str) -> str:
    """A message about a file with what names it. Without any, the file is called DATA, or by its key."""
    name = DATA if key == "data.path" else key
    if source == DATA or source in message:
        return message
    if f"(given as {name})" in message:
        return message.replace(f"(given as {name})", f"(given by {source})")
    if message.startswith(f"{name} is "):
        return source + message.removeprefix(name)
    return f"{message[:-1]}; given by {source})" if message.endswith(")") else f"{message} (given by {source})"
