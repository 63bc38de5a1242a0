"""Near-duplicates among the images of a run, which the split keeps together."""

import numpy as np
from PIL import Image

from tlcli.data.pixels import Pixels
from tlcli.data.source import FolderIndex
from tlcli.quality.components import Components
from tlcli.quality.near_duplicates import compute_hashes, near_pairs

# Images hashed at once.
_BATCH_SIZE = 256


def find_near_groups(index: FolderIndex, pixels: Pixels) -> tuple[tuple[str, ...], ...]:
    """Groups of contents (sha256) of one class that are near-duplicates, directly or through others of the group.

    They follow from the small copies of the pixel cache, which are the same for every input size.
    """
    label_of = {image.sha256: image.label for image in index.images}
    pairs = (
        (content, hashes)
        for start in range(0, len(pixels.copies), _BATCH_SIZE)
        for content, (_, hashes) in zip(
            pixels.contents[start : start + _BATCH_SIZE],
            compute_hashes([Image.fromarray(copy) for copy in pixels.copies[start : start + _BATCH_SIZE]]),
            strict=True,
        )
    )
    hashes_of = {content: hashes for content, hashes in pairs if content in label_of and hashes is not None}
    if len(hashes_of) < 2:
        return ()
    contents = list(hashes_of)
    labels = np.array([label_of[content] for content in contents])
    components = Components(len(contents))
    for left, right in near_pairs(list(hashes_of.values())):
        is_same = labels[left] == labels[right]
        components.add(left[is_same], right[is_same])
    return tuple(tuple(contents[member] for member in group) for group in components.groups())
