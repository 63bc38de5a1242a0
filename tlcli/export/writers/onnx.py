"""ONNX: a `.onnx` file."""

import json
import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tlcli.evaluate.runtimes.exported import KEY
from tlcli.export.image_input import NAME
from tlcli.export.writers.job import Job
from tlcli.model.head import OUTPUT_LAYER

# Weights with fewer numbers stay as they are: a cast would take as many bytes as it saves.
MIN_HALVED = 64


def write(job: Job, file: Path) -> None:
    """Write a `.onnx` file. Its metadata hold the description under `tlcli`, and a JSON list of the `labels`."""
    import onnx

    for noisy in ("tf2onnx", "root"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # Keras asks NumPy for an old name on behalf of tf2onnx.
        warnings.simplefilter("ignore", FutureWarning)
        plain = Path(folder) / "plain.onnx"
        job.model.export(str(plain), format="onnx", verbose=False)
        model = onnx.load(_quantized(job, plain))
    onnx.helper.set_model_props(model, {KEY: job.about, "labels": json.dumps(job.classifier.classes)})
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _quantized(job: Job, plain: Path) -> Path:
    """The file, quantised. The resize stays in float32, because it computes positions of pixels."""
    if job.quantize == "none":
        return plain
    target = plain.with_name("quantized.onnx")
    {"float16": _halve, "dynamic": _quantize_weights, "int8": _quantize_all}[job.quantize](job, plain, target)
    return target


def _halve(job: Job, plain: Path, target: Path) -> None:
    """Store weights in float16, each with a cast back to float32, which runtimes compute once when they load."""
    import onnx

    model = onnx.load(plain)
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and np.prod(weight.dims) >= MIN_HALVED:
            name, values = weight.name, onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
            casts.append(
                onnx.helper.make_node("Cast", [weight.name], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT)
            )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, target)


def _quantize_weights(job: Job, plain: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(plain)
    # ONNX Runtime has one scale per weight here, which is too coarse for depthwise convolutions; they are small.
    left_out = _float_nodes(model) + [node.name for node in model.graph.node if _is_grouped(node)]
    quantize_dynamic(plain, target, weight_type=QuantType.QUInt8, nodes_to_exclude=left_out)


def _quantize_all(job: Job, plain: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = plain.with_name("folded.onnx")
    quant_pre_process(plain, folded, skip_symbolic_shape=True)
    model = onnx.load(folded)
    (source,) = model.graph.input
    assert job.calibration is not None
    pixels = job.calibration if job.is_raw else np.rint(job.calibration).astype(np.uint8)
    images = iter(pixels)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(images, None)
            return None if image is None else {source.name: image[None]}

    quantize_static(
        folded,
        target,
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_float_nodes(model),
    )


def _float_nodes(model: Any) -> list[str]:
    """The resize, and the last layer, which is small and decides between close classes."""
    return _resize_nodes(model) + [node.name for node in model.graph.node if OUTPUT_LAYER in node.name]


def _resize_nodes(model: Any) -> list[str]:
    """Names of the nodes of the resize, with all nodes before them: tf2onnx gives some of them other names."""
    producers = {output: node for node in model.graph.node for output in node.output}
    found: dict[str, None] = {}
    waiting = [node for node in model.graph.node if NAME in node.name]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found[node.name] = None
            waiting += [producers[name] for name in node.input if name in producers]
    return list(found)


def _is_grouped(node: Any) -> bool:
    return any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
