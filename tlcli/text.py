"""Text for people: safe display of foreign names, plurals, short numbers and times; why a file cannot be read."""

import errno
from collections.abc import Sequence
from json import JSONDecodeError


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with unprintable characters escaped, except those in `keep`.

    >>> printable("a\tb\x1b[31m")
    'a\\x09b\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    """The escape for a character. A surrogate that stands for a byte of a file name becomes the escape of the byte."""
    code = ord(char)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\x{code:02x}"


def plural(count: int, singular: str) -> str:
    """A count with its noun, in the plural unless the count is 1.

    >>> plural(1, "image"), plural(0, "image"), plural(1200, "image"), plural(2, "class")
    ('1 image', '0 images', '1200 images', '2 classes')
    """
    ending = "es" if singular.endswith("s") else "s"
    return f"{count} {singular}{ending * (count != 1)}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in quotes, the first few of them.

    >>> listed(["a", "b"]), listed(["a", "b", "c", "d"], most=2)
    ("'a', 'b'", "'a', 'b' and 2 more")
    """
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def encodable(text: str) -> str:
    r"""The text with escapes for bytes of a file name that are not valid UTF-8, so that it can be encoded.

    >>> encodable("caf\udce9")
    'caf\\xe9'
    """
    return "".join(_escaped(char) if 0xD800 <= ord(char) <= 0xDFFF else char for char in text)


def spreadsheet_cell(text: str) -> str:
    """The text as a cell of a CSV file that no spreadsheet takes for a formula: those get an apostrophe in front.

    >>> [spreadsheet_cell(text) for text in ("=1+1", "-x.jpg", "a-b.jpg")]
    ["'=1+1", "'-x.jpg", 'a-b.jpg']
    """
    return "'" * text.startswith(("=", "+", "-", "@", "\t", "\r")) + encodable(text)


def compact(value: float) -> str:
    """A number with three digits and a unit prefix.

    >>> [compact(950), compact(1234), compact(2257984), compact(999_950), compact(3.1e9)]
    ['950', '1.23 k', '2.26 M', '1.00 M', '3.10 G']
    """
    if abs(value) < 999.5:
        return f"{value:.3g}"
    power = next((power for power in (1, 2, 3) if abs(value) < 999.5 * 1000**power), 4)
    return f"{f'{value / 1000**power:#.3g}'.rstrip('.')} {'kMGT'[power - 1]}"


def duration(seconds: float) -> str:
    """A duration in seconds as text, with minutes and hours.

    >>> [duration(3.21), duration(59.97), duration(75.4), duration(4000)]
    ['3.2 s', '1 min 00 s', '1 min 15 s', '1 h 06 min']
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def whole_percent(share: float) -> str:
    """A share (0-1) as whole percent; below 1 never as 100 %.

    >>> whole_percent(0.85), whole_percent(0.998), whole_percent(1.0)
    ('85 %', '> 99 %', '100 %')
    """
    return "> 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def why_unreadable(error: BaseException) -> str:
    """Why the content of a file cannot be read, as a clause without the words of the library that read it.

    >>> why_unreadable(KeyError("recipes"))
    "it has no 'recipes'"
    >>> why_unreadable(UnicodeDecodeError("utf-8", b"x", 0, 1, "invalid start byte"))
    'it is not text in UTF-8'
    """
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    if isinstance(error, JSONDecodeError):
        return f"it is not JSON: line {error.lineno}, column {error.colno}"
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}" if error.args else "a key is missing"
    if isinstance(error, TypeError | RecursionError):
        return "it has other keys or values than tlcli writes"
    # Readers of archives seek to wherever a damaged one points.
    if type(error).__name__ == "BadZipFile" or (isinstance(error, OSError) and error.errno == errno.EINVAL):
        return "its bytes are damaged, or not all there"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().partition("\n")[0][:200] or type(error).__name__).rstrip(".")
