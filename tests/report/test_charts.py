"""Charts: axes that suit their values."""

import pytest

from tlcli.report.charts import learning_charts


@pytest.mark.parametrize(("accuracy", "first"), [(1.0, "90%"), (0.89, "87.5%"), (0.31, "20%")])
def test_an_axis_of_accuracy_ends_at_100_percent(accuracy, first):
    step = {"step": "head", "kept": True, "epochs": 0, "loss_before": 0.5, "val_loss": 0.4}
    _, chart = learning_charts([step | {"accuracy_before": accuracy, "val_accuracy": accuracy}], [])
    ticks = [text for _, text in chart.y_ticks]
    assert (ticks[0], ticks[-1]) == (first, "100%")
