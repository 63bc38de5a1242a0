"""Traced functions: the memory that TensorFlow never releases by itself."""

import gc

import keras

import tlcli

# Module of the gradients that TensorFlow registers while it traces a call of a function with `tf.custom_gradient`.
_TRACED = "tensorflow.python.ops.custom_gradient"


def release_traces() -> None:
    """Release the graphs of models that are no longer in use: 40 MB for each training function of MobileNetV2.

    TensorFlow registers the gradient of every traced call of a function with a gradient of its own, under a new name
    and for the rest of the process, and with it the graph of the caller. Each training function has such a call, the
    sum of its gradients over all replicas, and so has each SiLU activation. A registered gradient is only looked up
    while a gradient is traced, so this must not be called then. Functions of SavedModels stay registered.
    """
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.framework.ops import gradient_registry

        # Private: a version of TensorFlow without it keeps the graphs, and trains all the same.
        registered = getattr(gradient_registry, "_registry", {})
        for name in [name for name, entry in registered.items() if _is_traced(entry)]:
            del registered[name]
    if tlcli.is_program:
        # Models and their graphs refer to each other, and the program hardly ever searches for garbage by itself.
        gc.collect()


def _is_traced(entry: dict[str, object]) -> bool:
    return getattr(entry["type"], "__module__", "") == _TRACED
