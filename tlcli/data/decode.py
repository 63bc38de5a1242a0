"""Decoding of image files of any supported format to 8-bit RGB."""

import ctypes
import io
import logging
import re
import struct
import threading
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    _imaging,
)

from tlcli.storage.location import StoredPath

# The other formats of Pillow are no photographs (icons, PDF, fonts), or rare and often attacked.
# Named by their plugins, because `Image.open` knows only plugins that are imported. The JPEG plugin also opens MPO.
FORMATS = tuple(
    str(plugin.format)
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        BmpImagePlugin.BmpImageFile,
        BmpImagePlugin.DibImageFile,
        GifImagePlugin.GifImageFile,
        WebPImagePlugin.WebPImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"},
)
# Errors that Pillow raises for damaged or hostile files. Its own errors are OSError.
DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    ArithmeticError,
    LookupError,
    TypeError,
    MemoryError,
    Image.DecompressionBombError,
)

_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    re.DOTALL,
)
_TIFF_MAGIC = (b"II*\0", b"MM\0*")
# Raw files of cameras begin like TIFF files; Pillow would read their thumbnail, or nothing.
_RAW = frozenset({".arw", ".cr2", ".dng", ".erf", ".kdc", ".nef", ".nrw", ".pef", ".raw", ".rwl", ".sr2", ".srw"})
_UNSUPPORTED = (
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer, not the image; run `git lfs pull`"),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "AVIF is not supported; convert it to JPEG or PNG"),
    (re.compile(rb"....ftyp", re.DOTALL), "HEIC and videos are not supported; convert it to JPEG or PNG"),
    (re.compile(rb"\0\0\0\x0cjP|\xff\x4f\xff\x51"), "JPEG 2000 is not supported; convert it to JPEG or PNG"),
    (re.compile(rb"8BPS"), "Photoshop files are not supported; convert it to JPEG or PNG"),
    (re.compile(rb"\0\0\x01\0"), "icon files are not supported; convert it to PNG"),
)

# What the words of Pillow mean for users.
_MEANINGS = (
    (
        re.compile(r"exceeds limit"),
        f"the image has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, too many to decode",
    ),
    (re.compile(r"Decompressed data too large"), "the image holds more text than is read"),
    (re.compile(r"truncat", re.IGNORECASE), "the image is truncated: the file ends before it does"),
    (re.compile(r"Unsupported BMP"), "the image is damaged, or a kind of BMP that is not supported"),
)

_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class RefusedImageError(ValueError):
    """A file that is not decoded, with a reason in words for users."""


# Without a handler of its own, Pillow's log lines would reach stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def _silence_libtiff() -> None:
    """Take the handlers away with which libtiff prints to stderr. Pillow still raises the errors.

    Its functions are found through the library of Pillow, which was linked with it. Where that is not possible, such as
    on Windows, libtiff goes on printing.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


class _QuietPillow:
    """Context that silences Pillow's warnings, and the library that it reads TIFF files with.

    Python's warning filters belong to the process, so the last of all users restores them.
    """

    def __init__(self) -> None:
        _silence_libtiff()
        self._lock = threading.Lock()
        self._users = 0
        self._catcher = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._catcher.__exit__(None, None, None)


QUIET_PILLOW = _QuietPillow()  # callers of `to_rgb` hold it


def is_image(path: Path) -> bool:
    """True if the extension or the first bytes are those of an image. Broken files are found when they are decoded."""
    if not path.is_file():
        return False
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return True
    if isinstance(path, StoredPath):
        head = path.head(18)
    else:
        with path.open("rb") as file:
            head = file.read(18)
    return bool(_MAGIC.match(head)) or (head.startswith(_TIFF_MAGIC) and suffix not in _RAW)


def extension_of(data: bytes) -> str:
    """The usual extension of an image by its first bytes; empty if they are those of no image."""
    extensions = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"RI": ".webp", b"BM": ".bmp"}
    extensions |= {b"II": ".tif", b"MM": ".tif"}
    return extensions.get(data[:2], "")


def to_rgb(data: bytes, min_size: tuple[int, int] | None) -> Image.Image:
    """Decode a file: upright by its orientation, transparency on white, first frame.

    Args:
        data: The content of the file.
        min_size: `(height, width)` down to which a JPEG may be scaled while it is decoded; None for full size.

    Raises:
        Exception: One of `DECODER_ERRORS`; `reason_of` turns it into text.
    """
    with open_image(data) as image:
        return as_rgb(image, min_size)


def open_image(data: bytes) -> Image.Image:
    """Open a file without reading its pixels. The caller closes the image.

    Raises:
        Exception: One of `DECODER_ERRORS`.
    """
    if not data:
        raise RefusedImageError("the file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise RefusedImageError(_why_unsupported(data)) from None


def as_rgb(image: Image.Image, min_size: tuple[int, int] | None) -> Image.Image:
    """Decode an opened image as `to_rgb` does.

    Raises:
        Exception: One of `DECODER_ERRORS`.
    """
    if min_size:
        # The orientation is not known yet, so both sides must reach the longer one. Only JPEG has a draft.
        image.draft(None, (max(min_size), max(min_size)))
    image.load()
    is_wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
    rgb = _wide_to_rgb(image) if is_wide else _narrow_to_rgb(image)
    transpose = _TRANSPOSE_OF_ORIENTATION.get(orientation(image))
    return rgb if transpose is None else rgb.transpose(transpose)


def orientation(image: Image.Image) -> int:
    """EXIF or XMP orientation, 1-8; 1 (upright) if the metadata is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DECODER_ERRORS:
        return 1


def reason_of(error: BaseException) -> str:
    """A decoder error as one short line for the user, without the words of the decoder."""
    if isinstance(error, RefusedImageError):
        return str(error)
    if isinstance(error, MemoryError):
        return "decoding needs more memory than is available"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    meanings = (meaning for words, meaning in _MEANINGS if words.search(str(error)))
    return next(meanings, "the image data is broken")


def _why_unsupported(data: bytes) -> str:
    for pattern, reason in _UNSUPPORTED:
        if pattern.match(data):
            return reason
    return "not a valid JPEG, PNG, GIF, BMP, WebP or TIFF image"


def _narrow_to_rgb(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def _wide_to_rgb(image: Image.Image) -> Image.Image:
    """Gray of more than 8 bits as 8-bit RGB.

    White is the greatest value of 16-bit modes. 32-bit integers and floats have no such value: their white is the
    smallest of 1 (floats only), 255 and 65535 that holds all values. If none does, the values are stretched from
    their least to their greatest.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    whites = (_white(image),) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0)[image.mode == "I" :]
    white = next((white for white in whites if low >= 0 and high <= white), None)
    gray = values / white if white else (values - low) / max(high - low, 1e-300)
    gray = np.rint(gray * 255)
    if isinstance(transparent := image.info.get("transparency"), int):
        gray[values == transparent] = 255
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")


def _white(image: Image.Image) -> float:
    """White of a 16-bit mode: 65535, or 4095 if a TIFF says that it holds 12 bits."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 65535.0
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
    return float(2 ** min(bits[0], 16) - 1)
