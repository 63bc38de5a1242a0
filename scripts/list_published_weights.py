"""Write models/published_weights.json: the weights files that Keras publishes for the networks of the cards.

Keras builds each network for every combination of arguments and sizes, without memory for weights. The address, the
file name and the hash that it asks for are recorded; nothing is downloaded.
"""

import inspect
import itertools
import json
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import keras
from keras.src.utils import file_utils

from tlcli.model.graph import weightless
from tlcli.paths import bundled
from tlcli.zoo import catalogue

FILE = Path(bundled("models")) / "published_weights.json"
SIZES = (96, 128, 160, 192, 224)
# A size without weights of its own; Keras takes those of its default size.
OTHER = 200
VALUES = {"alpha": (0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4), "minimalistic": (False, True)}


class _Asked(Exception):
    pass


def main() -> None:
    """Write the file."""
    handles = sorted(
        {card.source.partition(":")[2] for card in catalogue.load().values() if _is_published(card.source)}
    )
    networks = {handle: entries(getattr(keras.applications, handle)) for handle in handles}
    lines = ",\n".join(
        f"  {json.dumps(handle)}: [\n" + ",\n".join(f"    {json.dumps(entry)}" for entry in found) + "\n  ]"
        for handle, found in networks.items()
    )
    FILE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(f"{FILE}: {sum(map(len, networks.values()))} files of {len(networks)} networks")


def entries(build: Any) -> list[dict[str, Any]]:
    """The published files without top of one network; `size` is null where they are for all other sizes."""
    offered = inspect.signature(build).parameters
    names = [name for name in VALUES if name in offered]
    found = []
    for values in itertools.product(*(VALUES[name] for name in names)):
        arguments = dict(zip(names, values, strict=True))
        default = asked(build, OTHER, arguments)
        if default is None:
            continue
        found.append({"arguments": arguments, "size": None, **default})
        for size in SIZES:
            file = asked(build, size, arguments)
            if file is not None and file != default:
                found.append({"arguments": arguments, "size": size, **file})
    return found


def asked(build: Any, size: int, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The file that Keras asks for; None if it publishes none for these arguments."""
    recorded: dict[str, Any] = {}

    def get_file(fname: str, origin: str, *_: Any, file_hash: str | None = None, **__: Any) -> str:
        kind = "md5" if file_hash and len(file_hash) == 32 else "sha256"
        recorded.update(name=fname, url=origin, hash=file_hash and f"{kind}:{file_hash}")
        raise _Asked

    try:
        with mock.patch.object(file_utils, "get_file", get_file), weightless(), warnings.catch_warnings():
            # Keras warns that it takes the weights for 224 pixels.
            warnings.simplefilter("ignore")
            build(weights="imagenet", include_top=False, input_shape=(size, size, 3), **arguments)
    except _Asked:
        return recorded
    except ValueError:
        return None
    raise RuntimeError(f"{build.__name__} asked for no file")


def _is_published(source: str) -> bool:
    return source.startswith("keras:")


if __name__ == "__main__":
    main()
