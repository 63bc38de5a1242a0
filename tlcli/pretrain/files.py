"""Where a pretrained network goes: the card file, and what lies beside it."""

import os
import re
from pathlib import Path

from tlcli.errors import OutputError

SUFFIX = ".yaml"
WEIGHTS, PICTURE, PAGE = ".weights.h5", ".png", ".md"
_ANOTHER = "Choose another --out."


def card_path(written: Path) -> Path:
    """The card file that a user means: with the suffix, whether it was typed or not.

    >>> [card_path(Path(name)).name for name in ("mine", "mine.yaml", "mine.yml", "mine.v2")]
    ['mine.yaml', 'mine.yaml', 'mine.yaml', 'mine.v2.yaml']
    """
    is_card = written.suffix.lower() in (SUFFIX, ".yml")
    return written.with_suffix(SUFFIX) if is_card else written.with_name(written.name + SUFFIX)


def beside(out: Path, suffix: str) -> Path:
    """A file of the same stem: `mine.yaml` and `.md` give `mine.md`."""
    return out.with_name(out.stem + suffix)


def all_of(out: Path) -> list[Path]:
    """Everything that a pretraining writes, the card last."""
    return [*(beside(out, suffix) for suffix in (WEIGHTS, PICTURE, PAGE)), out]


def require_new(out: Path, *, overwrite: bool) -> None:
    """Tell before anything is trained that the files cannot be written.

    Raises:
        OutputError: The name is none for a card, a file is there already, or the folder cannot be written to.
    """
    if not re.fullmatch(r"\w[\w.-]*", out.stem):
        raise OutputError(
            f"a network cannot be called '{out.stem}'",
            where="--out",
            hint="Letters, digits, '_', '-' and '.' make a name.",
        )
    taken = [path for path in all_of(out) if path.exists()]
    for path in taken:
        if path.is_dir():
            raise OutputError("is a folder, a file is to be written", where=str(path), hint=_ANOTHER)
    if taken and not overwrite:
        raise OutputError("already exists", where=str(taken[-1]), hint="Choose another --out, or give --overwrite.")
    folder = next(path for path in out.absolute().parents if path.exists())
    if not folder.is_dir():
        raise OutputError("is a file, a folder is needed", where=str(folder), hint=_ANOTHER)
    if not os.access(folder, os.W_OK):
        raise OutputError("cannot be written to", where=str(folder), hint=_ANOTHER)
