"""Networks in files of other programs (Caffe, TF-Slim, SavedModel, a preset in a folder), gathered beside a card.

So gathered, they can be packed into archives and lie in one's own zoo: the card names files without folders.
"""

import re
import tarfile
from pathlib import Path

from tlcli.zoo import hub
from tlcli.zoo.card import ModelCard
from tlcli.zoo.formats import tf_checkpoint

KINDS = ("caffe", "slim", "tfhub", "kerashub")
# The files of a preset of KerasHub that an image network needs.
PRESET_FILES = ("config.json", "model.weights.h5")
PRESET_OPTIONAL = ("image_converter.json", "preprocessor.json", "task.json", "metadata.json")


def is_local(card: ModelCard) -> bool:
    """True if the network is of one of these kinds and in files of this machine, not at an address."""
    handle = card.source.partition(":")[2]
    return card.kind in KINDS and "://" not in handle and (card.kind != "kerashub" or Path(handle).is_dir())


def weights_of(card: ModelCard) -> Path:
    """The file, or for folders the folder, with the weights of a local network."""
    handle = card.source.partition(":")[2]
    if card.kind == "caffe":
        return Path(handle.rpartition(",")[2])
    if card.kind == "slim":
        return tf_checkpoint.find(Path(handle.partition("@")[2] or handle))
    return Path(handle)


def gather(card: ModelCard, scratch: Path) -> tuple[ModelCard, dict[str, Path]]:
    """The card with a source that names files beside it, and these files by name.

    Args:
        card: A card for which `is_local` is true, or one of a SavedModel at a URL that has been fetched.
        scratch: A folder for files that are made: a SavedModel becomes one archive.
    """
    handle = card.source.partition(":")[2]
    if card.kind == "caffe":
        prototxt, weights = (Path(part) for part in handle.rpartition(",")[::2])
        files, source = [prototxt, weights], f"{prototxt.name},{weights.name}"
    elif card.kind == "slim":
        architecture, _, _ = handle.partition("@")
        listing = weights_of(card)
        files, source = [listing, *_shards(listing)], f"{architecture}@{listing.name.removesuffix('.index')}"
    elif card.kind == "kerashub":
        files, source = preset_files(Path(handle)), "."
    else:
        files, source = [_archived(hub.locate(handle)[1], scratch / f"{card.name}.tar")], f"{card.name}.tar"
    return card.model_copy(update={"source": f"{card.kind}:{source}"}), {file.name: file for file in files}


def preset_files(folder: Path) -> list[Path]:
    """The files of a preset in a folder that an image network needs."""
    return [folder / name for name in (*PRESET_FILES, *PRESET_OPTIONAL) if (folder / name).is_file()]


def _shards(listing: Path) -> list[Path]:
    if listing.suffix != ".index":
        return []
    pattern = re.compile(re.escape(listing.stem) + r"\.data-\d+-of-\d+")
    return sorted(file for file in listing.parent.iterdir() if pattern.fullmatch(file.name))


def _archived(folder: Path, target: Path) -> Path:
    """A tar of a folder; equal folders give equal tars."""
    with tarfile.open(target, "w") as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = tarfile.TarInfo(file.relative_to(folder).as_posix())
            info.size = file.stat().st_size
            with file.open("rb") as stream:
                archive.addfile(info, stream)
    return target
