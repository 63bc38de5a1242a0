"""Plan: decide everything about a run without training and without Keras."""

from pathlib import Path

from tlcli.model import weights_check
from tlcli.model.structure import measure_in_subprocess
from tlcli.recipe.schema import RANDOM
from tlcli.report.folder import recorded_split, require_disk_space
from tlcli.train.events import Observer
from tlcli.train.preparation import Prepared, output_bytes, prepare
from tlcli.workflows.request import Request, network_of, output_folder, placed, require_same_classes
from tlcli.zoo.resolve import ResolvedRecipe


def plan(
    request: Request, resolved: ResolvedRecipe, observe: Observer, *, augment_sheet: Path | None = None
) -> Prepared:
    """Choose the network, compare it with its weights file, read and split the images, and plan every phase.

    Args:
        request: The request.
        resolved: Its recipe, from `checked`.
        observe: Receives progress and notices.
        augment_sheet: A contact sheet of the augmentation to write; None for none. It needs Keras.

    Raises:
        TlcliError: If the images or the network do not fit the request.
    """
    network = network_of(request, resolved.recipe, measure=measure_in_subprocess)
    with placed(request):
        model = resolved.recipe.model
        if model.weights not in (None, RANDOM):
            weights_check.check_in_subprocess(network.card, model.arguments, network.size, Path(str(model.weights)))
        earlier = recorded_split(request.resume)
        prepared = prepare(resolved.recipe, network, strict=request.strict, observe=observe, recorded=earlier)
        require_same_classes(prepared.plan)
        require_disk_space(output_folder(request, prepared.plan), output_bytes(prepared.plan))
    if augment_sheet is not None:
        from tlcli.report.augment_sheet import write_augment_sheet

        write_augment_sheet(prepared, augment_sheet)
    return prepared
