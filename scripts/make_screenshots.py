"""Make the screenshots of the documentation: the page of a run, and a drawing of layer groups.

Trains on the digits of the demo, so that no photograph of anybody is in the pictures. Needs Chromium.

    python scripts/make_screenshots.py            # writes docs/images/
    python scripts/make_screenshots.py --run RUN  # of a run that exists
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
# Width of the window, and heights that cut no line of text in two, pixels.
WIDTH = 1100
HEIGHTS = {"report.png": 870, "inspect.png": 900}


def main() -> None:
    """Make all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder, instead of a new run on digits")
    run = parser.parse_args().run
    with tempfile.TemporaryDirectory() as home:
        run = run.absolute() if run else _train(Path(home))
        _shoot((run / "report.html").as_uri(), "report.png", Path(home))
        drawing = Path(home) / "drawing.html"
        _tlcli(
            "inspect", "efficientnet_lite0", "--train", "top:3", "--format", "html", "--out", drawing, cwd=Path(home)
        )
        _shoot(drawing.as_uri(), "inspect.png", Path(home))


def _train(home: Path) -> Path:
    """The run of the tutorial. Its paths, which the page shows, are those of the tutorial."""
    _tlcli("demo", "--images", "digits", cwd=home)
    options = ("--quality", "fast", "--set", "augment.preset=none")
    _tlcli("finetune", "digits", *options, "--out", "runs/digits", cwd=home)
    return home / "runs" / "digits"


def _tlcli(*words: object, cwd: Path) -> None:
    subprocess.run(["tlcli", *map(str, words)], check=True, cwd=cwd)


def _shoot(address: str, name: str, home: Path) -> None:
    """Write a screenshot of a page as a PNG of 128 colours, which is a quarter of the size."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no Chromium here")
    raw = home / name
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=3000")
    size = f"--window-size={WIDTH},{HEIGHTS[name]}"
    subprocess.run([program, *options, size, f"--screenshot={raw}", address], check=True, capture_output=True)
    IMAGES.mkdir(exist_ok=True)
    with Image.open(raw) as image:
        image.convert("RGB").quantize(128).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main()
