"""What is refused before a network trains: without reading an image or loading Keras.

`finetune`, `plan` and `recipe run` refuse the same.
"""

from tlcli.model.backend import backend, is_certain, require_backend, require_device_name
from tlcli.report.folder import require_idle
from tlcli.workflows import best_request
from tlcli.workflows.request import Request, check_request, networks_of, placed, require_baseline, with_network
from tlcli.workflows.several_hosts import check_hosts
from tlcli.zoo.resolve import ResolvedRecipe


def checked(request: Request) -> ResolvedRecipe:
    """Check a request that trains one recipe, and resolve it; of several networks, that with the first.

    Raises:
        TlcliError: For the first problem.
    """
    require_device_name(request.device)
    require_backend(backend(), request.device)
    names = networks_of(request)
    resolved, *_ = [check_request(with_network(request, name)) for name in names] or [check_request(request)]
    with placed(request):
        require_baseline(request, resolved.recipe)
        check_hosts(request, resolved.recipe)
        if request.resume is not None:
            require_idle(request.resume)
        if resolved.recipe.quality == "best":
            best_request.begun(request)
    return resolved


def unchecked_device(request: Request) -> tuple[str, ...]:
    """A notice for a plan that names a device which not every machine has, because only Keras finds it."""
    if is_certain(request.device):
        return ()
    return (f"--device {request.device} is not checked: a plan does not load Keras, and `tlcli doctor` lists devices",)
