"""Probe: the accuracy of a linear classifier at every depth of one or several networks."""

from collections.abc import Sequence
from typing import Any

from tlcli.model import graph
from tlcli.model.devices import use_device
from tlcli.train.depth_probe import (
    ProbeResult,
    build_backbone,
    compare_probes,
    probe_depths,
    require_validation,
)
from tlcli.train.events import NoticeOnce, Observer, warn
from tlcli.train.preparation import choose_network, prepare
from tlcli.workflows.probe_request import ProbeRequest
from tlcli.zoo.resolve import ResolvedRecipe


def probe(request: ProbeRequest, recipes: Sequence[ResolvedRecipe], observe: Observer) -> ProbeResult:
    """Probe every network: one pass over the images, then one linear probe per depth.

    Args:
        request: The request.
        recipes: One recipe per network, from `check_probe`.
        observe: Receives progress and notices.

    Raises:
        TlcliError: If the images, a network or the machine do not fit the request.
    """
    # Every network reads the same images. Notices about them appear once.
    observe = NoticeOnce(observe)
    data: dict[str, Any] = {}
    measured = []
    with use_device(request.device):
        for resolved in recipes:
            warn(observe, resolved.notices)
            network = choose_network(resolved.recipe, measure=graph.measure_groups)
            # Built before the images are read: wrong weights fail at once.
            backbone = build_backbone(resolved.recipe, network, observe=observe)
            prepared = prepare(resolved.recipe, network, strict=False, observe=observe)
            require_validation(prepared)
            data = data or prepared.plan.to_json()["data"]
            measured.append(probe_depths(prepared, backbone, resolved.notices, observe))
    return ProbeResult(data, tuple(measured), tuple(compare_probes(measured)))
