"""Archives that are damaged or hostile."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from packed import add

from tlcli.data import source
from tlcli.errors import DataError
from tlcli.storage import archives
from tlcli.storage.location import locate


@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "cat/../../out.png"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zip_file:
        zip_file.writestr(name, b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, name, b"x")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        add(tar, name, b"x")
    for file in ("a.zip", "a.tar", "a.tgz"):
        with pytest.raises(DataError, match="leads out of it") as caught:
            locate(tmp_path / file)
        assert caught.value.where == str(tmp_path / file)


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "cat/1.png", b"x")
        add(tar, "dog/1.png", b"y")
    assert [image.path for image in source.scan(locate(tmp_path / "a.tar")).images] == ["cat/1.png", "dog/1.png"]


def test_a_bomb_ends_in_an_error_and_leaves_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_FREE_GROWTH", 1000)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for number in range(40):
            add(tar, f"cat/{number}.png", bytes(100_000))
    with pytest.raises(DataError, match="unpacks to more than"):
        locate(tmp_path / "a.tar.gz")
    assert list((archives._folder()).glob("*.bin")) == []


def test_a_member_that_is_too_large_is_unreadable_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as zip_file:
        zip_file.writestr("cat/1.png", bytes(5000))
        zip_file.writestr("cat/2.png", b"x")
        zip_file.writestr("dog/1.png", b"y")
    index = source.scan(locate(tmp_path / "a.zip"))
    assert [image.path for image in index.images] == ["cat/2.png", "dog/1.png"]
    assert index.unreadable == (("cat/1.png", "cannot be read (has 5,000 bytes, and at most 1,000 are read)"),)


def test_a_damaged_member_is_a_finding_of_check(tlcli, tmp_path: Path, photos: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as zip_file:
        for image in sorted(photos.rglob("*.bmp")):
            zip_file.write(image, image.relative_to(photos))
    content = bytearray(file.read_bytes())
    content[content.index(b"BM") + 2000] ^= 255
    file.write_bytes(content)
    findings = tlcli("check", file, "--json").document["findings"]
    (found,) = [finding for finding in findings if finding["kind"] == "unreadable"]
    assert found["paths"] == ["blue/00.bmp"]
    assert "damaged" in str(found)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"not an archive", gzip.compress(b"not a tar", mtime=0)])
def test_what_is_no_archive_ends_in_one_sentence(tlcli, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    result = tlcli("check", tmp_path / name)
    assert result.code == 2
    assert f"{tmp_path / name}: is not a readable archive" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_archive_that_changed_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.tar.gz"
    for content in (b"one", b"other"):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as tar:
            add(tar, "cat/1.png", content)
            add(tar, "dog/1.png", b"dog")
        file.write_bytes(data.getvalue())
        assert (locate(file) / "cat" / "1.png").read_bytes() == content


def test_a_truncated_tar_names_the_archive(tlcli, tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("cat/1.png", "dog/1.png"):
            add(tar, name, bytes(5000))
    (tmp_path / "a.tar").write_bytes(data.getvalue()[:7000])
    result = tlcli("check", tmp_path / "a.tar", "--json")
    assert result.code in (2, 3)
    assert "Traceback" not in result.stderr


def test_names_that_are_not_utf8_are_named_as_in_a_folder(tlcli, tmp_path: Path, photos: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, image in enumerate(sorted(photos.rglob("*.bmp"))):
            add(tar, f"{image.parent.name}/{number}" + ("\udcff.bmp" if number == 3 else ".bmp"), image.read_bytes())
    result = tlcli("check", tmp_path / "a.tar", "--json")
    (found,) = [finding for finding in result.document["findings"] if finding["kind"] == "bad_file_name"]
    assert (result.code, len(found["paths"])) == (3, 1)
    refused = tlcli("plan", tmp_path / "a.tar", "--size", 32, 32)
    assert (refused.code, "is not valid UTF-8" in refused.stderr) == (2, True), refused.stderr
