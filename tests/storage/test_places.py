"""The same images give the same index, splits, pixels and features, wherever they lie."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packed import odd_names, pack_all, write_table

from tlcli.data import source, split
from tlcli.data.pixels import Images, Pixels, open_cache
from tlcli.features.extraction import FeatureExtractor, View
from tlcli.pretrain import images
from tlcli.storage.location import locate

FORMS = ("zip", "wrapped zip", "tar", "tar.gz", "shards")


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> dict[str, Path]:
    return pack_all(photos, tmp_path_factory.mktemp("forms"))


def look(data: Path, cache: Path) -> tuple[list[tuple[str, str, str]], Pixels]:
    """Content, class and split of every image, and all pixels, from an empty cache."""
    index = source.scan(locate(data))
    splits = split.make_splits(index, val=0.2, test=0.2)
    rows = [(image.sha256, splits.classes[image.label], name) for image, name in splits.rows()]
    return sorted(rows), open_cache(index, size=(12, 12), mode="crop", folder=cache)


@pytest.mark.parametrize("form", [*FORMS, pytest.param("table", marks=pytest.mark.extras)])
def test_every_form_gives_the_splits_pixels_and_features_of_the_folder(
    form: str, forms: dict[str, Path], photos: Path, tmp_path: Path, lab
) -> None:
    data = write_table(photos, tmp_path / "photos.parquet") if form == "table" else forms[form]
    expected, pixels = look(photos, tmp_path / "pixels-of-folder")
    rows, packed = look(data, tmp_path / "pixels")
    assert rows == expected
    assert {name for _, _, name in rows} == {"train", "val", "test"}
    assert np.array_equal(packed.array, pixels.array)
    assert packed.rows == pixels.rows
    classifier = lab.classifier(lab.recipe({"train": "head"}))
    features = [
        FeatureExtractor(classifier, Images(found.array, np.arange(30)), View(0)).extract(["block1_relu"], None)[0]
        for found in (pixels, packed)
    ]
    assert features[0].tobytes() == features[1].tobytes()


def test_paths_are_relative_to_the_archive_as_they_are_to_the_folder(forms: dict[str, Path], photos: Path) -> None:
    paths = [image.path for image in source.scan(photos).images]
    for form in ("zip", "wrapped zip", "tar", "tar.gz"):
        index = source.scan(locate(forms[form]))
        assert [image.path for image in index.images] == paths, form
    shards = source.scan(locate(forms["shards"]))
    assert shards.images[0].path == "part-0000.tar/00000.bmp"
    assert shards.file(shards.images[0]).read_bytes() == (photos / paths[0]).read_bytes()


def test_commands_take_an_archive_and_find_its_images_again(
    tlcli, forms: dict[str, Path], finished, tmp_path: Path
) -> None:
    checked = tlcli("check", forms["tar.gz"], "--html", tmp_path / "page.html", "--json")
    assert (checked.code, checked.document["images"]) == (0, 30)
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("data:image/jpeg") > 10
    folder, _ = finished
    scored = tlcli("evaluate", folder, forms["wrapped zip"], "--json").document
    assert scored["count"] == 30
    predicted = tlcli("predict", folder, f"zip://{forms['zip']}", "--sort-into", tmp_path / "sorted", "--json").document
    assert predicted[0]["path"] == f"{forms['zip']}/blue/00.bmp"
    assert len(list((tmp_path / "sorted").rglob("*.bmp"))) == 30
    planned = tlcli("plan", forms["shards"], "--size", 32, 32, "--json")
    assert planned.document["data"]["path"] == str(forms["shards"]), planned.stderr


def test_a_run_on_an_archive_scores_its_own_images_later(
    tlcli, forms: dict[str, Path], finished, tmp_path: Path
) -> None:
    run = shutil.copytree(finished[0], tmp_path / "run")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record["data"]["path"] = str(forms["tar"])
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert tlcli("evaluate", run, "--json").document["count"] == record["scores"]["test"]["count"]


def test_shards_named_by_split_keep_it_and_numbers_get_names(
    tmp_path: Path, photos: Path, draw: Callable[..., Path]
) -> None:
    import tarfile

    from packed import add

    home = tmp_path / "shards"
    home.mkdir()
    (home / "classnames.txt").write_text("sky\ngrass\n", encoding="utf-8")
    for name in ("train-0", "val-0"):
        with tarfile.open(home / f"{name}.tar", "w") as tar:
            for number, image in enumerate(sorted(photos.rglob("*.bmp"))[:8]):
                add(tar, f"{name}{number}.bmp", image.read_bytes() + name.encode())
                add(tar, f"{name}{number}.cls", str(number % 2).encode())
    index = source.scan(locate(home))
    assert index.classes == ("grass", "sky")
    assert index.given_splits == ("train", "val")


def test_an_image_without_a_class_in_a_shard_is_named(tlcli, tmp_path: Path, photos: Path) -> None:
    import tarfile

    from packed import add

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, image in enumerate(sorted(photos.rglob("*.bmp"))[:4]):
            add(tar, f"{number}.bmp", image.read_bytes())
            if number != 2:
                add(tar, f"{number}.cls", b"x" if number else b"y")
    result = tlcli("plan", tmp_path / "a.tar")
    assert (result.code, "image 3: has no label" in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("form", ["zip", "shards"])
def test_networks_are_pretrained_on_images_in_archives_and_shards(
    form: str, forms: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MIN_IMAGES", 30)
    expected, packed = (
        images.load_image_set(locate(data), side=8, cache=tmp_path / name, progress=lambda *_: None)
        for name, data in (("folder", photos), ("packed", forms[form]))
    )
    assert packed.sha256 == expected.sha256
    assert np.array_equal(packed.pixels[packed.rows], expected.pixels[expected.rows])


def test_train_and_val_may_lie_in_different_places(tmp_path: Path, draw: Callable[..., Path]) -> None:
    for split_name, count in (("train", 6), ("val", 5)):
        draw(tmp_path / "given" / split_name, count=count)
    expected = source.scan(tmp_path / "given")
    whole = Path(shutil.make_archive(str(tmp_path / "given"), "zip", tmp_path / "given"))
    train, val = (
        Path(shutil.make_archive(str(tmp_path / name), "tar", tmp_path / "given" / name)) for name in ("train", "val")
    )
    forms = {
        "one archive": source.scan(locate(whole)),
        "two archives": source.scan(locate(train), val=locate(val)),
        "archive and folder": source.scan(locate(train), val=tmp_path / "given" / "val"),
        "folder and archive": source.scan(tmp_path / "given" / "train", val=locate(val)),
    }
    for form, index in forms.items():
        assert index.given_splits == ("train", "val"), form
        assert sorted(image.sha256 for image in index.images) == sorted(image.sha256 for image in expected.images)
        for image in index.images:
            assert hashlib.sha256(index.file(image).read_bytes()).hexdigest() == image.sha256, form


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_odd_names_are_those_of_the_folder(form: str, photos: Path, tmp_path: Path) -> None:
    folder = odd_names(photos, tmp_path / "odd")
    packed = source.scan(locate(shutil.make_archive(str(tmp_path / "odd"), form, folder)))
    expected = source.scan(folder)
    assert packed.images == expected.images
    for index in (packed, expected):
        assert [len(index.file(image).read_bytes()) for image in index.images] == [5814] * 18
