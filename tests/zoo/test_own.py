"""One's own zoo: adding, finding and removing networks, all or nothing."""

from pathlib import Path

import pytest

from tlcli.errors import ModelError, OutputError
from tlcli.zoo import catalogue, own
from tlcli.zoo.card import ModelCard, sha256_of, verified_weights


def card(**changes) -> ModelCard:
    values = {
        "name": "leaves",
        "source": "file:model.keras",
        "title": "Leaves",
        "size": 32,
        "min_size": 1,
        "preprocessing": "none",
        "licence": "MIT",
        "groups": ({"name": "a", "pattern": "a.*"},),
    }
    return ModelCard.model_validate({**values, **changes})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "given.keras"
    path.write_bytes(b"a model")
    return path


def test_an_added_network_is_found_by_its_name(model: Path) -> None:
    path = own.add_card(card(), {"model.keras": model})
    assert path.parent == own.folder() / "leaves"
    model.unlink()
    found = catalogue.find("leaves")
    file = path.parent / "model.keras"
    assert found == card(source=f"file:{file}", sha256=sha256_of(file))
    assert catalogue.find("Leaves") == found
    assert list(catalogue.load()) == sorted(catalogue.load())
    assert "leaves" in catalogue.names("lea*")
    assert not catalogue.is_path("leaves")
    assert verified_weights(found) == file
    file.write_bytes(b"another")
    with pytest.raises(ModelError, match="is not the file of the card of leaves"):
        verified_weights(found)


def test_a_card_with_weights_of_a_keras_network_is_added(model: Path) -> None:
    weights = {"weights": "x.weights.h5", "sha256": sha256_of(model), "source": "keras:MobileNet"}
    own.add_card(card(**weights), {"x.weights.h5": model})
    found = catalogue.find("leaves")
    assert found.weights == str(own.folder() / "leaves" / "x.weights.h5")
    assert catalogue.find("keras:MobileNet").name == "mobilenet"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mobilenet_v2", "bundled"),
        ("MobileNetV2", "bundled"),
        ("auto", "cannot be"),
        ("x.keras", "cannot be"),
        ("x.yaml", "cannot be"),
        ("../x", "cannot be"),
        ("a/b", "cannot be"),
        ("", "cannot be"),
        (".x", "cannot be"),
        ("keras:x", "cannot be"),
        ("x" * 100, "cannot be"),
    ],
)
def test_names_that_shadow_others_or_are_no_names_are_refused(model: Path, name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        own.add_card(card(name=name), {"model.keras": model})
    assert own.names() == []


def test_a_taken_name_needs_a_removal(model: Path) -> None:
    own.add_card(card(), {"model.keras": model})
    with pytest.raises(ModelError, match="tlcli zoo remove leaves"):
        own.add_card(card(name="Leaves"), {"model.keras": model})
    assert own.remove("leaves") > len(b"a model")
    assert not own.names()
    own.add_card(card(name="Leaves"), {"model.keras": model})


@pytest.mark.parametrize(
    ("changes", "files"),
    [({"sha256": "0" * 64}, ["model.keras"]), ({}, ["other.keras"]), ({"source": "hub:x"}, ["model.keras"])],
    ids=["hash", "file", "source"],
)
def test_a_card_that_does_not_fit_leaves_nothing_behind(model: Path, changes: dict, files: list[str]) -> None:
    with pytest.raises(ModelError):
        own.add_card(card(**changes), dict.fromkeys(files, model))
    assert list(own.folder().iterdir()) == []


@pytest.mark.parametrize("name", ["mobilenet_v2", "Leaves", "leaves/", "../zoo/leaves", "*", ""])
def test_only_the_exact_name_of_an_own_network_is_removed(model: Path, name: str) -> None:
    own.add_card(card(), {"model.keras": model})
    with pytest.raises(ModelError, match=r"bundled and cannot be removed|is not in your zoo.*Own networks: leaves"):
        own.remove(name)
    assert own.names() == ["leaves"]
    assert catalogue.find("mobilenet_v2")


def test_a_damaged_card_does_not_hide_the_others(model: Path) -> None:
    own.add_card(card(), {"model.keras": model}).write_text("name: [")
    own.add_card(card(name="b"), {"model.keras": model})
    assert list(own.cards()) == ["b"]
    with pytest.raises(ModelError, match=r"card\.yaml.*not valid YAML"):
        catalogue.find("leaves")
    own.remove("leaves")
    assert own.names() == ["b"]


def test_a_folder_that_cannot_be_written_is_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLCLI_ZOO", str(model))
    with pytest.raises(OutputError, match="TLCLI_ZOO"):
        own.add_card(card(), {"model.keras": model})


def test_the_folder_is_in_the_data_folder_of_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TLCLI_ZOO")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in own.folder().parents
    assert own.cards() == {}
