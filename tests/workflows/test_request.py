"""What is refused before anything heavy is loaded, and what is asked of a recipe."""

from pathlib import Path

import pytest

from tlcli.errors import DataError, ModelError, OutputError, RecipeError, TlcliError, UsageError, WeightsError
from tlcli.workflows.request import ProbeRequest, check_probe


def refused(request: ProbeRequest) -> TlcliError:
    with pytest.raises(TlcliError) as caught:
        check_probe(request)
    assert caught.value.exit_code == 2
    return caught.value


def test_every_network_has_a_recipe_of_its_own(photos: Path) -> None:
    models = ("mobilenet_v2", "mobilenet_synthetic", "mobilenet_v2")
    asked = ProbeRequest(photos, models, weights="random", settings=("data.val=0.3", "seed=5"), size=(64, 96))
    found = [each.recipe for each in check_probe(asked)]
    assert [recipe.model.name for recipe in found] == ["mobilenet_v2", "mobilenet_synthetic"]
    for recipe in found:
        assert (recipe.data.path, recipe.data.size, recipe.data.val) == (photos, (64, 96), 0.3)
        assert (recipe.model.weights, recipe.seed) == ("random", 5)


def test_without_a_model_it_is_that_of_finetune(photos: Path) -> None:
    """The tests have no network and no downloaded weights."""
    (settled,) = check_probe(ProbeRequest(photos))
    assert settled.recipe.model.name == "mobilenet_synthetic"
    assert "the bundled network 'mobilenet_synthetic' is used" in settled.notices[0]


def test_a_file_of_weights_fits_one_network(photos: Path) -> None:
    error = refused(ProbeRequest(photos, ("mobilenet_v2", "mobilenet"), weights="some.h5"))
    assert isinstance(error, UsageError)
    assert error.where == "--weights"


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"models": ("mobilenet_v9",)}, ModelError, "mobilenet_v9"),
        ({"models": ("mobilenet_synthetic",), "weights": "no.h5"}, WeightsError, "no.h5"),
        ({"models": ("mobilenet_synthetic",), "size": (8, 8)}, ModelError, "at least 32"),
        ({"settings": ("data.vla=0.2",)}, RecipeError, "vla"),
        ({"settings": ("head.hidden=[{units: 8}]",)}, RecipeError, "hidden"),
        ({"plot": Path("curves.txt")}, UsageError, ".png"),
        ({"plot": Path("no such folder") / "curves.png"}, OutputError, "no such folder"),
    ],
)
def test_mistakes_are_told_at_once(options: dict, kind: type, words: str, photos: Path) -> None:
    error = refused(ProbeRequest(photos, **options))
    assert isinstance(error, kind)
    assert words in str(error)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert isinstance(refused(ProbeRequest(tmp_path / "no", ("mobilenet_synthetic",))), DataError)


def test_a_picture_is_never_drawn_over_a_file_or_among_the_images(photos: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(b"mine")
    assert "already exists" in str(refused(ProbeRequest(photos, ("mobilenet_synthetic",), plot=there)))
    assert "among the images" in str(
        refused(ProbeRequest(photos, ("mobilenet_synthetic",), plot=photos / "red" / "new.png"))
    )
    assert there.read_bytes() == b"mine"


def test_it_may_be_asked_from_within_the_images(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written there, unlike by a run."""
    monkeypatch.chdir(photos)
    assert check_probe(ProbeRequest(Path(), ("mobilenet_synthetic",)))[0].recipe.data.path == photos.resolve()
