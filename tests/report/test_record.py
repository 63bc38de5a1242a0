"""The record of a run and run.json."""

import json
import platform
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from tlcli.errors import ModelError, UsageError
from tlcli.evaluate import run_folder
from tlcli.report import record


def test_run_json_has_what_finetune_prints(finished: tuple) -> None:
    folder, result = finished
    run = record.read(folder)
    assert {"run": str(folder), **asdict(run)} == result.document
    assert run.schema == 1


def test_a_folder_without_a_record_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a run folder: it has no run\.json") as caught:
        record.read(tmp_path)
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "complete"}', '{"unheard_of": 1}', "null"])
def test_a_damaged_record_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="is damaged") as caught:
        record.read(tmp_path)
    assert caught.value.where == str(tmp_path / "run.json")


def test_another_classifier_in_the_run_is_refused(finished: tuple, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    assert run_folder.classifier_file(run) == run / "model.keras"
    with (run / "model.keras").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ModelError, match="is not the classifier that the run wrote") as caught:
        run_folder.classifier_file(run)
    assert caught.value.where == str(run / "model.keras")
    (run / "model.keras").unlink()
    with pytest.raises(ModelError, match="is missing"):
        run_folder.classifier_file(run)


def test_versions_are_those_in_use() -> None:
    import keras
    import numpy as np

    versions = record.versions()
    assert list(versions)[:2] == ["tlcli", "python"]
    assert versions["keras"] == keras.version()
    assert versions["numpy"] == np.__version__
    assert versions["python"] == platform.python_version()
    assert set(versions) <= {"tlcli", "python", *record.LIBRARIES}


def test_the_hardware_entry_leaves_out_the_machine_name() -> None:
    hardware = record.hardware("gpu:1")
    assert hardware["device"] == "gpu:1"
    assert hardware["cpus"] >= 1
    assert not platform.node() or platform.node() not in json.dumps(hardware)


def test_time_is_utc_to_the_second() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record.now())


def test_a_resumed_run_keeps_its_start_and_its_weights(finished: tuple) -> None:
    from tlcli.model import structure
    from tlcli.train import events, preparation
    from tlcli.workflows import request

    recipe = request.load_recipe(request.Request(recipe=str(finished[0] / "recipe.yaml")))
    network = preparation.choose_network(recipe, measure=structure.measure_in_subprocess)
    plan = preparation.prepare(recipe, network, strict=False, observe=events.ignore).plan
    before = record.read(finished[0])
    fresh, resumed = record.begin_record(plan, "cpu:0"), record.begin_record(plan, "cpu:0")
    record.carry_over(resumed, before, taken_s=0.0)
    assert fresh.status == resumed.status == "interrupted"
    assert fresh.seconds == {}
    assert resumed.seconds == {"total": before.seconds["total"]}
    assert resumed.started == before.started
    assert resumed.model["weights_sha256"] == before.model["weights_sha256"]
    assert "weights_sha256" not in fresh.model
    assert resumed.data == before.data
