"""What a writer needs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tlcli.export.targets import Quantize
from tlcli.model.classifier import Classifier


@dataclass(frozen=True)
class Job:
    """A model to write.

    Attributes:
        classifier: The classifier.
        model: The `keras.Model` to export, see `exported_model`.
        about: `ClassifierMetadata` as JSON, for a place in the file.
        quantize: The quantisation.
        is_raw: True if the model takes images of the classifier's size, without the resize.
        calibration: For int8: training images of the classifier's size, float32 (images, height, width, 3), 0-255.
    """

    classifier: Classifier
    model: Any
    about: str
    quantize: Quantize
    is_raw: bool
    calibration: np.ndarray | None = None
