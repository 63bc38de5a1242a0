"""Images without labels: all images under a folder, decoded once."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tlcli.data.hashes import Hashes
from tlcli.data.layout import readable
from tlcli.data.pixels import open_cache
from tlcli.data.shards import hold_images, image_folders
from tlcli.data.source import FolderIndex, ImageFile, images_under
from tlcli.errors import DataError
from tlcli.storage.location import READS_AHEAD, is_remote, relative_name

# With fewer images a network learns to tell these images apart, and nothing that transfers.
MIN_IMAGES = 32

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ImageSet:
    """The distinct images of one folder, decoded.

    Attributes:
        name: Name of the folder, without its path.
        pixels: The pixel cache, `uint8 (cached, side, side, 3)`, RGB 0-255.
        rows: Rows of the pixel cache that belong to the set, `int64 (count,)`.
        unreadable: Path and reason for every unreadable file.
        copies: Number of files left out because another file has the same content.
        sha256: Digest of the contents, independent of file names and folders.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]
    unreadable: tuple[tuple[str, str], ...]
    copies: int
    sha256: str

    def __len__(self) -> int:
        return len(self.rows)


def require_folder(root: Path) -> None:
    """Check that the folder of images exists.

    Raises:
        DataError: `root` does not exist or is a file.
    """
    with readable():
        is_there = root.is_dir() or hold_images(root)
    if not is_there:
        problem = "is a file, not a folder" if root.exists() else "there is no such folder"
        raise DataError(problem, where=str(root), hint="UNLABELLED is a folder of images, with or without sub-folders.")


def load_image_set(root: Path, *, side: int, cache: Path, progress: Progress) -> ImageSet:
    """Find, hash and decode the images under `root`; folder names are not used as labels.

    Args:
        root: Folder of images, with or without sub-folders.
        side: Height and width to decode to, pixels; an image is cropped to its largest centred square.
        cache: Folder of the pixel caches.
        progress: Called with the name of a stage, the number of files done, and their total.

    Raises:
        DataError: The folder does not exist, or holds fewer than 32 distinct readable images.
    """
    require_folder(root)
    folders = image_folders(root.resolve())
    home = folders[0] if len(folders) == 1 else root.resolve()
    paths = [path for folder in folders for path in images_under(folder)]
    index, refused = _index_files(home, paths, progress)
    _require_enough(root, len(index.images), len(paths))
    cached = open_cache(
        index,
        size=(side, side),
        mode="crop",
        folder=cache,
        progress=lambda done, total: progress("decoding", done, total),
    )
    broken = [(image.path, cached.failures[image.sha256]) for image in index.images if image.sha256 in cached.failures]
    digests = sorted({image.sha256 for image in index.images if image.sha256 in cached.rows})
    _require_enough(root, len(digests), len(paths))
    return ImageSet(
        name=home.name,
        pixels=cached.array,
        rows=np.array([cached.rows[digest] for digest in digests], dtype=np.int64),
        unreadable=tuple(sorted([*refused, *broken])),
        copies=len(index.images) - len(broken) - len(digests),
        sha256=hashlib.sha256("".join(digests).encode()).hexdigest(),
    )


def _index_files(root: Path, paths: Sequence[Path], progress: Progress) -> tuple[FolderIndex, list[tuple[str, str]]]:
    """Hash the files; return an index with one dummy class, and path and reason for files the system cannot open."""
    images: list[ImageFile] = []
    refused: list[tuple[str, str]] = []

    hashes = Hashes(root)

    def hash_file(path: Path) -> tuple[str, int] | OSError:
        try:
            return hashes.of(path)
        except OSError as error:
            return error

    with ThreadPoolExecutor(READS_AHEAD if is_remote(root) else None) as pool:
        for done, (path, found) in enumerate(zip(paths, pool.map(hash_file, paths), strict=True), start=1):
            name = relative_name(path, root)
            if isinstance(found, OSError):
                refused.append((name, f"cannot be read ({found.strerror})"))
            else:
                images.append(ImageFile(name, 0, *found, None))
            progress("reading", done, len(paths))
    hashes.keep()
    return FolderIndex(root, ("any",), tuple(images), ()), refused


def _require_enough(root: Path, count: int, files: int) -> None:
    if count < MIN_IMAGES:
        total = f" in {files} files" if files > count else ""
        raise DataError(
            f"too few distinct readable images (got {count}{total})",
            where=str(root),
            hint=f"At least {MIN_IMAGES} are required, and thousands recommended. Without images, use --synthetic.",
        )
