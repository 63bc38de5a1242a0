from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlcli.data import exclude
from tlcli.data.source import check_layout, scan
from tlcli.errors import DataError

Draw = Callable[..., Path]

# File names as Linux allows them: no slash, no NUL.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)
PATHS = st.builds("{}/{}".format, NAMES.filter(lambda name: name not in (".", "..")), NAMES)


@settings(deadline=None)
@given(entries=st.dictionaries(PATHS, st.text(max_size=20), max_size=6))
def test_a_written_list_is_read_back(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, str]) -> None:
    file = tmp_path_factory.mktemp("list") / "bad.txt"
    exclude.write_list(file, entries.items(), comments=("first\ncomment", "second"))
    lines = exclude.read_list(file).lines
    assert lines == {path: number for number, path in enumerate(entries, start=3)}


def listed(folder: Path, text: str) -> Path:
    file = folder / "bad.txt"
    file.write_bytes(text.encode())
    return file


def test_lines_written_by_hand(tmp_path: Path) -> None:
    """Comments, empty lines, reasons, Windows line ends, a byte order mark, a repeated path."""
    text = '\ufeff# mine\r\n\r\na/1.bmp\treason\r\n./a/2.bmp  \r\n"a/\\u0033.bmp"\r\na/1.bmp\r\n'
    assert exclude.read_list(listed(tmp_path, text)).lines == {"a/1.bmp": 3, "a/2.bmp": 4, "a/3.bmp": 5}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a/1.bmp\n/home/me/2.bmp\n", 2, "not a path relative to DATA"),
        ('a/1.bmp\n\n"a/2.bmp\n', 3, "not a JSON string"),
        ('"3"\n4\n[]\n"\n', 4, "not a JSON string"),
        ("\tonly a reason\n", 1, "not a path relative to DATA"),
    ],
)
def test_errors_give_the_number_of_a_wrong_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    file = listed(tmp_path, text)
    with pytest.raises(DataError) as error:
        exclude.read_list(file)
    assert error.value.where == f"{file}:{line}"
    assert words in error.value.message


def test_files_that_are_not_lists(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xd8\xff\xe0")
    for name, words in (("binary", "UTF-8"), ("nowhere", "No such file"), (".", "directory")):
        with pytest.raises(DataError, match=words):
            exclude.read_list(tmp_path / name)


def test_listed_images_are_not_scanned(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "data", ["a", "b"], count=4)
    index = scan(data, exclude=listed(tmp_path, "a/01.bmp\nb/03.bmp\n"))
    assert index.excluded == ("a/01.bmp", "b/03.bmp")
    assert index.counts() == {"a": 3, "b": 3}
    assert index.unmatched == ()


def test_lines_without_a_file_are_reported(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "data", ["a", "b"], count=4)
    index = scan(data, exclude=listed(tmp_path, "# list\na/01.bmp\na/99.bmp\nb\n"))
    assert index.unmatched == ((3, "a/99.bmp"), (4, "b")), "a folder is not an image"
    assert index.excluded == ("a/01.bmp",)


def test_a_list_of_another_folder_is_an_error(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "data", ["a", "b"], count=4)
    with pytest.raises(DataError, match=r"there is no image 'train/a/01\.bmp'") as error:
        check_layout(data, exclude=listed(tmp_path, "# list\ntrain/a/01.bmp\n"))
    assert error.value.where.endswith("bad.txt:2")


def test_an_empty_list_leaves_out_nothing(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "data", ["a", "b"], count=4)
    assert len(scan(data, exclude=listed(tmp_path, "")).images) == 8


def test_a_class_with_all_images_excluded_is_an_error(tmp_path: Path, draw: Draw) -> None:
    data = draw(tmp_path / "data", ["a", "b"], count=2)
    with pytest.raises(DataError, match="all 2 are excluded"):
        check_layout(data, exclude=listed(tmp_path, "a/00.bmp\na/01.bmp\n"))
