"""The layer report as an HTML page, also in a browser."""

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

HOSTILE = "<img src=x onerror=alert(1)>"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Tags(HTMLParser):
    """All tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function that returns the document a browser builds from a page. Skips without a browser."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(BROWSERS)})")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]

    def dump(page: Path, *more: str) -> str:
        command = [browser, *flags, *more, page.as_uri()]
        process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert process.returncode == 0, process.stderr
        return process.stdout

    return dump


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file whose layer names are markup."""
    import keras

    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, name=HOSTILE)(image)
    x = keras.layers.BatchNormalization(name="<script>alert(2)<|script>")(x)
    model = keras.Model(image, keras.layers.Conv2D(4, 3, name="\"'&amp;")(x))
    path = tmp_path_factory.mktemp("hostile") / "odd <b>.keras"
    model.save(path)
    return path


def test_a_page_is_self_contained(tlcli: Callable) -> None:
    page = tlcli("inspect", "resnet50", "--train", "top:2", "--format", "html").stdout
    tags = Tags(page).tags
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form", "base"})
    links = [
        value for _, attributes in tags for key, value in attributes.items() if key in ("src", "href", "action", "data")
    ]
    assert links
    assert all(str(link).startswith("#group-") for link in links)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page


def test_every_group_is_a_bar_with_details(tlcli: Callable) -> None:
    words = ("inspect", "mobilenet_v2", "--train", "block12..block13,re:block_5_expand$")
    page, report = tlcli(*words, "--format", "html").stdout, tlcli(*words, "--json").document
    bars = [(values["class"], values["href"]) for tag, values in Tags(page).tags if tag == "a"]
    expected = [(f"group {group['state']}", f"#group-{number}") for number, group in enumerate(report["groups"])]
    assert bars == expected[::-1], "the input is at the bottom"
    widths = [float(width) for width in re.findall(r"--width: ([\d.]+)", page)][::-1]
    heats = [float(heat) for heat in re.findall(r"--heat: ([\d.]+)", page)][::-1]
    sizes = [group["activation_bytes"] for group in report["groups"]]
    assert widths.index(max(widths)) == sizes.index(max(sizes))
    assert sorted(range(18), key=lambda index: (widths[index], index)) == sorted(
        range(18), key=lambda index: (sizes[index], index)
    )
    counts = [group["parameters"] for group in report["groups"]]
    assert heats.index(max(heats)) == counts.index(max(counts))
    for group in report["groups"]:
        assert f"<dd>{group['first_layer']}</dd>" in page
        assert f"<dd>{group['last_layer']}</dd>" in page
        assert f"{group['parameters']:,} (" in page


def test_a_browser_shows_the_page_in_both_colour_schemes(tlcli: Callable, browse: Callable, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    tlcli("inspect", "mobilenet_v2", "--train", "top:3", "--format", "html", "--out", page)
    tags, text = Tags(browse(page, "--dump-dom")), page.read_text(encoding="utf-8")
    assert [tag for tag, _ in tags.tags] == [tag for tag, _ in Tags(text).tags], "the browser repaired nothing"
    assert "block_16_project_BN" in tags.texts
    for scheme in ("light", "dark"):
        screenshot = tmp_path / f"{scheme}.png"
        flags = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
        browse(page, f"--screenshot={screenshot}", "--window-size=1300,1000", *flags)
    assert corner_colour(tmp_path / "light.png") == (255, 255, 255)
    assert max(corner_colour(tmp_path / "dark.png")) < 40
    assert colours(tmp_path / "light.png") >= {(0xC2, 0x57, 0x0C)}, "the trained group with the most parameters"


def test_hostile_names_stay_text_in_a_browser(hostile: Path, tlcli: Callable, browse: Callable, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = tlcli("inspect", hostile, "--train", "all", "--format", "html", "--out", page)
    assert result.code == 0, result.stderr
    tags = Tags(browse(page, "--dump-dom"))
    assert {"img", "script", "b"}.isdisjoint({tag for tag, _ in tags.tags})
    assert not [key for _, values in tags.tags for key in values if key.startswith("on")]
    assert HOSTILE in tags.texts
    assert "\"'&amp;" in tags.texts


def corner_colour(screenshot: Path) -> tuple[int, ...]:
    from PIL import Image

    with Image.open(screenshot) as image:
        return tuple(image.convert("RGB").getpixel((2, 2)))


def colours(screenshot: Path) -> set[tuple[int, ...]]:
    from PIL import Image

    with Image.open(screenshot) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
