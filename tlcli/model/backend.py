"""The backend of Keras and the names of devices, known without loading Keras."""

import json
import os
import re
from pathlib import Path

from tlcli.cluster.hosts import COUNT
from tlcli.errors import UsageError

# `gpu:all`: all devices of a kind.
ALL = "all"
_DEVICE = re.compile(rf"auto(:{ALL})?|(cpu|gpu|tpu)(:(\d+|{ALL}))?", re.IGNORECASE)


def backend() -> str:
    """The backend that Keras takes when it is loaded: that of the environment, or else of its settings."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    try:
        return str(json.loads(Path(home, "keras.json").read_text(encoding="utf-8"))["backend"])
    except (OSError, ValueError, TypeError, KeyError):
        return "tensorflow"


def require_backend(name: str, device: str) -> None:
    """Refuse a backend that no test covers, and several devices where Keras cannot share a batch between them.

    Args:
        name: The backend.
        device: The device, as after `--device`.

    Raises:
        UsageError: If the backend does not fit.
    """
    if name not in ("tensorflow", "jax"):
        hint = "Unset KERAS_BACKEND, or set it to tensorflow or jax."
        raise UsageError(f"tlcli does not run on this backend (got {name})", where="KERAS_BACKEND", hint=hint)
    if device.lower().endswith(f":{ALL}") and name != "jax":
        hint = "pip install 'tlcli[jax]', and set KERAS_BACKEND=jax."
        raise UsageError(f"several devices need JAX (Keras runs on {name})", where=f"--device {device}", hint=hint)


def require_hosts(name: str, device: str) -> None:
    """Refuse several hosts on another backend than JAX, or on a single device of each.

    Args:
        name: The backend.
        device: The device, as after `--device`.

    Raises:
        UsageError: If they do not fit.
    """
    if device.partition(":")[2] not in ("", ALL):
        hint = "Leave it out, or give auto, cpu, gpu or tpu."
        raise UsageError(f"several hosts use all of their devices (got {device})", where="--device", hint=hint)
    if name != "jax":
        hint = "pip install 'tlcli[jax]', and set KERAS_BACKEND=jax on all hosts."
        raise UsageError(f"several hosts need JAX (Keras runs on {name})", where=COUNT, hint=hint)


def require_device_name(device: str) -> None:
    """Check the name of a device. Only Keras knows whether the machine has it.

    Raises:
        UsageError: If no machine has a device of this name.
    """
    if not _DEVICE.fullmatch(device):
        hint = f"Give auto, cpu, gpu or tpu, one with its number such as gpu:1, or all of a kind: gpu:{ALL}."
        raise UsageError(f"there is no such device (got '{device}')", where="--device", hint=hint)


def is_certain(device: str) -> bool:
    """True if every machine has the device."""
    return device.lower() in ("auto", "cpu", "cpu:0")
