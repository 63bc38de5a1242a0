"""Scale: what a run would cost at other numbers of images on a cluster, from short measurements on it."""

import time
from dataclasses import dataclass
from typing import Any

from tlcli.cluster.connection import Cluster
from tlcli.model.classifier import assemble
from tlcli.model.devices import use_device
from tlcli.train import scale, scale_rates
from tlcli.train.depth_probe import build_backbone
from tlcli.train.estimate import BASE_S
from tlcli.train.events import Observer, ignore
from tlcli.train.preparation import ChosenNetwork, Prepared, prepare
from tlcli.workflows.request import Request


@dataclass(frozen=True)
class Scale:
    """The costs of a run on a cluster.

    Attributes:
        cluster: The address of the cluster.
        nodes: Number of its nodes; likewise `cores` and `gpus`.
        rates: What was measured.
        costs: The costs by number of images.
        most_workers: The number of workers from which they wait for the connection of this machine.
    """

    cluster: str
    nodes: int
    cores: int
    gpus: int
    rates: scale.Rates
    costs: tuple[scale.Cost, ...]
    most_workers: int

    def to_json(self) -> dict[str, Any]:
        """The value of `scale` in `tlcli plan --json`."""
        costs = [cost.to_json() for cost in self.costs]
        return {**vars(self), "rates": vars(self.rates), "costs": costs}


def measure(request: Request, prepared: Prepared, cluster: Cluster, observe: Observer) -> Scale:
    """Measure the rates of a cluster on a sample of the images, and compute the costs.

    Args:
        request: The request of the plan.
        prepared: Its plan and images.
        cluster: The cluster.
        observe: Receives progress.

    Raises:
        TlcliError: If the images, the network or the cluster do not fit.
    """
    plan, began = prepared.plan, time.perf_counter()
    network = ChosenNetwork(plan.card, plan.size, plan.groups)
    with use_device(request.device):
        backbone = build_backbone(plan.recipe, network)
        classifier = assemble(backbone, plan.recipe.head, classes=plan.classes, resize=plan.recipe.data.resize)
        base_s, listed = BASE_S + time.perf_counter() - began, time.perf_counter()
        prepare(plan.recipe, network, strict=False, observe=ignore)
        list_per_s = len(prepared.index.images) / (time.perf_counter() - listed)
        decoding = scale_rates.decoding(prepared, observe)
        sent = scale_rates.bytes_per_s(cluster)
        frozen, probe_per_s = scale_rates.frozen_layers(prepared, classifier, observe)
    flops = frozen.per_s * sum(group.flops for group in plan.groups)
    trained = scale_rates.trained_flops_per_s(flops)
    start_s = (decoding.start_s + frozen.start_s) / 2
    rates = scale.Rates(base_s, start_s, list_per_s, decoding.per_s, frozen.per_s, probe_per_s, trained, sent)
    nodes = cluster.nodes()
    cores, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    files = [image.bytes for image in prepared.index.images]
    file_bytes = sum(files) / len(files)
    costs = scale.costs(plan, file_bytes, rates, devices=gpus or cores)
    sizes = scale.sizes_at(plan, scale.IMAGES[0], file_bytes)
    most = scale.most_workers(scale_rates.workers(cluster), rates, sizes)
    return Scale(cluster.address, len(nodes), cores, gpus, rates, costs, most)
