"""What all tests share: a scrubbed environment, the sample material, the command line, and one finished run."""

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says something of the machine, which others may use as well, and nothing of the program.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
# Quiet TensorFlow's C++ start-up lines; set before any test imports it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reaches the internet or finds downloaded weights: the proxy is a closed door, which fails at once."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            environment.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            environment.setenv(name, "127.0.0.1,localhost")
        environment.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every test has a cache of its own and no settings of the person who runs it."""
    for name in [name for name in os.environ if name.startswith("TLCLI_") and name != "TLCLI_TEST_DATA"]:
        monkeypatch.delenv(name)
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a sample set by name. `TLCLI_TEST_DATA` holds folders or tars; skips where there are none."""
    home = Path(os.environ.get("TLCLI_TEST_DATA", CHECKOUT.parent / "shared" / "data"))
    unpacked = tmp_path_factory.mktemp("samples")

    def find(name: str) -> Path:
        if (home / name).is_dir():
            return home / name
        for archive in (home / f"{name}.tar", home / f"weights_{name}.tar"):
            if archive.is_file() and not (unpacked / name).is_dir():
                with tarfile.open(archive) as tar:
                    tar.extractall(unpacked, filter="data")
        if not (unpacked / name).is_dir():
            pytest.skip(f"sample data '{name}' is not in {home} (set TLCLI_TEST_DATA)")
        return unpacked / name

    return find


@dataclass(frozen=True)
class Told:
    """What a command said and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """Stdout as the one JSON document that it must be."""
        return json.loads(self.stdout)


@pytest.fixture(scope="session")
def tlcli() -> Callable[..., Told]:
    """The command line in this process: `tlcli("plan", folder)`."""
    from click.testing import CliRunner

    from tlcli.cli.main import cli

    def run(*words: object) -> Told:
        done = CliRunner().invoke(cli, [str(word) for word in words])
        return Told(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def draw() -> Callable[..., Path]:
    """Write class folders of small pictures that a network can learn: `draw(folder, ["a", "b"], count=4)`.

    The pictures are BMP and computed in whole numbers, so that their bytes, and with them the splits, are the same
    on every machine; 33 is a number with which every class of ten has images in every split.
    """
    import numpy as np
    from PIL import Image

    def write(folder: Path, names: Sequence[str] = ("blue", "green", "red"), *, count: int = 10) -> Path:
        rows, columns = np.mgrid[0:40, 0:48]
        for label, name in enumerate(names):
            (folder / name).mkdir(parents=True)
            for number in range(count):
                texture = (rows * (label + 2) + columns * (number + 3) + 33) * 37 % 90
                picture = np.repeat(texture[..., None], 3, axis=2)
                picture[..., label % 3] += 110 + 5 * (number % 10)
                Image.fromarray(picture.astype(np.uint8)).save(folder / name / f"{number:02}.bmp")
        return folder

    return write


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Path]) -> Path:
    """Three classes of ten pictures. Not to be changed: others use them, too."""
    return draw(tmp_path_factory.mktemp("data") / "photos")


TINY_RECIPE = """\
recipe: 1
name: tiny
data: {size: [32, 32], val: 0.2, test: 0.2}
model: {name: mobilenet, weights: random, arguments: {alpha: 0.25}}
phases:
  - {name: head, train: head, init: probe, epochs: 2}
  - {name: unfreeze, policy: gradual, step: 7, epochs: 2, lr: 1.0e-3, batch_norm: affine}
expect: [seconds.total <= 3600]
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file that trains a very small network in seconds: the head, then two rounds of thawing at most."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tlcli: Callable[..., Told], photos: Path, tiny: Path
) -> tuple[Path, Told]:
    """The folder of a run of `tiny` on `photos`, and what `finetune --json` said. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        said = tlcli("finetune", photos, "--recipe", tiny, "--out", folder, "--json")
    assert said.code == 0, said.stderr
    return folder, said
