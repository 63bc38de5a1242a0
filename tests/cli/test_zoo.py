"""`tlcli zoo`."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from audited_sockets import run_python
from file_server import FileServer, file_server

from tlcli.paths import bundled
from tlcli.zoo import catalogue, download

FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
NARROW = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    """A server as the mirror."""
    monkeypatch.setattr(download, "WAITS_S", (0.01, 0.01))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    with file_server() as running:
        running.files |= {FILE: b"wide" * 100_000, NARROW: b"narrow" * 100_000}
        monkeypatch.setenv("TLCLI_MIRROR", running.url)
        yield running


# Their weights are on this machine if an extra is installed.
OF_EXTRAS = {"efficientnet_lite1", "efficientnet_lite2"}


def test_list_shows_every_network_with_its_numbers(tlcli: Callable) -> None:
    result = tlcli("zoo", "list")
    assert (result.code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(catalogue.load())
    (line,) = [line for line in lines if line.startswith("mobilenet_v2 ")]
    assert line.split() == ["mobilenet_v2", "MobileNetV2", "Apache-2.0", "2.26", "M", "224", "71.3%", "download"]
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("mobilenet_synthetic ")]
    assert line.split()[-2:] == ["–", "bundled"]


def test_list_shows_whole_names_on_a_narrow_terminal(tlcli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = tlcli("zoo", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(catalogue.load())
    assert lines[-1].startswith("Left out at 60 columns")


@pytest.mark.parametrize(("pattern", "count"), [("efficientnet_v*", 7), ("EfficientNet_V2*", 7), ("resnet50", 1)])
def test_list_accepts_wildcards(pattern: str, count: int, tlcli: Callable) -> None:
    rows = tlcli("zoo", "list", pattern, "--json").document
    assert len(rows) == count
    assert {row["source"].partition(":")[0] for row in rows} <= {"keras", "package"}
    assert len(tlcli("zoo", "list", pattern).stdout.splitlines()) == count + 1


@pytest.mark.parametrize("name", ["mobilenet_v2", "keras:MobileNetV2", "MobileNet-V2"])
def test_show_prints_every_field_of_a_card(name: str, tlcli: Callable) -> None:
    card = tlcli("zoo", "show", name, "--json").document
    shown = {key: card[key] for key in card if key not in ("file", "url", "url_hash")}
    assert shown == catalogue.load()["mobilenet_v2"].model_dump(mode="json")
    assert (card["file"], card["url_hash"]) == (None, None)
    assert card["url"].endswith("_1.0_224_no_top.h5")
    text = tlcli("zoo", "show", name).stdout
    unknown = {"arguments", "sha256", "cut", "file", "url_hash"}
    assert [line.split()[0] for line in text.splitlines()] == [key for key in card if key not in unknown]
    assert "licence        Apache-2.0" in text
    assert "data           ImageNet" in text
    assert "weights        to be downloaded from storage.googleapis.com" in text
    assert "paper          https://arxiv.org/abs/1801.04381" in text
    assert "–" not in text


def test_show_names_bundled_weights(tlcli: Callable) -> None:
    card, shown = catalogue.find("mobilenet_synthetic"), tlcli("zoo", "show", "mobilenet_synthetic", "--json").document
    assert (shown["weights"], shown["sha256"], shown["data"]) == (card.weights, card.sha256, card.data)
    text = tlcli("zoo", "show", "mobilenet_synthetic").stdout
    assert f"weights        {bundled('models') / 'mobilenet_synthetic.weights.h5'}" in text
    assert f"sha256         {card.sha256}" in text
    assert f"data           {card.data}" in text


def test_presets_of_kerashub_say_how_their_weights_come_and_where_their_licence_is(tlcli: Callable) -> None:
    name = "vit_base_patch16_224_imagenet"
    assert tlcli("zoo", "list", name).stdout.splitlines()[1].split()[-1] == "KerasHub"
    assert "by KerasHub" in " ".join(tlcli("zoo", "list", "--help").stdout.split())
    text = tlcli("zoo", "show", name).stdout
    assert "licence        see https://www.kaggle.com/models/keras/vit\n" in text
    assert "weights        to be fetched by KerasHub, " in text
    assert not {"imagenet_top1", "url", "url_hash", "file"} & {line.split()[0] for line in text.splitlines()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--local"], {"efficientnet_lite0", "mobilenet_synthetic"}),
        (["--source", "file"], set()),
        (["--size", "600"], {"efficientnet_b7"}),
        (["*v2*", "--size", "224", "--max-parameters", "2.3M"], {"mobilenet_v2"}),
        (["--licence", "mit", "*50*"], {"resnet50"}),
        (["--licence", "cc-by"], {"vgg16", "vgg19"}),
    ],
    ids=lambda value: " ".join(sorted(value)),
)
def test_list_filters(options: list[str], expected: set[str], tlcli: Callable) -> None:
    found = tlcli("zoo", "list", *options, "--json")
    assert {row["name"] for row in found.document} - OF_EXTRAS == expected
    text = tlcli("zoo", "list", *options)
    assert text.code == (0 if expected else 2)
    if not expected:
        assert "tlcli zoo list" in text.stderr


@pytest.mark.parametrize(("text", "count"), [("640k", 2), ("639996", 2), ("0.001G", 5), ("1e3k", 5)])
def test_numbers_of_parameters_have_units(text: str, count: int, tlcli: Callable) -> None:
    assert len(tlcli("zoo", "list", "--max-parameters", text, "--json").document) == count


@pytest.mark.parametrize("text", ["many", "5X", "", "1e999", "nan"])
def test_other_numbers_are_errors(text: str, tlcli: Callable) -> None:
    result = tlcli("zoo", "list", "--max-parameters", text)
    assert result.code == 2
    assert "500k or 5M" in result.stderr


def test_pull_fetches_once_resumes_and_shows_the_licence(server: FileServer, tlcli: Callable) -> None:
    server.cut_after = [100_000]
    result = tlcli("zoo", "pull", "mobilenet_v2")
    assert result.code == 0, result.stderr
    path = download.weights_cache() / FILE
    assert result.stdout == f"mobilenet_v2: {path}\n"
    assert "weights of mobilenet_v2: licence Apache-2.0" in result.stderr
    assert "kB: 400 of 400" in result.stderr
    assert path.read_bytes() == server.files[FILE]
    assert [asked != "" for _, _, asked in server.requests] == [False, True]
    again = tlcli("zoo", "pull", "MobileNetV2", "--json").document
    assert again == [{"name": "mobilenet_v2", "licence": "Apache-2.0", "file": str(path)}]
    assert len(server.requests) == 2
    assert {row["name"] for row in tlcli("zoo", "list", "--local", "--json").document} - OF_EXTRAS == {
        "efficientnet_lite0", "mobilenet_synthetic", "mobilenet_v2",
    }  # fmt: skip
    assert tlcli("zoo", "show", "mobilenet_v2", "--json").document["file"] == str(path)


def test_pull_takes_arguments_and_size(server: FileServer, tlcli: Callable) -> None:
    words = ["zoo", "pull", "mobilenet_v2", "--set", "model.arguments.alpha=0.35", "--size", 96, 96]
    assert tlcli(*words).code == 0
    assert (download.weights_cache() / NARROW).is_file()
    wrong = tlcli("zoo", "pull", "mobilenet_v2", "--set", "model.arguments.alpha=0.4")
    assert wrong.code == 2
    assert "{alpha: 0.35}" in wrong.stderr


def test_pull_of_what_is_not_there_names_the_ways_out(server: FileServer, tlcli: Callable) -> None:
    result = tlcli("zoo", "pull", "resnet50", "--json")
    assert result.code == 2
    error = result.document["error"]
    assert error["kind"] == "weights"
    assert f"{server.url}resnet50_weights" in error["message"]
    ways = [error["hint"].index(f"\n- {way}") for way in ("cache", "mirror", "file", "another network")]
    assert ways == sorted(ways)
    assert tlcli("zoo", "pull", "mobilenet_synthetic").code == 0, "it is here already"


def test_verify_finds_damage(server: FileServer, tlcli: Callable) -> None:
    assert tlcli("zoo", "pull", "mobilenet_v2").code == 0
    rows = tlcli("zoo", "verify", "--json").document
    assert [(row["name"], row["status"], row["hash"]) for row in rows if row["name"] not in OF_EXTRAS] == [
        ("efficientnet_lite0", "ok", "sha256 of the card"),
        ("mobilenet_synthetic", "ok", "sha256 of the card"),
        ("mobilenet_v2", "ok", "sha256 at its download"),
    ]
    narrow = ["zoo", "pull", "mobilenet_v2", "--set", "model.arguments.alpha=0.35", "--size", "96", "96"]
    assert tlcli(*narrow).code == 0
    (download.weights_cache() / NARROW).write_bytes(b"damaged")
    verdicts = {row["file"]: row for row in tlcli("zoo", "verify", "mobilenet_v2", "--json").document}
    damaged = verdicts[str(download.weights_cache() / NARROW)]
    assert damaged["status"] == "damaged"
    assert f"tlcli {' '.join(narrow)}" in damaged["message"], "the command that fetches this very file"
    assert tlcli(*narrow).code == 0
    assert (download.weights_cache() / NARROW).read_bytes() == server.files[NARROW], "pull replaces a damaged file"
    (download.weights_cache() / FILE).write_bytes(b"damaged")
    result = tlcli("zoo", "verify", "mobilenet_v2")
    assert result.code == 3
    assert "damaged" in result.stdout
    assert "tlcli zoo pull mobilenet_v2" in result.stdout
    assert f"\nmobilenet_v2: {download.weights_cache() / FILE}\n" in result.stdout, "a path has a line of its own"
    assert tlcli("zoo", "verify", "mobilenet_synthetic").code == 0


def test_a_network_travels_in_an_archive(
    server: FileServer, tlcli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "zoo.zip"
    packed = tlcli("zoo", "pack", "mobilenet_v2", "--out", out, "--json").document
    assert [(network["name"], network["licence"]) for network in packed] == [("mobilenet_v2", "Apache-2.0")]
    assert tlcli("zoo", "pack", "mobilenet_v2", "--out", out).code == 2, "the file exists"
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / "there"))
    monkeypatch.setenv("TLCLI_OFFLINE", "1")
    monkeypatch.delenv("TLCLI_MIRROR")
    assert tlcli("zoo", "pull", "mobilenet_v2").code == 2
    assert "Apache-2.0" in tlcli("zoo", "unpack", out).stdout
    assert tlcli("zoo", "pull", "mobilenet_v2").code == 0
    assert tlcli("zoo", "unpack", out, "--to", tmp_path / "mirror", "--json").document == packed
    assert (tmp_path / "mirror" / FILE).read_bytes() == server.files[FILE]


def test_a_run_is_added_used_and_removed(finished: tuple, tlcli: Callable) -> None:
    run = finished[0]
    added = tlcli("zoo", "add", run, "--name", "mine", "--licence", "MIT")
    assert added.code == 0, added.stderr
    assert "next: tlcli finetune photos/ --model mine" in added.stdout
    card = tlcli("zoo", "show", "mine", "--json").document
    assert (card["preprocessing"], card["size"], card["licence"], card["arguments"]) == ("tf", 32, "MIT", {})
    assert [group["name"] for group in card["groups"]] == ["stem", "block{1}"]
    assert "mine" in {row["name"] for row in tlcli("zoo", "list", "--local", "--source", "file", "--json").document}
    assert tlcli("zoo", "add", run, "--name", "mine").code == 2
    assert tlcli("zoo", "remove", "mobilenet_v2").code == 2
    assert tlcli("zoo", "remove", "mine", "--json").document["freed_bytes"] > 0
    assert tlcli("zoo", "show", "mine").code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere", "--name", "x"], "there is no such file"),
        ([".", "--name", "x"], "is a folder, but not a run folder"),
        (["RUN", "--name", "vgg16"], "name of a bundled network"),
        (["RUN", "--name", "x", "--preprocessing", "tf"], "the run states it"),
    ],
)
def test_what_cannot_be_added_is_an_error(words: list[str], expected: str, finished: tuple, tlcli: Callable) -> None:
    words = [str(finished[0]) if word == "RUN" else word for word in words]
    result = tlcli("zoo", "add", *words)
    assert result.code == 2
    assert expected in result.stderr


def test_a_card_file_is_added_with_its_weights(tlcli: Callable) -> None:
    source = bundled("models") / "mobilenet_synthetic.yaml"
    assert tlcli("zoo", "add", source, "--name", "copy").code == 0
    card = catalogue.find("copy")
    assert Path(str(card.weights)).read_bytes() == source.with_suffix(".weights.h5").read_bytes()


def test_offline_no_socket_is_opened(server: FileServer, tmp_path: Path, photos: Path, tiny: Path) -> None:
    _, _, online = run_python(tmp_path, "-m", "tlcli", "zoo", "pull", "mobilenet_v2")
    assert "socket.connect" in online, "the hook works"
    server.requests.clear()
    settings = {"TLCLI_OFFLINE": "1", "TLCLI_CACHE": str(tmp_path / "empty")}
    code, text, events = run_python(tmp_path, "-m", "tlcli", "zoo", "pull", "mobilenet_v2", **settings)
    assert (code, events) == (2, set()), text
    assert "TLCLI_OFFLINE is set" in text
    words = ["--recipe", tiny, "--set", "model={name: auto}", "--out", tmp_path / "run"]
    code, text, events = run_python(tmp_path, "-m", "tlcli", "finetune", photos, *words, **settings)
    assert (code, events) == (0, set()), text
    assert "weights of efficientnet_lite0: licence Apache-2.0" in text
    assert server.requests == []


def test_list_and_plan_load_no_keras(photos: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from tlcli.cli.main import cli;"
        "results = [CliRunner().invoke(cli, words) for words in (['zoo', 'list'], ['zoo', 'list', '--local', '--json'],"
        f" ['zoo', 'show', 'vgg16'], ['plan', {str(photos)!r}, '--model', 'mobilenet_v2'])];"
        "print([result.exit_code for result in results], 'keras' in sys.modules, 'requests' in sys.modules)"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[0, 0, 0, 0] False False"
