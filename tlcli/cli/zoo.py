"""`tlcli zoo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlcli.cli.options import (
    LOCAL,
    RUN,
    Group,
    complete_model,
    examples,
    global_options,
    is_quiet,
    json_option,
    trust_option,
)

if TYPE_CHECKING:
    from tlcli.zoo.archive import Packed
    from tlcli.zoo.card import ModelCard

# Longest licence in the list, characters.
LICENCE_WIDTH = 20
# Names of ignored arrays in the summary of an import.
SHOWN_IGNORED = 4
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def _count(text: str) -> int:
    """A number such as `5000000`, `500k` or `5M`."""
    digits = text.strip().lower().rstrip("kmg")
    try:
        return int(float(digits) * _FACTORS[text.strip().lower()[len(digits) :]])
    except (ValueError, KeyError, OverflowError):
        raise click.BadParameter(f"'{text}' is not a number such as 500k or 5M.") from None


@click.group(cls=Group)
def zoo() -> None:
    """List, fetch and add pretrained networks."""


@zoo.command("list", epilog=examples("zoo list 'efficientnet*'", "zoo list --local", "zoo list --max-parameters 5M"))
@click.argument("pattern", default="*")
@click.option("--source", metavar="KIND", help="Only networks of this kind of source, such as keras or file.")
@click.option("--size", metavar="N", type=int, help="Only networks for images of N × N pixels.")
@click.option("--max-parameters", metavar="N", type=_count, help="Only networks up to this size, such as 5M.")
@click.option("--local", is_flag=True, help="Only networks whose weights are on this machine.")
@click.option("--licence", metavar="TEXT", help="Only networks whose licence contains this text.")
@json_option
@global_options
def list_cards(pattern: str, as_json: bool, local: bool, **limits: Any) -> None:
    """List the networks whose name matches PATTERN.

    PATTERN may have wildcards. Put it in quotes: 'efficientnet*'.

    The column `weights` says where they are: bundled, installed (in a package), cached or own; or how they come at the
    first use: by a download, in a package to install, or by KerasHub, which downloads them from Kaggle.
    """
    from tlcli import text
    from tlcli.cli import console
    from tlcli.zoo import catalogue, store

    cards = catalogue.load()
    chosen = [cards[name] for name in catalogue.names(pattern) if _passes(cards[name], **limits)]
    states = {card.name: store.own_state(card) for card in chosen}
    chosen = [card for card in chosen if states[card.name].is_local or not local]
    if as_json:
        console.print_json([card.model_dump() | {"local": states[card.name].is_local} for card in chosen])
        return
    if not chosen:
        raise click.UsageError(f"no network matches '{pattern}' and these options. `tlcli zoo list` shows all.")
    rows = [
        [
            card.name,
            card.title,
            card.licence if len(card.licence) <= LICENCE_WIDTH else "see zoo show",
            "–" if card.parameters is None else text.compact(card.parameters),
            str(card.size),
            "–" if card.imagenet_top1 is None else f"{card.imagenet_top1:.1%}",
            states[card.name].word,
        ]
        for card in chosen
    ]
    columns = ["name", "network", "licence", "parameters", "size", "ImageNet", "weights"]
    console.print_table(
        console.out(), columns, rows, text_columns=3, optional=["network", "licence", "size", "parameters"]
    )


def _passes(
    card: "ModelCard", *, source: str | None, size: int | None, max_parameters: int | None, licence: str | None
) -> bool:
    """True if a card passes all limits that are given. A card without a number passes no limit on it."""
    return (
        (source is None or card.source.partition(":")[0] == source)
        and (size is None or card.size == size)
        and (max_parameters is None or (card.parameters is not None and card.parameters <= max_parameters))
        and (licence is None or licence.lower() in card.licence.lower())
    )


@zoo.command()
@click.argument("name", shell_complete=complete_model)
@trust_option
@json_option
@global_options
def show(name: str, as_json: bool) -> None:
    """Show what is known of a network.

    NAME is a name from `tlcli zoo list` or a file, as for --model.
    """
    from tlcli.cli import console
    from tlcli.zoo import catalogue, store

    found = catalogue.find(name)
    state = store.own_state(found)
    card = found.model_dump()
    card |= {
        "file": str(state.path) if state.path else None,
        "url": state.file.url if state.file else None,
        "url_hash": (state.file.hash or None) if state.file else None,
    }
    if as_json:
        console.print_json(card)
        return
    if not card["source"].startswith("file:"):
        card["data"] = card["data"] or "ImageNet"
    card["weights"] = card["weights"] or str(state)
    card["paper"] = card["paper"] and f"https://arxiv.org/abs/{card['paper']}"
    for key, value in card.items():
        if value is not None and value not in ("", (), {}):
            console.out().print(console.safe(f"{key:<14} {_shown(value)}"))


def _shown(value: Any) -> str:
    """A value of a card as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items() if entry is not None)
    if isinstance(value, list | tuple):
        return ", ".join(entry["name"] for entry in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


@zoo.command(
    epilog=examples("zoo pull resnet50", "zoo pull mobilenet_v2 --set model.arguments.alpha=0.35 --size 96 96")
)
@click.argument("names", metavar="NAME…", nargs=-1, shell_complete=complete_model, required=True)
@click.option(
    "--set", "settings", metavar="A.B=C", multiple=True, help="Set model.arguments of the recipe; repeatable."
)
@click.option("--size", nargs=2, type=int, metavar="H W", help="Input height and width. [default: the network's own]")
@json_option
@global_options
def pull(names: tuple[str, ...], settings: tuple[str, ...], size: tuple[int, int] | None, as_json: bool) -> None:
    """Fetch the weights of networks into the cache.

    An interrupted download is resumed by the same command. TLCLI_MIRROR names a folder or an address to ask first.
    """
    from tlcli.cli import console
    from tlcli.cli.progress import observer
    from tlcli.recipe import load
    from tlcli.zoo import catalogue, published, store

    arguments = load.load(load.DEFAULT, settings=settings).model.arguments
    rows = []
    for name in names:
        with observer():
            found = store.pull_untrusted(name)
        if found is not None:
            rows.append({"name": found[0], "licence": "that of the module", "file": str(found[1])})
            continue
        card = catalogue.find(name)
        if not is_quiet():
            unverified = published.unverified(card, arguments=arguments, size=size)
            notes = "; ".join(["licence " + card.licence, *([unverified] if unverified else [])])
            console.print_text(console.err(), console.safe(f"weights of {card.name}: {notes}", "dim"))
        with observer():
            path = store.pull(card, arguments=arguments, size=size)
        rows.append({"name": card.name, "licence": card.licence, "file": str(path)})
    if as_json:
        console.print_json(rows)
        return
    for row in rows:
        console.out().print(console.safe(f"{row['name']}: {row['file']}"))


@zoo.command()
@click.argument("names", metavar="[NAME]…", nargs=-1, shell_complete=complete_model)
@json_option
@global_options
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Check the weights on this machine against their hashes.

    Without NAME, the weights of all networks are checked. The exit code is 3 if one is damaged or missing.
    """
    from tlcli.cli import console
    from tlcli.errors import ExpectationError
    from tlcli.zoo import catalogue, own, store

    chosen = list(names) or list(dict.fromkeys([*catalogue.load(), *own.names()]))
    verdicts = store.verify(chosen)
    if as_json:
        rows = [vars(verdict) | {"file": str(verdict.file) if verdict.file else None} for verdict in verdicts]
        console.print_json(rows)
    else:
        cells = [[verdict.name, verdict.status, verdict.hash or "–"] for verdict in verdicts]
        console.print_table(console.out(), ["name", "result", "compared with"], cells, text_columns=3)
        # Paths have a line each: they can be copied whole, and no table breaks them.
        for verdict in verdicts:
            style = "" if verdict.message else "dim"
            console.out().print(
                console.safe(f"{verdict.name}: {verdict.file or verdict.status}", style), soft_wrap=True
            )
            if verdict.message:
                console.print_text(console.out(), console.safe(f"  {verdict.message}"))
    if any(verdict.status in ("damaged", "missing") for verdict in verdicts):
        raise click.exceptions.Exit(ExpectationError.exit_code)


@zoo.command()
@click.argument("names", metavar="NAME…", nargs=-1, shell_complete=complete_model, required=True)
@click.option("--out", "-o", required=True, metavar="FILE.zip", type=LOCAL, help="New archive.")
@trust_option
@json_option
@global_options
def pack(names: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Pack networks for a machine without a connection.

    The archive is a ZIP file with weights, cards and hashes; `tlcli zoo unpack` reads it. Weights that are not on this
    machine are fetched first.
    """
    from tlcli.cli.progress import observer
    from tlcli.zoo import archive, catalogue

    cards = [catalogue.find(name) for name in dict.fromkeys(names)]
    with observer():
        packed = archive.pack(cards, out)
    _print_packed(packed, as_json=as_json)


@zoo.command()
@click.argument("archive", type=LOCAL)
@click.option("--to", metavar="FOLDER", type=LOCAL, help="Unpack as a mirror into a new folder.")
@json_option
@global_options
def unpack(archive: Path, to: Path | None, as_json: bool) -> None:
    """Unpack networks from an archive of `tlcli zoo pack`.

    Published weights go into the cache, one's own networks into one's own zoo. All files are checked before.
    """
    from tlcli.zoo import archive as archives

    _print_packed(archives.unpack(archive) if to is None else archives.unpack_to(archive, to), as_json=as_json)


def _print_packed(packed: list["Packed"], *, as_json: bool) -> None:
    """Print the networks of an archive with their licences."""
    from tlcli.cli import console

    if as_json:
        console.print_json([vars(network) | {"files": list(network.files)} for network in packed])
        return
    rows = [[network.name, network.licence, str(len(network.files))] for network in packed]
    console.print_table(console.out(), ["name", "licence", "files"], rows, text_columns=2)


@zoo.command(
    epilog=examples("zoo add runs/leaves --name leaves", "zoo add lenet.keras --name lenet --preprocessing unit")
)
@click.argument("source", metavar="RUN|FILE", type=RUN)
@click.option("--name", required=True, metavar="N", help="Name of the network, for --model.")
@click.option("--licence", metavar="L", help="Licence of the weights. [default: that of the source]")
@click.option(
    "--preprocessing",
    type=click.Choice(["none", "unit", "tf", "torch", "caffe"]),
    help="How images become the input of a model file. [default: what the file states]",
)
@json_option
@global_options
def add(source: Path, name: str, licence: str | None, preprocessing: Any, as_json: bool) -> None:
    """Add a network of one's own: `--model N` then starts from it.

    RUN|FILE is a run folder, a .keras or .h5 file, or a card file. Of a run, the network below the head is added.
    """
    from tlcli.cli import console
    from tlcli.workflows import zoo as workflow

    card = workflow.add(source, name, loading=console.loading_keras, licence=licence, preprocessing=preprocessing)
    if as_json:
        console.print_json(card.model_dump())
        return
    console.out().print(console.safe(f"added {card.name}: {card.title}, licence {card.licence}"))
    if not is_quiet():
        console.out().print(console.safe(f"next: tlcli finetune photos/ --model {card.name}"))


@zoo.command()
@click.argument("name", shell_complete=complete_model)
@json_option
@global_options
def remove(name: str, as_json: bool) -> None:
    """Remove a network from one's own zoo.

    NAME is its exact name. Bundled networks cannot be removed.
    """
    from tlcli.cli import console
    from tlcli.zoo import own

    freed = own.remove(name)
    if as_json:
        console.print_json({"name": name, "freed_bytes": freed})
        return
    console.out().print(console.safe(f"removed {name} ({freed / 1e6:.1f} MB)"))


@zoo.command(
    "import", epilog=examples("zoo import resnet18-f37072fd.pth --architecture torchvision_resnet18 --name r18")
)
@click.argument("weights", type=LOCAL)
@click.option("--architecture", metavar="A", required=True, help="The network, such as torchvision_resnet50.")
@click.option("--map", "rules", metavar="FILE", help="Map of names. [default: that of the architecture]")
@click.option("--name", metavar="N", required=True, help="Name for --model.")
@click.option("--licence", metavar="L", default="unknown", help="Licence of the weights.")
@click.option("--verbose", is_flag=True, help="Print all arrays, their variables and shapes.")
@json_option
@global_options
def import_weights(
    weights: Path, architecture: str, name: str, rules: str | None, licence: str, verbose: bool, as_json: bool
) -> None:
    """Import weights of another framework by a map of names.

    WEIGHTS is a .safetensors, .npz, .pth, .pt or .th file. Each array must find its variable, or nothing is imported.
    """
    from tlcli.cli import console

    with console.loading_keras():
        from tlcli.workflows import zoo_import
    report = zoo_import.import_weights(zoo_import.ImportRequest(weights, architecture, name, rules, licence))
    if as_json:
        console.print_json(report)
        return
    if verbose:
        rows = [
            [entry["array"], f"{entry['layer']} {entry['variable']}", " × ".join(map(str, entry["shape"]))]
            for entry in report["matched"]
        ]
        console.print_table(console.out(), ["array", "variable", "shape"], rows, text_columns=2)
    ignored = report["ignored"]
    rest = f" and {len(ignored) - SHOWN_IGNORED} more" if len(ignored) > SHOWN_IGNORED and not verbose else ""
    names = ", ".join(ignored if verbose else ignored[:SHOWN_IGNORED])
    matched = f"{len(report['matched'])} arrays matched, {len(ignored)} ignored"
    console.print_text(console.out(), console.safe(f"{matched}{f': {names}{rest}' if ignored else ''}"))
    console.out().print(console.safe(f"card {report['card']}"), soft_wrap=True)
    console.out().print(console.safe(f"use it: tlcli finetune DATA --model {name}"))
