"""Choose a network: probe several on the images, as `finetune --model A,B` does."""

import time
from collections.abc import Sequence
from dataclasses import replace

import keras

from tlcli.model import graph
from tlcli.model.devices import use_device
from tlcli.text import duration, whole_percent
from tlcli.train.depth_probe import build_backbone
from tlcli.train.events import Noticed, NoticeOnce, Observer
from tlcli.train.network_choice import ProbedNetwork, best_of, probe_network
from tlcli.train.preparation import BackgroundRead, choose_network, prepare, without_test
from tlcli.workflows.request import Request, check_request, with_network
from tlcli.zoo.resolve import ResolvedRecipe


def choose(
    request: Request, names: Sequence[str], observe: Observer, *, reading: BackgroundRead | None = None
) -> tuple[Request, ResolvedRecipe]:
    """The request with the network whose linear probe has the lowest validation loss. Test images have no influence.

    Args:
        request: The request.
        names: Two networks or more.
        observe: Receives progress, and a notice for each network.
        reading: A background read of the images, if one has started.

    Raises:
        TlcliError: If the images, a network or the machine do not fit the request.
    """
    probed: list[ProbedNetwork] = []
    once, width = NoticeOnce(observe), max(map(len, names))
    with use_device(request.device):
        for name in names:
            keras.backend.clear_session()
            probed.append(probe_one(with_network(request, name), once, reading))
            row = probed[-1]
            size = f"{row.size[0]} × {row.size[1]}"
            scores = f"val_loss {row.val_loss:.4f}  val_acc {row.val_accuracy:.3f}"
            observe(Noticed(f"probe of {name:<{width}}  {size:>9}  {scores}  {duration(row.seconds)}"))
    keras.backend.clear_session()
    best, lead = best_of(probed)
    gain = f"validation loss {lead.gain:.4f} lower than the next at {whole_percent(lead.confidence)} confidence"
    spent = duration(sum(row.seconds for row in probed))
    observe(Noticed(f"chosen: {names[best]} ({gain}; the choice took {spent})"))
    chosen = replace(with_network(request, names[best]), chosen_from=tuple(row.to_json() for row in probed))
    resolved = check_request(chosen)
    if best and resolved.licence:
        # That of the first network has been told already.
        observe(Noticed(resolved.licence))
    return chosen, resolved


def probe_one(request: Request, observe: Observer, reading: BackgroundRead | None) -> ProbedNetwork:
    """Probe the network of a request on a single split, with folds too; in `use_device`.

    Raises:
        TlcliError: If the images or the network do not fit the request.
    """
    began, recipe = time.perf_counter(), check_request(request).recipe
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"folds": None})})
    network = choose_network(recipe, measure=graph.measure_groups)
    # Built before the images are read: wrong weights fail at once.
    backbone = build_backbone(recipe, network, observe=observe)
    prepared = prepare(recipe, network, strict=request.strict, observe=observe, reading=reading)
    return probe_network(without_test(prepared), backbone, observe, began=began)
