"""What `tlcli check` is asked for, and what can be told of it before any image is opened."""

import os
from dataclasses import dataclass
from pathlib import Path

from tlcli.data import exclude as exclusions
from tlcli.data import layout
from tlcli.errors import UsageError
from tlcli.output import require_new_file
from tlcli.train import plan
from tlcli.zoo import catalogue

# What `finetune` takes where nobody names a network and its weights can be had.
MODEL = "mobilenet_v2"
LARGEST = 4096


@dataclass(frozen=True)
class Request:
    """What was asked for. None is: not said.

    Attributes:
        data: Folder of class folders.
        model: Network whose input size counts.
        size: Height and width instead of its own, pixels.
        exclude: List of images to pass over.
        html: Page to write.
        quarantine: List to write.
    """

    data: Path
    model: str | None = None
    size: tuple[int, int] | None = None
    exclude: Path | None = None
    html: Path | None = None
    quarantine: Path | None = None


def check(request: Request) -> tuple[int, int]:
    """Check all that was asked for; returns `(height, width)` of the network's input, pixels.

    Raises:
        TlcliError: For the first thing that is wrong.
    """
    layout.require_folder(request.data, "DATA")
    if request.exclude is not None:
        exclusions.read(request.exclude)
    for option, path in (("--html", request.html), ("--quarantine", request.quarantine)):
        if path is not None:
            require_new_file(path, option, outside=request.data)
    if request.html is not None and request.quarantine is not None and _same(request.html, request.quarantine):
        raise UsageError("the page and the list are the same file", where="--html, --quarantine", hint="Name two.")
    return _size(request)


def _size(request: Request) -> tuple[int, int]:
    card = catalogue.find(request.model or MODEL)
    size = request.size or (card.size, card.size)
    if not all(1 <= side <= LARGEST for side in size):
        raise UsageError(f"a side is 1 to {LARGEST} pixels (got {size[0]} {size[1]})", where="--size")
    if request.model is not None:
        plan.check_size(card, size, where="--size")
    return size


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
