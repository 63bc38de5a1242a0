"""A run on a manifest, from check to evaluate."""

import csv
from collections.abc import Callable
from pathlib import Path

from tlcli.data.source import scan


def test_check_finetune_evaluate_and_compare_take_a_manifest(
    photos: Path, tiny: Path, tlcli: Callable, tmp_path: Path
) -> None:
    file, run = tmp_path / "images.csv", tmp_path / "run"
    group_of = {}
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "group"])
        for number, image in enumerate(scan(photos).images):
            group_of[image.sha256] = f"g{number // 2}"
            writer.writerow([photos / image.path, f"<b>{image.path[0]}", group_of[image.sha256]])
    checked = tlcli("check", file, "--json", "--fail-on", "error")
    assert checked.code == 0, checked.stderr
    assert (checked.document["images"], checked.document["files"]) == (30, 30)
    result = tlcli("finetune", file, "--recipe", tiny, "--out", run, "--json")
    assert result.code == 0, result.stderr
    assert result.document["data"]["path"] == str(file)
    assert result.document["data"]["counts"] == {"train": 18, "val": 6, "test": 6}
    assert result.document["data"]["classes"] == ["<b>b", "<b>g", "<b>r"]
    with (run / "splits.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(group_of[row["sha256"]], set()).add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    own = tlcli("evaluate", run, "--json")
    assert own.document["count"] == 6, own.stderr
    assert tlcli("evaluate", run, file, "--json").document["count"] == 30
    compared = tlcli("compare", run, run, "--json")
    assert compared.document["same_split"]


def test_a_wrong_manifest_is_one_error_with_all_problems(tlcli: Callable, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "images.csv").write_text("path,label\ngone.png,a\n,b\n", encoding="utf-8")
    for command in (["finetune", "--recipe", tiny], ["check"], ["plan"], ["probe"]):
        result = tlcli(command[0], tmp_path / "images.csv", *command[1:], "--json")
        assert result.code == 2
        assert [problem["message"] for problem in result.document["error"]["problems"]] == [
            f"there is no file '{tmp_path}/gone.png'",
            "has no path",
        ]
