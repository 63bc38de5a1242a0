"""Which files are pictures: by extension, else by their first bytes."""

import re
from pathlib import Path

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
