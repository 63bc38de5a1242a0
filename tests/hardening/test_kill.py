"""Runs killed at random moments, resumed until they are complete: the result is that of an uninterrupted run.

TLCLI_TEST_KILLS sets the number of kills of all tests together, TLCLI_TEST_SEED the moments.
"""

import csv
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from forking import Ended, Forks

pytestmark = pytest.mark.slow

RECIPE = """\
recipe: 1
name: {name}
quality: {quality}
data: {{size: [32, 32], val: 0.2, test: 0.2{data}}}
model: {{name: mobilenet, weights: random, arguments: {{alpha: 0.25}}}}
head: {{dropout: 0.3}}
augment: {{preset: strong}}
phases:
{phases}
performance: {{batch: 8, reuse_results: false}}
"""
HEAD = "  - {name: head, train: head, epochs: 2}\n"
SHORT = "epochs: 2, lr: 1.0e-3}"
PHASES = {
    "gradual": HEAD + "  - {name: next, policy: gradual, step: 14, " + SHORT,
    "surgical": HEAD + "  - {name: next, policy: surgical, " + SHORT,
    "lp_ft": "  - {name: next, policy: lp_ft, " + SHORT,
    "depth_search": "  - {name: next, policy: depth_search, " + SHORT,
    "folds": HEAD + "  - {name: next, policy: all, " + SHORT,
    "compare": HEAD + "  - {name: next, policy: all, " + SHORT,
    "best": HEAD + "  - {name: next, policy: all, " + SHORT,
    "tune": HEAD,
}
KINDS = [*PHASES, "pretrain"]
SEED = int(os.environ.get("TLCLI_TEST_SEED", random.randrange(10**6)))
KILLS = -(-int(os.environ.get("TLCLI_TEST_KILLS", 54)) // len(KINDS))


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    running = Forks(tmp_path_factory.mktemp("log") / "log.txt")
    yield running
    running.close()


def commands(kind: str, data: Path, home: Path, out: Path) -> tuple[list[object], list[object]]:
    """The command that starts a job, and the one that resumes it."""
    recipe = home / f"{kind}.yaml"
    settings = {"quality": "best" if kind == "best" else "balanced", "data": ", folds: 2" if kind == "folds" else ""}
    if kind != "pretrain":
        recipe.write_text(RECIPE.format(name=kind, phases=PHASES[kind], **settings), encoding="utf-8")
    if kind == "pretrain":
        words = ("-m", "mobilenet", "--set", "model.arguments.alpha=0.25", "--weights", "random", "--size", 32)
        start = ["pretrain", data, *words, "--epochs", 3, "--batch-size", 16, "--out", out / "mine.yaml"]
        return start, start
    if kind == "tune":
        (home / "space.yaml").write_text("phases.0.lr: [1e-4, 1e-3, 1e-2]\n", encoding="utf-8")
        start = ["tune", data, "-r", recipe, "--space", home / "space.yaml", "--sampler", "grid", "--out", out]
        return start, ["tune", "--resume", out]
    if kind == "compare":
        other = home / "other.yaml"
        other.write_text(recipe.read_text().replace("name: compare", "name: other").replace("1.0e-3", "1.0e-5"))
        return ["finetune", data, "--compare", f"{recipe},{other}", "--out", out], ["finetune", "--resume", out]
    return ["finetune", data, "-r", recipe, "--out", out], ["finetune", "--resume", out]


def result(kind: str, out: Path) -> Any:
    """What a complete job has found, without times."""
    if kind == "pretrain":
        return yaml.safe_load((out / "mine.yaml").read_text(encoding="utf-8"))["sha256"]
    runs = {str(file.parent.relative_to(out)): outcome(file.parent) for file in sorted(out.rglob("run.json"))}
    if kind == "tune":
        # Trials that were killed are listed as failed, and their values come again with another number.
        rows = json.loads((out / "tune.json").read_text(encoding="utf-8"))["trials"]
        trials = {str(row["values"]): row["val_loss"] for row in rows if row["state"] == "complete"}
        return runs["best"], trials
    return runs


def outcome(run: Path) -> dict[str, Any]:
    """Weights, scores, decisions and epochs of a run, without times."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    with (run / "history.csv").open(encoding="utf-8", newline="") as stream:
        rows = [{**row, "seconds": "", "images_per_second": ""} for row in csv.DictReader(stream)]
    phases = [{**step, "seconds": 0} for step in record["phases"]]
    weights = record["model"].get("weights_sha256")
    return {"status": record["status"], "weights": weights, "scores": record["scores"], "phases": phases, "rows": rows}


def begun(out: Path) -> bool:
    """True if a folder has what `--resume` asks for."""
    return any((out / name).is_file() for name in ("run.json", "compare.json", "tune.json"))


def is_complete(ended: Ended) -> bool:
    """True if a job ended, or had ended when the kill came and is not resumed."""
    return ended.code == 0 or (ended.code == 2 and "is complete" in ended.output)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_killed_at_random_moments_ends_like_an_uninterrupted_one(
    kind: str, forks: Forks, draw: Callable[..., Path], tmp_path: Path
) -> None:
    data, whole, killed = draw(tmp_path / "photos", count=12), tmp_path / "whole", tmp_path / "killed"
    start, _ = commands(kind, data, tmp_path, whole)
    uninterrupted = forks.run(*start, TLCLI_CACHE=tmp_path / "cache-whole")
    assert uninterrupted.code == 0, uninterrupted.output
    expected = result(kind, whole)
    start, resume = commands(kind, data, tmp_path, killed)
    draw_moment, moments, ended = random.Random(f"{SEED} {kind}"), [], Ended(-signal.SIGKILL, "", 0.0)
    # A resumed job has less to do, so later kills come earlier; those that came too late do not count.
    while len(moments) < KILLS:
        words = resume if begun(killed) else start
        moment = draw_moment.uniform(0.05, 0.6) * uninterrupted.seconds
        ended = forks.run(*words, TLCLI_CACHE=tmp_path / "cache", kill_after_s=moment)
        if is_complete(ended):
            # It was complete before; the next one starts anew.
            assert result(kind, killed) == expected, (SEED, moments)
            shutil.rmtree(killed)
            continue
        moments.append(round(moment, 2))
        assert ended.code == -signal.SIGKILL, (SEED, moments, ended.output)
        assert "Traceback" not in ended.output, (SEED, moments, ended.output)
    if not is_complete(ended):
        ended = forks.run(*(resume if begun(killed) else start), TLCLI_CACHE=tmp_path / "cache")
    assert is_complete(ended), (SEED, moments, ended.output)
    assert result(kind, killed) == expected, (SEED, moments)
    print(f"\n{kind}: {len(moments)} kills after {moments} s of {uninterrupted.seconds:.1f}, seed {SEED}")
