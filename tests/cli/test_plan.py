"""`tlcli plan`: what `finetune` would do."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tlcli.features.placement import AUTO_VIEWS
from tlcli.paths import bundled

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "plan.txt"


def test_the_plan_is_the_golden_text(tlcli: Callable, photos: Path) -> None:
    """After an intended change, run RENEW_GOLDEN=1 pytest tests/cli and read the difference."""
    result = tlcli("plan", photos, "--quiet", "--recipe", "two-phase", "--model", "mobilenet_v2")
    assert (result.code, result.stderr) == (0, "")
    lines = result.stdout.replace(str(photos), "PHOTOS").splitlines()
    text = "".join(f"{line.rstrip()}\n" for line in lines)
    if "RENEW_GOLDEN" in os.environ:
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_json_has_the_keys_of_the_contract(tlcli: Callable, photos: Path) -> None:
    plan = tlcli("plan", photos, "--json", "--model", "mobilenet_v2").document
    assert set(plan["data"]["counts"]) == {"train", "val", "test"}
    assert sum(plan["data"]["counts"].values()) == 30
    assert plan["data"]["classes"] == ["blue", "green", "red"]
    assert plan["model"]["name"] == "mobilenet_v2"
    assert [group["name"] for group in plan["groups"]][::17] == ["stem", "top"]
    assert [phase["name"] for phase in plan["phases"]] == ["head", "unfreeze"]
    assert plan["notices"] == []
    for key in ("memory_bytes", "cache_bytes", "seconds"):
        assert plan["estimates"][key] > 0


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        (["--model", "resnet50"], ["model", "name"], "resnet50"),
        (["--set", "data.size=[96,128]"], ["model", "size"], [96, 128]),
        (["--set", "data.val=0.3", "--set", "data.test=0"], ["data", "counts", "test"], 0),
        (["--set", "data.classes=[red,blue]"], ["data", "classes"], ["red", "blue"]),
        (["--recipe", "head-only"], ["phases", 0, "train"], "head"),
        (["--model", "mobilenet_v2", "--set", "phases=[{name: x, train: 'top:1'}]"], ["phases", 0, "groups"], ["top"]),
        (["--recipe", "head-only", "--set", "optimizer.lr=0.02"], ["phases", 0, "lr"], 0.02),
        (["--precision", "bfloat16"], ["recipe", "performance", "precision"], "bfloat16"),
        (["--model", "mobilenet_v2"], ["phases", 1, "train"], "top 5, 10, 14, 18 groups"),
        (["--model", "mobilenet_v2", "--set", "phases.1.step=1"], ["phases", 1, "train"], "top group by group"),
        (["--model", "mobilenet_synthetic"], ["phases", 1, "train"], "all at once"),
        # 20 images make two batches. Few batches make many epochs.
        (["--model", "mobilenet_v2"], ["phases", 1, "epochs"], 48),
        (["--model", "mobilenet_v2"], ["recipe", "performance", "batch"], 16),
        (["--weights", "random"], ["recipe", "model", "weights"], "random"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_options_and_settings_take_effect(
    words: list[str], path: list[str | int], value: object, tlcli: Callable, photos: Path
) -> None:
    planned = tlcli("plan", photos, "--json", *words).document
    for key in path:
        planned = planned[key]
    assert planned == value


def cached_features(result: Any) -> list[str]:
    """The last column of the table of phases, and the lines below the table."""
    lines = result.stdout.partition("\nphase ")[2].partition("\n\n")[0].splitlines()[1:]
    return [re.split(r"  +", line)[-1].strip() for line in lines if not line.startswith("Left out")]


@pytest.mark.parametrize("columns", ["80", "140"])
def test_the_plan_shows_the_cached_features(
    columns: str, tlcli: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    words = ["plan", photos, "--quiet", "--recipe", "two-phase", "--model", "mobilenet_v2"]
    result = tlcli(*words)
    assert cached_features(result)[0] == "pooled, < 1 MB"
    assert cached_features(result)[1].startswith(f"block15 × {AUTO_VIEWS}, ")
    assert max(map(len, result.stdout.splitlines())) <= int(columns)
    # 30 plain views and four times 20 random ones, of 1280 numbers and of 7 × 7 × 160.
    assert cached_features(tlcli(*words, "--set", "augment.views=5")) == ["pooled × 5, 1 MB", "block15 × 5, 3 MB"]
    assert cached_features(tlcli(*words, "--set", "augment.preset=none"))[1] == "block15, 1 MB"
    assert cached_features(tlcli(*words, "--set", "performance.cache=off")) == ["–", "–"]
    limited = cached_features(tlcli(*words, "--set", "performance.cache_budget=200kB"))
    assert limited[:2] == ["pooled, < 1 MB", "–"]
    assert " ".join(limited[2:]) == (
        "fine-tune: features are not cached: the features exceed the cache budget of 200kB"
    )


def test_json_has_the_cached_features(tlcli: Callable, photos: Path) -> None:
    words = ["plan", photos, "--json", "--recipe", "two-phase", "--model", "mobilenet_v2"]
    keys = ("cut_point", "views", "cache_bytes", "uncached_reason")
    plan = tlcli(*words).document
    features = [tuple(phase[key] for key in keys) for phase in plan["phases"]]
    # One view of each image, the others of the 20 training images.
    views = 30 + (AUTO_VIEWS - 1) * 20
    block15 = 4 * 7 * 7 * 160
    assert features == [("pooled", 1, 4 * 1280 * 30, ""), ("block15", AUTO_VIEWS, block15 * views, "")]
    assert plan["estimates"]["cache_bytes"] == 30 * 224 * 224 * 3 + sum(size for _, _, size, _ in features)
    gradual = [*words[:3], "--recipe", "unfreeze-until-plateau", *words[5:], "--set", "phases.1.step=7"]
    phase = tlcli(*gradual).document["phases"][1]
    sizes = [plan["groups"][-(1 + rounds * 7)]["activation_bytes"] for rounds in (1, 2)]
    # The third round trains everything, as do two more.
    assert (phase["steps"], phase["cut_point"], phase["uncached_reason"]) == (5, "block10", "")
    assert phase["cache_bytes"] == sum(sizes) * views
    uncached = tlcli(*words, "--set", "performance.cache=off").document
    assert [tuple(phase[key] for key in keys) for phase in uncached["phases"]] == [
        ("top", 0, 0, ""),
        ("block15", 0, 0, ""),
    ]
    assert uncached["estimates"]["cache_bytes"] == 30 * 224 * 224 * 3


@pytest.mark.parametrize(
    ("side", "quality", "step", "train"),
    [
        (32, "fast", "all", "all at once"),
        (32, "balanced", "all", "all at once"),
        (224, "fast", "30%", "top 5, 10, 15, 18 groups"),
        (224, "balanced", ["30%", "30%", "20%"], "top 5, 10, 14, 18 groups"),
    ],
)
def test_everything_is_unfrozen_at_once_if_a_round_takes_seconds(
    tlcli: Callable, photos: Path, side: int, quality: str, step: object, train: str
) -> None:
    words = ("--model", "mobilenet_v2", "--set", f"data.size=[{side},{side}]", "--quality", quality)
    plan = tlcli("plan", photos, "--json", *words).document
    assert (plan["recipe"]["phases"][1]["step"], plan["phases"][1]["train"]) == (step, train)
    assert [row["quality"] for row in plan["qualities"]] == ["fast", "balanced", "best"]
    of_quality = {row["quality"]: row for row in plan["qualities"]}[quality]
    assert of_quality["trains"] == train
    assert of_quality["seconds"] == plan["estimates"]["seconds"]


def test_a_recipe_without_rounds_leaves_nothing_to_the_quality(tlcli: Callable, photos: Path) -> None:
    plan = tlcli("plan", photos, "--json", "--model", "mobilenet_v2", "--recipe", "two-phase").document
    assert plan["qualities"] == []


def test_a_plan_writes_nothing_but_the_cache(
    tlcli: Callable, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    assert tlcli("plan", photos, "--out", "run").code == 0
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before


def test_relative_paths_become_absolute(
    tlcli: Callable, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(bundled("models") / "mobilenet_synthetic.weights.h5", tmp_path / "w.weights.h5")
    monkeypatch.chdir(photos.parent)
    words = ["--model", "mobilenet_synthetic", "--weights", os.path.relpath(tmp_path / "w.weights.h5")]
    plan = tlcli("plan", "photos", "--json", *words).document
    assert plan["data"]["path"] == str(photos.resolve())
    assert plan["recipe"]["model"]["weights"] == str((tmp_path / "w.weights.h5").resolve())


@pytest.mark.parametrize("names", [["train", "val", "test"], ["train", "valid"], ["train", "test"], ["train"]], ids=str)
def test_given_splits_are_kept(names: list[str], tlcli: Callable, draw: Callable, tmp_path: Path) -> None:
    for number, name in enumerate(names):
        # Extra bytes make the files of the splits different.
        draw(tmp_path / name, ["a", "b", "c"], count=12 - 4 * number)
        for path in (tmp_path / name).rglob("*.bmp"):
            path.write_bytes(path.read_bytes() + bytes(number))
    plan = tlcli("plan", tmp_path, "--json", "--set", "data.size=[32,32]").document
    counts = plan["data"]["counts"]
    assert counts["train"] + counts["val"] + counts["test"] == 3 * sum(12 - 4 * n for n in range(len(names)))
    if len(names) > 1:
        given = {"valid": "val"}.get(names[1], names[1])
        assert counts[given] == 24
    assert counts["val"] > 0


def test_a_complete_run_cannot_be_planned(tlcli: Callable, photos: Path, finished: tuple) -> None:
    result = tlcli("plan", "--resume", finished[0])
    assert result.code == 2
    assert "the run is complete" in result.stderr


BASELINE = """\
extends: head-only
name: mine
expect: [val.accuracy >= baseline.val.accuracy]
"""
HOSTS = {
    "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    "KERAS_DISTRIBUTION_PROCESS_ID": "0",
    "KERAS_DISTRIBUTION_JOB_ADDRESSES": "127.0.0.1:1",
}


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (["--folds", "5", "--quality", "best"], {}, "--folds: folds and quality best are two ways to use the images"),
        (["--quality", "best", "--set", "data.val=0"], {}, "quality best: data.val is 0"),
        (["--device", "cuda"], {}, "--device: there is no such device (got 'cuda')"),
        (["--device", "gpu:all"], {"KERAS_BACKEND": "tensorflow"}, "--device gpu:all: several devices need JAX"),
        ([], {"KERAS_BACKEND": "torch"}, "KERAS_BACKEND: tlcli does not run on this backend (got torch)"),
        (["--recipe", "mine.yaml"], {}, "compares with the baseline, but"),
        (["--budget", "1m"], HOSTS, "--budget: needs one host"),
        (["--device", "gpu:1"], HOSTS, "--device: several hosts use all of their devices (got gpu:1)"),
        (
            ["--model", "vgg16", "--weights", "random", "--set", "model.batch_norm_epsilon=0.01"],
            {},
            "--set model.batch_norm_epsilon: vgg16 has no BatchNorm",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_plan_refuses_what_finetune_refuses(
    words: list[str],
    variables: dict[str, str],
    message: str,
    tlcli: Callable,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(BASELINE, encoding="utf-8")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    results = [tlcli(command, photos, *words, "--quiet") for command in ("plan", "finetune")]
    assert [(result.code, result.stdout) for result in results] == [(2, ""), (2, "")]
    assert message in results[0].stderr
    assert results[0].stderr == results[1].stderr
    assert not (tmp_path / "runs").exists()


def test_a_plan_says_that_a_device_is_not_checked(tlcli: Callable, photos: Path) -> None:
    words = ("plan", photos, "--quiet", "--model", "mobilenet_synthetic", "--device")
    assert "Note: --device gpu is not checked: a plan does not load Keras" in tlcli(*words, "gpu").stdout
    assert "not checked" not in tlcli(*words, "cpu").stdout


def test_a_plan_is_refused_if_the_disk_is_too_small_for_the_run(
    tlcli: Callable, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage._replace(free=10**6 if tmp_path == path else usage.free)
    )
    result = tlcli("plan", photos, "--model", "mobilenet_synthetic", "--out", tmp_path / "run")
    assert result.code == 2
    assert f"{tmp_path / 'run'}: the disk has 1 MB left, the run needs about" in result.stderr
