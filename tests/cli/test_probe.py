"""`tlcli probe`: what `finetune` would bring at every depth, in a table that fits and JSON as documented."""

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
def pictures(draw: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("probed") / "photos", count=24)


@pytest.fixture(scope="module")
def told(pictures: Path, tlcli: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """What `--json` says of two networks of random weights, and the picture that was drawn."""
    plot = tmp_path_factory.mktemp("plots") / "depths.png"
    models = ["--model", "mobilenet", "--model", "mobilenet_v2"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        said = tlcli("probe", pictures, *models, *SETTINGS, "--size", 32, 32, "--plot", plot, "--json")
    assert said.code == 0, said.stderr
    return said.document, plot


def test_there_is_a_line_for_every_group_that_can_end_the_network(told: tuple) -> None:
    for found in told[0]["models"]:
        groups = graph.measure_groups(catalogue.find(found["model"]), {"alpha": 0.25}, (32, 32)).groups
        assert len(groups) > 10
        assert [depth["group"] for depth in found["depths"]] == [group.name for group in groups if group.is_cut_point]
        places = {group.name: number for number, group in enumerate(groups)}
        for depth in found["depths"]:
            number = places[depth["group"]]
            spent = sum(group.flops for group in groups[: number + 1])
            assert depth["flops_share"] == pytest.approx(spent / sum(group.flops for group in groups))
            assert depth["channels"] == groups[number].output_shape[-1]
            assert depth["drop_top"] == len(groups) - 1 - number
        assert found["depths"][-1]["flops_share"] == pytest.approx(1)


def test_images_are_counted_and_the_best_is_that_of_validation(told: tuple) -> None:
    document, plot = told
    assert document["data"]["counts"]["val"] > 15
    for found in document["models"]:
        best = found["best"]
        lowest = min(found["depths"], key=lambda depth: depth["val_loss"])
        assert {key: best[key] for key in lowest} == lowest
        top = found["depths"][-1]
        assert best["gain_over_top"] == pytest.approx(top["val_loss"] - best["val_loss"])
        assert best["is_clear"] == (best["gain_over_top"] > best["standard_error"])
        assert max(depth["val_accuracy"] for depth in found["depths"]) > 0.8, "blue, green and red are easy"
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_network_that_leads_is_told(told: tuple) -> None:
    one, other = told[0]["models"]
    (comparison,) = told[0]["comparisons"]
    first, second = sorted((one, other), key=lambda found: found["best"]["val_loss"])
    assert (comparison["model"], comparison["over"]) == (first["model"], second["model"])
    assert comparison["gain"] == pytest.approx(second["best"]["val_loss"] - first["best"]["val_loss"])
    assert 0.5 <= comparison["confidence"] <= 1


@pytest.mark.parametrize("drop", [0, 4])
def test_every_depth_is_what_finetune_brings_there(
    drop: int, told: tuple, pictures: Path, tlcli: Callable, tmp_path: Path
) -> None:
    words = ["--model", "mobilenet", *SETTINGS, "--set", "data.size=[32,32]", "--recipe", "head-only"]
    said = tlcli(
        "finetune", pictures, *words, "--set", f"model.drop_top={drop}", "--out", tmp_path / "run", "--json", "-q"
    )
    assert said.code == 0, said.stderr
    scores = said.document["scores"]
    (depth,) = [each for each in told[0]["models"][0]["depths"] if each["drop_top"] == drop]
    assert depth["val_accuracy"] == pytest.approx(scores["val"]["accuracy"], abs=1e-9)
    assert depth["test_accuracy"] == pytest.approx(scores["test"]["accuracy"], abs=1e-9)
    assert depth["test_accuracy"] > 1 / 3


def test_the_keys_are_those_of_the_page(told: tuple) -> None:
    def keys(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set(value) | keys(list(value.values())) if isinstance(value, dict) else set()

    document = dict(told[0])
    assert set(document.pop("data")) == {"path", "classes", "counts", "per_class", "warnings"}
    part = PAGE.partition("## JSON")[2]
    named = set(re.findall(r"`(\w+)`", part)) - {"tlcli"}
    assert keys(document) - named == set()
    assert named - keys(document) - {"data", "path", "classes", "counts", "warnings"} == set()


def test_features_are_gone_afterwards(pictures: Path, tlcli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test split is not needed; without validation images there is nothing to compare by."""
    import os

    words = ["probe", pictures, "-m", "mobilenet_synthetic", "--size", 32, 32, "--set", "data.test=0"]
    monkeypatch.setenv("COLUMNS", "80")
    said = tlcli(*words)
    assert said.code == 0, said.stderr
    assert list((Path(os.environ["TLCLI_CACHE"]) / "probes").iterdir()) == []
    rows = said.stdout.partition("1/L2\n")[2].partition("\n\n")[0].splitlines()
    assert len(rows) == 14
    assert max(map(len, rows)) <= 80
    assert all(" – " in row for row in rows), "no test accuracy"
    none = tlcli(*words, "--set", "data.val=0", "--json")
    assert none.code == 2
    assert none.document["error"]["where"] == "data.val"


def test_what_concerns_the_images_is_said_once(pictures: Path, tlcli: Callable, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(pictures, tmp_path / "photos")
    (tmp_path / "photos" / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    models = ["-m", "mobilenet_synthetic", "-m", "mobilenet", "--weights", "random", "--size", 32, 32]
    said = tlcli("probe", tmp_path / "photos", *models, "--set", "model.drop_top=10")
    assert said.code == 0, said.stderr
    assert said.stderr.count("broken.jpg") == 1
    assert "is ahead of" in said.stdout.splitlines()[-1]
    # Four groups are left; the stars count from the whole network.
    assert "    10  " in said.stdout
    assert "    13  " in said.stdout


def finished(
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
    probe.tell(finished(group), None)
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("group"))
    table = lines[start : start + 4]
    assert max(cell_len(line) for line in table) <= 80
    assert [line.split()[0] for line in table[1:]] == [f"{group}0", f"{group}1", f"{group}2"]
    assert [line.split()[1] == "*" for line in table[1:]] == [False, True, False]
    assert all("█▎         0.123" in line and "0.987" in line for line in table[1:])
    assert lines[start + 4] == ""


def test_the_words_below_the_table(capsys: pytest.CaptureFixture) -> None:
    probe.tell(finished("block", names=("one", "two")), Path("a.png"))
    lines = capsys.readouterr().out.splitlines()
    verdict = "* lowest validation loss: block1, to end there: --set model.drop_top=1. Against block2 it is "
    assert f"{verdict}0.133 ± 0.033 lower, more than its standard error (97% sure)" in lines
    assert lines[-2].startswith("one is ahead of two: the validation loss is 0.133 ± 0.033 lower")
    assert lines[-1] == "plot  a.png"
    probe.tell(finished("block", losses=(0.9, 0.5, 0.4)), None)
    assert capsys.readouterr().out.splitlines()[-1].startswith("* lowest validation loss: at the top, block2")
