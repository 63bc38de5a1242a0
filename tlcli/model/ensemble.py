"""An ensemble: several classifiers of the same classes as one, whose probabilities are the mean of theirs.

Ref: Hansen and Salamon 1990, Neural network ensembles, IEEE PAMI 12.
"""

from collections.abc import Sequence

import keras
from keras import ops

from tlcli.model.classifier import Classifier

# Lower bound of probabilities before their logarithm is taken, as in Keras.
EPSILON = 1e-7


def ensemble(members: Sequence[Classifier], *, temperature: float) -> Classifier:
    """One flat classifier of several members, each of which resizes the image as it was trained.

    Args:
        members: Two or more classifiers with the same classes, in the same order.
        temperature: Divides the logarithms of the mean probabilities, above 0; 1 leaves them as they are.

    Raises:
        ValueError: If a member has other classes.
    """
    if len({member.classes for member in members}) != 1:
        raise ValueError("the members of an ensemble have different classes")
    image = keras.Input((None, None, 3), name="image")
    # Each becomes a model within the model: their layers may have the same names.
    parts = [
        keras.Model(part.model.inputs[0], part.model.outputs[0], name=f"member_{i}") for i, part in enumerate(members)
    ]
    mean = keras.layers.Average(name="mean")([part(image) for part in parts])
    logits = ops.log(ops.maximum(mean, EPSILON)) / temperature
    probabilities = keras.layers.Softmax(name="probabilities")(logits)
    largest = max(members, key=lambda member: member.size)
    return Classifier(
        keras.Model(image, probabilities, name="classifier"), largest.classes, largest.size, largest.resize
    )
