"""The split: stratified, stable, complete, and with images of every class in every split."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.data.source import FolderIndex, ImageFile, scan
from tlcli.data.split import Splits, make_splits, position
from tlcli.errors import DataError

CLASSES = ("a", "b", "c")
FRACTIONS = st.sampled_from([0.0, 0.1, 0.15, 0.3, 0.45])


def image(label: int, content: int, name: str = "", given: str | None = None) -> ImageFile:
    sha = hashlib.sha256(str(content).encode()).hexdigest()
    folder = f"{given}/" if given else ""
    return ImageFile(f"{folder}{CLASSES[label]}/{content}{name}.png", label, sha, 1, given)


def index_of(*images: ImageFile) -> FolderIndex:
    ordered = tuple(sorted(set(images), key=lambda one: one.path))
    return FolderIndex(Path("/data"), CLASSES[: 1 + max(one.label for one in images)], ordered, ())


def split_of(splits: Splits) -> dict[str, str]:
    return {one.path: name for one, name in splits.rows()}


@st.composite
def indexes(draw: st.DrawFn) -> FolderIndex:
    """Two or three classes with at least two contents of their own, copies, and copies in two classes."""
    count = draw(st.integers(2, 3))
    images = []
    for label in range(count):
        own = draw(st.sets(st.integers(0, 10_000), min_size=2, max_size=12))
        images += [image(label, 3 * content + label) for content in own]
    for copied in draw(st.lists(st.sampled_from(images), max_size=5)):
        images.append(ImageFile(copied.path + ".copy.png", copied.label, copied.sha256, 1, None))
    for content in draw(st.sets(st.integers(40_000, 50_000), max_size=3)):
        images += [image(0, content), image(1, content)]
    return index_of(*images)


@given(index=indexes(), val=FRACTIONS, test=FRACTIONS)
def test_every_image_and_every_content_is_in_one_split(index: FolderIndex, val: float, test: float) -> None:
    splits = make_splits(index, val=val, test=test)
    assert [one for one, _ in splits.rows()] == list(index.images)
    assert splits.dropped == ()
    contents = [{one.sha256 for one in images} for images in (splits.train, splits.val, splits.test)]
    assert sum(map(len, contents)) == len(set.union(*contents))


@given(index=indexes(), val=FRACTIONS, test=FRACTIONS)
def test_every_class_has_train_images_and_val_images_if_val_is_on(index: FolderIndex, val: float, test: float) -> None:
    counts = make_splits(index, val=val, test=test).counts()
    assert min(counts["train"]) >= 1
    assert min(counts["val"]) >= (1 if val > 0 else 0)
    assert [sum(column) for column in zip(*counts.values(), strict=True)] == list(index.counts().values())
    if val == 0:
        assert sum(counts["val"]) == 0
    if test == 0:
        assert sum(counts["test"]) == 0


@given(index=indexes(), val=FRACTIONS, test=FRACTIONS, seed=st.randoms())
def test_order_and_names_do_not_matter(index: FolderIndex, val: float, test: float, seed: object) -> None:
    shuffled = list(index.images)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    renamed = [ImageFile(f"{number}.png", one.label, one.sha256, 1, None) for number, one in enumerate(shuffled)]
    before = {(one.sha256, name) for one, name in make_splits(index, val=val, test=test).rows()}
    other = FolderIndex(Path("/else"), index.classes, tuple(renamed), ())
    assert before == {(one.sha256, name) for one, name in make_splits(other, val=val, test=test).rows()}


@given(count=st.integers(3, 60), more=st.integers(1, 5), classes=st.integers(1, 3), val=FRACTIONS, test=FRACTIONS)
def test_added_files_move_only_images_next_to_a_border(
    count: int, more: int, classes: int, val: float, test: float
) -> None:
    images = [image(label, 1000 * label + number) for label in range(classes) for number in range(count)]
    added = [image(0, 5000 + number) for number in range(more)]
    before = split_of(make_splits(index_of(*images), val=val, test=test))
    after = split_of(make_splits(index_of(*images, *added), val=val, test=test))
    moved = [one for one in images if before[one.path] != after[one.path]]
    # An added image pushes at most one image over each of the two borders, and may change what is rounded up.
    assert sum(one.label == 0 for one in moved) <= 2 * more + 4
    assert all(sum(one.label == label for one in moved) <= 4 for label in range(1, classes))
    assert {before[one.path] for one in images if one.label == 0} <= set(after.values())


@given(
    sizes=st.lists(st.integers(3, 40), min_size=2, max_size=3),
    fractions=st.sampled_from([(0.15, 0.15), (0.2, 0.1), (0.15, 0.0), (0.0, 0.25), (0.3, 0.3)]),
)
def test_fractions_are_exact_in_the_whole_set_and_in_every_class(
    sizes: list[int], fractions: tuple[float, float]
) -> None:
    val, test = fractions
    images = [image(label, 1000 * label + number) for label, size in enumerate(sizes) for number in range(size)]
    counts = make_splits(index_of(*images), val=val, test=test).counts()
    for name, fraction in (("val", val), ("test", test)):
        for count, size in zip(counts[name], sizes, strict=True):
            assert abs(count - fraction * size) < 1 or count == 1
            assert count >= (1 if fraction else 0)
        if all(fraction * size >= 1 for size in sizes):
            assert abs(sum(counts[name]) - fraction * sum(sizes)) <= 0.5


def test_the_first_by_hash_are_test_the_next_val() -> None:
    images = [image(0, number) for number in range(20)] + [image(1, 100 + number) for number in range(20)]
    splits = make_splits(index_of(*images), val=0.2, test=0.1)
    ranked = sorted((one for one in images if one.label == 0), key=lambda one: position(one.sha256))
    names = split_of(splits)
    assert [names[one.path] for one in ranked] == ["test"] * 2 + ["val"] * 4 + ["train"] * 14
    assert splits.warnings == ()


def test_classes_of_24_images_get_15_percent_each() -> None:
    splits = make_splits(index_of(*(image(number % 3, number) for number in range(72))), val=0.15, test=0.15)
    assert [sum(counts) for counts in splits.counts().values()] == [50, 11, 11]
    assert sorted(splits.counts()["test"]) == [3, 4, 4]


def test_near_duplicates_stay_together_and_fractions_hold() -> None:
    images = [image(label, 1000 * label + number) for label in (0, 1) for number in range(40)]
    series = [[one.sha256 for one in images[start : start + 4]] for start in range(0, 40, 4)]
    splits = make_splits(index_of(*images), val=0.2, test=0.2, near=series)
    names = {one.sha256: name for one, name in splits.rows()}
    assert all(len({names[sha] for sha in group}) == 1 for group in series)
    assert splits.counts() == {"train": [24, 24], "val": [8, 8], "test": [8, 8]}
    assert splits.warnings == ()


def test_near_duplicates_of_two_classes_are_no_reason_to_stay_together() -> None:
    images = [image(label, 1000 * label + number) for label in (0, 1) for number in range(40)]
    everything = [[one.sha256 for one in (images[number], images[40 + number])] for number in range(40)]
    index = index_of(*images)
    assert make_splits(index, val=0.2, test=0.2, near=everything) == make_splits(index, val=0.2, test=0.2)


def test_series_larger_than_a_split_still_leave_every_split_an_image() -> None:
    images = [image(label, 1000 * label + number) for label in (0, 1) for number in range(9)]
    series = [[one.sha256 for one in images[start : start + 3]] for start in (0, 3, 6)]
    splits = make_splits(index_of(*images), val=0.15, test=0.15, near=series)
    assert [splits.counts()[name][0] for name in ("train", "val", "test")] == [3, 3, 3]


def test_a_class_that_is_one_series_is_divided_with_a_warning() -> None:
    images = [image(label, 1000 * label + number) for label in (0, 1) for number in range(20)]
    series = [one.sha256 for one in images[:15]]
    splits = make_splits(index_of(*images), val=0.2, test=0.2, near=[series])
    assert splits.counts() == {"train": [12, 12], "val": [4, 4], "test": [4, 4]}
    assert splits.warnings == (
        "class a is mostly near-duplicates (the largest series has 15 of its 20 images), which the split has to"
        " divide; its scores are too good. Add other images of the class",
    )


def test_a_recorded_split_is_kept_unless_an_image_is_new() -> None:
    images = [image(label, 1000 * label + number) for label in (0, 1) for number in range(20)]
    index = index_of(*images)
    recorded = {one.sha256: ("val", "test", "train", "train")[number % 4] for number, one in enumerate(images)}
    kept = make_splits(index, val=0.1, test=0.1, recorded=recorded)
    assert {one.sha256: name for one, name in kept.rows()} == recorded
    more = index_of(*images, image(0, 7777))
    assert make_splits(more, val=0.1, test=0.1, recorded=recorded) == make_splits(more, val=0.1, test=0.1)


def test_the_position_of_a_content_never_changes() -> None:
    assert position("00" * 32) == pytest.approx(0.938949, abs=1e-6)


def test_classes_of_two_images_get_a_val_image_and_share_a_warning() -> None:
    images = [image(label, 10 * label + number) for label in (0, 1) for number in range(2)]
    splits = make_splits(index_of(*images, *(image(2, 100 + number) for number in range(3))), val=0.2, test=0.2)
    assert splits.counts() == {"train": [1, 1, 1], "val": [1, 1, 1], "test": [0, 0, 1]}
    assert splits.warnings == (
        "2 classes have no test images; the test score does not cover them: a (2 images in all), b (2 images in all)."
        " Add images, or set data.test",
    )


def test_an_empty_class_of_a_given_test_folder_is_a_warning() -> None:
    splits = make_splits(given_index(image(0, 5000, given="test")), val=0.1, test=0.1)
    assert splits.warnings == (
        "class b has no test images (33 images in all); the test score does not cover it."
        " Add images to the test folder",
    )


def test_copies_in_two_classes_stay_together_and_are_reported() -> None:
    images = [image(label, 10 * number + label) for label in (0, 1) for number in range(10)]
    splits = make_splits(index_of(*images, image(0, 7777), image(1, 7777)), val=0.2, test=0.1)
    assert len({name for path, name in split_of(splits).items() if "7777" in path}) == 1
    assert any("more than one class: a/7777.png = b/7777.png" in warning for warning in splits.warnings)


@pytest.mark.parametrize("val", [0.0, 0.2])
def test_a_class_with_one_different_image_is_an_error(val: float) -> None:
    images = [image(0, 1), image(0, 1, name="copy"), image(0, 9), image(1, 9), image(1, 2), image(1, 3)]
    with pytest.raises(DataError, match="class 'a' has too few different images \\(got 1, at least 2\\)"):
        make_splits(index_of(*images), val=val, test=0.0)


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (1.0, 0.0), (0.5, 0.5), (0.0, 1.5), (float("nan"), 0.1)])
def test_fractions_must_leave_something(val: float, test: float) -> None:
    with pytest.raises(DataError, match="leave nothing to train on"):
        make_splits(index_of(image(0, 1), image(0, 2)), val=val, test=test)


def given_index(*extra: ImageFile) -> FolderIndex:
    train = [image(label, 100 * label + number, given="train") for label in (0, 1) for number in range(30)]
    val = [image(label, 1000 + 100 * label + number, given="val") for label in (0, 1) for number in range(3)]
    return index_of(*train, *val, *extra)


def test_given_folders_are_kept_and_a_missing_one_is_split_off() -> None:
    splits = make_splits(given_index(), val=0.9, test=0.2)
    assert {one.path for one in splits.val} == {one.path for one in given_index().images if one.given == "val"}
    assert {one.given for one in (*splits.train, *splits.test)} == {"train"}
    assert sum(splits.counts()["test"]) > 0
    without = make_splits(given_index(), val=0.0, test=0.0)
    assert [sum(counts) for counts in without.counts().values()] == [60, 6, 0]
    assert without.warnings == ()


def test_given_test_and_val_split_off() -> None:
    images = [image(label, 100 * label + number, given="train") for label in (0, 1) for number in range(30)]
    tests = [image(label, 5000 + label, given="test") for label in (0, 1)]
    splits = make_splits(index_of(*images, *tests), val=0.2, test=0.9)
    assert {one.given for one in splits.test} == {"test"}
    assert len(splits.test) == 2
    assert min(splits.counts()["val"]) >= 1


def test_leaks_are_left_out_of_train_and_val_with_a_warning() -> None:
    leak, between = image(0, 1000, given="train"), image(1, 1101, given="test")
    rest = [image(label, 9000 + label, given="test") for label in (0, 1)]
    splits = make_splits(given_index(leak, between, *rest), val=0.1, test=0.1)
    assert [one.path for one in splits.dropped] == ["train/a/1000.png", "val/b/1101.png"]
    assert between in splits.test
    assert [warning.partition(": ")[0] for warning in splits.warnings] == [
        "left out 1 train image with the same content as a val or test image",
        "left out 1 val image with the same content as a test image",
    ]
    assert "train/a/1000.png (= val/a/1000.png)" in splits.warnings[0]
    assert not {one.sha256 for one in splits.train} & {one.sha256 for one in (*splits.val, *splits.test)}


def test_a_class_with_only_leaks_is_an_error() -> None:
    train = [image(label, number, given="train") for label in (0, 1) for number in (label, label + 10)]
    val = [image(0, number, given="val") for number in (0, 10)] + [image(1, 500, given="val")]
    with pytest.raises(DataError, match="class 'a' has no train images after 2 were left out"):
        make_splits(index_of(*train, *val), val=0.1, test=0.0)


def test_real_sets(sample: Callable[[str], Path]) -> None:
    flowers = make_splits(scan(sample("tf_flowers")), val=0.15, test=0.0)
    assert sum(flowers.counts()["train"]) + len(flowers.dropped) == 1469
    assert sum(flowers.counts()["val"]) == 368
    trash = make_splits(scan(sample("trashnet")), val=0.15, test=0.15)
    assert [sum(counts) for counts in trash.counts().values()] == [1769, 379, 379]
