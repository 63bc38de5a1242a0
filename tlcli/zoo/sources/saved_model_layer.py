"""A Keras layer that is a SavedModel: one opaque part of a network, with the module's variables as its weights.

This is the only module that imports TensorFlow itself, because only TensorFlow runs SavedModels. The layer works with
Keras's TensorFlow backend alone.

The `.keras` file of a network with this layer contains the SavedModel, so it can be moved. Loading it runs the program
inside: only if `zoo.trust` knows its hash, or with Keras's `safe_mode=False`.
"""

import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
from keras.src.saving.serialization_lib import in_safe_mode

from tlcli.errors import ModelError
from tlcli.zoo import trust
from tlcli.zoo.formats import saved_model
from tlcli.zoo.formats.saved_model import SavedModel

# The folder of the SavedModel in the assets of the layer.
ASSETS = "saved_model"

Call = Callable[[Any], Any]


@dataclass(frozen=True)
class Variable:
    """A variable of the module: its name, shape and dtype, and whether it can be trained."""

    name: str
    shape: list[int]
    dtype: str
    trainable: bool


@dataclass(frozen=True)
class Program:
    """A SavedModel in memory.

    Attributes:
        infer: From images of the dtype of the module, (batch, height, width, 3), to features, in inference mode.
        train: The same in training mode, which may update statistics; None if the module has only one mode.
        variables: The `tf.Variable`s that the calls read, those that can be trained first.
        facts: What they are, in the same order.
        loaded: The module. It is kept here, because its functions do not keep its variables alive.
    """

    infer: Call
    train: Call | None
    variables: list[Any]
    facts: list[Variable]
    loaded: Any


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
            "output_shape": _output_shape(program, module, size),
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
            module = saved_model.read(self._files.folder)
            self._program = [load_program(module)]
            if None not in input_shape[1:3]:
                self.facts["output_shape"] = _output_shape(self._program[0], module, tuple(input_shape[1:3]))
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
        if self._files is None:
            raise ModelError("holds no SavedModel to save", where=self.name)
        folder = self._files.folder
        if trust.folder_sha256(folder) != self.facts["sha256"]:
            hint = "Restore the files."
            raise ModelError("the SavedModel has changed since it was loaded", where=str(folder), hint=hint)
        shutil.copytree(folder, Path(dir_path) / ASSETS)

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


def load_program(module: SavedModel) -> Program:
    """Load a SavedModel, which must be trusted: this runs its initialisation.

    Variables can be trained if the module says so and gradients reach them. Those of TensorFlow 1 modules cannot,
    because their graphs for training are other graphs.

    Raises:
        ModelError: Keras uses another backend than TensorFlow, or TensorFlow cannot load the module.
    """
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"SavedModels run with Keras's TensorFlow backend only (got {keras.backend.backend()})",
            where=str(module.folder),
            hint="Set KERAS_BACKEND=tensorflow.",
        )
    import tensorflow as tf

    try:
        # The empty name scope: otherwise the names of the variables start with that of a layer that is being called.
        with tf.init_scope(), tf.name_scope(""):
            loaded = tf.saved_model.load(str(module.folder), tags=list(module.tags))
        infer, train, functions = _calls(loaded, module)
        used = {id(variable): variable for function in functions for variable in function.variables}
        trained = _trainable(loaded, list(used.values()), infer, module) if module.has_objects else set()
    except ModelError:
        raise
    except Exception as error:  # A foreign program, and the loader, raise errors of any type.
        raise load_error(module, error) from error
    ordered = sorted(used.values(), key=lambda variable: id(variable) not in trained)
    facts = [_fact(number, variable, id(variable) in trained) for number, variable in enumerate(ordered)]
    return Program(infer, train, ordered, facts, loaded)


