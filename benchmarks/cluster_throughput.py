"""Images a second of decoding and of frozen layers: in this process, and by 1, 2 and 3 Ray workers with one core each.

python benchmarks/cluster_throughput.py DATA [--model M] [--size N] [--images N]

Every variant decodes and passes the same images, in turn.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def measure(prepared: Any, classifier: Any, images: int) -> dict[str, float]:
    """Images a second of both passes, after their first block, with empty caches."""
    from tlcli.data import pixels
    from tlcli.data.pixels import Images
    from tlcli.features.extraction import FeatureCache, FeatureExtractor
    from tlcli.features.frozen import View
    from tlcli.model.head import POOLED
    from tlcli.train.events import ignore
    from tlcli.train.scale_rates import Watch

    plan = prepared.plan
    with tempfile.TemporaryDirectory() as name:
        decoded, passed = Watch(ignore, ""), Watch(ignore, "")
        pixels.open_cache(prepared.index, size=plan.size, mode="crop", folder=Path(name) / "pixels", progress=decoded)
        rows = np.resize(np.arange(len(prepared.pixels.array)), images)
        cache = FeatureCache(Path(name) / "features", 2**40, prepared.pixels.contents)
        extractor = FeatureExtractor(classifier, Images(prepared.pixels.array, rows), View())
        extractor.extract([POOLED], cache, progress=passed)
    return {"decode": round(decoded.per_s), "frozen": round(passed.per_s)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="mobilenet_synthetic")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # As `--cluster local` starts them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import tlcli
    from tlcli.cache import arrays
    from tlcli.cluster.connection import use_cluster
    from tlcli.model import graph
    from tlcli.model.classifier import assemble
    from tlcli.recipe import load
    from tlcli.train import scale_rates
    from tlcli.train.depth_probe import build_backbone
    from tlcli.train.events import ignore
    from tlcli.train.preparation import choose_network, prepare
    from tlcli.zoo.resolve import resolve

    tlcli.is_program = True
    scale_rates.PASS_S = 1e9
    # Frequent progress in this process, too.
    arrays.BLOCK_BYTES = 2**19
    settings = {"data.path": str(options.data.resolve()), "model.name": options.model, "data.size": [options.size] * 2}
    recipe = resolve(load.load("head-only", options=settings)).recipe
    network = choose_network(recipe, measure=graph.measure_groups)
    backbone = build_backbone(recipe, network)
    prepared = prepare(recipe, network, strict=False, observe=ignore)
    classifier = assemble(backbone, recipe.head, classes=prepared.plan.classes, resize="crop")
    from ray.cluster_utils import Cluster

    for _ in range(options.repeats):
        print("in this process", json.dumps(measure(prepared, classifier, options.images)), flush=True)
        for shape in ([2], [1], [1, 1], [1, 1, 1]):
            nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": shape[0], "include_dashboard": False})
            for cores in shape[1:]:
                nodes.add_node(num_cpus=cores)
            with use_cluster(nodes.address):
                rates = measure(prepared, classifier, options.images)
            nodes.shutdown()
            print(f"workers of {shape} cores", json.dumps(rates), flush=True)


if __name__ == "__main__":
    main()
