"""What pretraining writes: the card file, the weights, a model card page and the training curves."""

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

# A curve still falls if its last fifth brings more than this fraction of the whole fall.
_STILL_FALLING = 0.05


@dataclass(frozen=True)
class Point:
    """One point of the training curves.

    Attributes:
        images: Images seen so far, repetitions counted.
        seconds: Training time so far.
        loss: Loss of the pretraining task, mean since the point before.
        accuracy: Accuracy on the pretraining task, 0-1; None if the task has none.
        spread: Standard deviation of the l2-normalised outputs, mean over their dimensions; None if not measured.
    """

    images: int
    seconds: float
    loss: float
    accuracy: float | None = None
    spread: float | None = None


@dataclass(frozen=True)
class TrainingSummary:
    """How a network was trained, for its card and its page.

    Attributes:
        method: Method in words, with its reference.
        data: Training data in words; becomes the card's `data`.
        licence: Licence of the weights.
        command: Full command line that repeats the training.
        seed: Seed of the training.
        steps: Number of weight updates.
        points: The training curves, at least one point.
        scores: Final numbers on the pretraining task, by name.
        limits: Sentences about the limits of the network.
        healthy: Spread of outputs that vary in every direction; None if the spread is not measured.
        fine_tuning: Recommended settings for unfreezing the network.
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


def progress_line(point: Point, number: int, total: int) -> str:
    """Format one point of the curves as a line of progress.

    >>> progress_line(Point(2560, 12.34, -0.5, spread=0.04), 3, 20)
    '   3/20  loss -0.5000  spread 0.0400  2560 images  12 s'
    """
    accuracy = "" if point.accuracy is None else f"  acc {point.accuracy:.3f}"
    spread = "" if point.spread is None else f"  spread {point.spread:.4f}"
    amount = f"{point.images} images  {point.seconds:.0f} s"
    return f"{f'{number}/{total}':>7}  loss {point.loss:.4f}{accuracy}{spread}  {amount}"


def describe_curve(points: Sequence[Point]) -> str:
    """Describe the training curves in one sentence.

    >>> describe_curve([Point(10, 1, 2.0), Point(20, 2, 1.0), Point(30, 3, 1.0)])
    'loss 2.000 → 1.000, level at the end'
    >>> describe_curve([Point(10, 1, 2.0, 0.1), Point(20, 2, 1.0, 0.5)])
    'loss 2.000 → 1.000, still falling; accuracy 10.0 % → 50.0 %'
    """
    first, last = points[0], points[-1]
    sentence = f"loss {first.loss:.3f} → {last.loss:.3f}, {_trend([point.loss for point in points])}"
    if first.accuracy is not None and last.accuracy is not None:
        sentence += f"; accuracy {first.accuracy:.1%} → {last.accuracy:.1%}".replace("%", " %")
    return sentence


def _trend(losses: Sequence[float]) -> str:
    fifth = max(1, len(losses) // 5)
    before, end = losses[-2 * fifth : -fifth] or losses[:1], losses[-fifth:]
    fall = losses[0] - fmean(end)
    if fall <= 0:
        return "never below its start"
    return "still falling" if fmean(before) - fmean(end) > _STILL_FALLING * fall else "level at the end"


def plot_curve(points: Sequence[Point], path: Path, *, title: str, healthy: float | None = None) -> None:
    """Plot loss, accuracy and spread over the images seen, and write a PNG by rename.

    Accuracy and spread have a panel only if every point has a value.

    Args:
        points: At least one point.
        path: PNG file to write.
        title: Title of the figure.
        healthy: Spread of outputs that vary in every direction, drawn as a horizontal line.
    """
    # Matplotlib takes a second to load. A Figure of its own needs no display and leaves no global state.
    from matplotlib.figure import Figure

    curves = {"loss": [point.loss for point in points]}
    for name in ("accuracy", "spread"):
        values = [getattr(point, name) for point in points]
        if None not in values:
            curves[name] = values
    figure = Figure(figsize=(4.5 * len(curves), 3.4), dpi=110, layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    images = [point.images for point in points]
    for panel, (name, values) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), panel)
        _plot_panel(axes, images, values, name)
        if name == "spread" and healthy is not None:
            axes.axhline(healthy, color="tab:green", linestyle="--", linewidth=1, label="healthy")
            axes.set_ylim(0, 1.3 * max(healthy, *values))
            axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _plot_panel(axes: "Axes", images: Sequence[int], values: Sequence[float], name: str) -> None:
    axes.plot(images, values, marker="." if len(values) < 60 else None)
    axes.set_xlabel("images seen")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)


def write_card(
    out: Path,
    network: keras.Model,
    *,
    base: ModelCard,
    summary: TrainingSummary,
    half: bool = False,
    overwrite: bool = False,
) -> ModelCard:
    """Write OUT.weights.h5, OUT.png, OUT.md and, last, OUT.yaml, each by rename.

    Args:
        out: The card file, `….yaml`.
        network: Pretrained network without top.
        base: Card of the architecture, with the size and arguments used in training.
        summary: How the network was trained.
        half: Store kernels as float16.
        overwrite: Replace existing files.

    Returns:
        The card as `--model OUT.yaml` loads it.

    Raises:
        OutputError: One of the files exists and `overwrite` is false.
    """
    request.require_new_card(out, overwrite=overwrite)
    # Deleted first, so that an interruption never leaves the old card beside new weights.
    out.unlink(missing_ok=True)
    weights, curves, page = (
        request.sibling(out, suffix) for suffix in (request.WEIGHTS_SUFFIX, request.CURVES_SUFFIX, request.PAGE_SUFFIX)
    )
    sha256 = weights_file.save(network, weights, half=half)
    card = base.model_copy(
        update={
            "name": out.stem,
            "title": f"{base.title}, {summary.data}",
            "parameters": network.count_params(),
            "imagenet_top1": None,
            "licence": summary.licence,
            "weights": weights.name,
            "sha256": sha256,
            "data": summary.data,
            "fine_tuning": summary.fine_tuning,
        }
    )
    plot_curve(summary.points, curves, title=f"{out.stem}: {summary.data}", healthy=summary.healthy)
    write_text(page, _page(card, summary, size_bytes=weights.stat().st_size, half=half))
    write_text(out, _card_file(card))
    return read_card(out)


def _card_file(card: ModelCard) -> str:
    """The text of the card file, YAML with comments."""
    groups = "".join(f"  - {_inline(group.model_dump())}\n" for group in card.groups)
    return f"""\
