"""Cards: what is written is found again, whatever the words in it; nothing is replaced unasked."""

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

ACCOUNT = TrainingSummary(
    method="by hand",
    data="40 pictures: 'a' # \"b\", {c} π",
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
    made = tiny_backbone()
    groups = (GroupPattern(name="stem", pattern=r"stem_(\d+)?.*"), GroupPattern(name="top{1}", pattern=r"top(\w).*"))
    return replace(made, card=made.card.model_copy(update={"groups": groups, "arguments": {"alpha": 0.5}}))


def test_what_is_written_is_found_again(backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "mine.v2.yaml"
    made = card.write_card(out, backbone.network, base=backbone.card, account=ACCOUNT)
    assert catalogue.find(str(out)) == made
    assert (made.name, made.data, made.licence) == ("mine.v2", ACCOUNT.data, "CC0-1.0")
    assert (made.source, made.arguments, made.groups) == ("keras:Tiny", {"alpha": 0.5}, backbone.card.groups)
    assert (made.size, made.min_size, made.preprocessing) == (16, 8, "tf")
    assert made.parameters == backbone.network.count_params()
    assert made.imagenet_top1 is None
    weights = tmp_path / "mine.v2.weights.h5"
    assert made.weights == str(weights)
    assert made.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert sorted(tmp_path.iterdir()) == sorted(request.all_of(out))


def test_a_card_without_groups(backbone: Backbone, tmp_path: Path) -> None:
    base = backbone.card.model_copy(update={"groups": (), "arguments": {}})
    made = card.write_card(tmp_path / "mine.yaml", backbone.network, base=base, account=ACCOUNT)
    assert (made.groups, made.arguments) == ((), {})


def test_the_page_tells_all_of_the_account(backbone: Backbone, tmp_path: Path) -> None:
    card.write_card(tmp_path / "mine.yaml", backbone.network, base=backbone.card, account=ACCOUNT)
    text = (tmp_path / "mine.md").read_text(encoding="utf-8")
    told = ["by hand", ACCOUNT.data, "CC0-1.0", ACCOUNT.command, "Seed 7", "200, repetitions counted, in 12 steps"]
    for part in [*told, "| loss | 1 |", "| accuracy | 0.75 |", "| top-5 | 0.9 |", "Not for the dark.", "alpha=0.5"]:
        assert part in text
    assert "spread" not in text


def test_half_the_bytes_on_request(backbone: Backbone, tmp_path: Path) -> None:
    card.write_card(tmp_path / "mine.yaml", backbone.network, base=backbone.card, account=ACCOUNT, half=True)
    kinds: set[tuple[int, str]] = set()
    with h5py.File(tmp_path / "mine.weights.h5") as file:
        file.visititems(
            lambda _, item: kinds.add((item.ndim, str(item.dtype))) if isinstance(item, h5py.Dataset) else None
        )
    assert kinds == {(4, "float16"), (1, "float32")}
    assert "float16" in (tmp_path / "mine.md").read_text(encoding="utf-8")


def test_nothing_is_replaced_unasked(backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    for path in request.all_of(out):
        path.write_text("mine", encoding="utf-8")
        with pytest.raises(OutputError, match=rf"{path.name}: already exists.*--overwrite"):
            card.write_card(out, backbone.network, base=backbone.card, account=ACCOUNT)
        assert path.read_text(encoding="utf-8") == "mine"
        path.unlink()
    first = card.write_card(out, backbone.network, base=backbone.card, account=ACCOUNT)
    backbone.network.set_weights([weight + np.float32(1) for weight in backbone.network.get_weights()])
    second = card.write_card(out, backbone.network, base=backbone.card, account=ACCOUNT, overwrite=True)
    assert first.sha256 != second.sha256
    assert catalogue.find(str(out)) == second


def test_a_write_that_fails_leaves_no_card(backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    card.write_card(out, backbone.network, base=backbone.card, account=ACCOUNT)
    with pytest.raises(IndexError):
        card.write_card(out, backbone.network, base=backbone.card, account=replace(ACCOUNT, points=()), overwrite=True)
    assert not out.exists(), "a card beside weights that are not its own"
