"""One's own zoo: networks that the user has added, each in a folder with its card and its files."""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from tlcli.errors import ModelError, OutputError
from tlcli.paths import bundled, write_text
from tlcli.zoo.card import ModelCard, read_card, sha256_of

CARD = "card.yaml"
_RESERVED = ("auto", "random")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}"
_NOT_A_NAME = r".*\.(keras|h5|hdf5|ya?ml)|.*\."


def folder() -> Path:
    """The folder of one's own zoo: `TLCLI_ZOO` if set, else in the data folder of the platform. Not created here."""
    if home := os.environ.get("TLCLI_ZOO"):
        return Path(home).expanduser()
    from platformdirs import user_data_path

    return user_data_path("tlcli", appauthor=False) / "zoo"


def cards() -> dict[str, ModelCard]:
    """All valid cards of one's own zoo by name, sorted by name. A damaged one does not hide the others."""
    found = {}
    for name in names():
        try:
            found[name] = find(name)
        except ModelError:
            continue
    return found


def names() -> list[str]:
    """The names of all networks in one's own zoo, sorted, those with a damaged card included."""
    return sorted(path.parent.name for path in folder().glob(f"*/{CARD}") if not path.parent.name.startswith("."))


def find(name: str) -> ModelCard:
    """The card of one of one's own networks.

    Raises:
        ModelError: There is no such network, or its card is damaged.
    """
    path = folder() / name / CARD
    if not re.fullmatch(_NAME, name) or not path.is_file():
        hint = f"Own networks: {', '.join(names()) or 'none'}."
        raise ModelError(f"your zoo has no network '{name}'", where=str(folder()), hint=hint)
    card = read_card(path)
    if card.name != name:
        hint = f"Remove it with: tlcli zoo remove {name}"
        raise ModelError(f"the card in the folder '{name}' names '{card.name}'", where=str(path), hint=hint)
    return card


def check_name(name: str) -> None:
    """Check that a new network may have this name.

    Raises:
        ModelError: The name is malformed, taken, or differs from a bundled one only in case, dashes and underscores.
    """
    if not re.fullmatch(_NAME, name) or re.fullmatch(_NOT_A_NAME, name.lower()) or name.lower() in _RESERVED:
        raise ModelError(
            f"cannot be the name of a network (got '{name}')",
            where="--name",
            hint="Use letters, digits, '_', '-' and '.', no file suffix, and not auto or random.",
        )
    plain = plain_name(name)
    if existing := next((own for own in names() if plain_name(own) == plain), None):
        hint = f"Choose another name, or first: tlcli zoo remove {existing}"
        raise ModelError(f"your zoo already has a network '{existing}'", where="--name", hint=hint)
    check_free_of_bundled(name)


def check_free_of_bundled(name: str) -> None:
    """Check that no bundled network has this name, apart from case, dashes and underscores.

    Raises:
        ModelError: One has.
    """
    plain = plain_name(name)
    if shadowed := next((card for card in bundled("models").glob("*.yaml") if plain_name(card.stem) == plain), None):
        hint = "Choose another name."
        raise ModelError(f"'{name}' is the name of a bundled network ({shadowed.stem})", where="--name", hint=hint)


def plain_name(name: str) -> str:
    """A name without case, dashes and underscores, to compare names."""
    return name.lower().replace("_", "").replace("-", "")


def add_card(card: ModelCard, files: Mapping[str, Path]) -> Path:
    """Add a network to one's own zoo, all or nothing.

    Args:
        card: Its card. `weights`, or `source` as `file:NAME`, names one of `files`; a folder before it is cut off.
            The hash of that file is written into the card; it may be missing or must be right.
        files: Files that belong to the network, by their new names. They are copied.

    Returns:
        The card file.

    Raises:
        ModelError: The name is not free or malformed, or the card is invalid or does not fit its files.
        OutputError: The files cannot be written.
    """
    check_name(card.name)
    home = folder()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".adding-", dir=home) as name:
            complete = Path(name) / card.name
            complete.mkdir()
            for target, source in files.items():
                shutil.copyfile(source, complete / Path(target).name)
            _write_card(card, complete)
            complete.rename(home / card.name)
    except OSError as error:
        message = f"cannot be written to ({error.strerror or error})"
        raise OutputError(message, where=str(home), hint="Set TLCLI_ZOO to another folder.") from error
    return home / card.name / CARD


def remove(name: str) -> int:
    """Remove one of one's own networks with its files.

    Args:
        name: Its exact name.

    Returns:
        Bytes freed.

    Raises:
        ModelError: There is no such network of one's own.
        OutputError: The files cannot be removed.
    """
    if name not in names():
        is_bundled = (bundled("models") / f"{name}.yaml").is_file()
        why = "is bundled and cannot be removed" if is_bundled else "is not in your zoo"
        raise ModelError(f"'{name}' {why}", where="zoo remove", hint=f"Own networks: {', '.join(names()) or 'none'}.")
    path = folder() / name
    freed = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        # Renamed first, so that no half-removed network is ever found.
        gone = Path(tempfile.mkdtemp(prefix=".removed-", dir=folder())) / name
        path.rename(gone)
        shutil.rmtree(gone.parent)
    except OSError as error:
        raise OutputError(f"cannot be removed ({error.strerror or error})", where=str(path)) from error
    return freed


def _write_card(card: ModelCard, home: Path) -> None:
    """Write the card into the folder of its files, and read it back, which checks it."""
    kind, _, handle = card.source.partition(":")
    file = Path(card.weights or handle).name
    if card.weights is not None or kind == "file":
        if not (home / file).is_file():
            raise ModelError(f"the card of {card.name} names a file '{file}' that is not given", where=file)
        sha256 = sha256_of(home / file)
        if card.sha256 not in (None, sha256):
            message = f"expected sha256 {card.sha256} from the card of {card.name} (got {sha256})"
            raise ModelError(message, where=file, hint="The file may be damaged or incomplete.")
        named = {"weights": file} if card.weights is not None else {"source": f"file:{file}"}
        card = card.model_copy(update={**named, "sha256": sha256})
    tree = card.model_dump(mode="json", exclude_defaults=True)
    write_text(home / CARD, yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))
    read_card(home / CARD)
