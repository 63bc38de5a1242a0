"""Shared fixtures: a tiny network, its images, and an observer."""

import pytest
from laboratory import cells_lab, lab, recorder

from tlcli.train import checkpoint

__all__ = ["cells_lab", "lab", "recorder"]


@pytest.fixture(autouse=True)
def _a_checkpoint_after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
