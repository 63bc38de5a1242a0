"""Card files: what is valid, and errors for what is not."""

import json
from pathlib import Path

import pytest

from tlcli.errors import ModelError
from tlcli.paths import bundled
from tlcli.zoo.card import ModelCard, read_card

CARD = """\
name: mine
source: keras:MobileNet
title: Mine
size: 96
min_size: 32
preprocessing: tf
licence: MIT
"""
DIGEST = "0123456789abcdef" * 4
WEIGHTS = f"weights: mine.weights.h5\nsha256: {DIGEST}\n"


def write_card(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def read_error(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_card(path)
    assert str(caught.value).count("\n") == 0
    assert caught.value.where.startswith(str(path))
    return caught.value


def test_a_card_without_weights_uses_those_of_its_source(tmp_path: Path) -> None:
    card = read_card(write_card(tmp_path, CARD))
    assert (card.weights, card.sha256, card.data) == (None, None, "")


def test_weights_are_found_beside_the_card_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    path = write_card(tmp_path / "home", CARD + WEIGHTS + "data: leaves\narguments: {alpha: 0.25}\n")
    card = read_card(path)
    assert card.weights == str(tmp_path / "home" / "mine.weights.h5")
    assert (card.sha256, card.data, card.arguments) == (DIGEST, "leaves", {"alpha": 0.25})
    monkeypatch.chdir(path.parent)
    assert read_card(Path(path.name)) == card
    (tmp_path / "link.yaml").symlink_to(path)
    assert read_card(tmp_path / "link.yaml") == card


def test_a_model_file_is_found_beside_the_card(tmp_path: Path) -> None:
    card = read_card(write_card(tmp_path, CARD.replace("keras:MobileNet", "file:x.keras") + f"sha256: {DIGEST}\n"))
    assert (card.source, card.weights, card.sha256) == (f"file:{tmp_path / 'x.keras'}", None, DIGEST)


def test_the_digest_may_be_in_upper_case(tmp_path: Path) -> None:
    card = read_card(write_card(tmp_path, CARD + WEIGHTS.replace(DIGEST, DIGEST.upper())))
    assert card.sha256 == DIGEST


def test_json_names_the_weights_without_their_folder(tmp_path: Path) -> None:
    card = read_card(write_card(tmp_path, CARD + WEIGHTS))
    document = card.model_dump(mode="json")
    assert document["weights"] == "mine.weights.h5"
    assert str(tmp_path) not in json.dumps(document)
    loaded = ModelCard.model_validate(document)
    assert loaded.model_copy(update={"weights": card.weights}) == card


@pytest.mark.parametrize(
    "name",
    [
        "../x.weights.h5",
        "sub/x.weights.h5",
        "/etc/x.weights.h5",
        "..\\x.weights.h5",
        "C:x.weights.h5",
        "~/x.weights.h5",
        "..",
        "x.h5",
        "x.pkl",
        "",
    ],
)
def test_weights_in_another_folder_or_format_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "x.weights.h5").write_bytes(b"")
    error = read_error(write_card(tmp_path / "home", f"{CARD}weights: {json.dumps(name)}\nsha256: {DIGEST}\n"))
    assert "weights: must be the name of a .weights.h5 file beside the card" in str(error)
    assert f"(got '{name}')" in str(error)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("size: 96", "size: -1"), ["line 4, size: must be 1 or more", "got '-1'"]),
        (("size: 96", "szie: 96"), ["szie: unknown key", "size: is missing", "Did you mean 'size'?"]),
        (("licence: MIT\n", ""), ["licence: is missing"]),
        (("preprocessing: tf", "preprocessing: torchh"), ["preprocessing: ", "'torchh'"]),
        (("name: mine", "name: ../mine"), ["name: ", "'../mine'"]),
        (("name: mine", "name: 'my net'"), ["name: ", "'my net'"]),
        (("keras:MobileNet", "file:/tmp/x.keras"), ["source: after file: must be the name", "'/tmp/x.keras'"]),
        (("keras:MobileNet", "file:../x.keras"), ["source: after file: must be the name", "'../x.keras'"]),
        (("keras:MobileNet", "file:x.pkl"), ["source: after file: must be the name", "'x.pkl'"]),
        (("keras:MobileNet", "hub:x"), ["source: must be KIND:NAME", "hub:x"]),
        (("keras:MobileNet", "MobileNet"), ["source: must be KIND:NAME"]),
        (("licence: MIT", "licence: MIT\nweights: a.weights.h5"), ["weights needs sha256"]),
        (("licence: MIT", f"licence: MIT\nsha256: {DIGEST}"), ["sha256 needs weights"]),
        (("licence: MIT", "licence: MIT\nweights: a.weights.h5\nsha256: abc"), ["sha256: ", "'abc'"]),
        (("licence: MIT", "licence: MIT\ngroups: [{name: a}]"), ["groups[0].pattern: is missing"]),
        (("licence: MIT", "licence: MIT\narguments: [1]"), ["arguments: must be keys and values"]),
        (("licence: MIT", "licence: MIT\nphases: []"), ["phases: unknown key", "--recipe"]),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_invalid_cards_give_file_and_key(tmp_path: Path, change: tuple[str, str], expected: list[str]) -> None:
    assert change[0] in CARD
    error = read_error(write_card(tmp_path, CARD.replace(*change)))
    assert "is not a model card" in error.message
    assert len(str(error).replace(str(tmp_path), "")) < 500
    for text in expected:
        assert text in str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "is not valid YAML"),
        ("", "the top level must be keys and values"),
        ("- a\n- b\n", "the top level must be keys and values"),
        ("name: !!python/object/apply:os.system [id]\n", "is not valid YAML"),
        ("a: 1\n" * 300_000, "it is larger than 1 MB"),
    ],
    ids=["broken", "empty", "list", "code", "huge"],
)
def test_files_that_are_not_cards_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in str(read_error(write_card(tmp_path, text)))


def test_binary_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    assert "is not text in UTF-8" in str(read_error(path))


def test_invalid_yaml_gives_its_line(tmp_path: Path) -> None:
    assert read_error(write_card(tmp_path, CARD + "data: [\n")).where.endswith("mine.yaml:9:1")


def test_the_bundled_card_with_weights_is_valid() -> None:
    card = read_card(bundled("models") / "mobilenet_synthetic.yaml")
    assert card.weights == str(bundled("models") / "mobilenet_synthetic.weights.h5")
    assert card.data
