"""SavedModels in memory: how they are called, and which of their variables can be trained.

This is the only module that imports TensorFlow itself, because only TensorFlow runs SavedModels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tlcli.errors import ModelError
from tlcli.zoo.formats.saved_model import SavedModel

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


def output_shape(program: Program, module: SavedModel, size: tuple[int, int]) -> list[int]:
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


def multiply_adds(program: Program, dtype: str, size: tuple[int, int]) -> int:
    """Multiply-adds of one image in convolutions and matrix products; 0 if the graph cannot be analysed."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        image = tf.TensorSpec((1, *size, 3), dtype)
        # Constants, because the functions inside are inlined then, and every shape is known.
        graph = convert_variables_to_constants_v2(tf.function(program.infer).get_concrete_function(image)).graph
        return sum(_multiply_adds(operation) for operation in graph.get_operations())
    except Exception:  # The number is for estimates only; a foreign graph may be of any kind.
        return 0


def _multiply_adds(operation: Any) -> int:
    """Multiply-adds of one operation; shapes must be known."""
    if operation.type in ("Conv2D", "DepthwiseConv2dNative"):
        kernel = operation.inputs[1].shape
        return math.prod(operation.outputs[0].shape) * math.prod(
            kernel[:3] if operation.type == "Conv2D" else kernel[:2]
        )
    if operation.type in ("MatMul", "BatchMatMul", "BatchMatMulV2"):
        is_transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
        return math.prod(operation.outputs[0].shape) * operation.inputs[0].shape[-2 if is_transposed else -1]
    return 0
