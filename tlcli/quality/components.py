"""Connected components of images, with near pairs as edges."""

from collections import defaultdict

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Indices = npt.NDArray[np.int64]

# Near pairs kept in memory before they are reduced to connected components.
_MAX_EDGES = 2_000_000


class Components:
    """Connected components of the images, with near pairs as edges."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.left: list[Indices] = []
        self.right: list[Indices] = []

    def add(self, left: Indices, right: Indices) -> None:
        """Add near pairs: their indices, `int64 (pairs,)` each."""
        self.left.append(left)
        self.right.append(right)
        if sum(map(len, self.left)) > _MAX_EDGES:
            labels = self._labels()
            first = np.unique(labels, return_index=True)[1]
            self.left, self.right = [np.arange(self.count)], [first[labels]]

    def groups(self) -> list[list[int]]:
        """The components with more than one image, each sorted."""
        groups: dict[int, list[int]] = defaultdict(list)
        for image, label in enumerate(self._labels()):
            groups[int(label)].append(image)
        return [group for group in groups.values() if len(group) > 1]

    def _labels(self) -> Indices:
        left = np.concatenate([np.zeros(0, np.int64), *self.left])
        right = np.concatenate([np.zeros(0, np.int64), *self.right])
        graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(self.count, self.count))
        return np.asarray(connected_components(graph, directed=False)[1], np.int64)
