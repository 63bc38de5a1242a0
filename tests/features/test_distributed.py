"""A pass over frozen layers on three real nodes: the bytes of one process, with lost workers and nodes, and resumed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laboratory import SIDE
from ray_work import cluster, kill_node, kill_worker, ray_nodes

from tlcli.cluster.connection import Cluster, Node, use_cluster
from tlcli.data.augment import Bounds
from tlcli.data.pixels import Images
from tlcli.features.distributed import worker_devices
from tlcli.features.extraction import FeatureCache, FeatureExtractor, extract_depths, pooled_model
from tlcli.features.frozen import View
from tlcli.model.head import POOLED

__all__ = ["cluster", "ray_nodes"]
pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("ignore")]

IMAGES = 64 * 4 * 20 + 7
CUT_POINTS = [POOLED, "block1_relu"]
RANDOM = View(1, Bounds(flip="horizontal", rotation=30.0, shift=0.2), 7)


@dataclass
class Pixels:
    """Pixels that count how many are read."""

    array: np.ndarray
    reads: int = 0

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        self.reads += len(rows)
        return self.array[rows]


@dataclass
class Pass:
    """One pass over the same images, as in a new process."""

    lab: Any
    folder: Path
    view: View = field(default_factory=View)
    pixels: Pixels = field(init=False)
    progress: list[tuple[int, int]] = field(default_factory=list)

    def run(self, act: Callable[[int], None] = lambda done: None) -> list[np.ndarray]:
        array = np.random.default_rng(5).integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8)
        self.pixels = Pixels(array)
        cache = FeatureCache(self.folder, 10**10, [f"{row:064x}" for row in range(IMAGES)])
        classifier = self.lab.classifier(self.lab.recipe({"train": "head"}))

        def report(done: int, total: int) -> None:
            self.progress.append((done, total))
            act(done)

        extractor = FeatureExtractor(classifier, Images(self.pixels, np.arange(IMAGES)), self.view)
        return list(extractor.extract(CUT_POINTS, cache, progress=report))


def require_same(features: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for own, other in zip(features, expected, strict=True):
        assert own.tobytes() == other.tobytes()


@pytest.fixture(scope="module")
def expected(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    return Pass(lab, tmp_path_factory.mktemp("plain")).run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "expected"),
    [([(8, 0), (2, 1)], (2, 1)), ([(8, 0), (2, 0)], (4, 0)), ([(16, 4)], (4, 1))],
    ids=["a GPU on a small node", "none", "a large node"],
)
def test_workers_fit_where_the_gpus_are(nodes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    class Nodes:
        def nodes(self) -> list[Node]:
            return [Node(str(number), "host", cpus, gpus) for number, (cpus, gpus) in enumerate(nodes)]

    assert worker_devices(Nodes()) == expected


def test_depths_and_features_without_a_cache_are_the_same_bytes(lab: Any, tmp_path: Path, ray_nodes: Any) -> None:
    classifier = lab.classifier(lab.recipe({"train": "head"}))
    images = Images(lab.train.pixels, np.arange(74).repeat(8))
    model = pooled_model(classifier.features, ["stem_relu", "block1_relu", "top_relu"], pooling="avg")

    def features() -> list[np.ndarray]:
        depths = extract_depths(model, images, tmp_path, progress=lambda done, total: counts.append((done, total)))
        return [*depths, *FeatureExtractor(classifier, images, View()).extract(CUT_POINTS, None)]

    counts: list[tuple[int, int]] = []
    with use_cluster(ray_nodes.address):
        on_cluster = features()
    assert counts[-1] == (592, 592)
    require_same(on_cluster, features())


def test_augmented_views_are_the_same_bytes(lab: Any, tmp_path: Path, ray_nodes: Any) -> None:
    with use_cluster(ray_nodes.address):
        features = Pass(lab, tmp_path / "cluster", RANDOM).run()
    plain = Pass(lab, tmp_path / "plain", RANDOM).run()
    assert [part.tobytes() for part in features] == [part.tobytes() for part in plain]


def test_a_lost_worker_and_a_lost_node_change_nothing(
    lab: Any, tmp_path: Path, expected: list[np.ndarray], cluster: Cluster, ray_nodes: Any
) -> None:
    said: list[str] = []
    cluster.report = said.append
    to_do = [(0.2, kill_worker), (0.5, kill_node)]

    def act(done: int) -> None:
        if to_do and done >= to_do[0][0] * IMAGES:
            to_do.pop(0)[1](ray_nodes)

    one = Pass(lab, tmp_path)
    require_same(one.run(act), expected)
    assert not to_do, "both were killed"
    assert one.progress[-1] == (IMAGES, IMAGES)
    assert IMAGES < one.pixels.reads < 1.5 * IMAGES, "only lost blocks are repeated"
    assert sum("a worker is lost" in text for text in said) == 2, said
    ray_nodes.add_node(num_cpus=1)


def test_an_interrupted_pass_is_continued(
    lab: Any, tmp_path: Path, expected: list[np.ndarray], cluster: Cluster
) -> None:
    def interrupt(done: int) -> None:
        if done > IMAGES // 2:
            raise KeyboardInterrupt

    first = Pass(lab, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.run(interrupt)
    assert not list(tmp_path.glob("[0-9a-f]*/data.npy")), "no reader finds half of it"
    second = Pass(lab, tmp_path)
    require_same(second.run(), expected)
    assert second.progress[-1][1] == IMAGES - first.progress[-1][0]
    assert not list(tmp_path.glob(".*")), "nothing is left of it"
