"""Findings about single files: what cannot be read, and what is odd about a picture that can."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlcli.data.findings import Finding, Severity
from tlcli.doctor.look import Failure, Picture
from tlcli.doctor.seen import Seen

# Longer side over shorter: from there on a centred crop shows a quarter or less.
LONGEST_ASPECT = 4.0
# A side of fewer pixels shows nothing; a picture of more pixels is hardly a sample of anything.
SHORTEST_SIDE = 16
MOST_PIXELS = 50_000_000
# Deviation of gray levels below which all is one colour.
BLANK = 1.0

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
    says: Callable[[Picture, Path], str | None]


def findings(seen: Sequence[Seen], size: tuple[int, int]) -> Iterator[Finding]:
    """Look through all files. `size` is `(height, width)` of the network's input, pixels."""
    yield from _failures(seen)
    for rule in (*_RULES, *_smaller(size)):
        notes = {
            file.path: note
            for file in seen
            if isinstance(file.found, Picture) and (note := rule.says(file.found, Path(file.path))) is not None
        }
        if notes:
            yield Finding(rule.kind, rule.severity, rule.message, rule.remedy, tuple(notes), notes=notes)


def _failures(seen: Sequence[Seen]) -> Iterator[Finding]:
    failed = {file.path: file.found for file in seen if isinstance(file.found, Failure)}
    for kind, (message, remedy) in _FAILURES.items():
        notes = {path: failure.reason for path, failure in failed.items() if failure.kind == kind}
        if notes:
            yield Finding(kind, "error", message, remedy, tuple(notes), notes=notes)


def _smaller(size: tuple[int, int]) -> tuple[_Rule, _Rule]:
    """Pictures that have to be enlarged: much, and a little."""
    height, width = size

    def scale(picture: Picture) -> float:
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


def _wrong_extension(picture: Picture, path: Path) -> str | None:
    is_right = path.suffix.lower() in _SUFFIXES.get(picture.format, ())
    return None if is_right else f"is {picture.format}"


def _blank(picture: Picture, _: Path) -> str | None:
    return _size(picture) if picture.contrast < BLANK else None


def _extreme_size(picture: Picture, _: Path) -> str | None:
    height, width = picture.size
    is_extreme = min(height, width) < SHORTEST_SIDE or height * width > MOST_PIXELS
    return _size(picture) if is_extreme else None


def _extreme_aspect(picture: Picture, _: Path) -> str | None:
    height, width = picture.size
    return _size(picture) if max(height, width) >= LONGEST_ASPECT * min(height, width) else None


def _in_mode(*modes: str) -> Callable[[Picture, Path], str | None]:
    return lambda picture, _: picture.mode if picture.mode in modes else None


def _odd_mode(picture: Picture, _: Path) -> str | None:
    known = ("RGB", "L", "LA", "La", "P", "PA", "CMYK", "RGBA", "RGBa", "RGBX", "I", "F")
    return None if picture.mode in known or picture.mode.startswith("I;") else picture.mode


def _size(picture: Picture) -> str:
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
