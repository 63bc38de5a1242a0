"""Plan: decide everything about a run without training and without Keras."""

from tlcli.model.structure import measure_in_subprocess
from tlcli.report.folder import recorded_split
from tlcli.train.events import Observer
from tlcli.train.plan import TrainPlan
from tlcli.train.preparation import choose_network, prepare
from tlcli.workflows.request import Request
from tlcli.zoo.resolve import ResolvedRecipe


def plan(request: Request, resolved: ResolvedRecipe, observe: Observer) -> TrainPlan:
    """Choose the network, read and split the images, and plan every phase.

    Args:
        request: The request.
        resolved: Its recipe, from `check_request`.
        observe: Receives progress and notices.

    Raises:
        TlcliError: If the images or the network do not fit the request.
    """
    network = choose_network(resolved.recipe, measure=measure_in_subprocess)
    earlier = recorded_split(request.resume)
    return prepare(resolved.recipe, network, strict=request.strict, observe=observe, recorded=earlier).plan
