"""Whether a weights file fits a network: compared in a process of its own, because that needs Keras."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlcli.errors import ModelError, RunError, WeightsError
from tlcli.zoo.card import ModelCard

_CHECK = """\
from tlcli.zoo.download import no_sockets
with no_sockets():
    from tlcli.model import backbone, weights_check
weights_check.main()
"""


def check_in_subprocess(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int], weights: Path) -> None:
    """Check that a weights file fits the network of a card, by the shapes of all arrays; takes some seconds.

    Args:
        card: The card, of any source that takes weights files.
        arguments: Architecture arguments besides those of the card.
        size: Input height and width, pixels.
        weights: The file.

    Raises:
        WeightsError: It is damaged, or belongs to another network.
        RunError: The process failed for another reason.
    """
    task = {"card": card.model_dump(mode="json"), "arguments": dict(arguments), "size": size, "weights": str(weights)}
    command = [sys.executable, "-c", _CHECK]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    if done.returncode == ModelError.exit_code:
        raise WeightsError(**json.loads(done.stdout))
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RunError(f"the weights cannot be compared with {card.name}: {reason}", where=str(weights))


def main() -> None:
    """Check what stdin describes; an error goes to stdout as JSON. See `check_in_subprocess`."""
    from tlcli.model import backbone

    task = json.load(sys.stdin)
    card = ModelCard.model_validate(task["card"])
    try:
        backbone.check_weights(
            card, size=tuple(task["size"]), arguments=task["arguments"], weights=Path(task["weights"])
        )
    except ModelError as error:
        json.dump({"message": error.message, "where": error.where, "hint": error.hint}, sys.stdout)
        raise SystemExit(error.exit_code) from error
