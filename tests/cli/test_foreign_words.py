"""What libraries say about wrong files and addresses is told in the words of this program: file, reason, remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tlcli.zoo.formats import content

RAW = (
    "BadZipFile", "not a zip file", "Unable to synchronously", "signature not found", "validation error",
    "Input should", "input should", "Invalid IPv6", "urlopen", "Traceback", "This is a bug",
    "UnicodeDecodeError", "codec", "unicode string", "Expecting", "__init__", "broken data stream", "Error(",
)  # fmt: skip
CARD = "name: x\nsource: 3\ntitle: t\nsize: big\nmin_size: 0\npreprocessing: odd\nlicence: MIT\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files that are not what their names say."""
    for name in ("a.jpg", "a.keras", "a.h5", "a.weights.h5"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, "JPEG")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90))
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04" + bytes(90))
    (tmp_path / "page.h5").write_text("<html>404</html>")
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "card.yaml").write_text(CARD)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    (tmp_path / "map.yaml").write_text("rules:\n  - {match: a, layer: b}\n")
    (tmp_path / "control.yaml").write_bytes(b"recipe: 1\nname: a\x00b\n")
    for name, text in {"cut": b'{"status": ', "odd": b'{"colour": 1}', "latin": b'{"status": "\xe9"}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_bytes(text)
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04" + bytes(90))
    (tmp_path / "w.npz").write_bytes(b"PK")
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES = [
    (["predict", "a.jpg", "a.jpg"], "a.jpg: is not a classifier: it is a JPEG image", "Name a run folder"),
    (["evaluate", "a.keras", "PHOTOS"], "a.keras: is not a classifier: it is a JPEG image", "run folder"),
    (["inspect", "a.keras"], "a.keras: is not a Keras model: it is a JPEG image, not a zip archive", "fetch it again"),
    (["inspect", "cut.keras"], "cut.keras: is not a Keras model: it is cut off", "fetch it again"),
    (["inspect", "a.h5"], "a.h5: is not a Keras model: it is a JPEG image, not an HDF5 file", "fetch it again"),
    (["inspect", "cut.h5"], "cut.h5: is not a Keras model: ", "fetch it again"),
    (["inspect", "page.h5"], "page.h5: is not a Keras model: it is an HTML or XML page", "fetch it again"),
    (["inspect", "empty.h5"], "empty.h5: is not a Keras model: it is empty", "fetch it again"),
    (["inspect", "card.yaml"], "line 2, source: must be text (got '3'); line 4, size: must be a whole number", ""),
    (["inspect", "latin.yaml"], "latin.yaml: is not text in UTF-8", "A card is a YAML file"),
    (["recipe", "validate", "latin.yaml"], "latin.yaml: cannot be read (it is not text in UTF-8)", ""),
    (["recipe", "validate", "control.yaml"], "(it has a character that YAML does not allow, near position 18)", ""),
    (["plan", "PHOTOS", "-r", "latin.yaml"], "latin.yaml: cannot be read (it is not text in UTF-8)", ""),
    (["report", "cut"], "cut/run.json: is damaged (it is not JSON: line 1, column 12)", "Restore the file"),
    (["report", "latin"], "latin/run.json: is damaged (it is not text in UTF-8)", "Restore the file"),
    (["report", "odd"], "odd/run.json: is damaged (it has other keys or values than tlcli writes)", "Restore the file"),
    (
        ["plan", "bad.zip"],
        "bad.zip: is not a readable archive (its bytes are damaged, or not all there)",
        "pack it again",
    ),
    (["zoo", "unpack", "a.jpg"], "it is a JPEG image, not a zip archive", "Nothing was unpacked"),
    (["plan", "PHOTOS", "-m", "http://[bad"], "an address alone names no network", "Fetch any other file yourself"),
    (["plan", "PHOTOS", "-m", "tfhub:http://[bad"], "tfhub:http://[bad: is not a valid address", "Check its spelling"),
    (["plan", "PHOTOS", "-m", "https://h/net.h5"], "an address alone names no network", "--model FILE"),
    (["plan", "PHOTOS", "-m", "slim:mobilnet_v1"], "no checkpoint 'mobilnet_v1'", "Did you mean 'mobilenet_v1'"),
    (["plan", "PHOTOS", "-m", "slim:mobilenet-v1@x"], "no TF-Slim architecture", "Did you mean 'mobilenet_v1'"),
]


@pytest.mark.parametrize(("words", "reason", "remedy"), CASES, ids=lambda value: str(value)[:60])
def test_an_error_names_file_reason_and_remedy(
    words: list[str], reason: str, remedy: str, folder: Path, photos: Path, tlcli: Callable
) -> None:
    done = tlcli(*[str(photos) if word == "PHOTOS" else word for word in words])
    assert done.code == 2
    assert reason in done.stderr
    assert remedy in done.stderr
    assert not [text for text in RAW if text in done.stderr]


@pytest.mark.parametrize("place", ["http://[bad", "http://", "http://a b/"])
def test_a_mirror_with_a_bad_address_is_named(place: str, tlcli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLCLI_MIRROR", place)
    done = tlcli("zoo", "pull", "resnet50")
    assert done.code == 2
    assert f"TLCLI_MIRROR: cannot be used as a mirror (got '{place}')" in done.stderr


def test_a_map_names_the_line(folder: Path, tlcli: Callable) -> None:
    words = ["--architecture", "vgg16", "--map", "map.yaml", "--name", "x"]
    done = tlcli("zoo", "import", "w.npz", *words)
    assert (done.code, "line 2, rules[0].variable: is missing" in done.stderr) == (2, True)


def test_bad_weights_are_named(folder: Path) -> None:
    import keras

    from tlcli.errors import WeightsError
    from tlcli.zoo.sources import weights_file

    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(WeightsError, match=r"a\.weights\.h5: .*: it is a JPEG image, not an HDF5 file\. The file may"):
        weights_file.load(network, folder / "a.weights.h5", with_top=lambda: network)


def test_kinds_of_files(folder: Path) -> None:
    assert content.kind_of(folder / "a.jpg") == "a JPEG image"
    assert content.kind_of(folder / "nowhere") == ""
    assert (
        content.reason(folder / "cut.h5", OSError("Unable to open (bad superblock)"), "an HDF5 file")
        == "bad superblock"
    )
