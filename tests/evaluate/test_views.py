"""Test-time augmentation: fixed views, their mean, and what the command line says of it."""

import csv
import io
import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from tlcli.evaluate.views import MAX_VIEWS, Views, views_for


@dataclass
class Spy:
    """A runtime whose probabilities are the values of one pixel, so that views can be told apart."""

    classes = ("a", "b", "c")
    size = (64, 96)
    resize = "crop"

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        return images[:, 10, 20].astype(np.float32)


def test_views_are_shifts_and_their_mirrors():
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype(np.float32)
    views = [*Views(9).of(images)]
    np.testing.assert_array_equal(views[0], images)
    np.testing.assert_array_equal(views[1][:, :, 3:], images[:, :, :-3])
    np.testing.assert_array_equal(views[2][:, :, :-3], images[:, :, 3:])
    np.testing.assert_array_equal(views[3][:, 2:], images[:, :-2])
    np.testing.assert_array_equal(views[3][:, :2], np.repeat(images[:, :1], 2, axis=1), "edges repeat")
    assert len({view.tobytes() for view in views}) == MAX_VIEWS == 9
    mirrored = [*Views(4, is_mirrored=True).of(images)]
    np.testing.assert_array_equal(mirrored[1], images[:, :, ::-1])
    np.testing.assert_array_equal(mirrored[2], views[1])
    np.testing.assert_array_equal(mirrored[3], views[1][:, :, ::-1])
    answers = Views(4, is_mirrored=True).probabilities(Spy(), images)
    np.testing.assert_array_equal(answers, np.stack([view[:, 10, 20] for view in mirrored], axis=1))


def test_a_run_is_mirrored_if_its_training_was(finished, tmp_path):
    run, _ = finished
    assert views_for(run, 3) == Views(3, is_mirrored=True)
    assert views_for(run, 1) == Views(1)
    assert views_for(run / "model.keras", 3) == Views(3)
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["recipe"]["augment"] |= {"preset": "custom", "flip": "vertical"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert views_for(tmp_path / "run", 3) == Views(3)


def test_evaluate_reports_the_scores_with_and_without_views(finished, tlcli):
    run, _ = finished
    plain, averaged = (tlcli("evaluate", run, "--json", *words).document for words in ((), ("--tta", 4)))
    assert averaged["tta"]["views"] == 4
    assert averaged["tta"]["mirrored"] is True
    assert averaged["tta"]["without"] == {key: plain[key] for key in ("accuracy", "balanced_accuracy", "loss")}
    assert averaged["loss"] != plain["loss"]
    assert "tta" not in plain
    assert {key: averaged[key] for key in ("count", "classes", "missing")} == {
        key: plain[key] for key in ("count", "classes", "missing")
    }
    printed = tlcli("evaluate", run, "--tta", 4).stdout
    assert f"plain images alone: accuracy {plain['accuracy']:.4f}, loss {plain['loss']:.4f}" in printed
    assert f"accuracy {averaged['accuracy']:.4f}" in printed


def test_predict_averages_views_and_keeps_its_columns(finished, photos, tlcli):
    run = finished[0] / "model.keras"
    image = photos / "red" / "00.bmp"
    plain, averaged = (
        [*csv.DictReader(io.StringIO(tlcli("predict", run, image, "--top", 3, "--csv", *words).stdout))]
        for words in ((), ("--tta", 3))
    )
    assert [row.keys() for row in averaged] == [row.keys() for row in plain]
    assert {row["label"] for row in averaged} == {row["label"] for row in plain}
    assert sum(float(row["probability"]) for row in averaged) == pytest.approx(1, abs=1e-5)
    assert {row["label"]: row["probability"] for row in averaged} != {row["label"]: row["probability"] for row in plain}


@pytest.mark.parametrize("count", ["0", "10", "many"])
def test_a_wrong_number_of_views_is_refused(finished, tlcli, count):
    result = tlcli("evaluate", finished[0], "--tta", count)
    assert result.code == 2
    assert "--tta" in result.stderr
