"""The formats that a classifier can be exported to, and what each of them offers. Loads neither Keras nor a runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from tlcli.errors import UsageError

Format = Literal["keras", "saved_model", "litert", "onnx", "openvino"]
Quantize = Literal["none", "float16", "int8", "dynamic"]
QUANTIZE: tuple[Quantize, ...] = get_args(Quantize)
# Formats whose numbers stay floating-point: their answers must agree with those of the classifier.
# Images from which 8-bit numbers take their ranges, at most.
CALIBRATION = 128
FLOATS: tuple[Quantize, ...] = ("none", "float16")


@dataclass(frozen=True)
class Target:
    """What a format offers.

    Attributes:
        file: Name of the file or folder in the bundle.
        quantize: The quantisations that it has.
        packages: Modules that writing and running it need, beyond those of tlcli, with the names of their packages.
        beside: Names of other files that belong to it.
    """

    file: str
    quantize: tuple[Quantize, ...]
    packages: Mapping[str, str]
    beside: tuple[str, ...] = ()

    def parts(self, folder: Path) -> list[Path]:
        """The file and those that belong to it, in a bundle."""
        return [folder / name for name in (self.file, *self.beside)]


TARGETS: dict[Format, Target] = {
    "keras": Target("model.keras", ("none",), {}),
    "saved_model": Target("saved_model", ("none",), {}),
    "litert": Target("model.tflite", QUANTIZE, {"ai_edge_litert": "ai-edge-litert"}),
    "onnx": Target("model.onnx", QUANTIZE, {"tf2onnx": "tf2onnx", "onnx": "onnx", "onnxruntime": "onnxruntime"}),
    "openvino": Target("model.xml", ("none", "float16"), {"openvino": "openvino"}, ("model.bin",)),
}


@dataclass(frozen=True)
class ExportRequest:
    """What the user asks of `tlcli export`.

    Attributes:
        model: A run folder or a `.keras` file.
        to: The format.
        quantize: The quantisation.
        max_drop: Largest loss of accuracy that is accepted, 0-1.
        raw_input: True to leave the resize out.
        data: Folder of class folders to compare on; None for the validation images of the run.
        out: Folder of the bundle; None for one beside `model`.
        sparse: Absolute value below which weights of kernels become zero; None to leave them.
    """

    model: Path
    to: Format
    quantize: Quantize = "none"
    max_drop: float = 0.01
    raw_input: bool = False
    data: Path | None = None
    out: Path | None = None
    sparse: float | None = None

    @property
    def target(self) -> Target:
        """What the format offers."""
        return TARGETS[self.to]

    @property
    def is_raw(self) -> bool:
        """True if the file takes images of the network's own size, without the resize.

        LiteRT in 8 bits always does: positions of pixels cannot be computed in so few bits.
        """
        return self.raw_input or (self.to == "litert" and self.quantize == "int8")

    @property
    def folder(self) -> Path:
        """The folder of the bundle."""
        if self.out is not None:
            return self.out
        source = self.model.resolve()
        suffix = ("" if self.quantize == "none" else f"-{self.quantize}") + ("" if self.sparse is None else "-sparse")
        return self.model.parent / f"{source.stem if source.is_file() else source.name}-{self.to}{suffix}"


def check_request(request: ExportRequest) -> None:
    """Check all that needs neither Keras nor an image.

    Raises:
        UsageError: If the format lacks the quantisation, one of its packages is missing, there is no run or `.keras`
            file to export, or a file has no images to compare on.
    """
    _require_exportable(request)
    if request.quantize not in request.target.quantize:
        others = [name for name, target in TARGETS.items() if request.quantize in target.quantize]
        raise UsageError(
            f"{request.to} has no {request.quantize} (got --quantize {request.quantize})",
            where="--quantize",
            hint=f"It has: {', '.join(request.target.quantize)}. {request.quantize} is for {', '.join(others)}.",
        )
    if missing := [package for name, package in request.target.packages.items() if find_spec(name) is None]:
        raise UsageError(
            f"export to {request.to} needs {', '.join(missing)}",
            where="--to",
            hint=f"Install it: pip install 'tlcli[{request.to}]'",
        )


def _require_exportable(request: ExportRequest) -> None:
    """Check that the source is a run, or a `.keras` file with images to compare on."""
    # Loads NumPy, which the command line does not need for its help.
    from tlcli.evaluate.runtimes import is_run

    source = request.model
    if is_run(source):
        return
    if not source.is_file() or source.suffix.lower() != ".keras":
        what = "is an exported classifier, which cannot be exported again"
        hint = f"Name the run that it came from: tlcli export RUN --to {request.to}"
        raise UsageError(what, where=str(source), hint=hint)
    if request.data is None:
        hint = "Name a folder of class folders with --data."
        raise UsageError("a model without its run has no validation images", where=str(source), hint=hint)
