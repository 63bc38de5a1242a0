"""Images without labels: everything in a folder, decoded once."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tlcli.data.pixels import open_cache
from tlcli.data.source import FolderIndex, ImageFile, content_hash, images_under
from tlcli.errors import DataError

# With fewer a network learns to tell these very pictures apart, and nothing else.
MIN_IMAGES = 32

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ImageSet:
    """Different pictures of one folder, decoded.

    Attributes:
        name: The folder's own name.
        pixels: The pixel cache, `uint8 (cached, side, side, 3)`, RGB 0-255.
        rows: Which of its rows are pictures, `int64 (count,)`.
        unreadable: Paths and reasons of files that could not be read.
        copies: Files whose content another file has, too; they count once.
        sha256: Over the contents: the same for the same pictures, wherever they lie.
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
    """Tell at once that there is no such folder.

    Raises:
        DataError: If there is none.
    """
    if not root.is_dir():
        what = "is a file, a folder is expected" if root.exists() else "there is no such folder"
        raise DataError(what, where=str(root), hint="UNLABELLED is a folder of pictures, in sub-folders or not.")


def load_images(root: Path, *, side: int, cache: Path, progress: Progress) -> ImageSet:
    """Find, hash and decode the pictures under `root`; labels, if folders stand for any, are not looked at.

    Args:
        root: UNLABELLED.
        side: Height and width to decode to, pixels; the largest centred square of a picture is taken.
        cache: Where pixel caches lie.
        progress: Called with a stage's name, what is done of it, and all of it.

    Raises:
        DataError: The folder is not there, or holds fewer than 32 different readable pictures.
    """
    require_folder(root)
    home = root.resolve()
    paths = images_under(home)
    index, refused = _index(home, paths, progress)
    _require_enough(root, len(index.images), len(paths))
    found = open_cache(
        index,
        size=(side, side),
        mode="crop",
        folder=cache,
        progress=lambda done, total: progress("decoding", done, total),
    )
    broken = [(image.path, found.failures[image.sha256]) for image in index.images if image.sha256 in found.failures]
    shas = sorted({image.sha256 for image in index.images if image.sha256 in found.rows})
    _require_enough(root, len(shas), len(paths))
    return ImageSet(
        name=home.name,
        pixels=found.array,
        rows=np.array([found.rows[sha] for sha in shas], dtype=np.int64),
        unreadable=tuple(sorted([*refused, *broken])),
        copies=len(index.images) - len(broken) - len(shas),
        sha256=hashlib.sha256("".join(shas).encode()).hexdigest(),
    )


def _index(root: Path, paths: Sequence[Path], progress: Progress) -> tuple[FolderIndex, list[tuple[str, str]]]:
    """The pictures as the pixel cache wants them, and what the system does not let us read."""
    images: list[ImageFile] = []
    refused: list[tuple[str, str]] = []

    def hashed(path: Path) -> str | OSError:
        try:
            return content_hash(path)
        except OSError as error:
            return error

    with ThreadPoolExecutor() as pool:
        for done, (path, sha) in enumerate(zip(paths, pool.map(hashed, paths), strict=True), start=1):
            name = path.relative_to(root).as_posix()
            if isinstance(sha, OSError):
                refused.append((name, f"cannot be read ({sha.strerror})"))
            else:
                images.append(ImageFile(name, 0, sha, path.stat().st_size, None))
            progress("reading", done, len(paths))
    return FolderIndex(root, ("any",), tuple(images), ()), refused


def _require_enough(root: Path, count: int, files: int) -> None:
    if count < MIN_IMAGES:
        of = f" in {files} files" if files > count else ""
        raise DataError(
            f"holds too few different readable pictures (got {count}{of}, at least {MIN_IMAGES})",
            where=str(root),
            hint="Self-supervised pretraining lives on numbers: thousands are a start. Without pictures: --synthetic.",
        )
