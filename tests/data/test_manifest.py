"""Manifests: every form gives the same images, groups never cross splits, and all problems are reported together."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tlcli.data.source import FolderIndex, scan
from tlcli.data.split import make_splits
from tlcli.errors import DataError, ManifestError

Rows = Sequence[dict[str, object]]


def write(file: Path, rows: Rows) -> Path:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif file.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(list(rows)), file)
    else:
        with file.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.DictWriter(stream, columns, delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return file


def contents(index: FolderIndex) -> list[tuple[str, str, str | None]]:
    return [(image.sha256, index.classes[image.label], image.group) for image in index.images]


@pytest.fixture
def home(tmp_path: Path, photos: Path) -> Path:
    (tmp_path / "table").mkdir()
    return tmp_path / "table"


@pytest.fixture
def rows(photos: Path) -> list[dict[str, object]]:
    """The shared images, in groups of two across all classes, by absolute paths."""
    images = scan(photos).images
    return [
        {"path": str(photos / image.path), "label": image.path.split("/")[0], "group": f"g{number % 15}"}
        for number, image in enumerate(images)
    ]


@pytest.mark.parametrize(
    "suffix", [".csv", ".tsv", ".jsonl", pytest.param(".parquet", marks=pytest.mark.extras), ".CSV"]
)
def test_every_form_gives_the_images_of_the_folder(home: Path, photos: Path, rows: Rows, suffix: str) -> None:
    index = scan(write(home / f"images{suffix}", rows))
    assert index.classes == ("blue", "green", "red")
    assert sorted(contents(index))[0][2] is not None
    assert sorted(row[:2] for row in contents(index)) == sorted(row[:2] for row in contents(scan(photos)))
    assert all(index.file(image).is_file() for image in index.images)


def test_without_groups_the_split_is_that_of_the_folder(home: Path, photos: Path, rows: Rows) -> None:
    plain = [{"path": row["path"], "label": row["label"]} for row in rows]
    index = scan(write(home / "images.csv", plain))
    listed = {image.sha256: split for image, split in make_splits(index, val=0.2, test=0.2).rows()}
    folder = {image.sha256: split for image, split in make_splits(scan(photos), val=0.2, test=0.2).rows()}
    assert listed == folder


def test_groups_never_cross_splits_and_a_new_image_does_not_move_its_group(home: Path, rows: Rows) -> None:
    def splits_of(chosen: Rows) -> dict[str, set[str]]:
        splits = make_splits(scan(write(home / "images.csv", chosen)), val=0.2, test=0.2)
        by_group: dict[str, set[str]] = {}
        for image, split in splits.rows():
            by_group.setdefault(str(image.group), set()).add(split)
        return by_group

    whole = splits_of(rows)
    assert all(len(splits) == 1 for splits in whole.values())
    assert {"train", "val", "test"} == set.union(*whole.values())
    less = splits_of(rows[:-1])
    assert sum(less[group] != whole[group] for group in whole) <= 3


def test_a_class_in_one_group_is_an_error_that_says_so(home: Path, rows: Rows) -> None:
    rows = [{**row, "group": "one" if row["label"] == "red" else row["group"]} for row in rows]
    index = scan(write(home / "images.csv", rows))
    with pytest.raises(DataError, match="class 'red' has no val images, because all its images are in one group"):
        make_splits(index, val=0.2, test=0.2)


def test_given_splits_relative_paths_and_extra_columns(home: Path, draw: Callable[..., Path]) -> None:
    draw(home / "photos", ["a", "b"], count=4)
    names = ("train", "train", "validation", "TEST")
    rows = [
        {"note": "x", "path": f"photos/{label}/{number:02}.bmp", "label": f" {label} ", "split": split}
        for label in "ab"
        for number, split in enumerate(names)
    ]
    index = scan(write(home / "images.csv", rows))
    assert index.given_splits == ("train", "val", "test")
    assert [image.path for image in index.images if image.given == "test"] == ["photos/a/03.bmp", "photos/b/03.bmp"]
    assert make_splits(index, val=0.5, test=0.5).counts() == {"train": [2, 2], "val": [1, 1], "test": [1, 1]}
    (home / "out.txt").write_text("photos/a/00.bmp\n", encoding="utf-8")
    less = scan(home / "images.csv", exclude=home / "out.txt")
    assert (len(less.images), less.excluded) == (7, ("photos/a/00.bmp",))
    assert scan(home / "images.csv", classes=["b", "a"]).classes == ("b", "a")


def test_all_problems_are_reported_with_their_lines(home: Path, draw: Callable[..., Path]) -> None:
    draw(home / "p", ["a"], count=9)
    lines = [
        "path,label,split,group",
        "p/a/00.bmp,a,train,g1",
        "p/a/00.bmp,b,train,",
        "./p/a/../a/00.bmp,a,train,",
        "p/a/01.bmp,,val,",
        "gone.bmp,a,val,",
        "images.csv,a,val,",
        "p/a,a,val,",
        "p/a/02.bmp,a,vla,",
        "p/a/03.bmp,a,val,g1",
        "p/a/04.bmp,a,,",
        '"p/a/05.bmp","a\x1b[31m",val,',
        "p/a/06.bmp,a,val,g2,more",
        "p/a/00.bmp,a,vla,",
    ]
    file = home / "images.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        scan(file)
    found = {
        (problem.where.removeprefix(f"{file}:"), problem.message.split(" (got")[0]) for problem in caught.value.problems
    }
    assert found == {
        ("3", f"'00.bmp' is also at {file}:2, as 'a'"),
        ("4", f"'00.bmp' is also at {file}:2"),
        ("5", "has no label"),
        ("6", f"there is no file '{home}/gone.bmp'"),
        ("7", "is not an image"),
        ("8", "path is a folder"),
        ("9", "split must be train, val or test"),
        ("10", f"group 'g1' is in val here and in train at {file}:2"),
        ("11", "has no split, but other rows do"),
        ("12", "label has characters that cannot be written"),
        ("13", "has more values than columns"),
        ("14", "split must be train, val or test"),
        ("14", f"'00.bmp' is also at {file}:2"),
    }
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"file,label\nx,y\n", "has no column 'path' (got 'file', 'label')"),
        ("m.csv", b"path;label\nx;y\n", "columns are separated by semicolons: save it with commas"),
        ("m.csv", b"", "has no column 'path' (got none)"),
        ("m.csv", b"path,label\n", "has no rows"),
        ("m.csv", b"path,label,label\n", "has two columns 'label'"),
        ("m.csv", b"path,label\n\xff,x\n", "is not UTF-8 text"),
        ("m.csv", b'path,label\n"x"y,z\n', "is not a row of a table"),
        ("m.csv", b"path,label\n" + b"x" * 200_000 + b",a\n", "is not a row of a table"),
        ("m.csv", b"path,label\nx\0,a\n", "path has characters that cannot be written"),
        ("m.jsonl", b'{"path": "x"\n', "is not a JSON object"),
        ("m.jsonl", b"[1]\n", "is not a JSON object"),
        ("m.jsonl", b'{"path": 3, "label": true}\n', "path must be text (got '3')"),
        ("m.jsonl", b"[" * 100_000, "is not a JSON object"),
        ("m.jsonl", b'{"path": "' + b"x" * 5000 + b'", "label": "a"}', "cannot be read (File name too long)"),
        pytest.param("m.parquet", b"PAR1", "is not a readable Parquet file", marks=pytest.mark.extras),
    ],
)
def test_wrong_files_are_one_error(home: Path, name: str, content: bytes, message: str) -> None:
    (home / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        scan(home / name)
    assert message in str(caught.value)
    assert str(home / name) in str(caught.value)


def test_parquet_without_pyarrow_names_the_extra(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (home / "m.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"pip install 'tlcli\[parquet\]'"):
        scan(home / "m.parquet")


def test_folders_for_val_do_not_go_with_a_manifest(home: Path, photos: Path, rows: Rows) -> None:
    with pytest.raises(DataError, match=r"data\.val: is a folder, but DATA is a manifest"):
        scan(write(home / "images.csv", rows), val=photos)
