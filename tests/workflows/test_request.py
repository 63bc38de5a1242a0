"""Requests: what is refused before images are read or Keras loads, and the recipes of a probe."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tlcli.errors import DataError, ModelError, OutputError, RecipeError, TlcliError, UsageError, WeightsError
from tlcli.workflows.probe_request import ProbeRequest, check_probe


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every file, by path."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("out", ["photos", "photos/runs/first"])
def test_a_run_folder_inside_the_image_folder_is_refused(
    out: str, draw: Callable, tlcli: Callable, tmp_path: Path
) -> None:
    draw(tmp_path / "photos")
    before = contents(tmp_path / "photos")
    result = tlcli("plan", tmp_path / "photos", "--out", tmp_path / out)
    assert result.code == 2
    assert "is inside the image folder" in result.stderr
    assert contents(tmp_path / "photos") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "head-only"], "takes two recipes or more"),
        (["--compare", "head-only,head-only"], "two recipes have the name 'head-only'"),
        (
            ["--compare", "head-only,lp-ft", "--set", "phases.1.epochs=1"],
            "--compare head-only: --set phases.1.epochs=1",
        ),
        (["--compare", "head-only,two-phase", "--set", "phases.0.train=block99"], "phases[0].train"),
        (["--compare", "head-only,lp-ft", "--set", "data.val=0"], "data.val is 0"),
        (["--compare", "head-only,nothing-like-it"], "nothing-like-it"),
        (["--compare", "head-only,full", "--recipe", "full"], "cannot be combined with --recipe"),
        (["--compare", "head-only,demo"], "use the images differently (data.val, data.test)"),
    ],
)
def test_recipes_that_cannot_be_compared_are_refused(
    words: list[str], message: str, photos: Path, tlcli: Callable, tmp_path: Path
) -> None:
    result = tlcli("finetune", photos, "--model", "mobilenet_synthetic", *words, "--out", tmp_path / "run")
    assert result.code == 2, result.stderr
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def refused(request: ProbeRequest) -> TlcliError:
    """The error of a refused probe."""
    with pytest.raises(TlcliError) as caught:
        check_probe(request)
    assert caught.value.exit_code == 2
    return caught.value


def test_every_network_has_its_own_recipe(photos: Path) -> None:
    models = ("mobilenet_v2", "mobilenet_synthetic", "mobilenet_v2")
    request = ProbeRequest(photos, models, weights="random", settings=("data.val=0.3", "seed=5"), size=(64, 96))
    recipes = [resolved.recipe for resolved in check_probe(request)]
    assert [recipe.model.name for recipe in recipes] == ["mobilenet_v2", "mobilenet_synthetic"]
    for recipe in recipes:
        assert (recipe.data.path, recipe.data.size, recipe.data.val) == (photos, (64, 96), 0.3)
        assert (recipe.model.weights, recipe.seed) == ("random", 5)


def test_the_default_network_is_that_of_finetune(photos: Path) -> None:
    (resolved,) = check_probe(ProbeRequest(photos))
    assert (resolved.recipe.model.name, resolved.notices) == ("efficientnet_lite0", ())


def test_a_weights_file_fits_one_network(photos: Path) -> None:
    error = refused(ProbeRequest(photos, ("mobilenet_v2", "mobilenet"), weights="some.h5"))
    assert isinstance(error, UsageError)
    assert error.where == "--weights"


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"models": ("mobilenet_v9",)}, ModelError, "mobilenet_v9"),
        ({"models": ("mobilenet_synthetic",), "weights": "no.h5"}, WeightsError, "no.h5"),
        ({"models": ("mobilenet_synthetic",), "size": (8, 8)}, ModelError, "at least 32"),
        ({"settings": ("data.vla=0.2",)}, RecipeError, "vla"),
        ({"settings": ("head.hidden=[{units: 8}]",)}, RecipeError, "hidden"),
        ({"settings": ("performance.budget=10m",)}, UsageError, "has no time budget"),
        ({"settings": ("phases[0].epochs=3",)}, UsageError, "has no effect on a probe"),
        ({"plot": Path("curves.txt")}, UsageError, ".png"),
        ({"plot": Path("no such folder") / "curves.png"}, OutputError, "no such folder"),
    ],
)
def test_problems_of_a_probe_are_reported(options: dict, kind: type, text: str, photos: Path) -> None:
    error = refused(ProbeRequest(photos, **options))
    assert isinstance(error, kind)
    assert text in str(error)


def test_a_missing_image_folder_is_refused(tmp_path: Path) -> None:
    assert isinstance(refused(ProbeRequest(tmp_path / "no", ("mobilenet_synthetic",))), DataError)


def test_a_plot_never_replaces_a_file_or_goes_into_the_image_folder(photos: Path, tmp_path: Path) -> None:
    existing = tmp_path / "existing.png"
    existing.write_bytes(b"mine")
    assert "already exists" in str(refused(ProbeRequest(photos, ("mobilenet_synthetic",), plot=existing)))
    inside = photos / "red" / "new.png"
    assert "is inside the image folder" in str(refused(ProbeRequest(photos, ("mobilenet_synthetic",), plot=inside)))
    assert existing.read_bytes() == b"mine"


def test_a_probe_can_start_in_the_image_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike a run, a probe writes nothing there."""
    monkeypatch.chdir(photos)
    assert check_probe(ProbeRequest(Path(), ("mobilenet_synthetic",)))[0].recipe.data.path == photos.resolve()
