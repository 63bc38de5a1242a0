"""The content of each image file, and findings about single images."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from tlcli.data.decode import DECODER_ERRORS, QUIET_PILLOW, as_rgb, open_image, orientation, reason_of
from tlcli.data.small_copy import shrink
from tlcli.data.source import FolderIndex, ImageFile
from tlcli.quality.finding import Finding, Severity
from tlcli.quality.folders import Candidate, Survey
from tlcli.quality.near_duplicates import Hashes, compute_hashes
from tlcli.storage.location import read_all

# Longer side over shorter: from here on a centred crop shows a quarter or less.
MAX_ASPECT = 4.0
# Pixels: a smaller side shows nothing.
MIN_SIDE = 16
# A larger image is hardly a sample of a class.
MAX_PIXELS = 50_000_000
# Standard deviation of gray levels (0-255) below which an image has one colour only.
MIN_CONTRAST = 1.0

_BOMB = re.compile(r"too many to decode|more text than is read|more memory than is available")
_TRUNCATED = re.compile(r"truncat", re.IGNORECASE)
# Message and remedy of each kind of failure.
_FAILURES = {
    "unreadable": ("images cannot be read", "Replace or remove them. Training skips them."),
    "truncated": ("images are truncated", "Get them again; a copy was probably interrupted."),
    "empty": ("image files have zero bytes", "Get them again, or remove them."),
    "bomb": ("images need too much memory to be decoded", "Scale them down with another program, or remove them."),
    "no_permission": ("permission to read files or folders is denied", "Change their permissions."),
}
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "DIB": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Properties of an image that was decoded.

    Attributes:
        format: Pillow's name: `JPEG`, `PNG` …
        mode: Pillow's name: `RGB`, `P`, `CMYK` …
        size: `(height, width)`, pixels, upright.
        is_deep: It has more than 8 bits per channel.
        is_transparent: It has transparency of any kind.
        is_rotated: It is stored rotated or mirrored.
        is_animated: It has several frames or pages.
        contrast: Standard deviation of the gray levels of a small copy, 0-128.
        hashes: Perceptual hashes; None for an image of one colour.
    """

    format: str
    mode: str
    size: tuple[int, int]
    is_deep: bool
    is_transparent: bool
    is_rotated: bool
    is_animated: bool
    contrast: float = 0.0
    hashes: Hashes | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file could not be decoded. `kind` is that of the finding."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of a file: sha256 (empty if the file could not be read), size in bytes, and the image or failure."""

    sha256: str
    bytes: int
    image: DecodedImage | Failure


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """An image file of DATA and its content."""

    candidate: Candidate
    content: FileContent

    @property
    def path(self) -> str:
        """Path relative to DATA."""
        return self.candidate.path

    @property
    def image(self) -> DecodedImage | Failure:
        """The image, or why it could not be decoded."""
        return self.content.image

    @property
    def hashes(self) -> Hashes | None:
        """Perceptual hashes; None if there is no image, or one of one colour."""
        return self.image.hashes if isinstance(self.image, DecodedImage) else None


# The content of a file that killed the process that decoded it.
KILLED = FileContent("", 0, Failure("unreadable", "decoding it killed the process; it may need too much memory"))


def read_files(files: Sequence[Path], min_size: tuple[int, int]) -> list[FileContent]:
    """Read and decode some files.

    Args:
        files: Paths of image files.
        min_size: `(height, width)` in pixels down to which a JPEG may be scaled while it is decoded, as in training.
    """
    with QUIET_PILLOW:
        pairs = [_read_content(data, min_size) for data in read_all(files)]
    # The hashes of all copies are computed together, which is faster.
    hashed = iter(compute_hashes([copy for _, copy in pairs if copy is not None]))
    return [content if copy is None else _with_hashes(content, *next(hashed)) for content, copy in pairs]


def _read_content(data: bytes | OSError, min_size: tuple[int, int]) -> tuple[FileContent, Image.Image | None]:
    """What a file holds, without hashes, and the small copy to compute them from."""
    if isinstance(data, OSError):
        kind = "no_permission" if isinstance(data, PermissionError) else "unreadable"
        return FileContent("", 0, Failure(kind, reason_of(data))), None
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image, copy = _decode(data, min_size)
        return FileContent(sha256, len(data), image), copy
    except DECODER_ERRORS as error:
        reason = reason_of(error)
        return FileContent(sha256, len(data), Failure(_failure_kind(reason, is_empty=not data), reason)), None


