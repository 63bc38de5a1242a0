"""Pretrain: train a network on unlabelled or synthetic images and write its card."""

from tlcli.model import backbone
from tlcli.model.devices import use_device
from tlcli.model.seed import set_random_seed
from tlcli.pretrain.request import PretrainTask
from tlcli.pretrain.run import PretrainResult, load_images, train_on_images, train_on_synthetic
from tlcli.train.events import Observer


def pretrain(task: PretrainTask, observe: Observer) -> PretrainResult:
    """Pretrain a network and write its card.

    Args:
        task: A checked request.
        observe: Receives progress and notices.

    Raises:
        TlcliError: If the images, the network or the machine do not fit the request, or training fails.
    """
    with use_device(task.request.device):
        set_random_seed(task.request.seed)
        # Built before the images are read: wrong weights fail at once.
        built = backbone.build(task.card, size=(task.side, task.side), arguments=task.arguments, weights=task.weights)
        if task.request.unlabelled is None:
            return train_on_synthetic(task, built, observe)
        images = load_images(task, task.request.unlabelled, observe)
        return train_on_images(task, built, images, observe)
