"""Where a step begins, decided from numbers alone: the highest frontier that the budget holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.features import placement
from tlcli.features.placement import AUTO_VIEWS, ImageCounts, Placement
from tlcli.model.groups import Layer, LayerGroup, LayerGroups
from tlcli.recipe import fields
from tlcli.recipe.schema import Recipe

# Bytes of an image at each frontier, from the bottom; block2 ends where another path passes it by.
BYTES = {"stem": 4000, "block1": 2000, "block2": 1000, "block3": 1600, "top": 400}
CHANNELS = 10
NAMES = tuple(BYTES)
COUNTS = ImageCounts(images=100, train=60)


def groups(*, cut: tuple[str, ...] = ("stem", "block1", "block3", "top")) -> LayerGroups:
    """Each of one layer of its own name; the output has ten channels."""
    made = [
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
    return LayerGroups("invented", (8, 8), tuple(made))


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


def of(
    trained: tuple[str, ...], made: Recipe, known: LayerGroups | None = None, counts: ImageCounts = COUNTS
) -> Placement:
    return placement.placement_of(made, made.phases[0], trained, known or groups(), counts)


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
def test_training_begins_as_high_as_it_can(trained, name, size):
    found = of(trained, recipe())
    assert (found.name, found.views, found.bytes, found.why) == (name, 1, 100 * size, "")
    assert found.is_stored
    assert found.pooled == (name == "pooled")
    # The pooled features are above all groups.
    assert found.group is not None
    assert found.group.name == ("top" if found.pooled else name)


@pytest.mark.parametrize("trained", [NAMES, ("stem",), ("stem", "top")])
def test_where_the_lowest_group_learns_nothing_can_be_stored(trained):
    assert of(trained, recipe()) == Placement(None, False, 0, 0, "")
    assert of(trained, recipe()).name == "pixels"
    assert not of(trained, recipe()).is_stored


def test_a_network_without_frontiers_says_that_it_cannot_be_cut():
    known = groups(cut=("top",))
    assert of((), recipe(), known).name == "pooled"
    found = of(("top",), recipe(), known)
    assert (found.name, found.views, found.why) == ("pixels", 0, "the network cannot be cut below what is trained")


def test_pooled_features_of_both_kinds_take_twice_as_much():
    assert of((), recipe(pooling="avg_max")).bytes == 2 * of((), recipe(pooling="avg")).bytes == 2 * 100 * 40


def test_only_training_images_have_random_renderings():
    """The plain one is of all images, since scoring needs it."""
    found = of(("top",), recipe(preset="light", views=3))
    assert (found.views, found.bytes) == (3, 1600 * (100 + 2 * 60))


@pytest.mark.parametrize(
    ("budget", "name", "views", "why"),
    [
        ("1MB", "block3", 4, ""),
        # 100 plain and 3 × 60 random renderings of 1600 bytes.
        ("448kB", "block3", 4, ""),
        ("447kB", "stem", 4, ""),
        ("112kB", "stem", 4, ""),
        ("111kB", "stem", 3, "4 views take more than the budget"),
        ("88kB", "stem", 3, "4 views take more than the budget"),
        ("87kB", "stem", 2, "4 views take more than the budget"),
        ("64kB", "stem", 2, "4 views take more than the budget"),
        ("63kB", "block3", 0, "stored activations take more than 63kB"),
    ],
)
def test_a_budget_lowers_the_frontier_then_the_renderings_then_stores_nothing(budget, name, views, why):
    """In a network whose output is smaller at its stem than further up."""
    made = [
        LayerGroup(group.name, group.layers, group.boundary, group.is_cut_point, (size // 4,), 1)
        for group, size in zip(groups(), (400, 2000, 1000, 1600, 400), strict=True)
    ]
    found = of(("top",), recipe(budget, preset="light", views=4), LayerGroups("widening", (8, 8), tuple(made)))
    assert (found.name, found.views, found.why) == (name, views, why)
    assert found.bytes <= fields.bytes_of(budget)
    assert found.is_stored == (views > 0)


def test_a_head_whose_pooled_features_are_too_many_is_trained_live():
    found = of((), recipe("3kB"))
    assert (found.name, found.views, found.bytes) == ("top", 0, 0)
    assert found.why == "stored activations take more than 3kB"
    assert of((), recipe("4kB")).name == "pooled"


def test_a_frontier_of_unknown_size_is_not_stored():
    known = groups()
    open_sized = LayerGroup("top", known["top"].layers, "top_end", True, (None, None, CHANNELS), 1)
    known = LayerGroups("open", (8, 8), (*known.groups[:-1], open_sized))
    assert of((), recipe(), known).name == "pooled"
    assert of((), recipe("3kB"), known).views == 0


@pytest.mark.parametrize("trained", [(), ("top",)])
def test_mixup_and_cache_off_and_live_views_store_nothing(trained):
    below = "top" if not trained else "block3"
    mixed = of(trained, recipe(mixup=0.2))
    assert (mixed.name, mixed.views, mixed.bytes) == (below, 0, 0)
    assert "mixup" in mixed.why
    for made in (recipe(cache="off"), recipe(cache="off", mixup=0.2), recipe(preset="light", views="live")):
        found = of(trained, made)
        assert (found.name, found.pooled, found.views, found.bytes, found.why) == (below, False, 0, 0, "")


def test_what_learns_from_the_pixels_on_is_no_matter_of_mixup():
    assert of(NAMES, recipe(mixup=0.2)).why == ""


@pytest.mark.parametrize(
    ("augment", "epochs", "head", "above"),
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
def test_a_head_is_given_the_plain_rendering_and_nobody_more_than_there_are_epochs(augment, epochs, head, above):
    made = recipe(epochs=epochs, **augment)
    assert (of((), made).views, of(("top",), made).views) == (head, above)


def test_a_probe_alone_has_a_rendering():
    made = recipe(preset="light", views=5)
    phase = made.phases[0].model_copy(update={"epochs": 0, "init": "probe"})
    assert placement.stored_views(made.augment, phase, is_head=True) == 1


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
def test_whatever_is_asked_for(trained, cut, budget, views, epochs, preset, train, others):
    """What is stored fits the budget, lies below what learns, and gets no worse with more room."""
    known, counts = groups(cut=(*cut, "top")), ImageCounts(train + others, train)
    made = recipe(f"{budget}B", epochs=epochs, preset=preset, views=views)
    found = of(tuple(trained), made, known, counts)
    assert found.views <= epochs
    if found.is_stored:
        assert 0 < found.bytes <= budget
        below = known.names[: known.names.index(found.group.name) + 1]
        assert not trained & set(below)
        assert found.pooled or found.group.is_cut_point
    else:
        assert (found.bytes, found.pooled) == (0, False)
    more = of(tuple(trained), recipe("1TB", epochs=epochs, preset=preset, views=views), known, counts)
    assert more.views >= found.views
    assert (more.group, more.why) == (known.cut_below(trained), "" if more.group or "stem" in trained else more.why)
    assert more.pooled == (more.is_stored and not trained)


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
