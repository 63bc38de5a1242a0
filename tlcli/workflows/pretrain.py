"""Pretrain: a network from unlabelled or synthetic images, and its card."""

import keras

from tlcli.model import backbone
from tlcli.model.precision import use_device
from tlcli.pretrain.request import PretrainTask
from tlcli.pretrain.run import PretrainResult, load_images, train_on_images, train_on_synthetic
from tlcli.train.events import Observer


def pretrain(task: PretrainTask, observe: Observer) -> PretrainResult:
    """Pretrain a network and write its card.

    Args:
        task: A checked request.
        observe: Receives progress and notices.

    Raises:
        TlcliError: If something is wrong with the images, the network or the machine, or the training fails.
    """
    with use_device(task.request.device, "float32"):
        keras.utils.set_random_seed(task.request.seed)
        # Built before any image is read, so that wrong weights are reported at once.
        built = backbone.build(task.card, size=(task.side, task.side), arguments=task.arguments, weights=task.weights)
        if task.request.unlabelled is None:
            return train_on_synthetic(task, built, observe)
        images = load_images(task, task.request.unlabelled, observe)
        return train_on_images(task, built, images, observe)
