"""Logs of real runs, read back with TensorBoard and MLflow."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tlcli.report.plots import draw_confusion

# MLflow calls deprecated parts of SQLAlchemy and others.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def logged(
    tmp_path_factory: pytest.TempPathFactory, tlcli: Callable, photos: Path, tiny: Path
) -> tuple[Path, str, list[dict[str, str]]]:
    """A run with both logs: its folder, the address of MLflow, and the rows of its history."""
    home = tmp_path_factory.mktemp("logged")
    address = f"sqlite:///{home / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        environment.setenv("MLFLOW_TRACKING_URI", address)
        environment.chdir(home)
        # The second run takes its steps from the result cache, so they come without events of epochs.
        for name in ("first", "second"):
            words = ("finetune", photos, "-r", tiny, "-o", home / name, "--log", "tensorboard", "--log", "mlflow")
            result = tlcli(*words)
            assert result.code == 0, result.stderr
            assert "stopped" not in result.stderr
    with (home / "second" / "history.csv").open(encoding="utf-8") as stream:
        return home / "second", address, list(csv.DictReader(stream))


@pytest.mark.extras
def test_tensorboard_reads_scalars_recipe_and_confusion(logged: tuple) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _, history = logged
    log = EventAccumulator(str(run / "tensorboard"))
    log.Reload()
    losses = [(event.step, event.value) for event in log.Scalars("val/loss")]
    assert len(losses) >= 2
    assert losses == [(n, pytest.approx(float(row["val_loss"]))) for n, row in enumerate(history, start=1)]
    assert {"train/loss", "train/accuracy", "val/accuracy", "lr", "final/test/accuracy"} <= set(log.Tags()["scalars"])
    assert log.Tags()["images"] == ["confusion"]
    (text,) = log.Tensors("recipe/text_summary")
    assert b"phases.0.train: head" in text.tensor_proto.string_val[0]


@pytest.mark.extras
def test_mlflow_reads_scalars_parameters_image_and_files(logged: tuple) -> None:
    mlflow = pytest.importorskip("mlflow")

    _, address, history = logged
    client = mlflow.MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("tlcli")
    found = {entry.info.run_name: entry for entry in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"first", "second"}
    entry = found["second"]
    assert entry.info.status == "FINISHED"
    metrics = client.get_metric_history(entry.info.run_id, "val/accuracy")
    assert [(metric.step, metric.value) for metric in metrics] == [
        (n, pytest.approx(float(row["val_accuracy"]))) for n, row in enumerate(history, start=1)
    ]
    assert entry.data.params["phases.0.train"] == "head"
    assert entry.data.params["seed"] == "0"
    names = {file.path for file in client.list_artifacts(entry.info.run_id, "run")}
    assert {"run/model.keras", "run/run.json", "run/labels.txt"} <= names
    assert "confusion.png" in {file.path for file in client.list_artifacts(entry.info.run_id)}


@pytest.mark.extras
def test_a_server_that_is_away_is_one_error_before_training(
    tlcli: Callable, photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = tlcli("finetune", photos, "-r", tiny, "-o", tmp_path / "run", "--log", "mlflow")
    assert result.code == 2
    assert "--log mlflow: MLflow does not answer" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_library_is_one_error_before_training(
    tlcli: Callable, photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in (("tensorboard", "tensorboardX"), ("mlflow", "mlflow")):
        monkeypatch.setitem(sys.modules, module, None)
        result = tlcli("finetune", photos, "-r", tiny, "-o", tmp_path / "run", "--log", name)
        assert result.code == 2
        assert f"pip install 'tlcli[{name}]'" in result.stderr
        assert not (tmp_path / "run").exists()


def test_a_log_that_fails_does_not_end_the_training() -> None:
    from tlcli.report.logs import RunLogs
    from tlcli.train.events import Event, FolderMade, Noticed

    class FullDisk:
        def begin(self, *_: object) -> None:
            raise OSError("no space left")

    events: list[Event] = []
    logs = RunLogs({"tensorboard": FullDisk()}, {}, events.append)  # type: ignore[dict-item]
    logs(FolderMade("somewhere"))
    assert [type(event) for event in events] == [Noticed, FolderMade]
    assert "--log tensorboard stopped: no space left" in str(events[0])
    assert not logs.logs


def test_logs_refuse_a_comparison(tlcli: Callable, photos: Path) -> None:
    result = tlcli("finetune", photos, "--compare", "head-only,two-phase", "--log", "mlflow")
    assert result.code == 2
    assert "--log: logs one run" in result.stderr


def test_the_confusion_matrix_is_darkest_where_the_images_are() -> None:
    image = draw_confusion([[9, 0], [0, 7]], ["<b>$x", "\u202e$y"])
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert (image.astype(int).std(axis=2) > 30).mean() > 0.05, "no blue field is drawn"
    assert draw_confusion(np.eye(200).tolist(), [str(n) for n in range(200)]).shape[0] < 1000
