"""What a file is by its first bytes, and why a library could not read it, in a few words."""

import zipfile
from pathlib import Path

# First bytes of kinds of files that are mistaken for models and weights.
_KINDS = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"RIFF", "a WebP image or a sound"),
    (b"%PDF", "a PDF document"),
    (b"<", "an HTML or XML page"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
)
_LONGEST = 120


def kind_of(path: Path) -> str:
    """What a file is: `a JPEG image`, `empty`; the empty string if that is not known."""
    try:
        with path.open("rb") as file:
            first = file.read(32)
    except OSError:
        return ""
    return next((kind for start, kind in _KINDS if first.startswith(start)), "" if first else "empty")


def reason(path: Path, error: BaseException, wanted: str) -> str:
    """Why a file could not be read.

    Args:
        path: The file.
        error: The error of a library.
        wanted: What it must be: `a zip archive`, `an HDF5 file`.

    Returns:
        A clause such as `it is a JPEG image, not an HDF5 file`, or `it is cut off`.
    """
    kind, text = kind_of(path), str(error)
    if kind and kind != wanted:
        return f"it is {kind}" if kind == "empty" else f"it is {kind}, not {wanted}"
    if "truncated" in text or (kind == wanted and isinstance(error, zipfile.BadZipFile) and "not a zip" in text):
        return "it is cut off"
    if not kind or "signature not found" in text or "not a zip" in text:
        return f"it is not {wanted}"
    inner = text.strip().strip("'\"").partition("\n")[0]
    if inner.startswith("Unable to ") and "(" in inner:
        inner = inner.partition("(")[2].rstrip(")")
    return inner[:_LONGEST].rstrip(".") or type(error).__name__
