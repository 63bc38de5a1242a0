"""Which recipes a command line names: bundled names, files, and folders of files."""

from collections.abc import Sequence
from pathlib import Path

from tlcli.errors import Problem, RecipeError, did_you_mean
from tlcli.recipe import load

SUFFIXES = (".yaml", ".yml")


def in_folder(folder: Path) -> list[Path]:
    """The recipe files of a folder, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


def find(words: Sequence[str]) -> list[str]:
    """The recipes that words name, in their order and each once. Those of a folder come in the order of their names.

    Args:
        words: Names of bundled recipes, files and folders.

    Raises:
        RecipeError: If a folder has no recipes. Other wrong words are reported when their recipe is loaded.
    """
    found: list[str] = []
    for word in words:
        folder = Path(word)
        if word in load.names() or not folder.is_dir():
            found.append(word)
        elif files := in_folder(folder):
            found += map(str, files)
        else:
            message = f"has no recipes: no files that end in {' or '.join(SUFFIXES)}"
            raise RecipeError([Problem(word, message, "An image folder is given by --data.")])
    return list(dict.fromkeys(found))


def split_data(words: Sequence[str], *, has_data: bool = False) -> tuple[list[str], str | None]:
    """Recipes and images of a command line: a last word that can only name images does so, as `--data` would.

    Args:
        words: The words.
        has_data: True if the images are named by `--data`; then all words are recipes.
    """
    *recipes, last = words
    path = Path(last)
    is_recipe = last in load.names() or path.suffix in SUFFIXES or (path.is_dir() and in_folder(path))
    is_mistyped = not path.exists() and did_you_mean(last, load.names()) != ""
    if has_data or not recipes or is_recipe or is_mistyped:
        return list(words), None
    return recipes, last


def expectations_in(recipe: str) -> dict[str, str]:
    """Where each expectation of a recipe is written, `file:line:column`, by its text; empty if it cannot be read."""
    try:
        draft = load.draft(load.locate(recipe))
    except RecipeError:
        return {}
    written = draft.tree.get("expect")
    texts = written if isinstance(written, list) else []
    return {text.strip(): draft.origin(("expect", i)) for i, text in enumerate(texts) if isinstance(text, str)}