# A network pretrained with tlcli. Use it with: tlcli finetune photos/ --model {card.name}{request.CARD_SUFFIX}
# Training, results and limits: {card.name}.md
name: {_inline(card.name)}
title: {_inline(card.title)}

# Architecture, its arguments and its input. Sizes are in pixels: `size` is the training size, and every size from
# `min_size` upwards works.
source: {_inline(card.source)}
arguments: {_inline(card.arguments)}
size: {card.size}
min_size: {card.min_size}
preprocessing: {_inline(card.preprocessing)}
parameters: {card.parameters}
paper: {_inline(card.paper)}

# Weights file in the same folder. Its SHA-256 is checked on every load.
weights: {_inline(card.weights)}
sha256: {_inline(card.sha256)}
data: {_inline(card.data)}
licence: {_inline(card.licence)}

# Settings for unfreezing where a recipe says `auto`. Weights that know little about photographs need more training.
fine_tuning: {_inline(card.fine_tuning.model_dump())}

# Layer groups from bottom to top, as patterns on layer names. If empty, groups are found automatically.
groups:{" []" if not card.groups else ""}
{groups}"""


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf"))
        .removesuffix("...\n")
        .strip()
    )


def _page(card: ModelCard, summary: TrainingSummary, *, size_bytes: int, half: bool) -> str:
    """The model card page, Markdown."""
    last = summary.points[-1]
    limits = "".join(f"- {limit}\n" for limit in summary.limits)
    versions = f"tlcli {__version__}, Keras {keras.__version__} on {keras.backend.backend()}"
    return f"""\
# {card.name}

{card.title}. {card.parameters:,} parameters without the top.

| | |
|---|---|
| architecture | `{card.source}`{_architecture_details(card)} |
| input | RGB, {card.size} × {card.size} pixels (minimum {card.min_size}), preprocessing `{card.preprocessing}` |
| method | {summary.method} |
| data | {summary.data} |
| images seen | {last.images:,} (repetitions included) in {summary.steps:,} steps |
| training time | {last.seconds:,.0f} seconds |
| weights | `{card.weights}`, {size_bytes / 1e6:.1f} MB{", kernels as float16" if half else ""} |
| sha256 | `{card.sha256}` |
| licence | {summary.licence} |

## Results on the pretraining task

| | |
|---|---|
{_score_rows(summary)}
Training curve: {describe_curve(summary.points)}.

![Training curves]({card.name}.png)

These numbers only show that the training worked. To measure how well the network transfers, fine-tune it on labelled
images.

## Use

Fine-tune on a folder with one sub-folder per class:

```sh
tlcli finetune photos/ --model {card.name}{request.CARD_SUFFIX}
```

## Limits

{limits}- The network has no classes of its own. It needs a head trained on labelled images.
- The network inherits the bias of its training data. Evaluate it on test images of your own before you rely on it.

## Reproduce

```sh
{summary.command}
```

Seed {summary.seed}; {versions}. The same seed and versions reproduce the weights up to rounding, because threads and
GPUs add numbers in a varying order.
"""


def _score_rows(summary: TrainingSummary) -> str:
    """The final numbers as rows of a Markdown table."""
    last = summary.points[-1]
    scores = {"loss": last.loss, "accuracy": last.accuracy, "spread": last.spread, **summary.scores}
    return "".join(f"| {name} | {value:.4g} |\n" for name, value in scores.items() if value is not None)


def _architecture_details(card: ModelCard) -> str:
    arguments = "".join(f", {name}={value}" for name, value in card.arguments.items())
    return arguments + (f" (arXiv {card.paper})" if card.paper else "")
