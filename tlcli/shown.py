"""Text from outside, such as names of files, made fit to be shown or written."""


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with escapes for what a terminal or page would obey instead of showing; `keep` stays as it is.

    >>> printable("a\tb\x1b[31m")
    'a\\x09b\\x1b[31m'
    """
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    """A character as an escape; what Python keeps of a byte of a file name that was no UTF-8 as that byte."""
    code = ord(char)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\x{code:02x}"


def counted(count: int, one: str) -> str:
    """A number of things, in the plural where it is not one.

    >>> counted(1, "image"), counted(0, "image"), counted(1200, "image")
    ('1 image', '0 images', '1200 images')
    """
    return f"{count} {one}{'s' * (count != 1)}"


def encodable(text: str) -> str:
    r"""The text with escapes for bytes of a file name that were no UTF-8.

    >>> encodable("caf\udce9")
    'caf\\xe9'
    """
    return "".join(_escaped(char) if 0xD800 <= ord(char) <= 0xDFFF else char for char in text)
