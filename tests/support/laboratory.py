"""Shared fixtures: a tiny network with all relevant kinds of layers, and images it learns in seconds."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tlcli.data.pixels import Examples
from tlcli.features.extraction import FeatureCache
from tlcli.model import graph
from tlcli.model.backbone import Backbone, weights_sha256
from tlcli.model.classifier import Classifier, assemble
from tlcli.model.layer_groups import LayerGroups
from tlcli.recipe.fields import bytes_of
from tlcli.recipe.schema import Recipe
from tlcli.train import events, policy
from tlcli.train.checkpoint import Checkpoint
from tlcli.train.session import Session
from tlcli.zoo.card import GroupPattern, ModelCard

SIDE = 12
CLASSES = ("dim", "red", "striped")
CARD = ModelCard(
    name="tiny",
    source="file:tiny.keras",
    title="Tiny",
    size=SIDE,
    min_size=8,
    preprocessing="tf",
    licence="x",
    groups=(
        GroupPattern(name="stem", pattern="stem_.*"),
        GroupPattern(name="block{1}", pattern=r"block(\d).*"),
        GroupPattern(name="top", pattern="top_.*"),
    ),
)


def network(side: int = SIDE) -> keras.Model:
    """Four groups with BatchNorm: plain, a nested Sequential as in ConvNeXt, a residual with dropout, plain."""
    layers = keras.layers
    image = keras.Input((side, side, 3), name="input")
    x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(image)
    # 0.999 is the momentum of the networks in the zoo.
    x = layers.BatchNormalization(momentum=0.999, name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    inner = [
        layers.Conv2D(6, 3, strides=2, padding="same", name="block1_conv"),
        layers.BatchNormalization(momentum=0.999, name="block1_bn"),
    ]
    below = layers.ReLU(name="block1_relu")(keras.Sequential(inner, name="block1_nested")(x))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="block2_conv")(
        layers.Dropout(0.1, seed=0, name="block2_drop")(below)
    )
    x = layers.BatchNormalization(momentum=0.5, name="block2_bn")(x)
    x = layers.ReLU(name="block2_relu")(layers.Add(name="block2_add")([below, x]))
    x = layers.Conv2D(8, 1, use_bias=False, name="top_conv")(x)
    x = layers.BatchNormalization(momentum=0.999, name="top_bn")(x)
    return keras.Model(image, layers.ReLU(name="top_relu")(x), name="tiny")


def cells(side: int = SIDE) -> keras.Model:
    """The same groups as cells that read the outputs of the two cells below, as in NASNet."""
    layers = keras.layers

    def normed(name: str, x: keras.KerasTensor, size: int, stride: int) -> keras.KerasTensor:
        x = layers.Conv2D(6, size, strides=stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
        return layers.BatchNormalization(momentum=0.999, name=f"{name}_bn")(x)

    image = keras.Input((side, side, 3), name="input")
    below = layers.ReLU(name="stem_relu")(normed("stem", image, 3, 2))
    x = layers.ReLU(name="block1_relu")(normed("block1", below, 3, 2))
    for name in ("block2", "top"):
        fitted = normed(f"{name}_fit", below, 1, below.shape[1] // x.shape[1])
        both = layers.Concatenate(name=f"{name}_both")([normed(name, x, 3, 1), fitted])
        x, below = both, x
    return keras.Model(image, layers.ReLU(name="relu")(x), name="cells")


def random_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (count, side, side, 3), and their labels; the classes overlap."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    pixels = random.normal(110.0, 45.0, (count, SIDE, SIDE, 3))
    pixels[labels == 0] -= 20
    pixels[labels == 1, ..., 0] += 30
    pixels[labels == 2, ::2] += 25
    return np.clip(pixels, 0, 255).astype(np.uint8), labels.astype(np.int64)


@dataclass
class Recorder:
    """An observer that records all events and can interrupt the run as a user would."""

    interrupt_when: Callable[[events.Event], bool] = lambda event: False
    recorded: list[events.Event] = field(default_factory=list)

    def __call__(self, event: events.Event) -> None:
        self.recorded.append(event)
        if self.interrupt_when(event):
            raise KeyboardInterrupt

    def of(self, kind: type) -> list[Any]:
        """The recorded events of one type."""
        return [event for event in self.recorded if isinstance(event, kind)]


@dataclass
class Lab:
    """Builds recipes, classifiers and sessions. Sessions share nothing but the images.

    Attributes:
        groups: Layer groups of the network.
        train: Training images.
        val: Validation images.
        empty: No images.
        contents: SHA-256 of each row of the pixel cache.
        network: From the side of the input, pixels, to a new network.
    """

    groups: LayerGroups
    train: Examples
    val: Examples
    empty: Examples
    contents: list[str]
    network: Callable[[int], keras.Model] = network

    def recipe(self, *phases: dict[str, Any], **sections: Any) -> Recipe:
        """A recipe whose only randomness is the order of the images; `sections` replace the defaults."""
        defaults = {
            "name": "lab",
            "head": {"dropout": 0.0},
            "augment": {"preset": "none"},
            "performance": {"batch": 16},
            "optimizer": {"name": "sgd", "lr": 0.1},
        }
        named = [{"name": f"phase{index}", "epochs": 1, **phase} for index, phase in enumerate(phases)]
        return Recipe.model_validate({**defaults, **sections, "phases": named})

    def classifier(
        self, recipe: Recipe, *, seed: int = 0, side: int = SIDE, preprocessing: str = "tf", resize: str = "crop"
    ) -> Classifier:
        """A classifier with random weights, whose BatchNorm statistics differ by layer as in a trained network."""
        keras.utils.set_random_seed(seed)
        built = self.network(side)
        random = np.random.default_rng(seed)
        for layer in (layer for layer in built._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)):
            ranges = ((0.5, 1.5), (-0.2, 0.2), (-0.2, 0.2), (0.2, 0.6))
            layer.set_weights([random.uniform(*limits, layer.gamma.shape) for limits in ranges])
        card = CARD.model_copy(update={"preprocessing": preprocessing})
        backbone = Backbone(card, built, (side, side), "random", weights_sha256(built))
        return assemble(backbone, recipe.head, classes=CLASSES, resize=resize)

    def session(
        self,
        recipe: Recipe,
        run: Path,
        *,
        observe: events.Observer = events.ignore,
        seed: int = 0,
        has_val: bool = True,
    ) -> Session:
        """A session with new weights, as in a new process."""
        run.mkdir(exist_ok=True)
        val = self.val if has_val else self.empty
        classifier = self.classifier(recipe, seed=seed)
        feature_cache = FeatureCache(run / "activations", bytes_of(recipe.performance.cache_budget), self.contents)
        return Session(
            recipe, classifier, self.groups, self.train, val, self.empty, feature_cache, Checkpoint(run), observe
        )

    def shrink_features(self, session: Session) -> None:
        """Make the features of the network as small as those of an untrained deep one."""
        norm = session.classifier.model.get_layer("top_bn")
        for weight in (norm.gamma, norm.beta):
            weight.assign(weight * 1e-18)

    def entered(self, session: Session) -> Session:
        """The session after entering its first step."""
        step = policy.next_step(session.recipe.phases, self.groups, [])
        assert step is not None
        session.enter(step)
        return session


@pytest.fixture(scope="session")
def lab() -> Lab:
    pixels, labels = random_images(74, seed=1)
    # The rows of a real pixel cache are in another order than the images.
    rows = np.random.default_rng(2).permutation(len(labels))
    cache = np.empty_like(pixels)
    cache[rows] = pixels
    parts = [Examples(cache, rows[part], labels[part]) for part in (slice(0, 42), slice(42, 74), slice(0, 0))]
    groups = graph.groups_of(network(), CARD, (SIDE, SIDE))
    contents = [hashlib.sha256(image.tobytes()).hexdigest() for image in cache]
    return Lab(groups, *parts, contents)


@pytest.fixture(scope="session")
def cells_lab(lab: Lab) -> Lab:
    return replace(lab, groups=graph.groups_of(cells(), CARD, (SIDE, SIDE)), network=cells)


@pytest.fixture(scope="session")
def recorder() -> type[Recorder]:
    return Recorder
