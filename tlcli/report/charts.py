"""Charts as lines, bands and marks in the coordinates of an SVG drawing, which a template draws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tlcli.evaluate.reliability import Reliability

TICKS = 5


@dataclass(frozen=True)
class Frame:
    """The size of a drawing, and the edges of the plot inside it, in units of the drawing."""

    width: int = 440
    height: int = 260
    left: int = 46
    # The label of the last tick, such as 100%, stands half beside the plot.
    right: int = 422
    top: int = 26
    bottom: int = 220


FRAME = Frame()


@dataclass
class Chart:
    """A chart in the coordinates of its drawing.

    Attributes:
        title: What it shows.
        text: What can be read from it, for people who cannot see it.
        x_label: Name of the horizontal axis.
        x_ticks: Position and text.
        y_ticks: Position and text.
        bands: Intervals of the horizontal axis: x, width, text, style.
        lines: Points of each line as in SVG, and its style.
        marks: x, y, radius, style and text of each mark.
        frame: The size of the drawing.
    """

    title: str
    text: str
    x_label: str
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    bands: list[tuple[float, float, str, str]] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    marks: list[tuple[float, float, float, str, str]] = field(default_factory=list)
    frame: Frame = FRAME


@dataclass(frozen=True)
class _Scale:
    """Maps values from `low` to `high` to positions in the drawing."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)


def learning_charts(steps: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, str]]) -> list[Chart]:
    """Loss and accuracy over the epochs of all steps, one band per step; empty without steps.

    Args:
        steps: The lines of phases.jsonl.
        history: The lines of history.csv, as text.
    """
    if not steps:
        return []
    return [_learning_chart(steps, history, name) for name in ("loss", "accuracy")]


def _learning_chart(steps: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, str]], name: str) -> Chart:
    placed, after = _placed(steps, history), f"val_{name}"
    training = [_curve(rows, name) for _, _, rows in placed]
    validation = [
        _from_before(step[f"{name}_before"], _curve(rows, after))
        for step, (_, _, rows) in zip(steps, placed, strict=True)
    ]
    values = [value for part in (*training, *validation) for _, value in part]
    values += [step[after] for step in steps if _is_finite(step[after])]
    x = _Scale(0, max(end for _, end, _ in placed), FRAME.left, FRAME.right)
    ticks = _value_ticks(sorted(values), is_share=name == "accuracy")
    y = _Scale(ticks[0], ticks[-1], FRAME.bottom, FRAME.top)
    chart = Chart(f"{name.capitalize()} over the epochs of all steps", _spoken(steps, after, name), "epochs")
    chart.y_ticks = [(y.at(tick), f"{100 * tick:.3g}%" if name == "accuracy" else f"{tick:g}") for tick in ticks]
    chart.x_ticks = _epoch_ticks(placed, x)
    for number, ((start, end, _), step) in enumerate(zip(placed, steps, strict=True), start=1):
        style = "open" if step["kept"] is None else "kept" if step["kept"] else "rolled"
        chart.bands.append((x.at(start), round(x.at(end) - x.at(start), 1), str(number), style))
        if _is_finite(step[after]):
            label = f"step {number}, {step['step']}: {step[after]:.3f}"
            chart.marks.append((x.at(end - 0.5), y.at(min(step[after], ticks[-1])), 4.5, style, label))
    for parts, style in ((training, "train"), (validation, "val")):
        for (start, _, _), part in zip(placed, parts, strict=True):
            points = [f"{x.at(start + epoch - 0.5)},{y.at(min(value, ticks[-1]))}" for epoch, value in part]
            chart.lines += [(" ".join(points), style)] if len(points) > 1 else []
    return chart


def range_chart(phase: str, found: Mapping[str, Any]) -> Chart:
    """Smoothed training loss over the learning rate, on a logarithmic axis, with the rate that was taken.

    Args:
        phase: Name of the phase.
        found: Its entry of `lr_ranges` in run.json.
    """
    rates, losses, lr = [math.log10(rate) for rate in found["rates"]], found["losses"], found["lr"]
    chart = Chart(f"Learning rate of {phase}", f"{lr:g}, by a range test of {len(rates)} batches.", "learning rate")
    if not rates:
        return chart
    powers = range(math.floor(rates[0]), math.ceil(rates[-1]) + 1)
    x = _Scale(powers[0], powers[-1], FRAME.left, FRAME.right)
    ticks = _value_ticks(sorted(losses), is_share=False)
    y = _Scale(ticks[0], ticks[-1], FRAME.bottom, FRAME.top)
    chart.x_ticks = [(x.at(power), f"{10.0**power:g}") for power in powers]
    chart.y_ticks = [(y.at(tick), f"{tick:g}") for tick in ticks]
    points = [(x.at(rate), y.at(min(loss, ticks[-1]))) for rate, loss in zip(rates, losses, strict=True)]
    chart.lines.append((" ".join(f"{px},{py}" for px, py in points), "val"))
    nearest = min(range(len(rates)), key=lambda number: abs(rates[number] - math.log10(lr)))
    chart.marks.append((*points[nearest], 4.5, "kept", f"taken: {lr:g}"))
    return chart


