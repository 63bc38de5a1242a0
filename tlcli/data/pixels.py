"""Decode and resize: the one place in the program where image files become pixels.

`read` gives the pixels of one file, `open_cache` those of a whole folder, decoded once into a memory map that is
found again by content. Everything a file may hold comes out as RGB of 8 bits: upright by its EXIF orientation, on
white where it is transparent, its first frame where it has several.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image

from tlcli.cache.eviction import DiskSpace, remove_leftovers
from tlcli.data import workers
from tlcli.data.decode import DECODER_ERRORS, QUIET_PILLOW, reason_of, to_rgb
from tlcli.data.source import FolderIndex, ImageFile
from tlcli.errors import DataError
from tlcli.paths import write_json

Mode = Literal["crop", "pad", "stretch"]
Array = npt.NDArray[np.uint8]

# Part of the key of every cache: raise it when the same file would give other pixels.
FORMAT_VERSION = 2

_PIXELS, _ROWS = "pixels.npy", "rows.json"
# Times the wanted size.
ENOUGH = 1.6
# Decoded pixels that are handed over together; a few of these wait in memory.
_BATCH_BYTES = 2**22


@dataclass(frozen=True)
class Pixels:
    """The decoded images of a folder.

    Attributes:
        array: Memory map, `uint8 (count, height, width, 3)`, RGB 0–255; the row of a failed image is black.
        rows: Content (sha256) to row of `array`, of the images that could be read.
        failures: Content (sha256) to the reason, of those that could not.
    """

    array: Array
    rows: Mapping[str, int]
    failures: Mapping[str, str]

    def rows_of(self, images: Iterable[ImageFile]) -> npt.NDArray[np.int64]:
        """The rows of these images, `int64 (count,)`.

        Raises:
            DataError: One of them could not be read.
        """
        images = list(images)
        for image in images:
            if image.sha256 not in self.rows:
                reason = self.failures.get(image.sha256, "it was not there when the images were decoded")
                raise DataError(reason, where=image.path, hint="`tlcli check` lists all such files.")
        return np.array([self.rows[image.sha256] for image in images], dtype=np.int64)

    def examples(self, images: Sequence[ImageFile]) -> "Examples":
        """These images with their labels.

        Raises:
            DataError: One of them could not be read.
        """
        labels = np.array([image.label for image in images], dtype=np.int64)
        return Examples(self.array, self.rows_of(images), labels)

    @property
    def contents(self) -> list[str]:
        """Sha256 of the file behind each row of `array`; empty for a row whose file could not be read."""
        contents = [""] * len(self.array)
        for content, row in self.rows.items():
            contents[row] = content
        return contents


def decode(path: Path, *, at_least: tuple[int, int] | None = None) -> Image.Image:
    """The image of a file as RGB of 8 bits, upright, transparency on white, first frame.

    Args:
        path: An image file.
        at_least: `(height, width)` in pixels: a JPEG may come at a half, a quarter or an eighth of its size as long
            as it is this large, which is faster.

    Raises:
        DataError: The file is no image, broken, or of a format that is not read.
    """
    try:
        with QUIET_PILLOW:
            return to_rgb(path.read_bytes(), at_least)
    except DECODER_ERRORS as error:
        raise DataError(reason_of(error), where=str(path), hint="Replace the file or remove it.") from error


def fit(image: Image.Image, size: tuple[int, int], mode: Mode) -> Array:
    """Bring an RGB image to `size`, `(height, width)` in pixels; bilinear, antialiased.

    `crop` takes the largest centred box of the wanted shape, `pad` keeps all on black, `stretch` ignores the shape.
    Boxes are rounded as `keras.layers.Resizing` rounds them, since that layer does the same inside the saved model.

    Returns:
        `uint8 (height, width, 3)`, RGB 0–255.
    """
    height, width = size
    target = (width, height)
    if mode == "crop":
        across = max(min(image.width, image.height * width // height), 1)
        down = max(min(image.height, image.width * height // width), 1)
        left, top = (image.width - across) // 2, (image.height - down) // 2
        # Cropped first: `resize(box=…)` would let the pixels outside the box bleed in.
        middle = image.crop((left, top, left + across, top + down))
        fitted = middle.resize(target, Image.Resampling.BILINEAR)
    elif mode == "pad":
        fitted = _padded(image, target)
    else:
        fitted = image.resize(target, Image.Resampling.BILINEAR)
    return np.asarray(fitted)


def read(path: Path, size: tuple[int, int], mode: Mode) -> Array:
    """Decode and fit one file: `uint8 (height, width, 3)`, RGB 0–255.

    Raises:
        DataError: The file cannot be read as an image.
    """
    return fit(decode(path, at_least=enough(size)), size, mode)


def open_cache(
    index: FolderIndex,
    *,
    size: tuple[int, int],
    mode: Mode,
    folder: Path,
    at_once: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pixels:
    """The pixels of every content of `index`, from the cache or decoded into it.

    Keyed by content, size and mode, so that a renamed data folder finds its pixels again. Several processes may ask
    at once: one decodes, the others wait.

    Args:
        index: What was scanned.
        size: `(height, width)` in pixels.
        mode: `crop`, `pad` or `stretch`, see `fit`.
        folder: Where caches lie; made if missing.
        at_once: Decoders at work; as many as there are cores when None.
        progress: Called with (images decoded, images); not called when the cache was there.

    Raises:
        DataError: The cache cannot be written, or the disk has too little room.
    """
    files = {image.sha256: index.file(image) for image in reversed(index.images)}
    order = sorted(files)
    key = hashlib.sha256(json.dumps([FORMAT_VERSION, *size, mode, order]).encode()).hexdigest()[:32]
    cache = _Cache(folder / key, order, size)
    if pixels := cache.opened():
        return pixels
    work = _Work(size, mode, at_once, progress)
    room = DiskSpace("pixel cache", folder, cache.bytes)
    with room.claimed():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cache.place}.lock"):
            if pixels := cache.opened():
                return pixels
            shutil.rmtree(cache.place, ignore_errors=True)
            remove_leftovers(folder, {key})
            room.require()
            _build(cache, files, work)
            pixels = cache.opened(is_final=False)
    if pixels is None:
        raise room.unreadable()
    return pixels


@dataclass(frozen=True)
class _Work:
    size: tuple[int, int]
    mode: Mode
    at_once: int | None
    progress: Callable[[int, int], None] | None


@dataclass(frozen=True)
class _Cache:
    """One folder of the cache: row i of its array is content `order[i]`."""

    place: Path
    order: Sequence[str]
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.order), *self.size, 3)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape)

    def opened(self, *, is_final: bool = True) -> Pixels | None:
        """What lies there; None where it is missing, damaged or, with `is_final`, better decoded again."""
        try:
            notes = json.loads((self.place / _ROWS).read_text(encoding="utf-8"))
            array = np.lib.format.open_memmap(self.place / _PIXELS, mode="r")
            length = (self.place / _PIXELS).stat().st_size
        except (OSError, ValueError):
            return None
        failures = notes.get("failures") if isinstance(notes, dict) else None
        fits = array.shape == self.shape and array.dtype == np.uint8 and length == array.offset + array.nbytes
        if not fits or not isinstance(failures, dict) or (is_final and notes.get("try_again")):
            return None
        rows = {sha: row for row, sha in enumerate(self.order) if sha not in failures}
        return Pixels(array, rows, failures)


@dataclass(frozen=True)
class _Failure:
    """Why a file has no pixels. `is_lasting` says that the same content fails again."""

    reason: str
    is_lasting: bool


_KILLED = _Failure("the process that decoded it was killed; it may need too much memory", is_lasting=False)


def _build(cache: _Cache, files: Mapping[str, Path], work: _Work) -> None:
    """Decode into a temporary folder that takes its name when it is complete."""
    unfinished = cache.place.with_name(f".{cache.place.name}-{os.getpid()}")
    unfinished.mkdir()
    failures: dict[str, _Failure] = {}
    black = bytes(math.prod(cache.shape[1:]))
    try:
        with (unfinished / _PIXELS).open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": cache.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for done, (sha, outcome) in enumerate(_decoded_all(cache.order, files, work), start=1):
                if isinstance(outcome, _Failure):
                    failures[sha] = outcome
                file.write(black if isinstance(outcome, _Failure) else outcome.data)
                if work.progress:
                    work.progress(done, len(cache.order))
        notes = {
            "failures": {sha: failure.reason for sha, failure in failures.items()},
            "try_again": not all(failure.is_lasting for failure in failures.values()),
        }
        write_json(unfinished / _ROWS, notes)
        unfinished.replace(cache.place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _decoded_all(
    order: Sequence[str],
    files: Mapping[str, Path],
    work: _Work,
) -> Iterator[tuple[str, Array | _Failure]]:
    decoding = partial(_outcomes, size=work.size, mode=work.mode)
    batch = max(1, min(workers.BATCH, _BATCH_BYTES // (3 * math.prod(work.size))))
    job: workers.Job[tuple[str, Path], Array | _Failure] = workers.Job(decoding, _KILLED, batch)
    tasks = [(sha, files[sha]) for sha in order]
    return zip(order, workers.run(job, tasks, workers=work.at_once), strict=True)


def _outcomes(tasks: Sequence[tuple[str, Path]], size: tuple[int, int], mode: Mode) -> list[Array | _Failure]:
    with QUIET_PILLOW:
        return [_outcome(sha, path, size, mode) for sha, path in tasks]


def _outcome(sha: str, path: Path, size: tuple[int, int], mode: Mode) -> Array | _Failure:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha:
            return _Failure("the file changed after the folder was scanned", is_lasting=False)
        return np.ascontiguousarray(fit(to_rgb(data, enough(size)), size, mode))
    except DECODER_ERRORS as error:
        is_machine = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
        return _Failure(reason_of(error), is_lasting=not is_machine)


def enough(size: tuple[int, int]) -> tuple[int, int]:
    """The size `(height, width)` from which a JPEG decoded small cannot be told from one decoded whole.

    On 120 photographs the pixels that come out differ by 1.0 of 255 on average from 1.6 times the wanted size on, by
    0.8 from twice the size on, and by 4 and more below 1.2 times.
    """
    return math.ceil(ENOUGH * size[0]), math.ceil(ENOUGH * size[1])


def _padded(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """Resize along the full side, pad, resize along the other: exact, and small even for a 1 × 60000 image."""
    width, height = target
    beside = max(image.height * width // height - image.width, 0) // 2
    above = max(image.width * height // width - image.height, 0) // 2
    middle = (width, image.height) if above else (image.width, height) if beside else image.size
    part = image.resize(middle, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (middle[0] + 2 * beside, middle[1] + 2 * above))
    canvas.paste(part, (beside, above))
    return canvas.resize(target, Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Images:
    """Some images of the pixel cache, in a fixed order.

    Attributes:
        pixels: The cache, `uint8 (cached, height, width, 3)`, 0-255.
        rows: Which of its rows, `int64 (images,)`.
    """

    pixels: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Examples(Images):
    """Images with their classes.

    Attributes:
        labels: `int64 (images,)`.
    """

    labels: np.ndarray
