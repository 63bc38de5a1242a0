"""Decode image files of any supported format to 8-bit RGB."""

import io
import logging
import re
import struct
import threading
import warnings
import zlib
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
)

# What Pillow would try besides these is either no photograph (icons, PDF, fonts) or little used and often attacked.
# Named by their plugins, which `Image.open` knows only once they are imported. JPEG opens MPO too.
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
# Seen to come out of Pillow on damaged or hostile files, beside its own errors, which are OSError.
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
_KNOWN_BUT_UNREAD = (
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer and not the image; run `git lfs pull`"),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "AVIF, which is not read; convert it to JPEG or PNG"),
    (re.compile(rb"....ftyp", re.DOTALL), "HEIC or a video, which is not read; convert it to JPEG or PNG"),
    (re.compile(rb"\0\0\0\x0cjP|\xff\x4f\xff\x51"), "JPEG 2000, which is not read; convert it to JPEG or PNG"),
    (re.compile(rb"8BPS"), "a Photoshop file, which is not read; convert it to JPEG or PNG"),
    (re.compile(rb"\0\0\x01\0"), "an icon, which is not read; convert it to PNG"),
)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Without a handler of its own Pillow's log lines would reach stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class _QuietPillow:
    """Silences Pillow's warnings. Python's filters belong to the process, so only the last user puts them back."""

    def __init__(self) -> None:
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


QUIET_PILLOW = _QuietPillow()  # to be held while `to_rgb` runs


def to_rgb(data: bytes, at_least: tuple[int, int] | None) -> Image.Image:
    """Decode the bytes of a file: upright by its orientation, transparency on white, first frame.

    Args:
        data: The whole file.
        at_least: `(height, width)` a JPEG may be scaled down to while it is decoded.

    Raises:
        Exception: One of `DECODER_ERRORS`; `reason_of` puts it into words.
    """
    with open_image(data) as image:
        return as_rgb(image, at_least)


def open_image(data: bytes) -> Image.Image:
    """The image of a file, its pixels not yet read. To be closed.

    Raises:
        Exception: One of `DECODER_ERRORS`.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(_unread(data)) from None


def as_rgb(image: Image.Image, at_least: tuple[int, int] | None) -> Image.Image:
    """The second half of `to_rgb`.

    Raises:
        Exception: One of `DECODER_ERRORS`.
    """
    if at_least:
        # The orientation is not known yet, so both sides must do for the longer one. Only JPEG has a draft.
        image.draft(None, (max(at_least), max(at_least)))
    image.load()
    is_wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
    rgb = _wide_to_rgb(image) if is_wide else _narrow_to_rgb(image)
    turn = _TURNS.get(orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _narrow_to_rgb(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def _wide_to_rgb(image: Image.Image) -> Image.Image:
    """Gray of more than 8 bits. White is the greatest value of its bits; 32-bit integers and floats have none.

    So these take the smallest usual white that holds them, 1 (floats only), 255 or 65535, and are stretched from
    their least to their greatest value where none does.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    whites = (_white(image),) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0)[image.mode == "I" :]
    white = next((white for white in whites if low >= 0 and high <= white), None)
    gray = values / white if white else (values - low) / max(high - low, 1e-300)
    gray = np.rint(gray * 255)
    if isinstance(hole := image.info.get("transparency"), int):
        gray[values == hole] = 255
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")


def _white(image: Image.Image) -> float:
    """White of a 16-bit mode: 65535, or 4095 where a TIFF says that it holds 12 bits."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 65535.0
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
    return float(2 ** min(bits[0], 16) - 1)


def orientation(image: Image.Image) -> int:
    """EXIF or XMP orientation. Damaged metadata says nothing about the pixels, so they count as upright."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DECODER_ERRORS:
        return 1


def reason_of(error: BaseException) -> str:
    """One short line for the user."""
    if isinstance(error, MemoryError):
        return "decoding needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    said = str(error).partition(", could be")[0]
    if isinstance(error, OSError | ValueError | Image.DecompressionBombError) and said:
        return said
    return f"the image data is broken ({type(error).__name__}: {said})"


def _unread(data: bytes) -> str:
    for pattern, what in _KNOWN_BUT_UNREAD:
        if pattern.match(data):
            return what
    return "not an image of a format that is read (JPEG, PNG, GIF, BMP, WebP, TIFF)"


EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"},
)

# Camera files are TIFF by their first bytes; Pillow would read the thumbnail, or nothing.
_RAW = frozenset({".arw", ".cr2", ".dng", ".erf", ".kdc", ".nef", ".nrw", ".pef", ".raw", ".rwl", ".sr2", ".srw"})
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    re.DOTALL,
)
_TIFF_MAGIC = (b"II*\0", b"MM\0*")


def is_image(path: Path) -> bool:
    """By its extension, else by its first bytes. What only pretends is found when it is decoded."""
    if not path.is_file():
        return False
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return True
    with path.open("rb") as file:
        head = file.read(18)
    return bool(_MAGIC.match(head)) or (head.startswith(_TIFF_MAGIC) and suffix not in _RAW)
