"""A short Python program for every format that classifies one image file with a bundle: `usage.py`."""

from tlcli.data.pixels import Mode
from tlcli.export.targets import ExportRequest, Format

_HEAD = """\
# Run: python usage.py IMAGE    needs: pip install numpy pillow {packages}
import json, pathlib, sys, numpy as np, {module}
from PIL import Image, ImageOps
here = pathlib.Path(__file__).parent
if len(sys.argv) != 2: sys.exit("usage: python usage.py IMAGE")
image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
{resize}pixels = np.asarray(image, "{dtype}")[None]
"""
_TAIL = """\
labels = json.loads((here / "card.json").read_text(encoding="utf-8"))["classes"]
print(labels[probabilities.argmax()], f"{probabilities.max():.4f}")
"""

_PACKAGES: dict[Format, str] = {
    "keras": "keras tensorflow",
    "saved_model": "tensorflow",
    "litert": "ai-edge-litert",
    "onnx": "onnxruntime",
    "openvino": "openvino",
}
_MODULES: dict[Format, str] = {
    "keras": "keras",
    "saved_model": "tensorflow as tf",
    "litert": "ai_edge_litert.interpreter as litert",
    "onnx": "onnxruntime",
    "openvino": "openvino",
}
_RUN: dict[Format, str] = {
    "keras": """\
model = keras.models.load_model(here / "model.keras")
probabilities = model(pixels, training=False).numpy()[0]
""",
    "saved_model": """\
model = tf.saved_model.load(str(here / "saved_model"))
probabilities = model.serve(pixels).numpy()[0]
""",
    "litert": """\
model = litert.Interpreter(str(here / "model.tflite")).get_signature_runner()
(probabilities,) = next(iter(model(image=pixels).values()))
""",
    "onnx": """\
model = onnxruntime.InferenceSession(str(here / "model.onnx"))
probabilities = model.run(None, {"image": pixels})[0][0]
""",
    "openvino": """\
# Without the hint, some processors compute in bfloat16.
model = openvino.Core().compile_model(here / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
probabilities = model(pixels)[0][0]
""",
}
_RESIZE: dict[Mode, str] = {
    # ImageOps.fit would let the pixels outside the box bleed in.
    "crop": """\
w, h = min(image.width, image.height * {width} // {height}), min(image.height, image.width * {height} // {width})
x, y = (image.width - w) // 2, (image.height - h) // 2
image = image.crop((x, y, x + w, y + h)).resize(({width}, {height}), Image.Resampling.BILINEAR)
""",
    "pad": "image = ImageOps.pad(image, ({width}, {height}), Image.Resampling.BILINEAR)\n",
    "stretch": "image = image.resize(({width}, {height}), Image.Resampling.BILINEAR)\n",
}


def usage(request: ExportRequest, dtype: str, size: tuple[int, int], resize: Mode) -> str:
    """The program.

    Args:
        request: The export.
        dtype: What the file takes.
        size: Height and width of the network's images, pixels.
        resize: How images are resized.
    """
    lines = _RESIZE[resize].format(height=size[0], width=size[1]) if request.is_raw else ""
    head = _HEAD.format(packages=_PACKAGES[request.to], module=_MODULES[request.to], resize=lines, dtype=dtype)
    return head + _RUN[request.to] + _TAIL
