"""A short Python program for every format that classifies one image file with a bundle: `usage.py`."""

from tlcli.data.pixels import Mode
from tlcli.export.targets import ExportRequest, Format

_HEAD = """\
# Run: python usage.py IMAGE    needs: pip install pillow {packages}
import json, pathlib, sys
import numpy as np
from PIL import Image, ImageOps
{imports}
here = pathlib.Path(__file__).parent
labels = json.loads((here / "card.json").read_text(encoding="utf-8"))["classes"]
image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
{resize}pixels = np.asarray(image, "{dtype}")[None]
"""
_TAIL = 'print(labels[probabilities.argmax()], f"{probabilities.max():.4f}")\n'

_PACKAGES: dict[Format, str] = {
    "keras": "keras tensorflow",
    "saved_model": "tensorflow",
    "litert": "ai-edge-litert",
    "onnx": "onnxruntime",
    "openvino": "openvino",
}
_IMPORTS: dict[Format, str] = {
    "keras": "import keras",
    "saved_model": "import tensorflow as tf",
    "litert": "from ai_edge_litert.interpreter import Interpreter",
    "onnx": "import onnxruntime",
    "openvino": "import openvino",
}
_RUN: dict[Format, str] = {
    "keras": 'probabilities = keras.models.load_model(here / "model.keras")(pixels, training=False).numpy()[0]\n',
    "saved_model": (
        'model = tf.saved_model.load(str(here / "saved_model"))\nprobabilities = model.serve(pixels).numpy()[0]\n'
    ),
    "litert": """\
model = Interpreter(str(here / "model.tflite"))
source, target = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]
model.resize_tensor_input(source, pixels.shape)
model.allocate_tensors()
model.set_tensor(source, pixels)
model.invoke()
probabilities = model.get_tensor(target)[0]
""",
    "onnx": """\
model = onnxruntime.InferenceSession(str(here / "model.onnx"))
probabilities = model.run(None, {model.get_inputs()[0].name: pixels})[0][0]
""",
    "openvino": """\
# Without this, some processors compute in bfloat16.
model = openvino.Core().compile_model(str(here / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
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
    head = _HEAD.format(packages=_PACKAGES[request.to], imports=_IMPORTS[request.to], resize=lines, dtype=dtype)
    return head + _RUN[request.to] + _TAIL
