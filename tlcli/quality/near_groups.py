"""Near-duplicates of a whole folder, which the split keeps together.

Each image is decoded once more, at a fixed small size, so that its hashes, and with them the split, do not depend on
the input size of a network. The hashes are cached by content.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tlcli.data import workers
from tlcli.data.decode import DECODER_ERRORS, QUIET_PILLOW, to_rgb
from tlcli.data.source import FolderIndex
from tlcli.paths import write_text
from tlcli.quality.components import Components
from tlcli.quality.near_duplicates import COPY_SIZE, Hashes, compute_hashes, near_pairs, shrink

# Part of the key of every cache file: raise it when the same image gives other hashes.
FORMAT_VERSION = 1

Progress = Callable[[int, int], None]


def find_near_groups(
    index: FolderIndex, *, folder: Path, progress: Progress | None = None
) -> tuple[tuple[str, ...], ...]:
    """Groups of contents (sha256) of one class that are near-duplicates, directly or through others of the group.

    Args:
        index: The images.
        folder: Folder of the cached hashes; created if missing.
        progress: Called with (images hashed, images); not called if the cache exists.
    """
    hashes = _read_hashes(index, folder, progress)
    labels = {image.sha256: image.label for image in index.images}
    contents = [sha for sha in hashes if hashes[sha] is not None]
    kept = [pair for pair in hashes.values() if pair is not None]
    label = np.array([labels[sha] for sha in contents])
    components = Components(len(contents))
    for left, right in near_pairs(kept) if len(kept) > 1 else ():
        is_same = label[left] == label[right]
        components.add(left[is_same], right[is_same])
    return tuple(tuple(contents[member] for member in group) for group in components.groups())


def _read_hashes(index: FolderIndex, folder: Path, progress: Progress | None) -> Mapping[str, Hashes | None]:
    """Content to hashes, sorted by content; None for one that has no hashes. From the cache, or computed into it."""
    files = {image.sha256: str(index.file(image)) for image in reversed(index.images)}
    order = sorted(files)
    key = hashlib.sha256(json.dumps([FORMAT_VERSION, order]).encode()).hexdigest()[:32]
    cache = folder / f"{key}.json"
    try:
        cached = json.loads(cache.read_text(encoding="utf-8"))
        return {sha: Hashes(*map(int, pair)) if pair else None for sha, pair in zip(order, cached, strict=True)}
    except (OSError, ValueError, TypeError):
        pass
    hashes: dict[str, Hashes | None] = {}
    job: workers.Job[str, Hashes | None] = workers.Job(_hash_files, None)
    for sha, pair in zip(order, workers.run(job, [files[sha] for sha in order]), strict=True):
        hashes[sha] = pair
        if progress:
            progress(len(hashes), len(order))
    rows = [None if pair is None else (pair.frequencies, pair.differences) for pair in hashes.values()]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(cache, json.dumps(rows))
    return hashes


def _hash_files(files: Sequence[str]) -> list[Hashes | None]:
    """The hashes of some files; None for one of one colour, and for one that cannot be decoded."""
    copies = {}
    with QUIET_PILLOW:
        for file in files:
            try:
                copies[file] = shrink(to_rgb(Path(file).read_bytes(), COPY_SIZE))
            except DECODER_ERRORS:
                continue
    found = dict(zip(copies, (hashes for _, hashes in compute_hashes(list(copies.values()))), strict=True))
    return [found.get(file) for file in files]