def load_error(module: SavedModel, error: Exception) -> ModelError:
    """The error for a module that fails."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    hint = "It may be damaged, need other libraries, or be made for another version of TensorFlow."
    return ModelError(f"TensorFlow cannot run the SavedModel ({reason})", where=str(module.folder), hint=hint)


def _calls(loaded: Any, module: SavedModel) -> tuple[Call, Call | None, list[Any]]:
    """The calls in inference and in training mode, and the concrete functions that they run."""
    name = module.endpoint.name
    if module.endpoint.is_signature:
        function = loaded.signatures[name]
        return lambda x: _features(function(**{module.endpoint.image.name: x}), module), None, [function]
    function = loaded.__call__ if name == "__call__" else getattr(loaded, name)
    modes: dict[bool, tuple[Call, Any]] = {}
    for concrete in function.concrete_functions:
        for mode, arguments in _modes(concrete):
            modes.setdefault(mode, (_bind(function, arguments, module), concrete))
    if False not in modes:
        raise ModelError(
            f"{name} cannot be called with one image tensor in inference mode",
            where=str(module.folder),
            hint="Arguments besides the images must be 'training' or have stored values.",
        )
    train = modes[True][0] if True in modes else None
    return modes[False][0], train, [concrete for _, concrete in modes.values()]


def _modes(concrete: Any) -> list[tuple[bool, tuple[list[Any], dict[str, Any]]]]:
    """How a concrete function can be called: in training mode or not, and with which arguments after the images."""
    import tensorflow as tf

    positional, keywords = concrete.structured_input_signature
    rest = [*positional[1:], *keywords.values()]
    if not positional or len(getattr(positional[0], "shape", ())) != 4:
        return []
    tensors = [value for value in rest if isinstance(value, tf.TensorSpec)]
    if any(spec.dtype != tf.bool for spec in tensors) or len(tensors) > 1:
        return []
    fixed = any(value is True for value in rest)

    def given(mode: bool) -> tuple[list[Any], dict[str, Any]]:
        values = [tf.constant(mode) if isinstance(value, tf.TensorSpec) else value for value in rest]
        return values[: len(positional) - 1], dict(zip(keywords, values[len(positional) - 1 :], strict=True))

    return [(mode, given(mode)) for mode in (False, True)] if tensors else [(fixed, given(fixed))]


def _bind(function: Any, arguments: tuple[list[Any], dict[str, Any]], module: SavedModel) -> Call:
    return lambda x: _features(function(x, *arguments[0], **arguments[1]), module)


def _features(output: Any, module: SavedModel) -> Any:
    """The tensor of features in the output of a module: the only one, or that named `default` as on TF Hub."""
    if isinstance(output, Mapping):
        chosen = next((output[name] for name in ("default", "feature_vector") if name in output), None)
        values = [chosen] if chosen is not None else list(output.values())
    else:
        values = list(output) if isinstance(output, (list, tuple)) else [output]
    if len(values) != 1:
        names = ", ".join(sorted(map(str, output))) if isinstance(output, Mapping) else f"{len(values)} tensors"
        message = f"{module.endpoint.name} returns several outputs, none named 'default' ({names})"
        raise ModelError(message, where=str(module.folder), hint="Choose a module with one output of features.")
    return values[0]


def _trainable(loaded: Any, variables: Sequence[Any], infer: Call, module: SavedModel) -> set[int]:
    """The `id`s of the variables that the module allows to train and that gradients of its output reach."""
    import tensorflow as tf

    declared = getattr(loaded, "trainable_variables", None)
    allowed = {id(variable) for variable in declared} if declared is not None else None
    chosen = [v for v in variables if v.trainable and v.dtype.is_floating and (allowed is None or id(v) in allowed)]
    if not chosen or not module.endpoint.image.dtype:
        return set()
    shape = [2, *(side or 64 for side in (module.endpoint.image.shape or (None, None, None))[1:3]), 3]
    try:
        with tf.GradientTape() as tape:
            output = tf.reduce_sum(tf.cast(infer(tf.ones(shape, module.endpoint.image.dtype)), tf.float32))
        gradients = tape.gradient(output, chosen)
    except (LookupError, tf.errors.OpError, ValueError):
        # Saved without gradients, or an operation that has none.
        return set()
    return {id(variable) for variable, gradient in zip(chosen, gradients, strict=True) if gradient is not None}


def _fact(number: int, variable: Any, is_trained: bool) -> Variable:
    # Keras allows no slash in names. The number keeps them different.
    name = f"{variable.name.partition(':')[0].replace('/', '.')}_{number}"
    return Variable(name, [int(side) for side in variable.shape], variable.dtype.name, is_trained)


def _output_shape(program: Program, module: SavedModel, size: tuple[int, int]) -> list[int]:
    """The shape of one output, without the batch, for images of a size, by running the module once."""
    import tensorflow as tf

    try:
        output = program.infer(tf.zeros((2, *size, 3), module.endpoint.image.dtype))
        shape = [int(side) for side in output.shape]
    except ModelError:
        raise
    except Exception as error:  # A foreign program raises errors of any type.
        raise load_error(module, error) from error
    if len(shape) not in (2, 4) or shape[0] != 2 or not output.dtype.is_floating:
        raise ModelError(
            f"its output for two images is {output.dtype.name} {tuple(shape)}",
            where=str(module.folder),
            hint="Features must be (batch, channels) or (batch, height, width, channels).",
        )
    return shape[1:]