def _decode(data: bytes, min_size: tuple[int, int]) -> tuple[DecodedImage, Image.Image]:
    with open_image(data) as image:
        width, height = image.size
        mode, is_deep = image.mode, _is_deep(image)
        rgb = as_rgb(image, min_size)
        turn = orientation(image)
        decoded = DecodedImage(
            format=str(image.format),
            mode=mode,
            size=(width, height) if turn in (5, 6, 7, 8) else (height, width),
            is_deep=is_deep,
            is_transparent=image.has_transparency_data,
            is_rotated=turn in range(2, 9),
            is_animated=_is_animated(image),
        )
        return decoded, shrink(rgb)


def _with_hashes(content: FileContent, contrast: float, hashes: Hashes | None) -> FileContent:
    if isinstance(content.image, Failure):
        raise TypeError("a file without an image has no hashes")
    return replace(content, image=replace(content.image, contrast=contrast, hashes=hashes))


def _failure_kind(reason: str, *, is_empty: bool) -> str:
    if is_empty:
        return "empty"
    if _BOMB.search(reason):
        return "bomb"
    return "truncated" if _TRUNCATED.search(reason) else "unreadable"


def _is_deep(image: Image.Image) -> bool:
    """True if a channel has more than 8 bits. For 16-bit colours only the raw mode of the tiles shows it."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return True
    # A BMP of 16 bits has 5 or 6 per channel.
    tiles = [] if image.format in ("BMP", "DIB") else getattr(image, "tile", [])
    return any(re.search(r";(12|16|32)", str(tile[3])) for tile in tiles)


def _is_animated(image: Image.Image) -> bool:
    """True if there are more frames than the first. The small copy or second view in an MPO photograph is not one."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except DECODER_ERRORS:
        return False


def readable_index(survey: Survey, files: Sequence[CheckedFile]) -> FolderIndex:
    """The index of the images that can be decoded, which are those that `finetune` uses."""
    images = tuple(
        ImageFile(
            file.path,
            file.candidate.label,
            file.content.sha256,
            file.content.bytes,
            file.candidate.given,
            file.candidate.group,
        )
        for file in files
        if isinstance(file.image, DecodedImage)
    )
    return FolderIndex(survey.root, survey.classes, images, survey.others)


@dataclass(frozen=True)
class _Rule:
    """A kind of finding about one image. `note_of` returns a remark on an image that has the problem, else None."""

    kind: str
    severity: Severity
    message: str
    remedy: str
    note_of: Callable[[DecodedImage, Path], str | None]


def image_findings(files: Sequence[CheckedFile], size: tuple[int, int]) -> Iterator[Finding]:
    """All findings about single images. `size` is `(height, width)` of the network's input, pixels."""
    yield from _failures(files)
    for rule in (*_RULES, *_size_rules(size)):
        notes = {
            file.path: note
            for file in files
            if isinstance(file.image, DecodedImage) and (note := rule.note_of(file.image, Path(file.path))) is not None
        }
        if notes:
            yield Finding(rule.kind, rule.severity, rule.message, rule.remedy, tuple(notes), notes=notes)


def _failures(files: Sequence[CheckedFile]) -> Iterator[Finding]:
    failures = {file.path: file.image for file in files if isinstance(file.image, Failure)}
    for kind, (message, remedy) in _FAILURES.items():
        notes = {path: failure.reason for path, failure in failures.items() if failure.kind == kind}
        if notes:
            yield Finding(kind, "error", message, remedy, tuple(notes), notes=notes)


