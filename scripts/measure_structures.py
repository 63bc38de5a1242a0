"""Measure the networks of all bundled cards and write `models/structures/*.json`.

Run it after a change to a card, to the measurement, or to the Keras version: `python scripts/measure_structures.py`.
It builds networks without weight values and takes about half a minute.
"""

import sys
from pathlib import Path

from tlcli.model import structure
from tlcli.model.graph import build_unweighted, groups_of
from tlcli.zoo import catalogue

FOLDER = Path(__file__).resolve().parent.parent / "models" / "structures"


def main() -> None:
    """Write one file per card, at the card's own input size, and delete files without a card."""
    cards = catalogue.load().values()
    for card in cards:
        size = (card.size, card.size)
        groups = groups_of(build_unweighted(card, {}, size), card, size)
        key = structure.key(card.source, card.arguments, card.groups)
        path = structure.write(groups, FOLDER / f"{card.name}.json", key)
        sys.stderr.write(f"{path.name}: {len(groups)} groups, {groups.parameters:,} parameters\n")
    names = {card.name for card in cards}
    for path in FOLDER.glob("*.json"):
        if path.stem not in names:
            path.unlink()


if __name__ == "__main__":
    main()
