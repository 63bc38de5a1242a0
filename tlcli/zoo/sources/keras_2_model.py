"""Build the model of a Keras 2 file from its configuration, with the layers of Keras 3.

Only classes of `keras.layers` are looked up, by name, so that no code from the file or elsewhere is run.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import keras

_MODELS = ("Functional", "Model", "Sequential")
# Arguments of calls that the recipe decides, or that have no effect here.
_IGNORED = {"training", "mask", "name"}


def build(entry: dict[str, Any]) -> keras.Model:
    """Build a model with random weights.

    Args:
        entry: Class name and configuration, as `formats.keras_2.convert` returns them.

    Raises:
        ValueError, TypeError, KeyError, IndexError: The configuration is not that of a model of built-in layers.
    """
    kind, config = entry["class_name"], entry["config"]
    if kind not in _MODELS:
        raise ValueError(f"the model is of the unknown kind {kind}")
    if isinstance(config, list) or kind == "Sequential":
        layers = config if isinstance(config, list) else config["layers"]
        return _sequential(layers, {} if isinstance(config, list) else config)
    return _Graph(config).model()


def _layer(entry: dict[str, Any]) -> Any:
    """A layer, or an operation where the configuration names one."""
    kind, config = str(entry.get("class_name")), dict(entry["config"])
    if kind in _MODELS:
        return build(entry)
    if kind == "InputLayer":
        shape = config.get("batch_shape") or config["batch_input_shape"]
        return keras.layers.InputLayer(batch_shape=tuple(shape), dtype=config.get("dtype"), name=config.get("name"))
    if kind == "Flip":
        return partial(keras.ops.flip, axis=config["axis"])
    layer: Any = getattr(keras.layers, kind, None)
    if not _is_layer(layer):
        raise ValueError(f"there is no built-in layer {kind}")
    for key in ("batch_input_shape", "batch_shape", "input_dtype"):
        config.pop(key, None)
    return layer.from_config(config)


def _is_layer(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, keras.Layer)


def _sequential(entries: list[dict[str, Any]], config: dict[str, Any]) -> keras.Model:
    layers = [_layer(entry) for entry in entries]
    first = entries[0]["config"]
    shape = first.get("batch_input_shape") if isinstance(first, dict) else None
    if shape is not None and not isinstance(layers[0], keras.layers.InputLayer):
        layers.insert(0, keras.layers.InputLayer(batch_shape=tuple(shape)))
    model = keras.Sequential(layers, name=config.get("name"))
    if not model.built and config.get("build_input_shape"):
        model.build(tuple(config["build_input_shape"]))
    return model


class _Graph:
    """The layers of a functional model and the outputs of their calls."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._entries = {entry["name"]: entry for entry in config["layers"]}
        self._layers = {name: _layer(entry) for name, entry in self._entries.items()}
        self._outputs: dict[str, list[list[Any]]] = {}
        for name, layer in self._layers.items():
            self._outputs[name] = [[layer.output]] if isinstance(layer, keras.layers.InputLayer) else []
        self._first_call = {name: self._index_of_first_call(name) for name in self._entries}

    def model(self) -> keras.Model:
        """Call all layers and return the model."""
        waiting = [(name, node) for name, entry in self._entries.items() for node in entry["inbound_nodes"]]
        while waiting:
            blocked = [call for call in waiting if not self._call(*call)]
            if len(blocked) == len(waiting):
                raise ValueError(f"the layer {blocked[0][0]} has no input")
            waiting = blocked
        inputs = self._tensors(_records(self._config["input_layers"]))
        outputs = self._tensors(_records(self._config["output_layers"]))
        return keras.Model(_alone(inputs), _alone(outputs), name=self._config.get("name"))

    def _index_of_first_call(self, name: str) -> int:
        """The number of the first call in references: 1 for a nested model that was built before it was called."""
        references = [record for entry in self._entries.values() for record in _all_records(entry["inbound_nodes"])]
        references += _records(self._config["output_layers"])
        highest = max((record[1] for record in references if record[0] == name), default=0)
        calls = len(self._entries[name]["inbound_nodes"])
        return 1 if isinstance(self._layers[name], keras.Model) and highest == calls else 0

    def _call(self, name: str, node: list[Any]) -> bool:
        """Call a layer; False if an input is not there yet. Calls of one layer keep their order."""
        records = _records(node)
        before = self._entries[name]["inbound_nodes"].index(node)
        if len(self._outputs[name]) < before or not all(self._is_ready(record) for record in records):
            return False
        for record in records:
            options = record[3] if len(record) > 3 else {}
            if unknown := sorted(set(options) - _IGNORED):
                raise ValueError(f"the layer {name} is called with {', '.join(unknown)}")
        output = self._layers[name](_alone(self._tensors(records)))
        self._outputs[name].append(list(output) if isinstance(output, (list, tuple)) else [output])
        return True

    def _is_ready(self, record: list[Any]) -> bool:
        return record[1] - self._first_call[record[0]] < len(self._outputs[record[0]])

    def _tensors(self, records: list[list[Any]]) -> list[Any]:
        return [self._outputs[name][call - self._first_call[name]][tensor] for name, call, tensor, *_ in records]


def _records(node: list[Any]) -> list[list[Any]]:
    """The references `[layer, call, tensor, …]` of a node, which is one of them or a list."""
    return [node] if node and isinstance(node[0], str) else node


def _all_records(nodes: list[Any]) -> Iterator[list[Any]]:
    for node in nodes:
        yield from _records(node)


def _alone(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors
