"""Requests: defaults, and the command line, origin and licence that go into the card."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tlcli.errors import ModelError
from tlcli.pretrain.request import PretrainRequest, PretrainTask, check_request, command_line


def check(folder: Path, **options: Any) -> PretrainTask:
    (folder / "heap").mkdir(exist_ok=True)
    source = {} if options.get("synthetic") else {"unlabelled": folder / "heap"}
    return check_request(PretrainRequest(out=folder / "mine", **source, **options))


def test_synthetic_images_train_a_small_network_from_random_weights(tmp_path: Path) -> None:
    task = check(tmp_path, synthetic=True)
    assert (task.base.source, task.base.arguments, task.base.size) == ("keras:MobileNet", {"alpha": 0.4375}, 64)
    assert (task.weights, task.start, task.licence) == ("random", "", "yours")
    assert command_line(task, {"images": 100}) == (
        "tlcli pretrain --synthetic --model mobilenet --set model.arguments.alpha=0.4375 --weights random --size 64"
        " --images 100 --seed 0 --out mine.yaml"
    )


def test_options_replace_the_defaults(tmp_path: Path) -> None:
    task = check(tmp_path, synthetic=True, settings=("model.arguments.alpha=0.35",), size=96)
    assert (task.base.arguments, task.base.size) == ({"alpha": 0.35}, 96)
    task = check(tmp_path, synthetic=True, model="resnet50")
    assert (task.base.arguments, task.base.size) == ({}, 224)


def test_training_on_a_folder_starts_from_the_bundled_network(tmp_path: Path) -> None:
    task = check(tmp_path)
    assert task.card.name == "mobilenet_synthetic"
    assert task.card.weights is not None
    assert task.weights is None
    assert task.start == f", starting from weights trained on {task.card.data}"


@pytest.mark.parametrize(
    ("weights", "start", "licence"),
    [
        (None, ", starting from weights trained on ImageNet", "yours, on weights under Apache-2.0"),
        ("random", "", "yours"),
        ("w.h5", ", starting from w.h5", "yours, on weights under their own licence"),
    ],
)
def test_initial_weights_and_their_licence(weights: str | None, start: str, licence: str, tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"x")
    path = str(tmp_path / "w.h5") if weights == "w.h5" else weights
    task = check(tmp_path, model="mobilenet_v2", weights=path)
    assert (task.start, task.licence) == (start, licence)
    assert str(tmp_path) not in command_line(task, {})
    assert check(tmp_path, model="mobilenet_v2", weights=path, licence="CC0-1.0").licence == "CC0-1.0"


def test_a_model_file_cannot_be_pretrained(tmp_path: Path) -> None:
    path = tmp_path / "whole.keras"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": []}}))
    with pytest.raises(ModelError, match=r"not a network of keras\.applications.*card file"):
        check(tmp_path, model=str(path))
