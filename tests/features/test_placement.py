"""Placement, decided from numbers alone: the highest cut point within the cache budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.features import placement
from tlcli.features.placement import AUTO_VIEWS, ImageCounts, Placement
from tlcli.model.layer_groups import Layer, LayerGroup, LayerGroups
from tlcli.recipe import fields
from tlcli.recipe.schema import Recipe

# Bytes of one image at the end of each group, from the bottom. The end of block2 is not a cut point.
BYTES = {"stem": 4000, "block1": 2000, "block2": 1000, "block3": 1600, "top": 400}
CHANNELS = 10
NAMES = tuple(BYTES)
COUNTS = ImageCounts(images=100, train=60)


def groups(*, cut: tuple[str, ...] = ("stem", "block1", "block3", "top")) -> LayerGroups:
    """Groups of one layer each; the output has ten channels."""
    invented = [
        LayerGroup(
            name=name,
            layers=(Layer(name, "conv", parameters=4, trainable_parameters=2),),
            boundary=f"{name}_end",
            is_cut_point=name in cut,
            output_shape=(1, size // 4 // CHANNELS, CHANNELS),
            flops=1,
        )
        for name, size in BYTES.items()
    ]
    return LayerGroups("invented", (8, 8), tuple(invented))


def recipe(budget: str = "8GB", *, cache: str = "auto", epochs: int = 10, pooling: str = "avg", **augment) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "augment": {"preset": "none", **augment},
            "head": {"pooling": pooling},
            "phases": [{"name": "p", "train": "all", "epochs": epochs}],
            "performance": {"cache": cache, "cache_budget": budget},
        }
    )


def place(
    trained: tuple[str, ...], recipe: Recipe, layer_groups: LayerGroups | None = None, counts: ImageCounts = COUNTS
) -> Placement:
    return placement.placement_of(recipe, recipe.phases[0].max_epochs, trained, layer_groups or groups(), counts)


@pytest.mark.parametrize(
    ("trained", "name", "size"),
    [
        ((), "pooled", 40),
        (("top",), "block3", 1600),
        (("block3", "top"), "block1", 2000),
        (("block2", "block3", "top"), "block1", 2000),
        (("block1",), "stem", 4000),
        (("block1", "block3"), "stem", 4000),
    ],
)
def test_the_highest_cut_point_is_chosen(trained, name, size):
    placed = place(trained, recipe())
    assert (placed.name, placed.views, placed.bytes, placed.reason) == (name, 1, 100 * size, "")
    assert placed.is_stored
    assert placed.is_pooled == (name == "pooled")
    # The pooled features are above all groups.
    assert placed.group is not None
    assert placed.group.name == ("top" if placed.is_pooled else name)


@pytest.mark.parametrize("trained", [NAMES, ("stem",), ("stem", "top")])
def test_nothing_is_stored_if_the_lowest_group_is_trained(trained):
    assert place(trained, recipe()) == Placement(None, False, 0, 0, "")
    assert place(trained, recipe()).name == "pixels"
    assert not place(trained, recipe()).is_stored


def test_a_network_without_cut_points_gives_a_reason():
    uncut = groups(cut=("top",))
    assert place((), recipe(), uncut).name == "pooled"
    placed = place(("top",), recipe(), uncut)
    assert (placed.name, placed.views, placed.reason) == (
        "pixels",
        0,
        "the network has no cut point below the trained layers",
    )


def test_both_poolings_together_need_twice_the_space():
    assert place((), recipe(pooling="avg_max")).bytes == 2 * place((), recipe(pooling="avg")).bytes == 2 * 100 * 40


def test_only_training_images_have_augmented_views():
    """The plain view exists for all images, because scoring needs it."""
    placed = place(("top",), recipe(preset="light", views=3))
    assert (placed.views, placed.bytes) == (3, 1600 * (100 + 2 * 60))


@pytest.mark.parametrize(
    ("budget", "name", "views", "reason"),
    [
        ("1MB", "block3", 4, ""),
        # 100 plain and 3 × 60 augmented images of 1600 bytes.
        ("448kB", "block3", 4, ""),
        ("447kB", "stem", 4, ""),
        ("112kB", "stem", 4, ""),
        ("111kB", "stem", 3, "4 views exceed the cache budget"),
        ("88kB", "stem", 3, "4 views exceed the cache budget"),
        ("87kB", "stem", 2, "4 views exceed the cache budget"),
        ("64kB", "stem", 2, "4 views exceed the cache budget"),
        ("63kB", "block3", 0, "the features exceed the cache budget of 63kB"),
    ],
)
def test_a_budget_lowers_the_cut_point_then_the_views_then_stores_nothing(budget, name, views, reason):
    """The output of the stem is smaller than that of higher groups."""
    widening = [
        LayerGroup(group.name, group.layers, group.boundary, group.is_cut_point, (size // 4,), 1)
        for group, size in zip(groups(), (400, 2000, 1000, 1600, 400), strict=True)
    ]
    placed = place(("top",), recipe(budget, preset="light", views=4), LayerGroups("widening", (8, 8), tuple(widening)))
    assert (placed.name, placed.views, placed.reason) == (name, views, reason)
    assert placed.bytes <= fields.bytes_of(budget)
    assert placed.is_stored == (views > 0)


def test_nothing_is_stored_if_pooled_features_exceed_the_budget():
    placed = place((), recipe("3kB"))
    assert (placed.name, placed.views, placed.bytes) == ("top", 0, 0)
    assert placed.reason == "the features exceed the cache budget of 3kB"
    assert place((), recipe("4kB")).name == "pooled"


def test_outputs_of_open_size_are_not_stored():
    sized = groups()
    open_sized = LayerGroup("top", sized["top"].layers, "top_end", True, (None, None, CHANNELS), 1)
    unsized = LayerGroups("open", (8, 8), (*sized.groups[:-1], open_sized))
    assert place((), recipe(), unsized).name == "pooled"
    assert place((), recipe("3kB"), unsized).views == 0


@pytest.mark.parametrize("trained", [(), ("top",)])
def test_mixup_and_cache_off_and_live_views_store_nothing(trained):
    below = "top" if not trained else "block3"
    mixed = place(trained, recipe(mixup=0.2))
    assert (mixed.name, mixed.views, mixed.bytes) == (below, 0, 0)
    assert "mixup" in mixed.reason
    for spec in (recipe(cache="off"), recipe(cache="off", mixup=0.2), recipe(preset="light", views="live")):
        placed = place(trained, spec)
        assert (placed.name, placed.is_pooled, placed.views, placed.bytes, placed.reason) == (below, False, 0, 0, "")


def test_training_from_the_pixels_needs_no_reason_with_mixup():
    assert place(NAMES, recipe(mixup=0.2)).reason == ""


@pytest.mark.parametrize(
    ("augment", "epochs", "head", "backbone"),
    [
        ({}, 10, 1, 1),
        ({"views": 5}, 10, 1, 1),
        ({"preset": "light"}, 10, 1, AUTO_VIEWS),
        ({"preset": "light"}, 5, 1, AUTO_VIEWS),
        ({"preset": "light"}, 4, 1, 1),
        ({"preset": "light", "views": 5}, 10, 5, 5),
        ({"preset": "light", "views": 5}, 3, 3, 3),
        ({"preset": "light", "views": 1}, 3, 1, 1),
        ({"preset": "light", "views": "live"}, 3, 0, 0),
    ],
)
def test_the_number_of_views_follows_from_recipe_and_epochs(augment, epochs, head, backbone):
    spec = recipe(epochs=epochs, **augment)
    assert (place((), spec).views, place(("top",), spec).views) == (head, backbone)


def test_a_probe_without_epochs_has_one_view():
    spec = recipe(preset="light", views=5)
    assert placement.stored_views(spec.augment, 0, is_head=True) == 1


@given(
    trained=st.sets(st.sampled_from(NAMES)),
    cut=st.sets(st.sampled_from(NAMES[:-1])),
    budget=st.integers(0, 2_000_000),
    views=st.sampled_from(["auto", "live", 1, 2, 3, 8]),
    epochs=st.integers(1, 12),
    preset=st.sampled_from(["none", "light"]),
    train=st.integers(1, 300),
    others=st.integers(0, 300),
)
def test_any_placement_is_consistent(trained, cut, budget, views, epochs, preset, train, others):
    """Stored features fit the budget, are below the trained layers, and improve with a larger budget."""
    layer_groups, counts = groups(cut=(*cut, "top")), ImageCounts(train + others, train)
    spec = recipe(f"{budget}B", epochs=epochs, preset=preset, views=views)
    placed = place(tuple(trained), spec, layer_groups, counts)
    assert placed.views <= epochs
    if placed.is_stored:
        assert 0 < placed.bytes <= budget
        below = layer_groups.names[: layer_groups.names.index(placed.group.name) + 1]
        assert not trained & set(below)
        assert placed.is_pooled or placed.group.is_cut_point
    else:
        assert (placed.bytes, placed.is_pooled) == (0, False)
    more = place(tuple(trained), recipe("1TB", epochs=epochs, preset=preset, views=views), layer_groups, counts)
    assert more.views >= placed.views
    assert (more.group, more.reason) == (
        layer_groups.cut_below(trained),
        "" if more.group or "stem" in trained else more.reason,
    )
    assert more.is_pooled == (more.is_stored and not trained)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1B", 1),
        ("12 B", 12),
        ("1.5kB", 1500),
        ("1.5 KB", 1500),
        ("2MB", 2 * 10**6),
        ("8GB", 8 * 10**9),
        ("0.5TB", 5 * 10**11),
    ],
)
def test_sizes(text, size):
    assert fields.bytes_of(text) == size
    assert recipe(text).performance.cache_budget == text
