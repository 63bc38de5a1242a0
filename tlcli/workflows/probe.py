"""Probe: how well a linear head does at every depth of one or several networks."""

from collections.abc import Sequence
from typing import Any

from tlcli.model import graph
from tlcli.model.precision import use_device
from tlcli.train.depth_probe import (
    ProbeResult,
    build_backbone,
    compare_probes,
    probe_depths,
    require_validation,
)
from tlcli.train.events import Noticed, NoticeOnce, Observer
from tlcli.train.preparation import choose_network, prepare
from tlcli.workflows.request import ProbeRequest
from tlcli.zoo.resolve import ResolvedRecipe


def probe(request: ProbeRequest, resolved: Sequence[ResolvedRecipe], observe: Observer) -> ProbeResult:
    """Probe every network: one pass over the images, then one linear probe per depth.

    Args:
        request: What the user asked for.
        resolved: What `check_probe` made of it, one recipe per network.
        observe: Receives progress and notices.

    Raises:
        TlcliError: If something is wrong with the request, the images, a network or the machine.
    """
    # Every network reads the same images, so what is said about them is said once.
    observe = NoticeOnce(observe)
    data: dict[str, Any] = {}
    measured = []
    with use_device(request.device, resolved[0].recipe.performance.precision):
        for each in resolved:
            for notice in each.notices:
                observe(Noticed(notice, is_warning=True))
            network = choose_network(each.recipe, measure=graph.measure_groups)
            # Built before any image is read, so that wrong weights are reported at once.
            backbone = build_backbone(each.recipe, network)
            prepared = prepare(each.recipe, network, strict=False, observe=observe)
            require_validation(prepared)
            data = data or prepared.plan.to_json()["data"]
            measured.append(probe_depths(prepared, backbone, each.notices, observe))
    return ProbeResult(data, tuple(each.probed for each in measured), tuple(compare_probes(measured)))