def _from_before(before: float | None, curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A curve that begins with the value before the step, at the left edge of its band."""
    return [(0.5, before), *curve] if before is not None and math.isfinite(before) else curve


def _value_ticks(ordered: Sequence[float], *, is_share: bool) -> list[float]:
    """Ticks for sorted values. A step that diverged does not flatten all others: it leaves the chart at the top."""
    if not ordered:
        return [0.0, 1.0]
    if is_share:
        # At least a tenth of the whole, which also ends the axis at 100 % where all values are that.
        return _round_ticks(min(ordered[0], 0.9), 1.0)
    return _round_ticks(ordered[0], min(ordered[-1], 3 * ordered[len(ordered) // 2] + 0.1))


def _placed(
    steps: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, str]]
) -> list[tuple[float, float, list[Mapping[str, str]]]]:
    """Start and end of each step on the axis of epochs, and its rows of the history. No step is narrower than 1."""
    placed, at = [], 0.0
    for step in steps:
        rows = [row for row in history if row["phase"] == step["step"]]
        width = float(max(len(rows), 1))
        placed.append((at, at + width, rows))
        at += width
    return placed


def _curve(rows: Sequence[Mapping[str, str]], key: str) -> list[tuple[float, float]]:
    """Number of the epoch, from 1, and value; without epochs that have no number."""
    values = [(float(number), _number(row[key])) for number, row in enumerate(rows, start=1)]
    return [(number, value) for number, value in values if value is not None]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _epoch_ticks(placed: Sequence[tuple[float, float, Sequence[Any]]], x: _Scale) -> list[tuple[float, str]]:
    """The number of each epoch below its points; only as many as fit."""
    ticks: list[tuple[float, str]] = []
    done = 0
    for start, _, rows in placed:
        for number in range(len(rows)):
            done, at = done + 1, x.at(start + number + 0.5)
            if not ticks or at - ticks[-1][0] > 24:
                ticks.append((at, str(done)))
    return ticks


def _spoken(steps: Sequence[Mapping[str, Any]], key: str, name: str) -> str:
    known = [(step["step"], step[key], step["kept"]) for step in steps if _is_finite(step[key])]
    listed = [f"{step} {value:.3f} ({'kept' if kept else 'rolled back'})" for step, value, kept in known[:20]]
    return f"Validation {name} after each step: {'; '.join(listed) or 'not measured'}."


def _round_ticks(low: float, high: float) -> list[float]:
    """Round numbers at equal distances, from at most `low` to at least `high`."""
    span = (high - low) or abs(high) or 1.0
    raw = span / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def reliability_chart(before: Reliability | None, after: Reliability) -> Chart:
    """Accuracy over confidence, with the diagonal of perfect agreement.

    Args:
        before: Without the temperature; None if none was fitted.
        after: As the classifier answers.
    """
    x, y = _Scale(0, 1, FRAME.left, FRAME.right), _Scale(0, 1, FRAME.bottom, FRAME.top)
    listed = "; ".join(f"{part.confidence:.0%} confident, {part.accuracy:.0%} right" for part in after.bins)
    chart = Chart("Accuracy over confidence", f"With temperature: {listed}.", "confidence")
    quarters = [number / 4 for number in range(5)]
    chart.x_ticks = [(x.at(tick), f"{tick:.0%}") for tick in quarters]
    chart.y_ticks = [(y.at(tick), f"{tick:.0%}") for tick in quarters]
    chart.lines.append((f"{x.at(0)},{y.at(0)} {x.at(1)},{y.at(1)}", "ideal"))
    for result, style in ((before, "train"), (after, "val")):
        if result is None:
            continue
        total = sum(part.count for part in result.bins)
        points = [(x.at(part.confidence), y.at(part.accuracy)) for part in result.bins]
        chart.lines.append((" ".join(f"{px},{py}" for px, py in points), style))
        for (px, py), part in zip(points, result.bins, strict=True):
            label = f"{part.count} images, {part.confidence:.1%} confident, {part.accuracy:.1%} right"
            radius = round(2.5 + 5 * math.sqrt(part.count / total), 1)
            chart.marks.append((px, py, radius, "before" if style == "train" else "after", label))
    return chart


def search_chart(trials: Sequence[Mapping[str, Any]], metric: str) -> Chart:
    """The score of every trial of a search, and the best so far.

    Args:
        trials: The trials of tune.json.
        metric: `val_loss` or `val_accuracy`.
    """
    known = [trial for trial in trials if _is_finite(trial[metric])]
    is_share, better = metric == "val_accuracy", max if metric == "val_accuracy" else min
    done = [(trial["trial"], trial[metric]) for trial in known if trial["state"] == "complete"]
    best = [(number, better(value for _, value in done[: index + 1])) for index, (number, _) in enumerate(done)]
    listed = "; ".join(f"trial {number} {value:.3f}" for number, value in best[-1:])
    chart = Chart("Trials in their order", f"Best {metric}: {listed or 'none'}.", "trial")
    last = max((trial["trial"] for trial in trials), default=1)
    x = _Scale(0.5, last + 0.5, FRAME.left, FRAME.right)
    # Trials that diverged leave the chart at the top.
    ticks = _value_ticks(sorted(trial[metric] for trial in known), is_share=is_share)
    y = _Scale(ticks[0], ticks[-1], FRAME.bottom, FRAME.top)
    chart.y_ticks = [(y.at(tick), f"{tick:.0%}" if is_share else f"{tick:g}") for tick in ticks]
    every = max(1, math.ceil(last / 12))
    chart.x_ticks = [(x.at(number), str(number)) for number in range(1, last + 1) if (number - 1) % every == 0]
    steps = [(at, value) for pair in _pairs(best, last) for at, value in pair]
    if steps:
        chart.lines.append((" ".join(f"{x.at(at)},{y.at(min(value, ticks[-1]))}" for at, value in steps), "val"))
    for trial in known:
        style = "kept" if trial["state"] == "complete" else "rolled"
        label = f"trial {trial['trial']}, {trial['state']}: {trial[metric]:.4f}"
        chart.marks.append((x.at(trial["trial"]), y.at(min(trial[metric], ticks[-1])), 4.5, style, label))
    return chart


def _pairs(best: Sequence[tuple[int, float]], last: int) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The ends of each level of the best score so far."""
    ends = [number for number, _ in best[1:]] + [last]
    return [((number, value), (end, value)) for (number, value), end in zip(best, ends, strict=True)] if best else []


def parallel_chart(trials: Sequence[Mapping[str, Any]], names: Mapping[str, str], metric: str) -> Chart:
    """The values of all complete trials, one axis per key, from low to high; the best fifth stands out.

    Args:
        trials: The trials of tune.json.
        names: The short name of each key.
        metric: `val_loss` or `val_accuracy`.
    """
    done = [trial for trial in trials if trial["state"] == "complete"]
    sign = -1 if metric == "val_accuracy" else 1
    ranked = sorted(done, key=lambda trial: sign * trial[metric])
    chart = Chart("Values of all complete trials", "Each line is a trial; the table has its values.", "recipe key")
    x = _Scale(0, max(len(names) - 1, 1), FRAME.left + 20, FRAME.right - 34)
    columns = {key: _positions([trial["values"][key] for trial in done]) for key in names}
    chart.x_ticks = [(x.at(number), name) for number, name in enumerate(names.values())]
    chart.y_ticks = [(FRAME.bottom, "low"), (FRAME.top, "high")]
    best = ranked[: max(1, len(ranked) // 5)]
    y = _Scale(0, 1, FRAME.bottom - 8, FRAME.top + 8)
    for trial in [*reversed([trial for trial in ranked if trial not in best]), *reversed(best)]:
        at = [(x.at(number), y.at(columns[key][trial["values"][key]])) for number, key in enumerate(names)]
        chart.lines.append((" ".join(f"{px},{py}" for px, py in at), "val" if trial in best else "ideal"))
    for number, key in enumerate(names):
        for text, position in columns[key].items():
            chart.marks.append((x.at(number), y.at(position), 3.0, "before", f"{key}: {text}"))
    return chart


def _positions(texts: Sequence[str]) -> dict[str, float]:
    """The position (0-1) of each value, evenly spaced in the order of numbers, or of texts if some are no numbers."""
    numbers = {text: _number(text) for text in texts}
    has_words = any(value is None for value in numbers.values())
    ordered = sorted(numbers) if has_words else sorted(numbers, key=lambda text: numbers[text] or 0.0)
    return {text: 0.5 if len(ordered) == 1 else index / (len(ordered) - 1) for index, text in enumerate(ordered)}
