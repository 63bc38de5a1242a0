"""The layer report as a page, opened in a real browser."""

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
    """Every tag and attribute of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The document that a browser makes of a page; skips where there is no browser."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(BROWSERS)})")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]

    def dump(page: Path, *more: str) -> str:
        command = [browser, *flags, *more, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return dump


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with a name that would be markup."""
    import keras

    picture = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, name=HOSTILE)(picture)
    x = keras.layers.BatchNormalization(name="<script>alert(2)<|script>")(x)
    model = keras.Model(picture, keras.layers.Conv2D(4, 3, name="\"'&amp;")(x))
    path = tmp_path_factory.mktemp("hostile") / "odd <b>.keras"
    model.save(path)
    return path


def test_a_page_needs_nothing_from_elsewhere(tlcli: Callable) -> None:
    page = tlcli("inspect", "resnet50", "--train", "top:2", "--format", "html").stdout
    tags = Tags(page).seen
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form", "base"})
    links = [value for _, found in tags for key, value in found.items() if key in ("src", "href", "action", "data")]
    assert links
    assert all(str(link).startswith("#group-") for link in links)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page


def test_the_drawing_shows_every_group_with_its_details(tlcli: Callable) -> None:
    words = ("inspect", "mobilenet_v2", "--train", "block12..block13,re:block_5_expand$")
    page, found = tlcli(*words, "--format", "html").stdout, tlcli(*words, "--json").document
    drawn = [(values["class"], values["href"]) for tag, values in Tags(page).seen if tag == "a"]
    wanted = [(f"group {group['state']}", f"#group-{number}") for number, group in enumerate(found["groups"])]
    assert drawn == wanted[::-1], "the picture comes in at the bottom"
    widths = [float(width) for width in re.findall(r"--width: ([\d.]+)", page)][::-1]
    heats = [float(heat) for heat in re.findall(r"--heat: ([\d.]+)", page)][::-1]
    sizes = [group["activation_bytes"] for group in found["groups"]]
    assert widths.index(max(widths)) == sizes.index(max(sizes))
    assert sorted(range(18), key=lambda at: (widths[at], at)) == sorted(range(18), key=lambda at: (sizes[at], at))
    counts = [group["parameters"] for group in found["groups"]]
    assert heats.index(max(heats)) == counts.index(max(counts))
    for group in found["groups"]:
        assert f"<dd>{group['first_layer']}</dd>" in page
        assert f"<dd>{group['last_layer']}</dd>" in page
        assert f"{group['parameters']:,} (" in page


def test_a_browser_shows_it_whole(tlcli: Callable, browse: Callable, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    tlcli("inspect", "mobilenet_v2", "--train", "top:3", "--format", "html", "--out", page)
    tags, text = Tags(browse(page, "--dump-dom")), page.read_text(encoding="utf-8")
    assert [tag for tag, _ in tags.seen] == [tag for tag, _ in Tags(text).seen], "the browser had nothing to repair"
    assert "block_16_project_BN" in tags.words
    for scheme in ("light", "dark"):
        picture = tmp_path / f"{scheme}.png"
        flags = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
        browse(page, f"--screenshot={picture}", "--window-size=1300,1000", *flags)
    assert corner(tmp_path / "light.png") == (255, 255, 255)
    assert max(corner(tmp_path / "dark.png")) < 40
    assert colours(tmp_path / "light.png") >= {(0xC2, 0x57, 0x0C)}, "what is trained, in full heat"


def test_hostile_names_stay_text_in_a_browser(hostile: Path, tlcli: Callable, browse: Callable, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    said = tlcli("inspect", hostile, "--train", "all", "--format", "html", "--out", page)
    assert said.code == 0, said.stderr
    tags = Tags(browse(page, "--dump-dom"))
    assert {"img", "script", "b"}.isdisjoint({tag for tag, _ in tags.seen})
    assert not [key for _, values in tags.seen for key in values if key.startswith("on")]
    assert HOSTILE in tags.words
    assert "\"'&amp;" in tags.words


def corner(picture: Path) -> tuple[int, ...]:
    from PIL import Image

    with Image.open(picture) as image:
        return tuple(image.convert("RGB").getpixel((2, 2)))


def colours(picture: Path) -> set[tuple[int, ...]]:
    from PIL import Image

    with Image.open(picture) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
