"""What each image file holds, and findings about single images."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from tlcli.data.decode import DECODER_ERRORS, QUIET_PILLOW, as_rgb, open_image, orientation, reason_of
from tlcli.data.source import FolderIndex, ImageFile
from tlcli.quality.finding import Finding, Severity
from tlcli.quality.folders import Candidate, Survey
from tlcli.quality.near_duplicates import Hashes, hashed, shrunk

_BOMB = re.compile(r"exceeds limit|Decompressed data too large|more memory than there is")
_TRUNCATED = re.compile(r"truncat", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DecodedImage:
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
class FileContent:
    """What one file is: its content, and the picture in it or why there is none. No sha256: it could not be read."""

    sha256: str
    bytes: int
    found: DecodedImage | Failure


KILLED = FileContent(
    "", 0, Failure("unreadable", "the process that decoded it was killed; it may need too much memory")
)


def read_files(files: Sequence[str], at_least: tuple[int, int]) -> list[FileContent]:
    """Look at some files. `at_least` is `(height, width)` that JPEG files may be scaled down to, as in training."""
    with QUIET_PILLOW:
        seen = [_content_of(Path(file), at_least) for file in files]
    known = iter(hashed([small for _, small in seen if small is not None]))
    return [look if small is None else _with_hashes(look, *next(known)) for look, small in seen]


def _content_of(path: Path, at_least: tuple[int, int]) -> tuple[FileContent, Image.Image | None]:
    """What a file is, and the small copy that it will be recognised by."""
    try:
        data = path.read_bytes()
    except OSError as error:
        kind = "no_permission" if isinstance(error, PermissionError) else "unreadable"
        return FileContent("", 0, Failure(kind, reason_of(error))), None
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        picture, small = _decoded(data, at_least)
        return FileContent(sha256, len(data), picture), small
    except DECODER_ERRORS as error:
        reason = reason_of(error)
        return FileContent(sha256, len(data), Failure(_kind(reason, is_empty=not data), reason)), None


def _with_hashes(look: FileContent, contrast: float, hashes: Hashes | None) -> FileContent:
    if isinstance(look.found, Failure):
        raise TypeError("a file without a picture has nothing to be recognised by")
    return replace(look, found=replace(look.found, contrast=contrast, hashes=hashes))


def _kind(reason: str, *, is_empty: bool) -> str:
    if is_empty:
        return "empty"
    if _BOMB.search(reason):
        return "bomb"
    return "truncated" if _TRUNCATED.search(reason) else "unreadable"


def _decoded(data: bytes, at_least: tuple[int, int]) -> tuple[DecodedImage, Image.Image]:
    with open_image(data) as image:
        width, height = image.size
        mode, is_deep = image.mode, _is_deep(image)
        rgb = as_rgb(image, at_least)
        turn = orientation(image)
        picture = DecodedImage(
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


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One image file: its place, its content, and the picture in it or why there is none."""

    place: Candidate
    look: FileContent

    @property
    def path(self) -> str:
        """Relative to DATA."""
        return self.place.path

    @property
    def found(self) -> DecodedImage | Failure:
        """The picture, or why it could not be decoded."""
        return self.look.found

    @property
    def hashes(self) -> Hashes | None:
        """Perceptual hashes; None where there is nothing to recognise a picture by."""
        return self.found.hashes if isinstance(self.found, DecodedImage) else None


def index_of(survey: Survey, seen: list[CheckedFile]) -> FolderIndex:
    """The images that can be decoded, as `finetune` sees them after it has read them."""
    images = tuple(
        ImageFile(file.path, file.place.label, file.look.sha256, file.look.bytes, file.place.given)
        for file in seen
        if isinstance(file.found, DecodedImage)
    )
    return FolderIndex(survey.root, survey.classes, images, survey.others)


# Longer side over shorter: from there on a centred crop shows a quarter or less.
LONGEST_ASPECT = 4.0
# A side of fewer pixels shows nothing; a picture of more pixels is hardly a sample of anything.
SHORTEST_SIDE = 16
MOST_PIXELS = 50_000_000
# Deviation of gray levels below which all is one colour.
BLANK_CONTRAST = 1.0

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
_FAILURES = {
    "unreadable": ("images that cannot be read", "Replace or remove them; training leaves them out."),
    "truncated": ("images that are cut short", "Get them anew: a copy was probably interrupted."),
    "empty": ("image files of zero bytes", "Get them anew or remove them."),
    "bomb": (
        "images refused since decoding them would take absurdly much memory",
        "Scale them down with another program, or remove them.",
    ),
    "no_permission": ("images that may not be read", "Change their permissions."),
}


@dataclass(frozen=True)
class _Rule:
    """A kind of oddity; `says` gives what is to be said of a picture that has it, else None."""

    kind: str
    severity: Severity
    message: str
    remedy: str
    says: Callable[[DecodedImage, Path], str | None]


def image_findings(seen: Sequence[CheckedFile], size: tuple[int, int]) -> Iterator[Finding]:
    """Look through all files. `size` is `(height, width)` of the network's input, pixels."""
    yield from _failures(seen)
    for rule in (*_RULES, *_smaller(size)):
        notes = {
            file.path: note
            for file in seen
            if isinstance(file.found, DecodedImage) and (note := rule.says(file.found, Path(file.path))) is not None
        }
        if notes:
            yield Finding(rule.kind, rule.severity, rule.message, rule.remedy, tuple(notes), notes=notes)


