from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlcli.data import exclude
from tlcli.data.source import check_layout, scan
from tlcli.errors import DataError

Draw = Callable[..., Path]

# Names of files as Linux allows them: no slash, no zero.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)
PATHS = st.builds("{}/{}".format, NAMES.filter(lambda name: name not in (".", "..")), NAMES)


@settings(deadline=None)
@given(entries=st.dictionaries(PATHS, st.text(max_size=20), max_size=6))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, str]) -> None:
    file = tmp_path_factory.mktemp("list") / "bad.txt"
    exclude.write(file, entries.items(), remarks=("first\nremark", "second"))
    lines = exclude.read(file).lines
    assert lines == {path: number for number, path in enumerate(entries, start=3)}


def listed(folder: Path, text: str) -> Path:
    file = folder / "bad.txt"
    file.write_bytes(text.encode())
    return file


def test_lines_by_hand(tmp_path: Path) -> None:
    """Remarks, empty lines, reasons, Windows line ends, a mark of byte order, a path twice."""
    text = '\ufeff# mine\r\n\r\na/1.bmp\treason\r\n./a/2.bmp  \r\n"a/\\u0033.bmp"\r\na/1.bmp\r\n'
    assert exclude.read(listed(tmp_path, text)).lines == {"a/1.bmp": 3, "a/2.bmp": 4, "a/3.bmp": 5}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a/1.bmp\n/home/me/2.bmp\n", 2, "no path relative to DATA"),
        ('a/1.bmp\n\n"a/2.bmp\n', 3, "no JSON string"),
        ('"3"\n4\n[]\n"\n', 4, "no JSON string"),
        ("\tonly a reason\n", 1, "no path relative to DATA"),
    ],
)
def test_lines_that_are_wrong_are_told_by_number(tmp_path: Path, text: str, line: int, words: str) -> None:
    file = listed(tmp_path, text)
    with pytest.raises(DataError) as error:
        exclude.read(file)
    assert error.value.where == f"{file}:{line}"
    assert words in error.value.message


def test_files_that_are_no_lists(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xd8\xff\xe0")
    for name, words in (("binary", "UTF-8"), ("nowhere", "No such file"), (".", "directory")):
        with pytest.raises(DataError, match=words):
            exclude.read(tmp_path / name)


def test_listed_images_are_not_scanned(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "data", ["a", "b"], count=4)
    index = scan(data, exclude=listed(tmp_path, "a/01.bmp\nb/03.bmp\n"))
    assert index.excluded == ("a/01.bmp", "b/03.bmp")
    assert index.counts() == {"a": 3, "b": 3}
    assert index.unmatched == ()


def test_lines_without_a_file_are_told(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "data", ["a", "b"], count=4)
    index = scan(data, exclude=listed(tmp_path, "# list\na/01.bmp\na/99.bmp\nb\n"))
    assert index.unmatched == ((3, "a/99.bmp"), (4, "b")), "a folder is no image"
    assert index.excluded == ("a/01.bmp",)


def test_a_list_of_another_folder_is_an_error(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "data", ["a", "b"], count=4)
    with pytest.raises(DataError, match=r"there is no image 'train/a/01\.bmp'") as error:
        check_layout(data, exclude=listed(tmp_path, "# list\ntrain/a/01.bmp\n"))
    assert error.value.where.endswith("bad.txt:2")


def test_an_empty_list_leaves_out_nothing(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "data", ["a", "b"], count=4)
    assert len(scan(data, exclude=listed(tmp_path, "")).images) == 8


def test_a_class_that_is_excluded_whole_is_an_error(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "data", ["a", "b"], count=2)
    with pytest.raises(DataError, match="all 2 are excluded"):
        check_layout(data, exclude=listed(tmp_path, "a/00.bmp\na/01.bmp\n"))
