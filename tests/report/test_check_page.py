"""The page in a real browser: pictures are there, names are shown and never run."""

import html
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tlcli.quality.check import CheckResult
from tlcli.report import pages

Looked = Callable[..., CheckResult]
Picture = Callable[..., Image.Image]

HOSTILE = "<img src=x onerror=\"document.title='ran'\">"
OTHER = "a'b\"c &amp; <script>document.title='ran'<\u2044script> {{ 7*7 }}"


@pytest.fixture
def hostile(good: Path, picture: Picture) -> Path:
    """A class and a file with names that a careless page would run, and something to find of each kind of card."""
    (good / "dog").rename(good / HOSTILE)
    shutil.copy(good / "cat" / "00.png", good / HOSTILE / "copy.png")
    picture(901, (400, 50)).save(good / HOSTILE / f"{OTHER}.png")
    (good / HOSTILE / "broken\x1b[31m.png").write_text("no picture")
    (good / HOSTILE.upper()).mkdir()
    return good


def written(found: CheckResult, folder: Path) -> tuple[Path, str]:
    path = folder / "page.html"
    pages.write_check_page(found, path)
    return path, path.read_text(encoding="utf-8")


def test_names_are_escaped_and_nothing_comes_from_elsewhere(hostile: Path, looked: Looked, tmp_path: Path) -> None:
    _, text = written(looked(hostile), tmp_path)
    assert HOSTILE in html.unescape(text)
    assert "<img src=x" not in text
    assert "<script" not in text
    assert "{{ 7*7 }}" in html.unescape(text)
    assert "\\x1b[31m" in text
    assert "\x1b" not in text
    sources = re.findall(r'<(?:img|a|link|script|iframe)\b[^>]*?(?:src|href)="([^"]*)"', text)
    assert sources
    assert {source.partition(":")[0] for source in sources if not source.startswith("#")} == {"data"}


def test_copies_stand_side_by_side(good: Path, looked: Looked, tmp_path: Path) -> None:
    shutil.copy(good / "cat" / "00.png", good / "dog" / "copy.png")
    _, text = written(looked(good), tmp_path)
    (group,) = re.findall(r'<div class="group">(.*?)</div>\s*</div>', text, re.DOTALL)
    assert group.count('<img src="data:image/jpeg;base64,') == 2
    assert "cat/00.png" in group
    assert "dog/copy.png" in group


def test_what_is_not_shown_is_counted(good: Path, looked: Looked, tmp_path: Path) -> None:
    _, text = written(looked(good, size=(97, 64)), tmp_path)
    assert text.count("<figure>") == pages.FILES
    assert f"and {40 - pages.FILES} more" in text


def test_a_clean_folder_has_a_page_too(good: Path, looked: Looked, tmp_path: Path) -> None:
    assert "Nothing was found." in written(looked(good), tmp_path)[1]


def test_a_browser_shows_the_pictures_and_runs_nothing(hostile: Path, looked: Looked, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    path, _ = written(looked(hostile), tmp_path)
    done = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=2000", f"--screenshot={tmp_path / 'page.png'}", "--window-size=1000,1400"),
            *("--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "<title>tlcli check " in done.stdout, "the title is still ours"
    assert ">ran<" not in done.stdout
    assert "&lt;img src=x onerror=" in done.stdout, "the name is text"
    if (tmp_path / "page.png").exists():
        with Image.open(tmp_path / "page.png") as shot:
            assert len(shot.convert("RGB").resize((100, 140)).getcolors(14_000)) > 50, "pictures are on it"