def _failures(seen: Sequence[CheckedFile]) -> Iterator[Finding]:
    failed = {file.path: file.found for file in seen if isinstance(file.found, Failure)}
    for kind, (message, remedy) in _FAILURES.items():
        notes = {path: failure.reason for path, failure in failed.items() if failure.kind == kind}
        if notes:
            yield Finding(kind, "error", message, remedy, tuple(notes), notes=notes)


def _smaller(size: tuple[int, int]) -> tuple[_Rule, _Rule]:
    """Pictures that have to be enlarged: much, and a little."""
    height, width = size

    def scale(picture: DecodedImage) -> float:
        return min(picture.size[0] / height, picture.size[1] / width)

    remedy = "Larger images would show more. Where most are small, --set data.size=[H,W] makes training quicker."
    of = f"the network's input of {height} × {width} pixels"
    return (
        _Rule(
            "very_small",
            "warning",
            f"images below half of {of}, enlarged for training",
            remedy,
            lambda picture, _: _size(picture) if scale(picture) < 0.5 else None,
        ),
        _Rule(
            "small",
            "info",
            f"images smaller than {of}, enlarged for training",
            remedy,
            lambda picture, _: _size(picture) if 0.5 <= scale(picture) < 1 else None,
        ),
    )


def _wrong_extension(picture: DecodedImage, path: Path) -> str | None:
    is_right = path.suffix.lower() in _SUFFIXES.get(picture.format, ())
    return None if is_right else f"is {picture.format}"


def _blank(picture: DecodedImage, _: Path) -> str | None:
    return _size(picture) if picture.contrast < BLANK_CONTRAST else None


def _extreme_size(picture: DecodedImage, _: Path) -> str | None:
    height, width = picture.size
    is_extreme = min(height, width) < SHORTEST_SIDE or height * width > MOST_PIXELS
    return _size(picture) if is_extreme else None


def _extreme_aspect(picture: DecodedImage, _: Path) -> str | None:
    height, width = picture.size
    return _size(picture) if max(height, width) >= LONGEST_ASPECT * min(height, width) else None


def _in_mode(*modes: str) -> Callable[[DecodedImage, Path], str | None]:
    return lambda picture, _: picture.mode if picture.mode in modes else None


def _odd_mode(picture: DecodedImage, _: Path) -> str | None:
    known = ("RGB", "L", "LA", "La", "P", "PA", "CMYK", "RGBA", "RGBa", "RGBX", "I", "F")
    return None if picture.mode in known or picture.mode.startswith("I;") else picture.mode


def _size(picture: DecodedImage) -> str:
    height, width = picture.size
    return f"{width} × {height}"


_DEALT_WITH = "Nothing has to be done here; other programs may read them differently."
_RULES = (
    _Rule(
        "blank",
        "warning",
        "images of one colour only",
        "Look at them: there is nothing to be learnt from them, or they lost their content.",
        _blank,
    ),
    _Rule(
        "extreme_size",
        "warning",
        f"images with a side below {SHORTEST_SIDE} pixels or more than {MOST_PIXELS // 1_000_000} million pixels",
        "Look at them: they are often icons, previews or scans that came along.",
        _extreme_size,
    ),
    _Rule(
        "extreme_aspect",
        "warning",
        f"images at least {LONGEST_ASPECT:g} times as long as wide, of which a crop shows little",
        "Cut them, or train with --set data.resize=pad.",
        _extreme_aspect,
    ),
    _Rule(
        "wrong_extension",
        "info",
        "images of another format than their names say, read by their content",
        "Rename them: programs that go by the name will fail.",
        _wrong_extension,
    ),
    _Rule(
        "animated",
        "info",
        "animations and files of several pages, of which the first is used",
        "Take out the picture that is meant.",
        lambda picture, _: picture.format if picture.is_animated else None,
    ),
    _Rule(
        "rotated",
        "info",
        "images stored on their side or mirrored, put upright as their EXIF data say",
        _DEALT_WITH,
        lambda picture, _: "" if picture.is_turned else None,
    ),
    _Rule("palette", "info", "images with a palette, read as RGB", _DEALT_WITH, _in_mode("P", "PA")),
    _Rule("cmyk", "info", "images in CMYK, made for printing, read as RGB", _DEALT_WITH, _in_mode("CMYK")),
    _Rule(
        "deep",
        "info",
        "images of more than 8 bits a channel, scaled to 8",
        _DEALT_WITH,
        lambda picture, _: picture.mode if picture.is_deep else None,
    ),
    _Rule(
        "transparent",
        "info",
        "images with transparency, put on white",
        _DEALT_WITH,
        lambda picture, _: picture.mode if picture.is_transparent else None,
    ),
    _Rule("gray", "info", "gray images, read as RGB", _DEALT_WITH, _in_mode("L", "LA", "La")),
    _Rule("odd_mode", "info", "images in an unusual colour mode, read as RGB", _DEALT_WITH, _odd_mode),
)
