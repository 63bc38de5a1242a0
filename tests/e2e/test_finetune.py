"""`tlcli finetune` from start to end: the run folder, and using the classifier."""

import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FILES = {
    *("run.json", "recipe.yaml", "splits.csv", "phases.jsonl", "history.csv", "model.keras", "labels.txt"),
    *("predictions.csv", "report.html"),
}
CLASSES = ["blue", "green", "red"]
HOSTILE = ["=cmd()|' -1'!A0", "[red]", "a, b", 'say "no"', "π grün 猫"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every file, by path."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def record(finished: tuple) -> dict[str, Any]:
    return json.loads((finished[0] / "run.json").read_text(encoding="utf-8"))


# The run folder


def test_the_folder_has_the_files_of_the_contract_and_no_others(finished: tuple) -> None:
    assert {path.name for path in finished[0].iterdir()} == FILES


def test_the_record_has_the_values_of_the_contract(finished: tuple, record: dict[str, Any]) -> None:
    assert record["status"] == "complete"
    for key in ("accuracy", "loss"):
        assert isinstance(record["scores"]["val"][key], float)
        assert isinstance(record["scores"]["test"][key], float)
    assert isinstance(record["seconds"]["total"], float)
    assert isinstance(record["seconds"]["prefix"], float)
    assert record["seconds"]["prefix"] > 0
    assert len(record["seconds"]["phases"]) == len(record["phases"]) >= 2
    assert sum(record["seconds"]["phases"]) < record["seconds"]["total"]
    kinds = {
        "name": str,
        "trained_groups": list,
        "trainable_parameters": int,
        "epochs": int,
        "val_loss": float,
        "val_accuracy": float,
        "kept": bool,
    }
    for phase in record["phases"]:
        assert {key: type(phase[key]) for key in kinds} == kinds
    assert record["model"]["sha256"] == hashlib.sha256((finished[0] / "model.keras").read_bytes()).hexdigest()
    assert re.fullmatch(r"[0-9a-f]{64}", record["model"]["weights_sha256"])
    assert record["data"]["counts"] == {"train": 18, "val": 6, "test": 6}
    assert record["error"] is None


def test_the_record_does_not_name_the_machine_or_its_user(finished: tuple, record: dict[str, Any]) -> None:
    import getpass
    import platform

    del record["data"], record["recipe"]
    text = json.dumps(record)
    for secret in (platform.node(), f"/{getpass.getuser()}/"):
        assert not secret or secret not in text


def test_stdout_is_the_record_and_stderr_the_progress(finished: tuple, record: dict[str, Any]) -> None:
    folder, result = finished
    assert result.document == {"run": str(folder), **record}
    lines = result.stderr.splitlines()
    assert any(line.startswith("head: training head, ") for line in lines)
    assert sum("val_loss" in line and "/2  loss" in line for line in lines) == len(rows_of(folder / "history.csv"))
    assert "\x1b" not in result.stderr


def test_splits_are_complete_and_share_no_image(finished: tuple, photos: Path, record: dict[str, Any]) -> None:
    rows = rows_of(finished[0] / "splits.csv")
    assert list(rows[0]) == ["path", "label", "split", "sha256"]
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert {row["path"] for row in rows} == {path.relative_to(photos).as_posix() for path in photos.rglob("*.bmp")}
    for row in rows:
        assert row["path"].partition("/")[0] == row["label"]
        assert hashlib.sha256((photos / row["path"]).read_bytes()).hexdigest() == row["sha256"]
    split_of = {row["sha256"]: row["split"] for row in rows}
    assert all(split_of[row["sha256"]] == row["split"] for row in rows)
    for split, count in record["data"]["counts"].items():
        assert sum(row["split"] == split for row in rows) == count


def test_the_order_of_classes_is_the_same_everywhere(finished: tuple, record: dict[str, Any]) -> None:
    from tlcli.model import classifier

    folder = finished[0]
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == CLASSES
    assert record["data"]["classes"] == CLASSES
    assert record["scores"]["test"]["classes"] == CLASSES
    assert list(classifier.load(folder / "model.keras").classes) == CLASSES


def test_decisions_and_history_agree_with_the_record(finished: tuple, record: dict[str, Any]) -> None:
    folder = finished[0]
    lines = [json.loads(line) for line in (folder / "phases.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [{"name": line["step"], **line} for line in lines] == record["phases"]
    history = rows_of(folder / "history.csv")
    for line in lines:
        epochs = [row for row in history if row["phase"] == line["step"]]
        assert [row["epoch"] for row in epochs] == [str(number + 1) for number in range(line["epochs"])]
        if line["best_epoch"]:
            assert float(epochs[line["best_epoch"] - 1]["val_loss"]) == line["val_loss"]
    kept = [line for line in lines if line["kept"]]
    if kept:
        assert record["scores"]["val"]["loss"] == pytest.approx(kept[-1]["val_loss"], rel=1e-5)


def test_the_recipe_of_a_run_gives_the_same_run(
    finished: tuple, photos: Path, tlcli: Callable, tmp_path: Path, record: dict[str, Any]
) -> None:
    """Also: the images do not change, and --quiet prints nothing."""
    before = contents(photos)
    recipe, out = finished[0] / "recipe.yaml", tmp_path / "again"
    repeated = tlcli("finetune", "--recipe", recipe, "--out", out, "--json", "--quiet")
    assert (repeated.code, repeated.stderr) == (0, "")
    assert contents(photos) == before
    for name in ("recipe.yaml", "splits.csv", "labels.txt"):
        assert (out / name).read_bytes() == (finished[0] / name).read_bytes()
    assert repeated.document["model"]["weights_sha256"] == record["model"]["weights_sha256"]
    for split in ("val", "test"):
        assert repeated.document["scores"][split]["accuracy"] == record["scores"][split]["accuracy"]
        assert repeated.document["scores"][split]["loss"] == pytest.approx(record["scores"][split]["loss"], rel=1e-5)
    assert [phase["kept"] for phase in repeated.document["phases"]] == [phase["kept"] for phase in record["phases"]]


@pytest.mark.slow
def test_a_run_can_start_from_another_run(
    finished: tuple, photos: Path, tiny: Path, tlcli: Callable, tmp_path: Path
) -> None:
    """The classifier of a run resizes and preprocesses its input; only its head is replaced. This works repeatedly."""

    def words(start: Path, out: str) -> list[str]:
        model = "model={name: " + str(start) + "}"
        return ["finetune", str(photos), "--recipe", str(tiny), "--set", model, "--out", str(tmp_path / out), "--json"]

    # In a new process, Keras numbers layer names from the start, so new layers could take names of the file.
    command = [sys.executable, "-m", "tlcli", *words(finished[0], "next")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["source"].startswith("file:")
    result = tlcli(*words(tmp_path / "next", "third"))
    assert result.code == 0, result.stderr
    assert tlcli("evaluate", tmp_path / "third").code == 0


def test_skipped_files_are_reported(draw: Callable, tlcli: Callable, tmp_path: Path) -> None:
    folder = draw(tmp_path / "photos")
    for name in ("one.heic", "two.avif"):
        next(folder.iterdir()).joinpath(name).write_bytes(b"not read")
    result = tlcli("plan", folder)
    assert "skipped 2 files" in result.stderr
    assert ".avif, .heic" in result.stderr


def test_without_out_runs_are_numbered(
    photos: Path, tiny: Path, tlcli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also: the printed result, and an expectation that is not met."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "photos-mobilenet-3").mkdir(parents=True)
    short = ["--set", "phases=[{name: head, train: head, epochs: 1}]", "--set", "expect=[test.accuracy > 1, seed == 0]"]
    result = tlcli("recipe", "run", tiny, photos, *short)
    assert result.code == 3
    folder = tmp_path / "runs" / "photos-mobilenet-4"
    assert {path.name for path in folder.iterdir()} == FILES
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "complete"
    assert [verdict["passed"] for verdict in record["expectations"]] == [False, True]
    assert "not met  test.accuracy > 1" in result.stdout
    assert "met      seed == 0" in result.stdout
    assert "run folder   runs/photos-mobilenet-4" in result.stdout
    assert result.stderr.splitlines()[-1] == "1 of 2 expectations not met"


def test_met_expectations_are_recorded(finished: tuple, record: dict[str, Any]) -> None:
    (verdict,) = record["expectations"]
    assert verdict["passed"]
    assert verdict["expectation"] == "seconds.total <= 3600"
    assert verdict["measured"] == record["seconds"]["total"]


# The classifier

PLAIN_KERAS = """
import json, sys
import keras, numpy as np
from PIL import Image, ImageOps
classifier = keras.saving.load_model(sys.argv[1])
results = []
for path in sys.argv[2:]:
    image = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), dtype="float32")[None]
    resized = np.asarray(classifier.get_layer("resize")(image))[0]
    results.append([classifier.predict(image, verbose=0)[0].tolist(), resized.tolist()])
assert not any(name.split(".")[0] == "tlcli" for name in sys.modules)
print(json.dumps(results))
"""


def test_plain_keras_predicts_the_same(finished: tuple, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    """Also for photographs that a run would scale while decoding, in odd shapes, and upside down by EXIF."""
    import numpy as np
    from PIL import Image

    from tlcli.data import pixels

    with Image.open(photos / "red" / "03.bmp") as image:
        for number, size in enumerate([(32, 32), (48, 40), (150, 41), (20, 90)]):
            image.resize(size).save(tmp_path / f"{number}.png")
        for number, size in enumerate([(500, 375), (333, 517)]):
            exif = Image.Exif()
            exif[0x0112] = 3
            image.resize(size, Image.Resampling.BICUBIC).save(tmp_path / f"{number}.jpg", quality=90, exif=exif)
    images = sorted(tmp_path.iterdir())
    command = [sys.executable, "-I", "-c", PLAIN_KERAS, str(finished[0] / "model.keras"), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    plain = json.loads(done.stdout.splitlines()[-1])
    result = tlcli("predict", finished[0], *images, "--top", 3, "--json").document
    for path, row, (probabilities, resized) in zip(images, result, plain, strict=True):
        ours = {guess["label"]: guess["probability"] for guess in row["top"]}
        assert [ours[name] for name in CLASSES] == pytest.approx(probabilities, abs=1e-3)
        assert np.abs(pixels.read_exactly(path, (32, 32), "crop") - np.array(resized)).max() < 1e-3
        # Half a grey level of rounding, and a little more where a JPEG is scaled while it is decoded.
        assert np.abs(pixels.read(path, (32, 32), "crop") - np.array(resized)).mean() < 2


def test_predict_accepts_paths_folders_and_globs(finished: tuple, photos: Path, tlcli: Callable) -> None:
    run, red = finished[0], photos / "red"
    # Every image is predicted once, although the patterns overlap.
    result = tlcli("predict", run, red / "05.bmp", red, f"{photos}/*/0[0-2].bmp", "--json")
    paths = [row["path"] for row in result.document]
    greens = [str(photos / name / f"0{n}.bmp") for name in ("blue", "green") for n in range(3)]
    assert paths == [str(red / "05.bmp"), *(str(red / f"{n:02}.bmp") for n in range(10) if n != 5), *greens]
    for row in result.document:
        assert set(row) == {"path", "label", "probability", "top"}
        assert row["top"] == [{"label": row["label"], "probability": row["probability"]}]


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (3, 3), (99, 3)])
def test_top_lists_the_most_probable_classes_first(
    top: int, count: int, finished: tuple, photos: Path, tlcli: Callable
) -> None:
    (row,) = tlcli("predict", finished[0], photos / "red" / "01.bmp", "--top", top, "--json").document
    probabilities = [guess["probability"] for guess in row["top"]]
    assert len(probabilities) == count
    assert probabilities == sorted(probabilities, reverse=True)
    if count == 3:
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_an_unreadable_file_does_not_stop_the_others(
    finished: tuple, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 no image")
    words = ["predict", finished[0], photos / "red" / "01.bmp", bad, photos / "red" / "02.bmp"]
    result = tlcli(*words, "--json")
    assert result.code == 1
    assert [set(row) - {"path"} for row in result.document][1] == {"error"}
    assert [row.get("label") is not None for row in result.document] == [True, False, True]
    table = list(csv.DictReader(io.StringIO(tlcli(*words, "--csv").stdout)))
    assert [bool(row["error"]) for row in table] == [False, True, False]
    text = tlcli(*words)
    assert text.code == 1
    assert len(text.stdout.splitlines()) == 3
    assert text.stdout.splitlines()[1].startswith(f"{bad}  ")
    for ended in (result, text, tlcli(*words, "--csv")):
        assert ended.stderr.splitlines()[-1] == "2 of 3 predicted, 1 not read"


def test_a_classifier_file_alone_predicts(finished: tuple, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    alone = shutil.copy(finished[0] / "model.keras", tmp_path / "mine.keras")
    words = [photos / "red", "--json", "--quiet"]
    assert tlcli("predict", alone, *words).stdout == tlcli("predict", finished[0], *words).stdout
    assert tlcli("evaluate", alone, photos, "--json").document["count"] == 30
    assert "no test images" in tlcli("evaluate", alone).stderr


def test_hostile_class_names_stay_intact(draw: Callable, tlcli: Callable, tiny: Path, tmp_path: Path) -> None:
    names = sorted(HOSTILE)
    folder, run = draw(tmp_path / "data [bold]", names, count=8), tmp_path / "run, [red]"
    short = ["--set", "phases=[{name: '[green]head', train: head, epochs: 1}]"]
    result = tlcli("finetune", folder, "--recipe", tiny, *short, "--out", run)
    assert result.code == 0
    assert f"run folder   {run}" in result.stdout.splitlines()
    assert "[green]head" in result.stdout
    assert "[green]head: training head" in result.stderr
    assert (run / "labels.txt").read_text(encoding="utf-8").splitlines() == names
    assert {row["label"] for row in rows_of(run / "splits.csv")} == set(names)

    images = [next((folder / name).iterdir()) for name in names]
    words = ["predict", run, *images, "--top", len(names)]
    rows = tlcli(*words, "--json").document
    assert {guess["label"] for guess in rows[0]["top"]} == set(names)
    assert [row["path"] for row in rows] == [str(image) for image in images]
    table = list(csv.DictReader(io.StringIO(tlcli(*words, "--csv").stdout)))
    # No cell is a formula: those get an apostrophe in front.
    assert {row["label"].removeprefix("'") for row in table} == set(names)
    assert not any(row["label"].startswith("=") for row in table)
    text = tlcli(*words).stdout.splitlines()
    assert len(text) == len(names)
    assert all(name in line for line in text for name in names)
    scores = tlcli("evaluate", run, folder).stdout
    assert all(name in scores for name in names)
    assert tlcli("evaluate", run, folder, "--json").document["classes"] == names


# Evaluation


def test_the_own_test_images_give_the_recorded_scores(finished: tuple, tlcli: Callable, record: dict[str, Any]) -> None:
    scores = tlcli("evaluate", finished[0], "--json").document
    recorded = record["scores"]["test"]
    assert {"count", "accuracy", "loss", "top_k", "per_class", "confusion", "classes"} <= set(scores)
    assert scores["loss"] == pytest.approx(recorded["loss"], abs=1e-6, rel=1e-6)
    assert {**scores, "loss": 0} == {**recorded, "loss": 0, "missing": scores["missing"], "unreadable": []}
    assert sum(map(sum, scores["confusion"])) == scores["count"] == 6


def test_scores_on_a_folder_agree_with_single_predictions(finished: tuple, photos: Path, tlcli: Callable) -> None:
    scores = tlcli("evaluate", finished[0], photos, "--json").document
    rows = tlcli("predict", finished[0], photos, "--json").document
    right = [row for row in rows if Path(row["path"]).parent.name == row["label"]]
    assert scores["count"] == len(rows) == 30
    assert scores["accuracy"] == pytest.approx(len(right) / 30)
    assert [row["support"] for row in scores["per_class"]] == [10, 10, 10]
    text = tlcli("evaluate", finished[0], photos).stdout
    assert text.splitlines()[0] == f"30 images of {photos}"
    assert f"accuracy {scores['accuracy']:.4f}" in text


def test_training_images_cause_a_warning(finished: tuple, photos: Path, tlcli: Callable) -> None:
    with (finished[0] / "splits.csv").open(encoding="utf-8", newline="") as stream:
        count = sum(row["split"] == "train" for row in csv.DictReader(stream))
    result = tlcli("evaluate", finished[0], photos, "--json")
    assert f"warning: the run was trained on {count} of these 30 images" in result.stderr
    assert result.document["count"] == 30
    assert "warning" not in tlcli("evaluate", finished[0]).stderr


def test_classes_without_images_are_named_and_not_scored(
    finished: tuple, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    shutil.copytree(photos / "red", tmp_path / "some" / "red")
    shutil.copytree(photos / "blue", tmp_path / "some" / "blue")
    scores = tlcli("evaluate", finished[0], tmp_path / "some", "--json").document
    assert scores["count"] == 20
    assert scores["missing"] == ["green"]
    recalls = [row["recall"] for row in scores["per_class"] if row["name"] != "green"]
    assert scores["balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
    text = tlcli("evaluate", finished[0], tmp_path / "some").stdout
    assert "no images of green: these classes are not scored" in text
    only = shutil.copytree(photos / "red", tmp_path / "one" / "red").parent
    assert tlcli("evaluate", finished[0], only, "--json").document["missing"] == ["blue", "green"]
    shutil.copytree(photos / "red", tmp_path / "some" / "crimson")
    error = tlcli("evaluate", finished[0], tmp_path / "some").stderr
    assert "the classifier does not have the class crimson" in error


def test_a_run_records_how_whole_images_are_answered(finished: tuple, record: dict[str, Any]) -> None:
    agreement = record["agreement"]
    assert agreement["images"] == 6
    assert agreement["same_label"] == 1.0
    assert 0 < agreement["largest_difference"] < 0.3


def test_the_saved_classifier_gives_one_answer(finished: tuple) -> None:
    import numpy as np
    from answers import assert_one_answer

    images = np.random.default_rng(0).uniform(0, 255, (3, 40, 50, 3)).astype(np.float32)
    assert_one_answer(finished[0] / "model.keras", images)


def test_a_test_folder_is_preferred(finished: tuple, photos: Path, tlcli: Callable, tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 4)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for path in sorted((photos / name).iterdir())[:count]:
                shutil.copy(path, tmp_path / split / name)
    assert tlcli("evaluate", finished[0], tmp_path, "--json").document["count"] == 12


@pytest.mark.parametrize("problem", ["changed", "missing"])
def test_test_images_must_be_unchanged(
    problem: str, finished: tuple, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    run, data = shutil.copytree(finished[0], tmp_path / "run"), shutil.copytree(photos, tmp_path / "photos")
    text = (run / "run.json").read_text(encoding="utf-8")
    (run / "run.json").write_text(text.replace(str(photos), str(data)), encoding="utf-8")
    assert tlcli("evaluate", run).code == 0
    test = next(data / row["path"] for row in rows_of(run / "splits.csv") if row["split"] == "test")
    if problem == "changed":
        test.write_bytes(test.read_bytes() + b"\0")
    else:
        test.unlink()
    result = tlcli("evaluate", run)
    assert result.code == 2
    assert f"{test}: a test image" in result.stderr
    assert problem in result.stderr


def test_a_run_without_a_page(photos: Path, tiny: Path, tlcli: Callable, tmp_path: Path) -> None:
    short = ["--set", "phases=[{name: head, train: head, epochs: 1}]", "--set", "report=false"]
    result = tlcli("finetune", photos, "--recipe", tiny, *short, "--out", tmp_path / "run")
    assert result.code == 0, result.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"report.html"}
    assert "report.html" not in result.stdout
