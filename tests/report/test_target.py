"""Facts about a network: only what its card, file or run states."""

from dataclasses import replace
from pathlib import Path

import pytest

from tlcli.model import graph
from tlcli.report.target import InspectOptions, Target, find_target, network_facts


@pytest.fixture
def card() -> Target:
    return find_target("mobilenet_v2", InspectOptions())


def test_the_published_accuracy_holds_only_for_the_published_width(card: Target) -> None:
    assert network_facts(card)["imagenet_top1"] == 0.713
    assert network_facts(replace(card, arguments={"alpha": 0.35}))["imagenet_top1"] is None
    synthetic = find_target("mobilenet_synthetic", InspectOptions())
    assert network_facts(replace(synthetic, arguments={"alpha": 0.4375}))["arguments"] == {"alpha": 0.4375}


def test_outputs_of_a_foreign_file_are_counted_without_names(tmp_path: Path) -> None:
    import keras

    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(image))
    model = keras.Model(image, keras.layers.Dense(7)(keras.layers.Dense(5)(x)))
    model.save(tmp_path / "whole.keras")
    model.save(tmp_path / "whole.h5")
    keras.Model(image, x).save(tmp_path / "features.keras")

    for file, outputs in (("whole.keras", 7), ("whole.h5", 7), ("features.keras", None)):
        facts = network_facts(find_target(str(tmp_path / file), InspectOptions(measure=graph.measure_groups)))
        assert (facts["kind"], facts["classes"], facts["outputs"]) == ("file", None, outputs)
        assert (facts["preprocessing"], facts["expects"], facts["imagenet_top1"]) == (None, None, None)
        assert len(facts["sha256"]) == 64


def test_a_convolution_can_be_the_head(tmp_path: Path) -> None:
    """Above the pooling, as in MobileNet, or below it, as in SqueezeNet."""
    import keras
    from keras import layers

    image = keras.Input((8, 8, 3))
    body = layers.Conv2D(6, 3)(image)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(body)
    above = layers.Softmax()(layers.Reshape((7,))(layers.Conv2D(7, 1)(layers.Dropout(0.1)(pooled))))
    below = layers.Activation("softmax")(layers.GlobalAveragePooling2D()(layers.Conv2D(5, 1)(body)))
    for name, output, outputs in (("above", above, 7), ("below", below, 5), ("none", pooled, None)):
        keras.Model(image, output).save(tmp_path / f"{name}.keras")
        target = find_target(str(tmp_path / f"{name}.keras"), InspectOptions(measure=graph.measure_groups))
        assert network_facts(target)["outputs"] == outputs
