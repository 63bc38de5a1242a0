"""Measure the networks of all bundled cards of `keras.applications` and write `models/structures/*.json`.

Run it after a change to a card, to the measuring, or to the Keras version: `python scripts/measure_structures.py`.
Only networks without values are built; it takes about half a minute.
"""

import sys
from pathlib import Path

import keras

from tlcli.model import structure
from tlcli.model.graph import measure, weightless
from tlcli.model.grouping import assign
from tlcli.model.groups import LayerGroups
from tlcli.zoo import catalogue
from tlcli.zoo.card import ModelCard

FOLDER = Path(__file__).resolve().parent.parent / "models" / "structures"


def measured(card: ModelCard) -> LayerGroups:
    """The groups of a card's network at the card's own size."""
    build = getattr(keras.applications, card.source.removeprefix("keras:"))
    with weightless():
        network = build(weights=None, include_top=False, input_shape=(card.size, card.size, 3), **card.arguments)
    return assign(measure(network), card.groups, name=card.name, input_size=(card.size, card.size))


def main() -> None:
    """Write one file a card, and take away files without one."""
    cards = [card for card in catalogue.load().values() if card.source.startswith("keras:")]
    for card in cards:
        groups = measured(card)
        name = structure.key(card.source, card.arguments, card.groups)
        path = structure.write(groups, FOLDER / f"{card.name}.json", name)
        sys.stderr.write(f"{path.name}: {len(groups)} groups, {groups.parameters:,} parameters\n")
    known = {card.name for card in cards}
    for path in FOLDER.glob("*.json"):
        if path.stem not in known:
            path.unlink()


if __name__ == "__main__":
    main()
