"""`tlcli probe`: scores that equal those of `finetune`, the table, and the documented JSON."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tlcli.cli import probe
from tlcli.model import graph
from tlcli.train.depth_probe import Depth, NetworkComparison, NetworkProbe, ProbeResult, compare_losses
from tlcli.zoo import catalogue

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "probe.md").read_text(encoding="utf-8")
SETTINGS = ["--weights", "random", "--set", "model.arguments.alpha=0.25", "--set", "data.val=0.3"]


@pytest.fixture(scope="module")
def images(draw: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("probed") / "photos", count=24)


@pytest.fixture(scope="module")
def probed(images: Path, tlcli: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The JSON for two networks with random weights, and the path of the plot."""
    plot = tmp_path_factory.mktemp("plots") / "depths.png"
    models = ["--model", "mobilenet", "--model", "mobilenet_v2"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        result = tlcli("probe", images, *models, *SETTINGS, "--size", 32, 32, "--plot", plot, "--json")
    assert result.code == 0, result.stderr
    return result.document, plot


def test_every_cut_point_has_a_row(probed: tuple) -> None:
    for network in probed[0]["models"]:
        groups = graph.measure_groups(catalogue.find(network["model"]), {"alpha": 0.25}, (32, 32)).groups
        assert len(groups) > 10
        assert [depth["group"] for depth in network["depths"]] == [group.name for group in groups if group.is_cut_point]
        positions = {group.name: number for number, group in enumerate(groups)}
        for depth in network["depths"]:
            number = positions[depth["group"]]
            flops = sum(group.flops for group in groups[: number + 1])
            assert depth["flops_share"] == pytest.approx(flops / sum(group.flops for group in groups))
            assert depth["channels"] == groups[number].output_shape[-1]
            assert depth["drop_top"] == len(groups) - 1 - number
        assert network["depths"][-1]["flops_share"] == pytest.approx(1)


def test_the_best_depth_has_the_lowest_validation_loss(probed: tuple) -> None:
    document, plot = probed
    assert document["data"]["counts"]["val"] > 15
    for network in document["models"]:
        best = network["best"]
        lowest = min(network["depths"], key=lambda depth: depth["val_loss"])
        assert {key: best[key] for key in lowest} == lowest
        top = network["depths"][-1]
        assert best["gain_over_top"] == pytest.approx(top["val_loss"] - best["val_loss"])
        assert best["is_clear"] == (best["gain_over_top"] > best["standard_error"])
        assert max(depth["val_accuracy"] for depth in network["depths"]) > 0.8, "blue, green and red are easy"
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_networks_are_compared_by_their_lowest_validation_loss(probed: tuple) -> None:
    (comparison,) = probed[0]["comparisons"]
    first, second = sorted(probed[0]["models"], key=lambda network: network["best"]["val_loss"])
    assert (comparison["model"], comparison["over"]) == (first["model"], second["model"])
    assert comparison["gain"] == pytest.approx(second["best"]["val_loss"] - first["best"]["val_loss"])
    assert 0.5 <= comparison["confidence"] <= 1


@pytest.mark.parametrize("drop", [0, 4])
def test_probe_scores_equal_those_of_finetune(
    drop: int, probed: tuple, images: Path, tlcli: Callable, tmp_path: Path
) -> None:
    words = ["--model", "mobilenet", *SETTINGS, "--set", "data.size=[32,32]", "--recipe", "head-only"]
    result = tlcli(
        "finetune", images, *words, "--set", f"model.drop_top={drop}", "--out", tmp_path / "run", "--json", "-q"
    )
    assert result.code == 0, result.stderr
    scores = result.document["scores"]
    (depth,) = [depth for depth in probed[0]["models"][0]["depths"] if depth["drop_top"] == drop]
    assert depth["val_accuracy"] == pytest.approx(scores["val"]["accuracy"], abs=1e-9)
    assert depth["test_accuracy"] == pytest.approx(scores["test"]["accuracy"], abs=1e-9)
    assert depth["test_accuracy"] > 1 / 3


def test_json_has_the_documented_keys(probed: tuple) -> None:
    def keys(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set(value) | keys(list(value.values())) if isinstance(value, dict) else set()

    document = dict(probed[0])
    assert set(document.pop("data")) == {"path", "classes", "counts", "per_class", "warnings"}
    section = PAGE.partition("## JSON")[2]
    documented = set(re.findall(r"`(\w+)`", section)) - {"tlcli"}
    assert keys(document) - documented == set()
    assert documented - keys(document) - {"data", "path", "classes", "counts", "warnings"} == set()


def test_features_are_removed(images: Path, tlcli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test split may be empty; the validation split may not."""
    import os

    words = ["probe", images, "-m", "mobilenet_synthetic", "--size", 32, 32, "--set", "data.test=0"]
    monkeypatch.setenv("COLUMNS", "80")
    result = tlcli(*words)
    assert result.code == 0, result.stderr
    assert list((Path(os.environ["TLCLI_CACHE"]) / "probes").iterdir()) == []
    rows = result.stdout.partition("1/L2\n")[2].partition("\n\n")[0].splitlines()
    assert len(rows) == 14
    assert max(map(len, rows)) <= 80
    assert all(" – " in row for row in rows), "no test accuracy"
    without_val = tlcli(*words, "--set", "data.val=0", "--json")
    assert without_val.code == 2
    assert without_val.document["error"]["where"] == "data.val"


def test_warnings_about_images_appear_once(images: Path, tlcli: Callable, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(images, tmp_path / "photos")
    (tmp_path / "photos" / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff not an image")
    models = ["-m", "mobilenet_synthetic", "-m", "mobilenet", "--weights", "random", "--size", 32, 32]
    result = tlcli("probe", tmp_path / "photos", *models, "--set", "model.drop_top=10")
    assert result.code == 0, result.stderr
    assert result.stderr.count("broken.jpg") == 1
    assert "is ahead of" in result.stdout.splitlines()[-1]
    # Four groups remain; drop_top counts from the top of the whole network.
    assert "    10  " in result.stdout
    assert "    13  " in result.stdout


def result_of(
    group: str, *, losses: tuple[float, ...] = (0.9, 0.3, 0.4), names: tuple[str, ...] = ("a",)
) -> ProbeResult:
    depths = tuple(
        Depth(f"{group}{number}", 2048, share, 2 - number, 0.03, loss, 0.123, 0.987)
        for number, (share, loss) in enumerate(zip((0.1, 0.5, 1.0), losses, strict=True))
    )
    over_top = compare_losses([0.2, 0.3, 0.4], [0.3, 0.4, 0.6])
    models = tuple(
        NetworkProbe(name, "card (a)", (32, 32), depths, over_top, {"features": 1.0, "probes": 61.0}) for name in names
    )
    counts = {"train": 100, "val": 20, "test": 30}
    return ProbeResult(
        {"counts": counts}, models, tuple(NetworkComparison(names[0], name, over_top) for name in names[1:])
    )


@pytest.mark.parametrize("group", ["block", "a_rather_long_name_of_a_group_", "[red]"])
def test_the_table_fits_eighty_columns(
    group: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    probe.print_result(result_of(group), None)
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("group"))
    table = lines[start : start + 4]
    assert max(cell_len(line) for line in table) <= 80
    assert [line.split()[0] for line in table[1:]] == [f"{group}0", f"{group}1", f"{group}2"]
    assert [line.split()[1] == "*" for line in table[1:]] == [False, True, False]
    assert all("█▎         0.123" in line and "0.987" in line for line in table[1:])
    # Columns are left out by name.
    assert lines[start + 4] == "" or lines[start + 4].startswith("Left out at 80 columns")


def test_the_sentences_below_the_table(capsys: pytest.CaptureFixture) -> None:
    probe.print_result(result_of("block", names=("one", "two")), Path("a.png"))
    lines = capsys.readouterr().out.splitlines()
    verdict = "* lowest validation loss: block1 (--set model.drop_top=1), 0.133 ± 0.033 lower than block2"
    assert f"{verdict} at 97 % confidence" in lines
    assert lines[-2] == "one is ahead of two: validation loss 0.133 ± 0.033 lower at 97 % confidence"
    assert lines[-1] == "plot  a.png"
    probe.print_result(result_of("block", losses=(0.9, 0.5, 0.4)), None)
    assert (
        capsys.readouterr().out.splitlines()[-1] == "* lowest validation loss: block2, the top; cutting gains nothing"
    )