def _size_rules(size: tuple[int, int]) -> tuple[_Rule, _Rule]:
    """Rules about images that are smaller than the network's input, `(height, width)` in pixels."""
    height, width = size

    def scale(image: DecodedImage) -> float:
        return min(image.size[0] / height, image.size[1] / width)

    remedy = "Larger images would show more. If most are small, --set data.size=[H,W] makes training faster."
    network_input = f"the network's input of {height} × {width} pixels"
    return (
        _Rule(
            "very_small",
            "warning",
            f"images are smaller than half of {network_input}; they are enlarged",
            remedy,
            lambda image, _: _size_text(image) if scale(image) < 0.5 else None,
        ),
        _Rule(
            "small",
            "info",
            f"images are smaller than {network_input}; they are enlarged",
            remedy,
            lambda image, _: _size_text(image) if 0.5 <= scale(image) < 1 else None,
        ),
    )


def _wrong_extension(image: DecodedImage, path: Path) -> str | None:
    is_right = path.suffix.lower() in _SUFFIXES.get(image.format, ())
    return None if is_right else f"is {image.format}"


def _blank(image: DecodedImage, _: Path) -> str | None:
    return _size_text(image) if image.contrast < MIN_CONTRAST else None


def _extreme_size(image: DecodedImage, _: Path) -> str | None:
    height, width = image.size
    is_extreme = min(height, width) < MIN_SIDE or height * width > MAX_PIXELS
    return _size_text(image) if is_extreme else None


def _extreme_aspect(image: DecodedImage, _: Path) -> str | None:
    height, width = image.size
    return _size_text(image) if max(height, width) >= MAX_ASPECT * min(height, width) else None


def _in_mode(*modes: str) -> Callable[[DecodedImage, Path], str | None]:
    return lambda image, _: image.mode if image.mode in modes else None


def _odd_mode(image: DecodedImage, _: Path) -> str | None:
    known = ("RGB", "L", "LA", "La", "P", "PA", "CMYK", "RGBA", "RGBa", "RGBX", "I", "F")
    return None if image.mode in known or image.mode.startswith("I;") else image.mode


def _size_text(image: DecodedImage) -> str:
    height, width = image.size
    return f"{width} × {height}"


_HANDLED = "Nothing to do. Other programs may read them differently."
_RULES = (
    _Rule(
        "blank",
        "warning",
        "images have one colour only",
        "Look at them: nothing can be learnt from them, and they may have lost their content.",
        _blank,
    ),
    _Rule(
        "extreme_size",
        "warning",
        f"images have a side below {MIN_SIDE} pixels, or more than {MAX_PIXELS // 1_000_000} million pixels",
        "Look at them: they are often icons, previews or scans.",
        _extreme_size,
    ),
    _Rule(
        "extreme_aspect",
        "warning",
        f"images are at least {MAX_ASPECT:g} times as long as wide; a crop shows little of them",
        "Crop them, or train with --set data.resize=pad.",
        _extreme_aspect,
    ),
    _Rule(
        "wrong_extension",
        "info",
        "images have another format than their names say; they are read by content",
        "Rename them. Programs that go by the name will fail.",
        _wrong_extension,
    ),
    _Rule(
        "animated",
        "info",
        "images have several frames or pages; only the first is used",
        "If you need another frame, save it as a file of its own.",
        lambda image, _: image.format if image.is_animated else None,
    ),
    _Rule(
        "rotated",
        "info",
        "images are stored rotated or mirrored; their EXIF data turn them upright",
        _HANDLED,
        lambda image, _: "" if image.is_rotated else None,
    ),
    _Rule("palette", "info", "images with a palette are read as RGB", _HANDLED, _in_mode("P", "PA")),
    _Rule("cmyk", "info", "CMYK images, made for printing, are read as RGB", _HANDLED, _in_mode("CMYK")),
    _Rule(
        "high_bit_depth",
        "info",
        "images of more than 8 bits per channel are scaled to 8 bits",
        _HANDLED,
        lambda image, _: image.mode if image.is_deep else None,
    ),
    _Rule(
        "transparent",
        "info",
        "images with transparency are put on white",
        _HANDLED,
        lambda image, _: image.mode if image.is_transparent else None,
    ),
    _Rule("gray", "info", "gray images are read as RGB", _HANDLED, _in_mode("L", "LA", "La")),
    _Rule("odd_mode", "info", "images in an unusual colour mode are read as RGB", _HANDLED, _odd_mode),
)
