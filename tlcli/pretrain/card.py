"""A pretrained network on disk: the card file, and beside it weights, model card and curves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import yaml

from tlcli import __version__
from tlcli.paths import write_text
from tlcli.pretrain import curve, files
from tlcli.zoo import card_file
from tlcli.zoo.card import FineTuning, ModelCard
from tlcli.zoo.sources import weights_file


@dataclass(frozen=True)
class Account:
    """What is told of a training.

    Attributes:
        method: In words, with its reference.
        data: What the network was trained on, in words; it becomes the card's `data`.
        licence: Of the weights.
        command: What was typed, in full.
        seed: That of the training.
        steps: Updates of the weights.
        points: The measurements, at least one.
        scores: Final numbers on the network's own task, by name.
        limits: Sentences on what not to expect.
        healthy: The spread of outputs that differ in every direction, where spread is measured.
        fine_tuning: How the network should be thawed.
    """

    method: str
    data: str
    licence: str
    command: str
    seed: int
    steps: int
    points: tuple[curve.Point, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    healthy: float | None = None
    fine_tuning: FineTuning = field(default_factory=FineTuning)


def write(
    out: Path, network: keras.Model, *, base: ModelCard, account: Account, half: bool = False, overwrite: bool = False
) -> ModelCard:
    """Write OUT.weights.h5, OUT.png, OUT.md and, last, OUT.yaml, each by rename.

    Args:
        out: The card file, `….yaml`.
        network: Without top.
        base: Card of its architecture, with the size and arguments it was trained with.
        account: How it came about.
        half: Store kernels as float16.
        overwrite: Replace what is there.

    Returns:
        The card as `--model OUT.yaml` finds it.

    Raises:
        OutputError: If one of the files is there and `overwrite` was not given.
    """
    files.require_new(out, overwrite=overwrite)
    # A card never stands beside weights that are not its own, not even if this is interrupted.
    out.unlink(missing_ok=True)
    weights, page, picture = (files.beside(out, suffix) for suffix in (files.WEIGHTS, files.PAGE, files.PICTURE))
    sha256 = weights_file.save(network, weights, half=half)
    card = base.model_copy(
        update={
            "name": out.stem,
            "title": f"{base.title}, {account.data}",
            "parameters": network.count_params(),
            "imagenet_top1": None,
            "licence": account.licence,
            "weights": weights.name,
            "sha256": sha256,
            "data": account.data,
            "fine_tuning": account.fine_tuning,
        }
    )
    curve.plot(account.points, picture, title=f"{out.stem}: {account.data}", healthy=account.healthy)
    write_text(page, _page(card, account, size=weights.stat().st_size, half=half))
    write_text(out, _text(card))
    return card_file.read(out)


def _text(card: ModelCard) -> str:
    """The card file."""
    groups = "".join(f"  - {_flow(group.model_dump())}\n" for group in card.groups)
    return f"""\
# A network pretrained with tlcli. To use it: tlcli finetune photos/ --model {card.name}{files.SUFFIX}
# How it came about, what it is good for and what not: {card.name}.md
name: {_flow(card.name)}
title: {_flow(card.title)}

# The architecture, its arguments, and what it expects of a picture. Sides are pixels; `size` is what it was trained
# at, and other sizes from `min_size` up work too.
source: {_flow(card.source)}
arguments: {_flow(card.arguments)}
size: {card.size}
min_size: {card.min_size}
preprocessing: {_flow(card.preprocessing)}
parameters: {card.parameters}
paper: {_flow(card.paper)}

# The weights: a file beside this one, compared with this digest each time it is loaded.
weights: {_flow(card.weights)}
sha256: {_flow(card.sha256)}
data: {_flow(card.data)}
licence: {_flow(card.licence)}

# How it is thawed where a recipe says auto. Weights that know little of photographs have to learn more.
fine_tuning: {_flow(card.fine_tuning.model_dump())}

# Groups of layers, bottom to top, by patterns on the layers' names; without any they are found automatically.
groups:{" []" if not card.groups else ""}
{groups}"""


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf"))
        .removesuffix("...\n")
        .strip()
    )


def _page(card: ModelCard, account: Account, *, size: int, half: bool) -> str:
    """The model card for people."""
    last = account.points[-1]
    limits = "".join(f"- {each}\n" for each in account.limits)
    versions = f"tlcli {__version__}, Keras {keras.__version__} on {keras.backend.backend()}"
    return f"""\
# {card.name}

{card.title}. Without its top, {card.parameters:,} parameters.

| | |
|---|---|
| architecture | `{card.source}`{_details(card)} |
| input | RGB, trained at {card.size} × {card.size} pixels, takes {card.min_size} and more; `{card.preprocessing}` |
| method | {account.method} |
| data | {account.data} |
| images seen | {last.images:,}, repetitions counted, in {account.steps:,} steps |
| time | {last.seconds:,.0f} seconds |
| weights | `{card.weights}`, {size / 1e6:.1f} MB{", kernels as float16" if half else ""} |
| sha256 | `{card.sha256}` |
| licence | {account.licence} |

## Results on its own task

| | |
|---|---|
{_scores(account)}
In words: {curve.words(account.points)}.

![Curves of the training]({card.name}.png)

These numbers say that it trained. How well it transfers, only a fine-tuning on labelled pictures shows.

## Use

For fine-tuning on a folder of class folders:

```sh
tlcli finetune photos/ --model {card.name}{files.SUFFIX}
```

## Limits

{limits}- It has no classes of its own; what it knows shows only under a head trained on labelled pictures.
- It inherits the bias of what it was trained on. Judge it on test pictures of your own before you rely on it.

## Again

```sh
{account.command}
```

Seed {account.seed}; {versions}. The same seed and versions give the same weights
up to rounding: threads and GPUs add numbers in another order.
"""


def _scores(account: Account) -> str:
    """The final numbers as rows of a table."""
    last = account.points[-1]
    found = {"loss": last.loss, "accuracy": last.accuracy, "spread": last.spread, **account.scores}
    return "".join(f"| {name} | {value:.4g} |\n" for name, value in found.items() if value is not None)


def _details(card: ModelCard) -> str:
    arguments = "".join(f", {name}={value}" for name, value in card.arguments.items())
    return arguments + (f" (arXiv {card.paper})" if card.paper else "")
