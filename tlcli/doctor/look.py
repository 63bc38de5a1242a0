"""One look at one file: everything that is to be known of it by itself, from one reading and one decoding."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from tlcli.data.decoder import DECODER_ERRORS, QUIET, as_rgb, opened, orientation, reason_of
from tlcli.doctor.hashing import Hashes, hashed, shrunk

_BOMB = re.compile(r"exceeds limit|Decompressed data too large|more memory than there is")
_TRUNCATED = re.compile(r"truncat", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Picture:
    """What was decoded.

    Attributes:
        format: As Pillow calls it: `JPEG`, `PNG` …
        mode: As Pillow calls it: `RGB`, `P`, `CMYK` …
        size: `(height, width)`, pixels, upright.
        is_deep: More than 8 bits a channel.
        is_transparent: Has transparency of any kind.
        is_turned: Its orientation says that it was not stored upright.
        is_animated: Has several frames or pages.
        contrast: Deviation of the gray levels of a small copy, 0-128.
        hashes: None for a picture of one colour, which is like any other of its kind.
    """

    format: str
    mode: str
    size: tuple[int, int]
    is_deep: bool
    is_transparent: bool
    is_turned: bool
    is_animated: bool
    contrast: float = 0.0
    hashes: Hashes | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file could not be decoded; `kind` is that of the finding."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one file is: its content, and the picture in it or why there is none. No sha256: it could not be read."""

    sha256: str
    bytes: int
    found: Picture | Failure


KILLED = Look("", 0, Failure("unreadable", "the process that decoded it was killed; it may need too much memory"))


def look_at(files: Sequence[str], at_least: tuple[int, int]) -> list[Look]:
    """Look at some files. `at_least` is `(height, width)` that JPEG files may be scaled down to, as in training."""
    with QUIET:
        seen = [_look(Path(file), at_least) for file in files]
    known = iter(hashed([small for _, small in seen if small is not None]))
    return [look if small is None else _recognised(look, *next(known)) for look, small in seen]


def _look(path: Path, at_least: tuple[int, int]) -> tuple[Look, Image.Image | None]:
    """What a file is, and the small copy that it will be recognised by."""
    try:
        data = path.read_bytes()
    except OSError as error:
        kind = "no_permission" if isinstance(error, PermissionError) else "unreadable"
        return Look("", 0, Failure(kind, reason_of(error))), None
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        picture, small = _picture(data, at_least)
        return Look(sha256, len(data), picture), small
    except DECODER_ERRORS as error:
        reason = reason_of(error)
        return Look(sha256, len(data), Failure(_kind(reason, is_empty=not data), reason)), None


def _recognised(look: Look, contrast: float, hashes: Hashes | None) -> Look:
    if isinstance(look.found, Failure):
        raise TypeError("a file without a picture has nothing to be recognised by")
    return replace(look, found=replace(look.found, contrast=contrast, hashes=hashes))


def _kind(reason: str, *, is_empty: bool) -> str:
    if is_empty:
        return "empty"
    if _BOMB.search(reason):
        return "bomb"
    return "truncated" if _TRUNCATED.search(reason) else "unreadable"


def _picture(data: bytes, at_least: tuple[int, int]) -> tuple[Picture, Image.Image]:
    with opened(data) as image:
        width, height = image.size
        mode, is_deep = image.mode, _is_deep(image)
        rgb = as_rgb(image, at_least)
        turn = orientation(image)
        picture = Picture(
            format=str(image.format),
            mode=mode,
            size=(width, height) if turn in (5, 6, 7, 8) else (height, width),
            is_deep=is_deep,
            is_transparent=image.has_transparency_data,
            is_turned=turn in range(2, 9),
            is_animated=_is_animated(image),
        )
        return picture, shrunk(rgb)


def _is_deep(image: Image.Image) -> bool:
    """Whether there were more than 8 bits, in the mode or, for colours of 16 bits, only in what is to be unpacked."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return True
    # A BMP of 16 bits has 5 or 6 a channel.
    tiles = [] if image.format in ("BMP", "DIB") else getattr(image, "tile", [])
    return any(re.search(r";(12|16|32)", str(tile[3])) for tile in tiles)


def _is_animated(image: Image.Image) -> bool:
    """Whether frames are left out. Photographs of some cameras (MPO) hide a small copy or a second view: no matter."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except DECODER_ERRORS:
        return False
