"""Distillation from another run: its answers are computed once, and its classes must be those of the images."""

import json

import numpy as np
import pytest

from tlcli.data import pixels
from tlcli.evaluate.predict import probabilities_of
from tlcli.evaluate.runtimes import open_model
from tlcli.model import graph
from tlcli.train.calibration import apply_temperature
from tlcli.train.events import Advanced
from tlcli.train.preparation import choose_network, prepare
from tlcli.workflows.request import Request, check_request
from tlcli.workflows.teacher import with_teacher

STAGE = "images through the teacher"


@pytest.fixture
def student(tiny, photos, finished):
    """The request of a run on the same images as its teacher."""
    options = {"data.path": str(photos)}
    settings = (f"teacher.run={finished[0]}", "teacher.temperature=4", "data.size=[40,48]")
    return Request(recipe=str(tiny), settings=settings, options=options)


def test_the_teacher_is_asked_once_at_its_own_input_size(student, finished):
    recipe = check_request(student).recipe
    network = choose_network(recipe, measure=graph.measure_groups)
    observed: list = []
    prepared = prepare(recipe, network, strict=True, observe=observed.append)
    taught = [with_teacher(prepared, observed.append).taught for _ in range(2)]
    stages = [event for event in observed if isinstance(event, Advanced) and event.stage == STAGE]
    assert [(event.done, event.total) for event in stages] == [(len(prepared.plan.splits.train),) * 2], "then cached"
    np.testing.assert_array_equal(*taught)
    paths = [prepared.index.file(image) for image in prepared.plan.splits.train]
    teacher = open_model(finished[0])
    assert teacher.size != recipe.data.size
    asked = probabilities_of(teacher, paths, progress=lambda done, total: None, read=pixels.read)
    np.testing.assert_allclose(taught[0], apply_temperature(asked, 4.0), atol=1e-4)


def test_a_teacher_with_other_classes_is_refused(tiny, draw, finished, tlcli, tmp_path):
    draw(tmp_path / "photos", ["blue", "<b>", "red"])
    words = (tmp_path / "photos", "--recipe", tiny, "--set", f"teacher={finished[0]}", "--out", tmp_path / "run")
    result = tlcli("finetune", *words, "--json")
    assert result.code == 2
    error = result.document["error"]
    assert error["where"] == "teacher.run"
    assert "only of the teacher: green; only of the images: <b>" in error["message"]
    assert not (tmp_path / "run").exists()


def test_a_missing_teacher_is_refused_before_images_are_read(tiny, photos, tlcli, tmp_path):
    words = ("--recipe", tiny, "--set", f"teacher={tmp_path / 'none'}", "--out", tmp_path / "run", "--json")
    result = tlcli("finetune", photos, *words)
    assert result.code == 2
    assert "there is no such run" in result.document["error"]["message"]


def test_a_run_records_its_teacher(photos, tlcli, finished, tmp_path):
    out = tmp_path / "run"
    settings = {
        **{"teacher": finished[0], "data.sampling": "balanced", "loss.name": "focal", "phases.0.epochs": 1},
        **{"data.size": "[32,32]", "model.name": "mobilenet", "model.arguments.alpha": 0.25, "model.weights": "random"},
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    result = tlcli("finetune", photos, "--recipe", "head-only", *words, "--out", out, "--json")
    assert result.code == 0, result.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["recipe"]["teacher"] == {"run": str(finished[0]), "temperature": 2.0, "weight": 0.5}
    assert record["recipe"]["loss"] == {"name": "focal", "gamma": 2.0}
    assert record["phases"][0]["epochs"] == 1
