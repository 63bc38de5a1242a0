"""The wheel: it contains recipes, cards and licence, and works outside the checkout."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs the command line of the installed wheel outside the checkout and returns stdout."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*words: object) -> str:
        environment = os.environ | {"PYTHONPATH": str(site)}
        where = "import tlcli.paths; assert tlcli.paths.__file__.startswith({!r}), tlcli.paths.__file__"
        code = f"{where.format(str(site))}; from tlcli.cli.main import main; main()"
        command = [sys.executable, "-c", code, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_wheel_contains_modules_templates_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        text = archive.read(next(name for name in names if name.endswith("licenses/LICENSE"))).decode()
    assert text == (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    modules = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "tlcli").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}
    templates = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "tlcli").rglob("*.html")}
    assert templates == {name for name in names if name.endswith(".html")} >= {"tlcli/report/templates/network.html"}
    assert {name.split("/")[0] for name in names} == {"tlcli", names[-1].split("/")[0]}
    assert not [name for name in names if "test" in name or name.endswith(".pyc")]


def test_the_installed_tlcli_finds_the_bundled_recipes_and_cards(installed: Callable[..., str]) -> None:
    assert len(json.loads(installed("recipe", "list", "--json"))) == 17
    assert len(json.loads(installed("zoo", "list", "--json"))) == 199
    assert len(installed("zoo", "list").splitlines()) == 200


def test_the_wheel_contains_the_bundled_weights(installed: Callable[..., str]) -> None:
    card = json.loads(installed("zoo", "show", "mobilenet_synthetic", "--json"))
    weights = Path(card["weights"])
    assert not weights.is_relative_to(CHECKOUT)
    assert weights.parent.name == "models"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["sha256"]


def test_the_source_archive_contains_recipes_models_and_weights(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        members = {name.partition("/")[2]: name for name in archive.getnames()}
        weights = archive.extractfile(members["models/mobilenet_synthetic.weights.h5"])
        assert weights is not None
        assert weights.read() == (CHECKOUT / "models" / "mobilenet_synthetic.weights.h5").read_bytes()
    for kind in ("recipes", "models"):
        files = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / kind).rglob("*") if path.is_file()}
        assert files <= members.keys()


def test_the_installed_tlcli_plans_without_measuring(
    installed: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    plan = json.loads(installed("plan", photos, "--json", "--model", "resnet50"))
    assert plan["data"]["counts"]["train"] > 0
    assert plan["groups"][0]["name"] == "stem"
    assert not (Path(os.environ["TLCLI_CACHE"]) / "structures").exists(), "the bundled structure is used"
