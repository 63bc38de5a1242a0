"""The page of a run: complete, escaped, self-contained, also for runs that lack something, and in a real browser."""

import csv
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.report import record, run_page
from tlcli.report.predictions import COLUMNS, read_predictions

HOSTILE = "<img src=x onerror=\"document.title='ran'\">"


@pytest.fixture
def run(finished: tuple, tmp_path: Path) -> Path:
    """A copy of a finished run that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def change(run: Path, change_record: Callable[[dict], None]) -> None:
    document = json.loads((run / "run.json").read_text(encoding="utf-8"))
    change_record(document)
    (run / "run.json").write_text(json.dumps(document), encoding="utf-8")


def write(run: Path) -> str:
    run_page.write_run_page(run)
    return (run / "report.html").read_text(encoding="utf-8")


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', page)


def test_a_run_writes_its_page_and_predictions(finished: tuple) -> None:
    folder = finished[0]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert sections(page) == [
        *("training", "confusion", "classes", "images", "reliability", "data", "cost", "next", "record")
    ]
    predictions = read_predictions(folder)
    scores = record.read(folder).scores
    for split in ("val", "test"):
        own = [image for image in predictions if image.split == split]
        assert len(own) == scores[split]["count"]
        assert np.mean([image.is_hit for image in own]) == pytest.approx(scores[split]["accuracy"])
        for i, label in enumerate(scores[split]["classes"]):
            for j, predicted in enumerate(scores[split]["classes"]):
                count = sum((image.label, image.predicted) == (label, predicted) for image in own)
                assert count == scores[split]["confusion"][i][j]


def test_the_page_made_later_is_that_of_the_run(finished: tuple, run: Path) -> None:
    """Without the classifier there are no maps; the random network at 32 pixels has none anyway."""
    before = (finished[0] / "report.html").read_text(encoding="utf-8")
    assert write(run).replace(str(run), str(finished[0])) == before


def test_it_loads_nothing_and_runs_nothing(finished: tuple) -> None:
    page = (finished[0] / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "url(" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {source.partition(":")[0] for source in sources if not source.startswith("#")} == {"data"}
    targets = {source[1:] for source in sources if source.startswith("#")}
    assert targets <= set(re.findall(r'id="([^"]+)"', page))


def test_names_are_text(run: Path) -> None:
    for name in ("run.json", "splits.csv", "predictions.csv", "labels.txt"):
        text = (run / name).read_text(encoding="utf-8")
        if name.endswith("csv"):
            rows = [[HOSTILE if cell == "red" else cell for cell in row] for row in csv.reader(text.splitlines())]
            with (run / name).open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows(rows)
        else:
            (run / name).write_text(text.replace('"red"', json.dumps(HOSTILE)), encoding="utf-8")
    page = write(run)
    assert "<img src=x" not in page
    assert page.count(html.escape(HOSTILE, quote=False)[:10]) > 3


def test_a_comparison_marks_the_best_by_its_rule(run: Path) -> None:
    def compare(document: dict) -> None:
        row = {"recipe": "r", "model": "m", "test_accuracy": None, "seconds": 1.0}
        scores = {"cheap": (0.9, 0.5), "best": (0.8, 0.4), "equal": (0.7, 0.4)}
        document["compared"] = [
            {**row, "run": name, "val_accuracy": accuracy, "val_loss": loss}
            for name, (accuracy, loss) in scores.items()
        ]

    change(run, compare)
    page = write(run)
    assert "lowest validation loss" in page
    assert page.count('<span class="badge good">best') == 1
    assert 'best <span class="badge good">best' in page
    change(run, lambda document: [row.update(in_result=row["run"] != "cheap") for row in document["compared"]])
    assert write(run).count('<span class="badge good">in the result') == 2


def test_moved_images_are_named_and_the_numbers_stay(run: Path, tmp_path: Path) -> None:
    change(run, lambda document: document["data"].update(path=str(tmp_path / "gone")))
    page = write(run)
    assert "images of this page cannot be shown" in page
    assert "no longer there" in page
    assert "data:image" not in page
    assert 'class="hit"' in page


def test_a_changed_image_is_not_shown(run: Path, photos: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    change(run, lambda document: document["data"].update(path=str(data)))
    assert "changed since the run" not in write(run)
    for file in data.glob("*/*.bmp"):
        file.write_bytes(file.read_bytes() + b"\0")
    assert "changed since the run" in write(run)


def test_a_run_without_test_images_is_scored_on_validation_images(run: Path) -> None:
    change(run, lambda document: document["scores"].pop("test"))
    page = write(run)
    assert "validation images are classified correctly" in page
    assert "Training was steered by the same images" in page


def test_a_run_without_held_out_images_has_a_page(run: Path) -> None:
    def strip(document: dict) -> None:
        document["scores"] = {"train": document["scores"]["train"]}
        document["model"].pop("temperature")
        document["advice"] = None

    change(run, strip)
    (run / "predictions.csv").write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    page = write(run)
    assert "No images were set aside" in page
    assert sections(page) == ["training", "data", "cost", "record"]


def test_an_interrupted_run_shows_what_it_did_so_far(run: Path) -> None:
    def interrupt(document: dict) -> None:
        document.update(status="interrupted", scores={}, phases=[], seconds={}, advice=None, expectations=[])
        document["model"].pop("temperature")
        document["model"].pop("sha256")

    change(run, interrupt)
    (run / "predictions.csv").unlink()
    lines = (run / "phases.jsonl").read_text(encoding="utf-8").splitlines()
    (run / "phases.jsonl").write_text(lines[0] + "\n", encoding="utf-8")
    page = write(run)
    assert "The run is interrupted." in page
    assert f"tlcli finetune --resume {run}" in page
    with (run / "history.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["phase"] == json.loads(lines[1])["step"]]
    assert page.count('<span class="badge warn">not finished') == 1
    assert re.search(rf"not finished</span>.*?<td>{len(rows)}</td>", page, re.DOTALL), "its epochs so far"
    taken = run_page.duration(sum(float(row["seconds"]) for row in rows))
    assert re.search(rf'<th scope="row" class="text">{rows[0]["phase"]}</th><td>{taken}</td>', page), "the cost"
    (run / "history.csv").unlink()
    assert "training" in sections(write(run))
    (run / "phases.jsonl").unlink()
    assert "training" not in sections(write(run))


def test_many_classes_are_listed_as_pairs_within_5_megabytes(run: Path, tmp_path: Path) -> None:
    """200 classes, 2,000 images that are large and hard to compress."""
    write_large(run, tmp_path / "large", classes=200)
    page = write(run)
    assert '<table class="matrix' not in page
    assert page.count('class="pair"') == run_page.score_sections.TOP_PAIRS_WITHOUT_MATRIX
    assert "170 more classes" in page
    assert "data:image" in page
    assert len(page) < 5_000_000


def test_a_hundred_classes_have_a_matrix_within_5_megabytes(run: Path, tmp_path: Path) -> None:
    write_large(run, tmp_path / "large", classes=100)
    page = write(run)
    assert page.count('<th scope="row" title=') == 100
    assert len(page) < 5_000_000


def write_large(run: Path, data: Path, *, classes: int) -> None:
    """Make the record of a run tell of many classes, with random predictions for 2,000 test images of noise."""
    from tlcli.data.hashes import content_hash
    from tlcli.evaluate.scores import score

    random = np.random.default_rng(0)
    names = [f"class {number:03}" for number in range(classes)]
    data.mkdir()
    noise = random.integers(0, 256, (40, 224, 224, 3), np.uint8)
    for number, image in enumerate(noise):
        Image.fromarray(image).save(data / f"{number}.png", compress_level=0)
    hashes = [content_hash(data / f"{number}.png") for number in range(40)]
    labels = random.integers(0, classes, 2000)
    probabilities = random.dirichlet(np.full(classes, 0.05), 2000)
    probabilities[np.arange(1500), labels[:1500]] += 1
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    rows = [
        # Forty files stand for two thousand: the paths differ.
        ("./" * (i // 40) + f"{i % 40}.png", names[labels[i]], names[probabilities[i].argmax()], probabilities[i].max())
        for i in range(2000)
    ]
    with (run / "splits.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split", "sha256"])
        writer.writerows([path, label, "test", hashes[i % 40]] for i, (path, label, _, _) in enumerate(rows))
    with (run / "predictions.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows([path, label, "test", predicted, p, p] for path, label, predicted, p in rows)

    def enlarge(document: dict) -> None:
        document["scores"]["test"] = score(labels, probabilities, names).to_json()
        document["model"]["size"] = [224, 224]
        per_class = {name: {"train": 10, "val": 2, "test": 10} for name in names}
        document["data"].update(path=str(data), classes=names, per_class=per_class)

    change(run, enlarge)


@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_the_page_without_a_message(finished: tuple, tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    page, shot = finished[0] / "report.html", tmp_path / "page.png"
    browsed = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--enable-logging=stderr", "--v=0", f"--screenshot={shot}", f"--window-size={width},1400"),
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in browsed.stderr
    with Image.open(shot) as image:
        assert image.width == width
        assert len(image.convert("RGB").resize((100, 140)).getcolors(14_000)) > 50, "the page is not empty"
