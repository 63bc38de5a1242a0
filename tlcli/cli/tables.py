"""Plans, results and scores as tables on stdout."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tlcli.cli.console import out, print_table, safe, say, table
from tlcli.cli.options import is_quiet
from tlcli.model.groups import LayerGroups
from tlcli.report.record import RunRecord
from tlcli.text import compact, duration, plural
from tlcli.train.plan import PhasePlan, TrainPlan

BEST = "best: the highest validation accuracy, then the lowest validation loss."
# Confusion matrices wider than this are told as the most frequent confusions instead.
MATRIX_CLASSES = 12


def print_plan(made: TrainPlan, notices: Sequence[str] = ()) -> None:
    """What a run will do, and what the user should know of how that was decided."""
    console, height, width = out(), *made.size
    console.print(safe(f"{made.recipe.name}: {made.card.title} on {made.recipe.data.path}", "bold"))
    console.print(f"input {height} × {width}, {made.recipe.data.resize}; preprocessing {made.card.preprocessing}")
    for notice in notices:
        console.print()
        say(console, safe(f"Note: {notice}.", "yellow"))
    console.print()
    _print_split(console, made)
    console.print()
    print_groups(console, made.groups)
    console.print()
    rows = [
        [
            phase.name,
            phase.policy,
            phase.train,
            compact(phase.trainable_parameters),
            _epochs(phase.steps, phase.epochs),
            f"{phase.lr:g}",
            phase.batch_norm,
            _stored(phase),
        ]
        for phase in made.phases
    ]
    columns = ["phase", "policy", "trains", "parameters", "epochs", "lr", "BatchNorm", "stored"]
    print_table(console, columns, rows, left=3, spare=["BatchNorm", "policy", "lr"])
    for phase in made.phases:
        if phase.why_live:
            say(console, safe(f"{phase.name}: frozen layers are computed anew in every epoch: {phase.why_live}", "dim"))
    estimates = made.estimates
    seconds = max(5.0, 5.0 * round(estimates.seconds / 5))
    console.print()
    console.print(
        f"about {duration(seconds).replace('.0 s', ' s')} (rough), {estimates.memory_bytes / 1e9:.1f} GB memory,"
        f" {estimates.cache_bytes / 1e6:.0f} MB cache"
    )
    if budget := made.recipe.performance.budget:
        say(console, safe(f"budget {budget}: steps that do not fit, by what they cost then, are shortened or left out"))


def print_groups(console: Console, groups: LayerGroups, *, trained: frozenset[str] | None = None) -> None:
    """The groups table; with `trained`, how much of each a selection trains."""
    total = max(groups.parameters, 1)
    columns = ["group", "layers", "parameters", "share", "output", "FLOPs", "BatchNorm", "cut"]
    rows: list[list[str | Text]] = []
    for group in groups.groups:
        shape = " × ".join("?" if side is None else str(side) for side in group.output_shape)
        row: list[str | Text] = [
            group.name,
            str(len(group.layers)),
            compact(group.parameters),
            f"{group.parameters / total:.1%}",
            shape,
            compact(group.flops),
            str(group.batch_norms) if group.batch_norms else "–",
            "yes" if group.is_cut_point else "no",
        ]
        if trained is not None:
            names = [layer.name for layer in group.layers]
            hit = sum(name in trained for name in names)
            row.append("no" if hit == 0 else "yes" if hit == len(names) else f"{hit} of {len(names)}")
        rows.append(row)
    columns += ["trains"] if trained is not None else []
    console.print(table(columns, rows, spare=["cut", "BatchNorm", "FLOPs", "layers"]))


def print_result(folder: Path, record: RunRecord) -> None:
    """What a run brought and what to do next."""
    console = out()
    console.print()
    if record.compared:
        _print_compared(console, record.compared, chosen=record.recipe["name"])
        say(console, BEST, "dim")
        console.print()
    _print_steps(console, record.phases)
    console.print()
    for name in ("val", "test"):
        if scores := record.scores.get(name):
            accuracy, loss = scores["accuracy"], scores["loss"]
            text = f"{name:<4}  accuracy {accuracy:.4f}  loss {loss:.4f}  ({plural(scores['count'], 'image')})"
            console.print(safe(text, "bold" if name == "test" else ""))
    console.print(f"time  {duration(record.seconds['total'])}")
    for verdict in record.expectations:
        measured = "no such number" if verdict["measured"] is None else f"{verdict['measured']:.4g}"
        mark = safe("met      ", "green") if verdict["passed"] else safe("not met  ", "red")
        console.print(mark + safe(f"{verdict['expectation']}  (measured {measured})"))
    if record.advice and not is_quiet():
        console.print()
        _print_advice(console, record.advice)
    console.print()
    quoted = shlex.quote(str(folder))
    console.print(safe(f"run folder   {folder}"))
    if is_quiet():
        return
    console.print(safe(f"scores       tlcli evaluate {quoted}"))
    console.print(safe(f"use it       tlcli predict {quoted} PICTURE…"))


def _print_steps(console: Console, phases: Sequence[dict[str, Any]]) -> None:
    """What was tried and what came of it: a line a step, and below why it was kept or rolled back."""
    rows = [
        [
            phase["step"],
            _groups(phase["trained_groups"]),
            compact(phase["trainable_parameters"]),
            str(phase["epochs"]),
            _change(phase["loss_before"], phase["val_loss"], 4),
            _change(phase["accuracy_before"], phase["val_accuracy"], 3),
            "–" if phase["confidence"] is None else f"{phase['confidence']:.0%}",
            duration(phase["seconds"]),
            safe("kept", "green") if phase["kept"] else safe(_undone(phase), "yellow"),
        ]
        for phase in phases
    ]
    columns = ["step", "trained", "parameters", "epochs", "val loss", "val acc", "sure", "time", "decision"]
    print_table(console, columns, rows, left=2, spare=["parameters", "time", "epochs", "sure", "val acc"])
    for phase in phases:
        say(console, safe(f"{phase['step']}: {phase['reason']}", "dim"))


def _undone(phase: dict[str, Any]) -> str:
    return "rolled back" if phase["epochs"] else "not tried"


def _change(before: float | None, after: float | None, digits: int) -> str:
    """Two numbers and the way between them; one where nothing moved."""
    if before is None or before == after:
        return _number(after, digits)
    return f"{_number(before, digits)} → {_number(after, digits)}"


def _print_advice(console: Console, advice: dict[str, Any]) -> None:
    """The diagnosis, and what may help, each with the command to type."""
    named = {"both": "high bias and high variance", "neither": "neither high bias nor high variance"}
    diagnosis = named.get(advice["diagnosis"], f"high {advice['diagnosis']}")
    say(console, safe(f"{diagnosis}: {advice['because']}", "bold"))
    for suggestion in advice["suggestions"]:
        say(console, safe(f"- {suggestion['what']}"))
        if suggestion["command"]:
            console.print(safe(f"  {suggestion['command']}", "cyan"))


def print_comparison(found: dict[str, Any]) -> None:
    """Runs side by side, and what sets them apart."""
    console = out()
    best = next((row["recipe"] for row in found["runs"] if row["run"] == found["best"]), None)
    _print_compared(console, found["runs"], chosen=best, folders=True, best=found["best"])
    if best is not None:
        say(console, BEST, "dim")
    if not found["same_split"]:
        console.print()
        say(console, safe("The runs did not see the same split: their numbers do not compare.", "yellow"))
    if found["differences"]:
        console.print()
        rows = [[key, *(_brief(value) for value in values)] for key, values in found["differences"].items()]
        names = [Path(row["run"]).name for row in found["runs"]]
        console.print(table(["recipe key", *names], rows, left=1 + len(names)))


def _print_compared(
    console: Console, runs: Sequence[dict[str, Any]], *, chosen: str | None, folders: bool = False, best: Any = None
) -> None:
    rows: list[list[str | Text]] = []
    for row in runs:
        is_best = row["run"] == best if folders else row["recipe"] == chosen
        name = row["run"] if folders else Path(row["run"]).name
        rows.append(
            [
                safe(name, "bold" if is_best else ""),
                row["recipe"],
                row["model"],
                _groups(row["trained_groups"]),
                _number(row["val_loss"]),
                _number(row["val_accuracy"], 3),
                _number(row["test_accuracy"], 3),
                duration(row["seconds"]),
                safe("best", "green") if is_best else "",
            ]
        )
    columns = ["run" if folders else "compared", "recipe", "model", "trained"]
    columns += ["val loss", "val acc", "test acc", "time", ""]
    spare = ["model", "trained", "recipe", "val loss"] if folders else ["recipe", "model", "trained", "val loss"]
    print_table(console, columns, rows, left=4, spare=spare)


def _brief(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


def print_scores(found: dict[str, Any], title: str) -> None:
    """One evaluation: totals, a line a class, and what was taken for what."""
    console = out()
    console.print(safe(title, "bold"))
    tops = "".join(f"  top-{k} {share:.4f}" for k, share in found["top_k"].items())
    console.print(f"accuracy {found['accuracy']:.4f}{tops}  loss {found['loss']:.4f}")
    console.print()
    rows = [
        [each["name"], str(each["support"]), f"{each['precision']:.3f}", f"{each['recall']:.3f}", f"{each['f1']:.3f}"]
        for each in found["per_class"]
    ]
    console.print(table(["class", "images", "precision", "recall", "F1"], rows))
    console.print()
    _print_confusion(console, found)


def _print_confusion(console: Console, found: dict[str, Any]) -> None:
    names, matrix = found["classes"], found["confusion"]
    if len(names) <= MATRIX_CLASSES:
        rows: list[list[str | Text]] = [
            [
                name,
                *(Text("·", "dim") if not n else Text(str(n), "green" if i == j else "red") for j, n in enumerate(row)),
            ]
            for i, (name, row) in enumerate(zip(names, matrix, strict=True))
        ]
        console.print("true class by row, guess by column", style="bold")
        # As much of each name as the columns share; similar names should stay apart.
        limit = max(8, min(24, (console.width - 20) // len(names) - 3))
        console.print(table(["", *(_short(name, limit) for name in names)], rows))
        return
    wrong = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j and n]
    most = [[names[i], names[j], str(n)] for n, i, j in sorted(wrong, reverse=True)[:10]]
    console.print("most frequent confusions", style="bold")
    console.print(table(["true class", "taken for", "images"], most, left=2))


def _print_split(console: Console, made: TrainPlan) -> None:
    from tlcli.train.plan import per_class, totals

    rows = [
        [name, *(str(counts[split]) for split in ("train", "val", "test"))]
        for name, counts in per_class(made.splits).items()
    ]
    if len(rows) > 20:
        rows = [*rows[:15], [f"… {len(rows) - 15} more", "", "", ""]]
    rows.append(["all", *(str(totals(made.splits)[split]) for split in ("train", "val", "test"))])
    console.print(table(["class", "train", "val", "test"], rows))


def _groups(names: list[str]) -> str:
    """The groups of the network that were trained; the head always is, and is named only where it was alone."""
    if not names:
        return "head"
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} … {names[-1]}"


def _stored(phase: PhasePlan) -> str:
    """Where training begins, and what is stored there."""
    if not phase.views:
        return "–"
    views = "" if phase.views == 1 else f" × {phase.views}"
    size = f"{phase.cache_bytes / 1e6:.0f} MB" if phase.cache_bytes >= 500_000 else "< 1 MB"
    return f"{phase.frontier}{views}, {size}"


def _epochs(steps: int, epochs: int) -> str:
    if epochs == 0:
        return "probe only"
    return f"≤ {steps} × {epochs}" if steps > 1 else f"≤ {epochs}"


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _short(name: str, limit: int) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
