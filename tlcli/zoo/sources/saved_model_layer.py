"""A Keras layer that is a SavedModel: one opaque part of a network, with the module's variables as its weights.

The `.keras` file of a network with this layer contains the SavedModel, so it can be moved. Loading it runs the program
inside: only if `zoo.trust` knows its hash, or with Keras's `safe_mode=False`.
"""

import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
from keras.src.saving.serialization_lib import in_safe_mode

from tlcli.errors import ModelError
from tlcli.zoo import trust
from tlcli.zoo.formats import saved_model
from tlcli.zoo.formats.saved_model import SavedModel
from tlcli.zoo.sources.saved_model_program import Program, load_program, multiply_adds, output_shape

# The folder of the SavedModel in the assets of the layer.
ASSETS = "saved_model"


class Files:
    """The folder of a SavedModel that layers in this process use. A temporary one is removed with the last of them."""

    def __init__(self, folder: Path, *, is_temporary: bool = False) -> None:
        self.folder = folder
        if is_temporary:
            weakref.finalize(self, shutil.rmtree, folder.parent, ignore_errors=True)


# By hash, so that a copy of a layer, which Keras makes from its config, finds the program.
_FILES_IN_USE: weakref.WeakValueDictionary[str, Files] = weakref.WeakValueDictionary()


