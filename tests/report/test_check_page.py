"""The page of a check, also in a real browser: thumbnails appear, and names are text that never runs."""

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

RunCheck = Callable[..., CheckResult]
MakeImage = Callable[..., Image.Image]

HOSTILE = "<img src=x onerror=\"document.title='ran'\">"
OTHER = "a'b\"c &amp; <script>document.title='ran'<\u2044script> {{ 7*7 }}"


@pytest.fixture
def hostile(clean_data: Path, make_image: MakeImage) -> Path:
    """Class and file names that an unescaped page would run, with findings of every layout of the page."""
    (clean_data / "dog").rename(clean_data / HOSTILE)
    shutil.copy(clean_data / "cat" / "00.png", clean_data / HOSTILE / "copy.png")
    make_image(901, (400, 50)).save(clean_data / HOSTILE / f"{OTHER}.png")
    (clean_data / HOSTILE / "broken\x1b[31m.png").write_text("no image")
    (clean_data / HOSTILE.upper()).mkdir()
    return clean_data


def write_page(result: CheckResult, folder: Path) -> tuple[Path, str]:
    path = folder / "page.html"
    pages.write_check_page(result, path)
    return path, path.read_text(encoding="utf-8")


def test_names_are_escaped_and_the_page_is_self_contained(hostile: Path, run_check: RunCheck, tmp_path: Path) -> None:
    _, text = write_page(run_check(hostile), tmp_path)
    assert HOSTILE in html.unescape(text)
    assert "<img src=x" not in text
    assert "<script" not in text
    assert "{{ 7*7 }}" in html.unescape(text)
    assert "\\x1b[31m" in text
    assert "\x1b" not in text
    sources = re.findall(r'<(?:img|a|link|script|iframe)\b[^>]*?(?:src|href)="([^"]*)"', text)
    assert sources
    assert {source.partition(":")[0] for source in sources if not source.startswith("#")} == {"data"}


def test_copies_are_side_by_side(clean_data: Path, run_check: RunCheck, tmp_path: Path) -> None:
    shutil.copy(clean_data / "cat" / "00.png", clean_data / "dog" / "copy.png")
    _, text = write_page(run_check(clean_data), tmp_path)
    (group,) = re.findall(r'<div class="group">(.*?)</div>\s*</div>', text, re.DOTALL)
    assert group.count('<img src="data:image/jpeg;base64,') == 2
    assert "cat/00.png" in group
    assert "dog/copy.png" in group


def test_left_out_images_are_counted(clean_data: Path, run_check: RunCheck, tmp_path: Path) -> None:
    _, text = write_page(run_check(clean_data, size=(97, 64)), tmp_path)
    assert text.count("<figure>") == pages.MAX_FILES
    assert f"and {40 - pages.MAX_FILES} more" in text


def test_a_folder_without_findings_has_a_page(clean_data: Path, run_check: RunCheck, tmp_path: Path) -> None:
    assert "No findings." in write_page(run_check(clean_data), tmp_path)[1]


def test_a_browser_shows_the_images_and_runs_nothing(hostile: Path, run_check: RunCheck, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    path, _ = write_page(run_check(hostile), tmp_path)
    browsed = subprocess.run(
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
    assert "<title>tlcli check " in browsed.stdout, "the title is unchanged"
    assert ">ran<" not in browsed.stdout
    assert "&lt;img src=x onerror=" in browsed.stdout, "the name is text"
    if (tmp_path / "page.png").exists():
        with Image.open(tmp_path / "page.png") as shot:
            assert len(shot.convert("RGB").resize((100, 140)).getcolors(14_000)) > 50, "the images are visible"
