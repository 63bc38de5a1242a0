"""Damaged copies of files, and a check that a reader refuses them with a clear error."""

import random
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tlcli.errors import TlcliError

# No file of these tests takes a second to read; the rest is for a busy machine.
LIMIT_S = 30
# Words that mean something in one of the formats, and numbers at the edges.
WORDS = (
    *(
        b"null true false - -1 0 1e999 .nan 18446744073709551616 [] {} ../../x /x \xff\xfe *a &a !!python/name:os"
    ).split(),
    *(b"<b> =1+1 \x1b[31m \x00 train val test path label name").split(b" "),
    *(b"\n", b"\t- ", b": ", b"'", b'"', b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 8),
)


class TooSlow(BaseException):
    """A reader took longer than the limit. No code that catches Exception swallows it."""


@dataclass(frozen=True)
class Case:
    """A file and what reads it.

    Attributes:
        file: The file that is damaged.
        read: Reads it; may raise TlcliError.
        refuses: Other errors that the documentation of the reader names.
    """

    file: Path
    read: Callable[[], object]
    refuses: tuple[type[BaseException], ...] = ()


def mutate(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four changes: bits, bytes, words, cuts, and pieces that come twice."""
    for _ in range(draw.randint(1, 4)):
        content = draw.choice((_bits, _bits, _bytes, _word, _word, _cut, _twice, _left_out))(content, draw)
    return content


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def failures(case: Case, count: int, draw: random.Random) -> tuple[list[str], int]:
    """Read `count` damaged copies. Returns what went wrong, each kind of error once, and how many were refused."""
    original, wrong, refused = case.file.read_bytes(), {}, 0
    try:
        for number in range(count):
            content = mutate(original, draw)
            case.file.write_bytes(content)
            try:
                with warnings.catch_warnings(), time_limit():
                    warnings.simplefilter("ignore")
                    case.read()
            except TlcliError as error:
                refused += 1
                if not str(error).strip() or not error.message:
                    wrong["an error without words"] = f"{number}: {error!r}"
            except case.refuses:
                refused += 1
            except (Exception, TooSlow) as error:
                wrong.setdefault(_place(error), f"{number}: {type(error).__name__}: {error} at {_place(error)}")
    finally:
        case.file.write_bytes(original)
    return list(wrong.values()), refused


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise TooSlow after `LIMIT_S` seconds."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _place(error: BaseException) -> str:
    """The last line of tlcli in a traceback."""
    at, place = error.__traceback__, type(error).__name__
    while at is not None:
        name = at.tb_frame.f_code.co_filename
        if "/tlcli/" in name and "/tests/" not in name:
            place = f"{name.rpartition('/tlcli/')[2]}:{at.tb_lineno} {type(error).__name__}"
        at = at.tb_next
    return place


def _at(content: bytes, draw: random.Random) -> int:
    """A place; headers are hit more often than the rest."""
    end = len(content) if draw.random() < 0.6 else min(200, len(content))
    place = draw.randint(0, end)
    return place if draw.random() < 0.8 else max(0, len(content) - place)


def _bits(content: bytes, draw: random.Random) -> bytes:
    place = _at(content, draw)
    return (
        content[:place]
        + bytes(byte ^ 1 << draw.randrange(8) for byte in content[place : place + 1])
        + content[place + 1 :]
    )


def _bytes(content: bytes, draw: random.Random) -> bytes:
    place = _at(content, draw)
    return content[:place] + draw.randbytes(draw.randint(0, 5)) + content[place + draw.randint(0, 5) :]


def _word(content: bytes, draw: random.Random) -> bytes:
    """One word replaced by another of the file or a special one; numbers and names of binary files count, too."""
    words = list(re.finditer(rb"[\w.+-]+", content[:20_000]))
    if not words:
        return content + draw.choice(WORDS)
    old = draw.choice(words)
    new = draw.choice((draw.choice(WORDS), draw.choice(words)[0]))
    return content[: old.start()] + new + content[old.end() :]


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: _at(content, draw)] if draw.random() < 0.3 else content


def _twice(content: bytes, draw: random.Random) -> bytes:
    start = _at(content, draw)
    piece = content[start : start + draw.choice((1, 8, 40, 400))]
    place = draw.choice((start, _at(content, draw)))
    return content[:place] + piece + content[place:]


def _left_out(content: bytes, draw: random.Random) -> bytes:
    start = _at(content, draw)
    return content[:start] + content[start + draw.choice((1, 8, 40, 400)) :]
