"""Every block of commands in the documentation is run, or says why not."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import doc_blocks
import numpy as np
import pytest
from doc_blocks import CHECKOUT
from PIL import Image

TUTORIAL = CHECKOUT / "docs" / "tutorial.md"
BLOCKS = {page: doc_blocks.find(page) for page in doc_blocks.pages()}
RUN = {page: runnable for page, blocks in BLOCKS.items() if (runnable := [b for b in blocks if b.reason is None])}
# Pages whose commands train nothing; the others take minutes.
QUICK = {"batch-norm", "check", "gpu", "imbalanced", "inspect", "models"}
PAGES = [pytest.param(page, marks=getattr(pytest.mark, "extras" if page.stem in QUICK else "slow")) for page in RUN]
# Files that the commands of the pages expect: a recipe for CI, and images of classes that are easy to tell apart.
RECIPE = "recipe: 1\nextends: head-only\nname: flowers\ndata: {path: photos}\nexpect: [val.accuracy >= 0.5]\n"


def test_every_block_is_found_and_every_reason_says_something() -> None:
    for page, blocks in BLOCKS.items():
        text = page.read_text(encoding="utf-8")
        assert text.count("```sh\n") == len(blocks), page
        reasons = re.findall(r"^ *<!-- not run:", text, re.MULTILINE)
        assert len(reasons) == sum(block.reason is not None for block in blocks), page
        assert all(len(block.reason.split()) >= 2 for block in blocks if block.reason is not None), page


def test_enough_blocks_are_run() -> None:
    assert sum(map(len, RUN.values())) >= 35
    assert len(RUN) >= 12


def test_blocks_that_are_run_need_no_connection() -> None:
    for blocks in RUN.values():
        for block in blocks:
            words = re.findall(r"pip install|git clone|\w+://(?!127\.0\.0\.1)", block.script)
            assert not words, f"{block} needs a line `<!-- not run: REASON -->` before it: {words}"


def draw(folder: Path, seed: int) -> Path:
    """Three classes of 24 photographs-to-be: smooth noise in different colours, 240 pixels, no two nearly the same."""
    random = np.random.default_rng(seed)
    for channel, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for number in range(24):
            pixels = random.integers(0, 120, (12, 12, 3), np.uint8)
            pixels[..., channel] += 120
            image = Image.fromarray(pixels).resize((240, 240), Image.Resampling.BICUBIC)
            image.save(folder / name / f"{number:02}.jpg")
    return folder


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages expect. Its cache is copied along, so that features are computed once."""
    home = tmp_path_factory.mktemp("material")
    draw(home / "photos", 0)
    draw(home / "other-photos", 1)
    shutil.copytree(home / "other-photos" / "red", home / "new")
    (home / "new" / "00.jpg").rename(home / "new" / "one.jpg")
    (home / "recipes").mkdir()
    (home / "recipes" / "flowers.yaml").write_text(RECIPE, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", str(home)], check=True)
    script = "tlcli finetune photos/ --recipe head-only --out runs/first"
    done = doc_blocks.run(doc_blocks.Block(CHECKOUT / "README.md", 0, script, None, None), home)
    assert done.returncode == 0, done.stderr
    for name in ("photos-1", "photos-efficientnet_lite0-1"):
        shutil.copytree(home / "runs" / "first", home / "runs" / name)
    return home


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_work(page: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The blocks of a page, one after the other in one folder. The tutorial starts with an empty one."""
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("fastapi")
    home = tmp_path / "home"
    if page == TUTORIAL:
        home.mkdir()
    else:
        shutil.copytree(request.getfixturevalue("material"), home)
    outputs = {}
    for block in RUN[page]:
        done = doc_blocks.run(block, home)
        assert done.returncode == 0, f"{block}\n{block.script}\n{done.stdout}\n{done.stderr}"
        outputs[block] = done.stdout.replace(str(home), "/home/you")
        if block.output is not None:
            assert done.stdout.strip(), f"{block} prints nothing"
    if os.environ.get("RENEW_GOLDEN"):
        doc_blocks.renew(page, outputs)
