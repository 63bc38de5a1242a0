"""The card of a pretrained network: card file, weights, page and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import keras
import yaml

from tlcli import __version__
from tlcli.paths import replacing, write_text
from tlcli.pretrain import request
from tlcli.zoo.card import FineTuning, ModelCard, read_card
from tlcli.zoo.sources import weights_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Share of the whole fall that the last fifth of a curve must bring to count as still falling.
_STILL = 0.05


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        images: Images seen so far, repetitions counted.
        seconds: Time so far.
        loss: Of the network's own task, mean since the point before.
        accuracy: On the network's own task, 0-1; None where the task has none.
        spread: Standard deviation of the l2-normalised outputs, mean over their dimensions; None where not watched.
    """

    images: int
    seconds: float
    loss: float
    accuracy: float | None = None
    spread: float | None = None


def progress_line(point: Point, number: int, of: int) -> str:
    """One measurement as a line of progress.

    >>> line(Point(2560, 12.34, -0.5, spread=0.04), 3, 20)
    '   3/20  loss -0.5000  spread 0.0400  2560 images  12 s'
    """
    accuracy = "" if point.accuracy is None else f"  acc {point.accuracy:.3f}"
    spread = "" if point.spread is None else f"  spread {point.spread:.4f}"
    seen = f"{point.images} images  {point.seconds:.0f} s"
    return f"{f'{number}/{of}':>7}  loss {point.loss:.4f}{accuracy}{spread}  {seen}"


def describe_curve(points: Sequence[Point]) -> str:
    """The course of a training in a sentence.

    >>> words([Point(10, 1, 2.0), Point(20, 2, 1.0), Point(30, 3, 1.0)])
    'loss 2.000 → 1.000, level at the end'
    >>> words([Point(10, 1, 2.0, 0.1), Point(20, 2, 1.0, 0.5)])
    'loss 2.000 → 1.000, still falling; accuracy 10.0 % → 50.0 %'
    """
    first, last = points[0], points[-1]
    said = f"loss {first.loss:.3f} → {last.loss:.3f}, {_trend([point.loss for point in points])}"
    if first.accuracy is not None and last.accuracy is not None:
        said += f"; accuracy {first.accuracy:.1%} → {last.accuracy:.1%}".replace("%", " %")
    return said


def plot_curve(points: Sequence[Point], path: Path, *, title: str, healthy: float | None = None) -> None:
    """Draw loss, and accuracy or spread where there is one, over the images seen; PNG, by rename.

    Args:
        points: At least one.
        path: Where to.
        title: Above the picture.
        healthy: The spread of outputs that differ in every direction, drawn as a line.
    """
    # Matplotlib takes a second to load; this object needs no screen and leaves no state behind.
    from matplotlib.figure import Figure

    curves = {"loss": [point.loss for point in points]}
    for name in ("accuracy", "spread"):
        values = [getattr(point, name) for point in points]
        if None not in values:
            curves[name] = values
    figure = Figure(figsize=(4.5 * len(curves), 3.4), dpi=110, layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    images = [point.images for point in points]
    for place, (name, values) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), place)
        _draw(axes, images, values, name)
        if name == "spread" and healthy is not None:
            axes.axhline(healthy, color="tab:green", linestyle="--", linewidth=1, label="healthy")
            axes.set_ylim(0, 1.3 * max(healthy, *values))
            axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: "Axes", images: Sequence[int], values: Sequence[float], name: str) -> None:
    axes.plot(images, values, marker="." if len(values) < 60 else None)
    axes.set_xlabel("images seen")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)


def _trend(losses: Sequence[float]) -> str:
    part = max(1, len(losses) // 5)
    before, end = losses[-2 * part : -part] or losses[:1], losses[-part:]
    fall = losses[0] - fmean(end)
    if fall <= 0:
        return "never below its start"
    return "still falling" if fmean(before) - fmean(end) > _STILL * fall else "level at the end"


@dataclass(frozen=True)
class TrainingSummary:
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
    points: tuple[Point, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    healthy: float | None = None
    fine_tuning: FineTuning = field(default_factory=FineTuning)


def write_card(
    out: Path,
    network: keras.Model,
    *,
    base: ModelCard,
    account: TrainingSummary,
    half: bool = False,
    overwrite: bool = False,
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
    request.require_new_card(out, overwrite=overwrite)
    # A card never stands beside weights that are not its own, not even if this is interrupted.
    out.unlink(missing_ok=True)
    weights, page, picture = (
        request.beside(out, suffix) for suffix in (request.WEIGHTS, request.PAGE, request.PICTURE)
    )
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
    plot_curve(account.points, picture, title=f"{out.stem}: {account.data}", healthy=account.healthy)
    write_text(page, _page(card, account, size=weights.stat().st_size, half=half))
    write_text(out, _text(card))
    return read_card(out)


def _text(card: ModelCard) -> str:
    """The card file."""
    groups = "".join(f"  - {_flow(group.model_dump())}\n" for group in card.groups)
    return f"""\
# A network pretrained with tlcli. To use it: tlcli finetune photos/ --model {card.name}{request.CARD_SUFFIX}
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


def _page(card: ModelCard, account: TrainingSummary, *, size: int, half: bool) -> str:
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
In words: {describe_curve(account.points)}.

![Curves of the training]({card.name}.png)

These numbers say that it trained. How well it transfers, only a fine-tuning on labelled pictures shows.

## Use

For fine-tuning on a folder of class folders:

```sh
tlcli finetune photos/ --model {card.name}{request.CARD_SUFFIX}
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


def _scores(account: TrainingSummary) -> str:
    """The final numbers as rows of a table."""
    last = account.points[-1]
    found = {"loss": last.loss, "accuracy": last.accuracy, "spread": last.spread, **account.scores}
    return "".join(f"| {name} | {value:.4g} |\n" for name, value in found.items() if value is not None)


def _details(card: ModelCard) -> str:
    arguments = "".join(f", {name}={value}" for name, value in card.arguments.items())
    return arguments + (f" (arXiv {card.paper})" if card.paper else "")
