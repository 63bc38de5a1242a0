"""Plan: what `finetune` would do, without Keras."""

from tlcli.model.structure import measure_in_subprocess
from tlcli.train.events import Observer
from tlcli.train.plan import TrainPlan
from tlcli.train.preparation import choose_network, prepare
from tlcli.workflows.request import Request
from tlcli.zoo.resolve import ResolvedRecipe


def plan(request: Request, resolved: ResolvedRecipe, observe: Observer) -> TrainPlan:
    """Choose the network, read and split the images, and plan every phase.

    Args:
        request: What the user asked for.
        resolved: What `check_request` made of it.
        observe: Receives progress and notices.

    Raises:
        TlcliError: For the first problem.
    """
    network = choose_network(resolved.recipe, measure=measure_in_subprocess)
    return prepare(resolved.recipe, network, strict=request.strict, observe=observe).plan
