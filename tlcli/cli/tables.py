"""Plans, results and scores as tables on stdout."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tlcli.cli.console import MAX_WIDTH, err, out, print_table, print_text, safe, width_limit
from tlcli.cli.options import is_quiet
from tlcli.evaluate.reliability import wilson
from tlcli.model.layer_groups import LayerGroups
from tlcli.report.comparison import brief
from tlcli.report.record import RunRecord
from tlcli.text import compact, duration, plural, whole_percent
from tlcli.train.plan import PhasePlan, TrainPlan, per_class, totals

SPLITS = ("train", "val", "test")
BEST = "best: lowest validation loss, by which rounds are kept too"
# With more classes than this, the most frequent confusions are listed instead of the confusion matrix.
MATRIX_CLASSES = 12
# With more classes than this, a plan lists only the first ones.
SPLIT_CLASSES = 20
# Longest value of a recipe in a comparison on a terminal, characters.
VALUE_WIDTH = 24


def print_plan(plan: TrainPlan, notices: Sequence[str] = (), weights: str = "") -> None:
    """Print a plan: split, layer groups, phases, estimates, notices about the choice of the network, its weights."""
    console, height, width = out(), *plan.size
    console.print(safe(f"{plan.recipe.name}: {plan.card.name} on {plan.recipe.data.path}", "bold"))
    console.print(f"input {height} × {width}, {plan.recipe.data.resize}; preprocessing {plan.card.preprocessing}")
    if weights:
        print_text(console, safe(weights))
    for notice in notices:
        console.print()
        print_text(console, safe(f"Note: {notice}.", "yellow"))
    console.print()
    _print_split(console, plan)
    console.print()
    _print_groups(console, plan.groups)
    console.print()
    _print_phases(console, plan.phases)
    console.print()
    estimates = plan.estimates
    seconds = max(5.0, 5.0 * round(estimates.seconds / 5))
    console.print(
        f"estimate: {duration(seconds).replace('.0 s', ' s')}, {estimates.memory_bytes / 1e9:.1f} GB memory,"
        f" {estimates.cache_bytes / 1e6:.0f} MB cache"
    )
    if plan.qualities:
        console.print()
        _print_qualities(console, plan)
    if budget := plan.recipe.performance.budget:
        print_text(console, safe(f"budget {budget}: steps that do not fit are shortened or skipped"))


def _print_qualities(console: Console, plan: TrainPlan) -> None:
    rows = [
        [
            f"{quality.quality} (this plan)" if quality.quality == plan.recipe.quality else quality.quality,
            quality.trains,
            f"{quality.epochs} a round",
            duration(max(5.0, 5.0 * round(quality.seconds / 5))).replace(".0 s", " s"),
        ]
        for quality in plan.qualities
    ]
    print_table(console, ["--quality", "trains", "epochs", "estimate"], rows, text_columns=3)


def _print_split(console: Console, plan: TrainPlan) -> None:
    counts = per_class(plan.splits)
    rows = [[name, *(str(counts[name][split]) for split in SPLITS)] for name in counts]
    if len(rows) > SPLIT_CLASSES:
        rows = [*rows[:15], [f"… {len(rows) - 15} more", "", "", ""]]
    rows.append(["all", *(str(totals(plan.splits)[split]) for split in SPLITS)])
    print_table(console, ["class", *SPLITS], rows)


def _print_groups(console: Console, groups: LayerGroups) -> None:
    total = max(groups.parameters, 1)
    rows = [
        [
            group.name,
            str(len(group.layers)),
            compact(group.parameters),
            f"{group.parameters / total:.1%}",
            " × ".join("?" if side is None else str(side) for side in group.output_shape),
            compact(group.flops),
            str(group.batch_norms) if group.batch_norms else "–",
            "yes" if group.is_cut_point else "no",
        ]
        for group in groups.groups
    ]
    columns = ["group", "layers", "parameters", "share", "output", "FLOPs", "BatchNorm", "cut"]
    print_table(console, columns, rows, optional=["cut", "BatchNorm", "FLOPs", "layers"])


def _print_phases(console: Console, phases: Sequence[PhasePlan]) -> None:
    rows = [
        [
            phase.name,
            phase.policy,
            phase.train,
            compact(phase.trainable_parameters),
            _epochs(phase.steps, phase.epochs),
            phase.lr if isinstance(phase.lr, str) else f"{phase.lr:g}",
            phase.batch_norm,
            _cached_features(phase),
        ]
        for phase in phases
    ]
    columns = ["phase", "policy", "trains", "parameters", "epochs", "lr", "BatchNorm", "cached features"]
    print_table(console, columns, rows, text_columns=3, optional=["BatchNorm", "policy", "lr", "parameters"])
    for phase in phases:
        if phase.uncached_reason:
            print_text(console, safe(f"{phase.name}: features are not cached: {phase.uncached_reason}", "dim"))


def print_result(folder: Path, record: RunRecord) -> None:
    """Print the result of a run: steps, scores, expectations, advice, and the commands to type next."""
    console = out()
    console.print()
    if record.compared:
        _print_compared(console, record.compared, chosen=record.recipe["name"])
        print_text(console, BEST, "dim")
        console.print()
    _print_steps(console, record)
    console.print()
    for name in ("val", "test"):
        if scores := record.scores.get(name):
            text = f"{name:<4}  {_accuracy(scores)}  loss {scores['loss']:.4f}  ({plural(scores['count'], 'image')}"
            if folds := scores.get("folds"):
                text += f", {folds['count']} folds: {folds['mean']:.4f} ± {folds['deviation']:.4f}"
            console.print(safe(f"{text})", "bold" if name == "test" else ""))
    if record.scores.get("val", {}).get("folds"):
        text = "The losses of the steps are at a temperature for each fold, that of val at the one of the classifier."
        print_text(console, text, "dim")
    if sparsity := record.model.get("sparsity"):
        shares = f"{sparsity['head']:.1%} of the head's kernels, {sparsity['all']:.1%} of all kernels"
        print_text(console, safe(f"weights below {sparsity['threshold']:g}: {shares}"))
    print_text(console, safe(f"time  {duration(record.seconds['total'])}{_reused(record)}"))
    for verdict in record.expectations:
        mark = safe("met      ", "green") if verdict["passed"] else safe("not met  ", "red")
        console.print(mark + safe(f"{verdict['expectation']}  ({verdict['reason']})"))
    if record.advice and not is_quiet():
        console.print()
        _print_advice(console, record.advice)
    console.print()
    console.print(safe(f"run folder   {folder}"))
    if (folder / "report.html").is_file():
        console.print(safe(f"report       {folder / 'report.html'}"))
    if not is_quiet():
        quoted = shlex.quote(str(folder))
        console.print(safe(f"evaluate     tlcli evaluate {quoted}"))
        console.print(safe(f"predict      tlcli predict {quoted} IMAGE…"))


def _reused(record: RunRecord) -> str:
    """The steps whose results an earlier run had cached, which is why this one was fast."""
    names = [step["step"] for step in record.phases if step.get("from_cache")]
    if not names:
        return ""
    anew = "--set performance.reuse_results=false trains anew"
    return f"; from the cache of an earlier run: {', '.join(names)} ({anew})"


def _accuracy(scores: dict[str, Any]) -> str:
    """The accuracy of a split, and what it is worth: with few images, its interval is wide."""
    accuracy, count = scores["accuracy"], scores["count"]
    lower, upper = wilson(round(accuracy * count), count) or (0.0, 1.0)
    return f"accuracy {accuracy:.4f} (95 % interval {lower:.2f} to {upper:.2f})"


def _print_steps(console: Console, record: RunRecord) -> None:
    """Print one row per step, and why steps were not kept. phases.jsonl has all reasons."""
    rows = [
        [
            step["step"],
            _groups(step["trained_groups"]),
            compact(step["trainable_parameters"]),
            str(step["epochs"]),
            _change(step["loss_before"], step["val_loss"], 4),
            _change(step["accuracy_before"], step["val_accuracy"], 3),
            "–" if step["confidence"] is None else whole_percent(step["confidence"]),
            duration(step["seconds"]),
            safe("kept", "green") if step["kept"] else safe("rolled back" if step["epochs"] else "skipped", "yellow"),
        ]
        for step in record.phases
    ]
    columns = ["step", "trained", "parameters", "epochs", "val loss", "val acc", "confidence", "time", "decision"]
    optional = ["parameters", "time", "epochs", "confidence", "val acc"]
    print_table(console, columns, rows, text_columns=2, optional=optional)
    for step in record.phases:
        if not step["kept"]:
            print_text(console, safe(f"{step['step']}: {step['reason']}", "dim"))


def _change(before: float | None, after: float | None, digits: int) -> str:
    """`before → after`, or one number if nothing changed."""
    if before is None or before == after:
        return _number(after, digits)
    return f"{_number(before, digits)} → {_number(after, digits)}"


def _print_advice(console: Console, advice: dict[str, Any]) -> None:
    """Print the diagnosis, and suggestions with the command for each."""
    titles = {
        "both": "high bias and high variance",
        "neither": "neither high bias nor high variance",
        "unclear": "bias or variance unclear",
    }
    diagnosis = titles.get(advice["diagnosis"], f"high {advice['diagnosis']}")
    print_text(console, safe(f"{diagnosis}: {advice['because']}", "bold"))
    for suggestion in advice["suggestions"]:
        print_text(console, safe(f"- {suggestion['what']}"))
        if suggestion["command"]:
            console.print(safe(f"  {suggestion['command']}", "cyan"))


def warn_of_skipped(skipped: Mapping[str, str]) -> None:
    """Say which folders are left out of a comparison, and why."""
    for folder, reason in skipped.items():
        print_text(err(), safe(f"left out: {folder}: {reason}", "yellow"))


def print_comparison(comparison: dict[str, Any]) -> None:
    """Print runs side by side, and the recipe keys in which they differ."""
    console = out()
    runs, best_run = comparison["runs"], comparison["best"]
    best = next((row["recipe"] for row in runs if row["run"] == best_run), None)
    _print_compared(console, runs, chosen=best, folders=True, best=best_run)
    if best is not None:
        print_text(console, BEST, "dim")
    if not comparison["same_split"]:
        console.print()
        print_text(console, safe("The runs have different splits. Their scores cannot be compared.", "yellow"))
    if comparison["differences"]:
        console.print()
        limit = VALUE_WIDTH if width_limit() else MAX_WIDTH
        rows = [[key, *(brief(value, limit) for value in values)] for key, values in comparison["differences"].items()]
        names = [Path(row["run"]).name for row in runs]
        print_table(console, ["recipe key", *names], rows, text_columns=1 + len(names))


def _print_compared(
    console: Console, runs: Sequence[dict[str, Any]], *, chosen: str | None, folders: bool = False, best: Any = None
) -> None:
    """Print one row per run; with `folders` by run folder, otherwise by recipe."""
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
    optional = ["time", "trained", "recipe", "val acc"] if folders else ["recipe", "time", "trained", "val acc"]
    # The network is what runs are compared for: a column of one and the same network is the first to go, others stay.
    optional = ["model", *optional] if len({row["model"] for row in runs}) == 1 else [*optional, "model"]
    print_table(console, columns, rows, text_columns=4, optional=optional)


def print_scores(scores: dict[str, Any], title: str) -> None:
    """Print an evaluation: totals, one row per class, and the confusions."""
    console = out()
    console.print(safe(title, "bold"))
    tops = "".join(f"  top-{k} {share:.4f}" for k, share in scores["top_k"].items())
    console.print(f"{_accuracy(scores)}{tops}  loss {scores['loss']:.4f}")
    if tta := scores.get("tta"):
        kind = "shifted and mirrored views" if tta["mirrored"] else "shifted views"
        plain = tta["without"]
        text = f"mean of {tta['views']} {kind}; plain images alone: accuracy {plain['accuracy']:.4f}"
        print_text(console, safe(f"{text}, loss {plain['loss']:.4f}"))
    if missing := scores.get("missing"):
        print_text(console, safe(f"no images of {', '.join(missing)}: these classes are not scored", "yellow"))
    console.print()
    rows = [
        [row["name"], str(row["support"]), f"{row['precision']:.3f}", f"{row['recall']:.3f}", f"{row['f1']:.3f}"]
        for row in scores["per_class"]
        if row["support"]
    ]
    print_table(console, ["class", "images", "precision", "recall", "F1"], rows)
    console.print()
    if len(scores["classes"]) <= MATRIX_CLASSES:
        _print_confusion_matrix(console, scores["classes"], scores["confusion"])
    else:
        _print_top_confusions(console, scores["classes"], scores["confusion"])


def _print_confusion_matrix(console: Console, names: Sequence[str], matrix: Sequence[Sequence[int]]) -> None:
    rows: list[list[str | Text]] = [
        [name, *(safe(str(n), "green" if i == j else "red") if n else safe("·", "dim") for j, n in enumerate(row))]
        for i, (name, row) in enumerate(zip(names, matrix, strict=True))
    ]
    console.print("rows: true class, columns: predicted class", style="bold")
    # Long names are shortened to the width of their column, but not below 8 characters, to stay distinct.
    limit = max(8, min(24, (console.width - 20) // len(names) - 3))
    print_table(console, ["", *(_short(name, limit) for name in names)], rows)


def _print_top_confusions(console: Console, names: Sequence[str], matrix: Sequence[Sequence[int]]) -> None:
    wrong = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j and n]
    rows = [[names[i], names[j], str(n)] for n, i, j in sorted(wrong, reverse=True)[:10]]
    console.print("most frequent confusions", style="bold")
    print_table(console, ["true class", "predicted", "images"], rows, text_columns=2)


def _groups(names: list[str]) -> str:
    """The trained groups of the backbone, shortened; `head` if only the head was trained."""
    if not names:
        return "head"
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} … {names[-1]}"


def _cached_features(phase: PhasePlan) -> str:
    """The cut point of a phase, the number of cached views, and their size."""
    if not phase.views:
        return "–"
    views = "" if phase.views == 1 else f" × {phase.views}"
    size = f"{phase.cache_bytes / 1e6:.0f} MB" if phase.cache_bytes >= 500_000 else "< 1 MB"
    return f"{phase.cut_point}{views}, {size}"


def _epochs(steps: int, epochs: int) -> str:
    if epochs == 0:
        return "probe only"
    return f"≤ {steps} × {epochs}" if steps > 1 else f"≤ {epochs}"


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _short(name: str, limit: int) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
