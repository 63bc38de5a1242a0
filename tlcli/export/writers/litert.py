"""LiteRT: a `.tflite` file."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.errors import ModelError
from tlcli.evaluate.runtimes.litert import MEMBER, import_interpreter
from tlcli.export.writers.job import Job

LABELS = "labels.txt"
# Scales of 8-bit numbers in sound networks are below 10. LiteRT crashes on some that are much larger.
MAX_SCALE = 1e6


def write(job: Job, file: Path) -> None:
    """Write a `.tflite` file, with only the operations that LiteRT has by itself.

    Behind the model stands a zip archive with `labels.txt` and the description, where LiteRT metadata keeps its
    associated files. Runtimes read the model only.
    """
    import tensorflow as tf

    signature = [tf.TensorSpec((1, *job.classifier.size, 3), tf.float32, "image")] if job.is_raw else None
    options = _options(job, tf)
    job.model.export(str(file), format="litert", verbose=False, input_signature=signature, **options)
    if job.quantize == "int8":
        _require_sound_scales(file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(LABELS, "".join(f"{name}\n" for name in job.classifier.classes))
        archive.writestr(MEMBER, job.about)


def _options(job: Job, tf: Any) -> dict[str, Any]:
    """Attributes of the converter for a quantisation, as TensorFlow's guide to post-training quantisation has them."""
    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    default = [tf.lite.Optimize.DEFAULT]
    if job.quantize == "float16":
        return {"optimizations": default, "target_spec": builtins | {"supported_types": [tf.float16]}}
    if job.quantize == "dynamic":
        return {"optimizations": default, "target_spec": builtins}
    if job.quantize == "int8":
        return {
            "optimizations": default,
            "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
            "representative_dataset": lambda: _calibration(job),
            "inference_input_type": tf.uint8,
        }
    return {"target_spec": builtins}


def _calibration(job: Job) -> Iterator[list[np.ndarray]]:
    assert job.calibration is not None
    for image in job.calibration:
        yield [image[None]]


def _require_sound_scales(file: Path) -> None:
    scales = [
        details["quantization_parameters"]["scales"] for details in import_interpreter()(str(file)).get_tensor_details()
    ]
    hint = "Use float weights (--quantize none), or a pretrained network."
    if not all(np.isfinite(values).all() for values in scales):
        raise ModelError("the network computes NaN or infinite numbers", where="--quantize", hint=hint)
    if not all((values < MAX_SCALE).all() for values in scales):
        raise ModelError("the weights are too large for 8-bit numbers", where="--quantize", hint=hint)
