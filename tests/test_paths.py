"""Paths: bundled files, the cache folder, and atomic writes."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tlcli import paths

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("kind", "count"), [("recipes", 17), ("models", 45)])
def test_bundled_files_are_beside_the_package_in_a_checkout(kind: str, count: int) -> None:
    assert paths.bundled(kind) == CHECKOUT / kind
    assert len(list(paths.bundled(kind).glob("*.yaml"))) == count


@pytest.mark.parametrize("kind", ["recipes", "models"])
def test_bundled_files_are_inside_the_package_in_an_installation(kind: str, tmp_path: Path) -> None:
    package = tmp_path / "site" / "tlcli"
    (package / "_bundled" / kind).mkdir(parents=True)
    (tmp_path / "site" / kind).mkdir()
    for name in ("__init__.py", "errors.py", "paths.py"):
        (package / name).write_bytes((CHECKOUT / "tlcli" / name).read_bytes())
    code = f"from tlcli.paths import bundled; print(bundled({kind!r}))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", code]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert completed.stdout.strip() == str(package / "_bundled" / kind)


def test_the_environment_variable_sets_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / "not yet"))
    assert paths.cache_dir() == tmp_path / "not yet"
    assert not (tmp_path / "not yet").exists()
    monkeypatch.setenv("TLCLI_CACHE", "~/mine")
    assert paths.cache_dir() == Path.home() / "mine"


def test_the_environment_variable_sets_the_folder_of_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLCLI_CONFIG", str(tmp_path / "mine"))
    assert paths.config_dir() == tmp_path / "mine"
    monkeypatch.delenv("TLCLI_CONFIG")
    assert paths.config_dir().name == "tlcli"


@pytest.mark.skipif(sys.platform != "linux", reason="the folder of the platform differs")
def test_the_cache_folder_of_the_platform_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLCLI_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.cache_dir() == tmp_path / "tlcli"


def test_replacing_creates_folders_and_leaves_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "model.keras"
    with paths.replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".keras"
        temporary.write_text("first", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    paths.write_text(path, "old")
    with pytest.raises(IsADirectoryError), paths.replacing(path) as temporary:
        temporary.write_bytes(tmp_path.read_bytes())
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_file_modes_follow_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        paths.write_text(tmp_path / "a.txt", "")
        after = os.umask(umask)
    finally:
        os.umask(before)
    assert after == umask
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_text_is_utf_8_with_unix_line_endings(tmp_path: Path) -> None:
    paths.write_text(tmp_path / "a.txt", "grün\nπ\n")
    assert (tmp_path / "a.txt").read_bytes() == "grün\nπ\n".encode()


def test_json_keeps_unicode_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    paths.write_json(path, {"class": "grün"})
    assert path.read_text(encoding="utf-8") == '{\n  "class": "grün"\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        paths.write_json(path, {"loss": float("nan")})
    assert path.read_text(encoding="utf-8") == '{\n  "class": "grün"\n}\n'
