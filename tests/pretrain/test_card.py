"""Cards: a written card loads unchanged, whatever its text; existing files are replaced only with `overwrite`."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tlcli.errors import OutputError
from tlcli.model.backbone import Backbone
from tlcli.pretrain import card, request
from tlcli.pretrain.card import Point, TrainingSummary
from tlcli.zoo import catalogue
from tlcli.zoo.card import GroupPattern

SUMMARY = TrainingSummary(
    method="by hand",
    data="40 images: 'a' # \"b\", {c} π",
    licence="CC0-1.0",
    command="tlcli pretrain --synthetic --out mine.yaml",
    seed=7,
    steps=12,
    points=(Point(100, 1.5, 3.0, 0.25), Point(200, 2.5, 1.0, 0.75)),
    scores={"top-5": 0.9},
    limits=("Not for the dark.",),
)


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    tiny = tiny_backbone()
    groups = (GroupPattern(name="stem", pattern=r"stem_(\d+)?.*"), GroupPattern(name="top{1}", pattern=r"top(\w).*"))
    return replace(tiny, card=tiny.card.model_copy(update={"groups": groups, "arguments": {"alpha": 0.5}}))


def test_a_written_card_loads_unchanged(backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "mine.v2.yaml"
    written = card.write_card(out, backbone.network, base=backbone.card, summary=SUMMARY)
    assert catalogue.find(str(out)) == written
    assert (written.name, written.data, written.licence) == ("mine.v2", SUMMARY.data, "CC0-1.0")
    assert (written.source, written.arguments, written.groups) == ("keras:Tiny", {"alpha": 0.5}, backbone.card.groups)
    assert (written.size, written.min_size, written.preprocessing) == (16, 8, "tf")
    assert written.parameters == backbone.network.count_params()
    assert written.imagenet_top1 is None
    weights = tmp_path / "mine.v2.weights.h5"
    assert written.weights == str(weights)
    assert written.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert sorted(tmp_path.iterdir()) == sorted(request.output_files(out))


def test_a_card_without_groups(backbone: Backbone, tmp_path: Path) -> None:
    base = backbone.card.model_copy(update={"groups": (), "arguments": {}})
    written = card.write_card(tmp_path / "mine.yaml", backbone.network, base=base, summary=SUMMARY)
    assert (written.groups, written.arguments) == ((), {})


def test_the_page_contains_the_whole_summary(backbone: Backbone, tmp_path: Path) -> None:
    card.write_card(tmp_path / "mine.yaml", backbone.network, base=backbone.card, summary=SUMMARY)
    text = (tmp_path / "mine.md").read_text(encoding="utf-8")
    facts = ["by hand", SUMMARY.data, "CC0-1.0", SUMMARY.command, "Seed 7", "200 (repetitions included) in 12 steps"]
    for part in [*facts, "| loss | 1 |", "| accuracy | 0.75 |", "| top-5 | 0.9 |", "Not for the dark.", "alpha=0.5"]:
        assert part in text
    assert "spread" not in text


def test_half_stores_kernels_as_float16(backbone: Backbone, tmp_path: Path) -> None:
    card.write_card(tmp_path / "mine.yaml", backbone.network, base=backbone.card, summary=SUMMARY, half=True)
    kinds: set[tuple[int, str]] = set()
    with h5py.File(tmp_path / "mine.weights.h5") as file:
        file.visititems(
            lambda _, item: kinds.add((item.ndim, str(item.dtype))) if isinstance(item, h5py.Dataset) else None
        )
    assert kinds == {(4, "float16"), (1, "float32")}
    assert "float16" in (tmp_path / "mine.md").read_text(encoding="utf-8")


def test_existing_files_are_replaced_only_with_overwrite(backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    for path in request.output_files(out):
        path.write_text("mine", encoding="utf-8")
        with pytest.raises(OutputError, match=rf"{path.name}: already exists.*--overwrite"):
            card.write_card(out, backbone.network, base=backbone.card, summary=SUMMARY)
        assert path.read_text(encoding="utf-8") == "mine"
        path.unlink()
    first = card.write_card(out, backbone.network, base=backbone.card, summary=SUMMARY)
    backbone.network.set_weights([weight + np.float32(1) for weight in backbone.network.get_weights()])
    second = card.write_card(out, backbone.network, base=backbone.card, summary=SUMMARY, overwrite=True)
    assert first.sha256 != second.sha256
    assert catalogue.find(str(out)) == second


def test_a_failed_write_leaves_no_card(backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    card.write_card(out, backbone.network, base=backbone.card, summary=SUMMARY)
    with pytest.raises(IndexError):
        card.write_card(out, backbone.network, base=backbone.card, summary=replace(SUMMARY, points=()), overwrite=True)
    assert not out.exists(), "an old card beside new weights"