@keras.saving.register_keras_serializable(package="tlcli")
class SavedModelLayer(keras.layers.Layer):
    """A SavedModel as a layer. Create it with `from_folder`, or by loading a `.keras` file.

    It computes in the dtype of the module under any policy. In training mode it runs the module's training mode if it
    has one and the layer is trainable.

    Attributes:
        facts: Hash of the files, dtype of the input, shape of one output without the batch, and the variables.
    """

    def __init__(self, *, facts: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.facts = {**facts}
        self._program: list[Program] = []
        self._files: Files | None = _FILES_IN_USE.get(str(facts["sha256"]))
        self._is_unsafe_allowed = False

    @classmethod
    def from_folder(cls, module: SavedModel, *, sha256: str, size: tuple[int, int], name: str) -> "SavedModelLayer":
        """Load a SavedModel, which must be trusted, for images of a size (height, width; pixels).

        Raises:
            ModelError: It cannot be loaded or does not work at this size.
        """
        files = Files(module.folder)
        _FILES_IN_USE[sha256] = files
        program = load_program(module)
        facts = {
            "sha256": sha256,
            "dtype": module.endpoint.image.dtype,
            "output_shape": output_shape(program, module, size),
            "variables": [asdict(fact) for fact in program.facts],
        }
        layer = cls(facts=facts, name=name)
        layer._program = [program]
        layer.build((None, *size, 3))
        layer.built = True
        return layer

    @property
    def has_statistics(self) -> bool:
        """True if the training mode of the module may change variables that gradients do not."""
        return bool(self._program and self._program[0].train and self.non_trainable_variables)

    def build(self, input_shape: Any) -> None:
        """Create the weights: those of the module that can be trained, then the others.

        A copy of a layer loads the program again. A layer from a file gets it in `load_assets`.
        """
        for variable in self.facts["variables"]:
            self.add_weight(
                name=variable["name"],
                shape=tuple(variable["shape"]),
                dtype=variable["dtype"],
                trainable=variable["trainable"],
                initializer="zeros",
                autocast=False,
            )
        if self._files is not None and not self._program:
            module = saved_model.read(self._unchanged_folder())
            self._program = [load_program(module)]
            if None not in input_shape[1:3]:
                self.facts["output_shape"] = output_shape(self._program[0], module, tuple(input_shape[1:3]))
        if self._program:
            self._attach(self._program[0])

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Images (batch, height, width, 3) to features (batch, channels) or (batch, height, width, channels)."""
        if not self._program:
            raise ModelError("holds no SavedModel", where=self.name, hint="Load it from a complete .keras file.")
        program = self._program[0]
        run = program.train if training and self.trainable and program.train is not None else program.infer
        return keras.ops.cast(run(keras.ops.cast(inputs, self.facts["dtype"])), self.compute_dtype)

    def compute_output_spec(self, inputs: Any, training: bool = False) -> keras.KerasTensor:
        """Shape and dtype of the output, without running the module."""
        return keras.KerasTensor((inputs.shape[0], *self.facts["output_shape"]), dtype=self.compute_dtype)

    def multiply_adds(self, size: tuple[int, int]) -> int:
        """Multiply-adds of one image of a size, height and width in pixels; 0 if unknown."""
        return multiply_adds(self._program[0], self.facts["dtype"], size) if self._program else 0

    def get_config(self) -> dict[str, Any]:
        """The config of the layer; the SavedModel is in the assets."""
        return {**super().get_config(), "facts": self.facts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SavedModelLayer":
        """A layer from its config, without its program.

        Raises:
            ModelError: A file is being loaded in Keras's safe mode, and the hash it states is not trusted.
        """
        safe_mode = in_safe_mode()
        if safe_mode:
            # Early, for one clear error. What the file really holds is checked in `load_assets`.
            trust.require(str(config["facts"]["sha256"]), where=f"the layer {config['name']} of a .keras file")
        layer = cls(**config)
        layer._is_unsafe_allowed = safe_mode is False
        return layer

    def save_assets(self, dir_path: str) -> None:
        """Copy the SavedModel into the file that Keras writes."""
        shutil.copytree(self._unchanged_folder(), Path(dir_path) / ASSETS)

    def load_assets(self, dir_path: str | None) -> None:
        """Load the SavedModel of a file; the weights keep the values of the file.

        Raises:
            ModelError: It is missing, damaged or not trusted.
        """
        source = Path(dir_path or "") / ASSETS
        if dir_path is None or not source.is_dir():
            raise ModelError("the file holds no SavedModel", where=self.name)
        sha256 = trust.folder_sha256(source)
        if not self._is_unsafe_allowed:
            trust.require(sha256, where=f"the layer {self.name} of a .keras file")
        # Keras removes its folder, but the layer may be copied or saved again.
        copy = Path(tempfile.mkdtemp(prefix="tlcli-")) / ASSETS
        shutil.copytree(source, copy)
        self._files = _FILES_IN_USE[sha256] = Files(copy, is_temporary=True)
        self.facts["sha256"] = sha256
        values = [keras.ops.convert_to_numpy(weight.value) for weight in self.weights]
        self._program = [load_program(saved_model.read(copy))]
        self._attach(self._program[0])
        for weight, value in zip(self.weights, values, strict=True):
            weight.assign(value)

    def _unchanged_folder(self) -> Path:
        """The folder of the SavedModel, after a check of its hash."""
        if self._files is None:
            raise ModelError("holds no SavedModel", where=self.name, hint="Load it from a complete .keras file.")
        folder = self._files.folder
        if trust.folder_sha256(folder) != self.facts["sha256"]:
            hint = "Restore the files."
            raise ModelError("the SavedModel has changed since it was loaded", where=str(folder), hint=hint)
        return folder

    def _attach(self, program: Program) -> None:
        """Make the variables of the module the values of the weights: every change of one is a change of the other."""
        if [asdict(fact) for fact in program.facts] != self.facts["variables"]:
            raise ModelError("the SavedModel has other variables than its layer", where=self.name)
        for weight, variable in zip(self.weights, program.variables, strict=True):
            weight._value = variable


def require_trusted(path: Path) -> None:
    """Check that every SavedModel inside a `.keras` file is trusted, before Keras opens the file.

    Raises:
        ModelError: One is not.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        for folder in [name.removesuffix(saved_model.FILE) for name in names if name.endswith(f"/{saved_model.FILE}")]:
            inside = [name for name in names if name.startswith(folder)]
            sha256 = trust.files_sha256((name.removeprefix(folder), _opener(archive, name)) for name in inside)
            trust.require(sha256, where=str(path), facts=f"The file holds {len(inside)} files of a SavedModel.")


def _opener(archive: zipfile.ZipFile, name: str) -> Callable[[], Any]:
    return lambda: archive.open(name)
