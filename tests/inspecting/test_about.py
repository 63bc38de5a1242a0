"""The header states what is stated, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from tlcli.inspecting.about import about
from tlcli.inspecting.target import Target, Wish, find


@pytest.fixture
def card() -> Target:
    return find("mobilenet_v2", Wish())


def test_accuracy_is_of_the_published_width_only(card: Target) -> None:
    assert about(card)["imagenet_top1"] == 0.713
    assert about(replace(card, arguments={"alpha": 0.35}))["imagenet_top1"] is None
    drawn = find("drawn", Wish())
    assert about(replace(drawn, arguments={"alpha": 0.4375}))["arguments"] == {"alpha": 0.4375}


def test_outputs_of_a_foreign_file_are_counted_without_names(tmp_path: Path) -> None:
    import keras

    picture = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(picture))
    model = keras.Model(picture, keras.layers.Dense(7)(keras.layers.Dense(5)(x)))
    model.save(tmp_path / "whole.keras")
    model.save(tmp_path / "whole.h5")
    keras.Model(picture, x).save(tmp_path / "features.keras")
    from tlcli.model import measure

    for file, outputs in (("whole.keras", 7), ("whole.h5", 7), ("features.keras", None)):
        told = about(find(str(tmp_path / file), Wish(measure=measure.layer_groups)))
        assert (told["kind"], told["classes"], told["outputs"]) == ("file", None, outputs)
        assert (told["preprocessing"], told["expects"], told["imagenet_top1"]) == (None, None, None)
        assert len(told["sha256"]) == 64
