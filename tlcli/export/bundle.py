"""The bundle folder: an exported classifier with `labels.txt`, `card.json` and `usage.py`."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli import __version__
from tlcli.errors import OutputError
from tlcli.evaluate.runtimes.bundle import CARD, REFUSED, is_bundle, read_card, sha256_of
from tlcli.export.comparison import Comparison
from tlcli.export.snippets import usage
from tlcli.export.targets import ExportRequest
from tlcli.model.metadata import ClassifierMetadata
from tlcli.paths import write_json, write_text
from tlcli.zoo import trust


@dataclass(frozen=True)
class Bundle:
    """A finished bundle.

    Attributes:
        folder: Where it is.
        card: The content of its card.
        objections: Why the export is refused; empty if it is accepted.
    """

    folder: Path
    card: dict[str, Any]
    objections: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `tlcli export --json`."""
        return {"bundle": self.folder.as_posix(), **self.card}


def require_folder(folder: Path) -> None:
    """Check that a bundle can be written: there is nothing in its place but a refused export.

    Raises:
        OutputError: There is something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if folder.is_dir() and is_bundle(folder) and not read_card(folder).get("accepted"):
        return
    raise OutputError("already exists", where=str(folder), hint="Choose another --out, or remove it.")


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """A temporary folder that replaces `folder` by rename if there is no error."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        hint = "Choose another --out."
        raise OutputError(f"cannot be written ({error.strerror})", where=str(folder.parent), hint=hint) from error
    try:
        yield temporary
        require_folder(folder)
        temporary.chmod(0o755)
        take_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def take_place(new: Path, folder: Path) -> None:
    """Rename a folder to one that may exist, so that a failure leaves the old one in its place."""
    old = new.with_name(f"{new.name}-old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def complete(
    folder: Path,
    request: ExportRequest,
    about: ClassifierMetadata,
    comparison: Comparison,
    objections: list[str],
    *,
    zeros: float | None = None,
) -> dict[str, Any]:
    """Write everything but the classifier itself into a bundle, and set a refused classifier aside.

    Args:
        folder: The folder that holds the classifier.
        request: The export.
        about: What the classifier states about itself.
        comparison: Its answers beside those of the classifier.
        objections: Why it is refused; empty if it is accepted.
        zeros: Share (0-1) of the weights of kernels that are zero in a sparse export; None for others.

    Returns:
        The content of the card.
    """
    file = folder / request.target.file
    takes_bytes = request.to != "keras" and (request.quantize == "int8" or not request.is_raw)
    dtype = "uint8" if takes_bytes else "float32"
    card: dict[str, Any] = {
        "format": request.to,
        "quantize": request.quantize,
        "sparse": None if zeros is None else {"threshold": request.sparse, "zeros": zeros},
        "accepted": not objections,
        "objections": objections,
        "file": file.name,
        "sha256": sha256_of(file),
        "bytes": sum(map(_bytes, request.target.parts(folder))),
        "classes": list(about.classes),
        "input": {
            "dtype": dtype,
            "range": [0, 255],
            "channels": "RGB",
            "size": list(about.size),
            "resize": about.resize,
            "resize_inside": not request.is_raw,
        },
        "comparison": comparison.to_json() | {"max_drop": request.max_drop},
        **_training(about),
        "tlcli": __version__,
    }
    write_text(folder / "labels.txt", "".join(f"{name}\n" for name in about.classes))
    write_text(folder / "usage.py", usage(request, dtype, about.size, about.resize))
    write_json(folder / CARD, card)
    if objections:
        for part in request.target.parts(folder):
            part.rename(part.with_name(part.name + REFUSED))
    return card


def trust_own(file: Path) -> None:
    """Remember a SavedModel that was just written as trusted."""
    if file.is_dir():
        with trust.allowing():
            trust.require(trust.folder_sha256(file), where=str(file))


def _training(about: ClassifierMetadata) -> dict[str, Any]:
    """Network, licence, training images and scores, as far as they are known."""
    facts = about.training.model_dump() if about.training else {}
    main = {name: facts.pop(name, None) for name in ("model", "licence", "data")}
    return main | {"scores": facts.pop("scores", {}), "training": facts}


def _bytes(file: Path) -> int:
    if file.is_dir():
        return sum(part.stat().st_size for part in file.rglob("*") if part.is_file())
    return file.stat().st_size
