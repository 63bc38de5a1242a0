"""Archives of networks: packed, unpacked elsewhere, used as a mirror; hostile ones leave nothing behind."""

import json
import stat
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tlcli.errors import DataError, ModelError, OutputError, TlcliError, WeightsError
from tlcli.zoo import archive, catalogue, download, own, published, store
from tlcli.zoo.card import ModelCard, sha256_of

NETWORK = "mobilenet_v2"
FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
NARROW = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLCLI_OFFLINE", "1")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture
def filled(tmp_path: Path) -> list[ModelCard]:
    """Two files of a published network in the cache, and a network of one's own; returns their cards."""
    download.weights_cache().mkdir(parents=True)
    for name in (FILE, NARROW):
        (download.weights_cache() / name).write_bytes(name.encode() * 1000)
    (tmp_path / "net.keras").write_bytes(b"a network" * 1000)
    values = {"title": "Mine", "size": 32, "min_size": 1, "preprocessing": "unit", "licence": "MIT"}
    own.add_card(ModelCard(name="mine", source="file:net.keras", **values), {"net.keras": tmp_path / "net.keras"})
    return [catalogue.find(NETWORK), catalogue.find("mine")]


@pytest.fixture
def packed(filled: list[ModelCard], tmp_path: Path) -> Path:
    archive.pack(filled, tmp_path / "zoo.zip")
    return tmp_path / "zoo.zip"


@pytest.fixture
def elsewhere(packed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Another machine: an empty cache and an empty zoo."""
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path / "there" / "cache"))
    monkeypatch.setenv("TLCLI_ZOO", str(tmp_path / "there" / "zoo"))
    return tmp_path / "there"


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_packed_is_unpacked_elsewhere(packed: Path, elsewhere: Path) -> None:
    networks = archive.unpack(packed)
    assert [(network.name, network.licence) for network in networks] == [(NETWORK, "Apache-2.0"), ("mine", "MIT")]
    for name in (FILE, NARROW):
        assert (download.weights_cache() / name).read_bytes() == name.encode() * 1000
    card = catalogue.find("mine")
    assert (card.preprocessing, card.licence) == ("unit", "MIT")
    assert store.pull(card).read_bytes() == b"a network" * 1000
    assert {verdict.status for verdict in store.verify([NETWORK, "mine"])} == {"ok"}
    before = left(elsewhere)
    archive.unpack(packed)
    assert left(elsewhere) == before, "a second time changes nothing"


def test_an_unpacked_folder_is_a_mirror(packed: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(packed) as file:
        file.extractall(elsewhere / "by-hand")
    archive.unpack_to(packed, elsewhere / "checked")
    assert left(elsewhere / "by-hand") == left(elsewhere / "checked")
    for name in ("by-hand", "checked"):
        monkeypatch.setenv("TLCLI_MIRROR", str(elsewhere / name))
        monkeypatch.setenv("TLCLI_CACHE", str(elsewhere / f"cache-{name}"))
        path = store.pull(catalogue.find(NETWORK))
        assert path.read_bytes() == FILE.encode() * 1000
    with pytest.raises(OutputError, match="already exists"):
        archive.unpack_to(packed, elsewhere / "checked")


def test_equal_networks_give_equal_archives(filled: list[ModelCard], packed: Path, tmp_path: Path) -> None:
    archive.pack(filled, tmp_path / "again.zip")
    assert sha256_of(tmp_path / "again.zip") == sha256_of(packed)


def test_weights_that_are_nowhere_cannot_be_packed(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"vgg16.*TLCLI_OFFLINE is set(.|\n)*Ways out:\n- connection"):
        archive.pack([catalogue.find("vgg16")], tmp_path / "zoo.zip")
    with pytest.raises(WeightsError, match="mobilenet_synthetic cannot be packed: its weights are bundled"):
        archive.pack([catalogue.find("mobilenet_synthetic")], tmp_path / "zoo.zip")
    assert not (tmp_path / "zoo.zip").exists()


def test_another_network_of_the_same_name_is_not_replaced(packed: Path, elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "other.keras").write_bytes(b"another")
    values = {"title": "", "size": 1, "min_size": 1, "preprocessing": None, "licence": ""}
    own.add_card(ModelCard(name="mine", source="file:o.keras", **values), {"o.keras": tmp_path / "other.keras"})
    before = left(elsewhere)
    with pytest.raises(ModelError, match="tlcli zoo remove mine"):
        archive.unpack(packed)
    assert left(elsewhere) == before


class Hostile:
    """Changes an archive: its manifest, its members, or single headers."""

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as file:
            self.members: list[tuple[zipfile.ZipInfo, bytes]] = [
                (zipfile.ZipInfo(info.filename), file.read(info)) for info in file.infolist()
            ]
        self.manifest: dict[str, Any] = json.loads(self.members.pop(0)[1])

    def put(self, name: str, content: bytes = b"x", *, listed: bool = True, mode: int = 0) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        self.members.append((info, content))
        if listed:
            self.manifest["files"][name] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}

    def replace(self, name: str, content: bytes, *, listed: bool) -> None:
        self.members = [member for member in self.members if member[0].filename != name]
        before = self.manifest["files"][name]
        self.put(name, content)
        if not listed:
            self.manifest["files"][name] = before

    def write(self, path: Path) -> Path:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("manifest.json", json.dumps(self.manifest))
            for info, content in self.members:
                file.writestr(info, content)
        return path


CHANGES: dict[str, tuple[Callable[[Hostile], Any], str]] = {
    "parent": (lambda zoo: zoo.put("../escaped.h5"), "name of a file in it is not allowed"),
    "absolute": (lambda zoo: zoo.put("/tmp/escaped.h5"), "name of a file in it is not allowed"),
    "backslash": (lambda zoo: zoo.put("..\\escaped.h5"), "name of a file in it is not allowed"),
    "drive": (lambda zoo: zoo.put("C:escaped.h5"), "name of a file in it is not allowed"),
    "inner parent": (lambda zoo: zoo.put("own/mine/../../x"), "name of a file in it is not allowed"),
    "hidden": (lambda zoo: zoo.put("own/.mine/card.yaml"), "name of a file in it is not allowed"),
    "link": (lambda zoo: zoo.put("own/mine/link", b"/etc/passwd", mode=stat.S_IFLNK | 0o777), "not a plain file"),
    "unlisted": (lambda zoo: zoo.put("extra.h5", listed=False), "its files are not those of its manifest"),
    "missing": (lambda zoo: zoo.members.pop(), "its files are not those of its manifest"),
    "twice": (lambda zoo: zoo.put(FILE.upper()), "its files are not those of its manifest"),
    "size": (lambda zoo: zoo.replace(FILE, b"short", listed=False), "has not the size that"),
    "huge": (lambda zoo: zoo.manifest["files"][FILE].update(bytes=10**15), "has not the size that"),
    "hash": (lambda zoo: zoo.replace(FILE, FILE.encode() * 999 + b"x" * len(FILE), listed=False), "not the sha256"),
    "unknown": (lambda zoo: zoo.put("something.h5"), "belongs to no network"),
    "published hash": (lambda zoo: zoo.put("efficientnetb0_notop.h5"), "hash that its publisher states"),
    "format": (lambda zoo: zoo.manifest.update(format=2), "its format is 2"),
    "manifest": (lambda zoo: zoo.manifest.pop("files"), "manifest.json is invalid"),
    "card": (lambda zoo: zoo.replace("own/mine/card.yaml", b"name: [", listed=True), "is not valid YAML"),
    "other name": (
        lambda zoo: zoo.put("own/resnet50/card.yaml", b"name: x"),
        "is not a model card",
    ),
    "no card": (lambda zoo: zoo.put("own/bare/net.keras"), "own/bare has no card.yaml"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_archive_is_refused_and_leaves_nothing(change: str, packed: Path, elsewhere: Path) -> None:
    hostile = Hostile(packed)
    CHANGES[change][0](hostile)
    path = hostile.write(packed.with_name("hostile.zip"))
    with pytest.raises(TlcliError) as caught:
        archive.unpack(path)
    assert CHANGES[change][1] in str(caught.value)
    assert left(elsewhere) == []
    assert not list(packed.parent.rglob("escaped*"))


def test_a_shadowing_network_is_refused_and_leaves_nothing(packed: Path, elsewhere: Path) -> None:
    hostile = Hostile(packed)
    for info, content in list(hostile.members):
        if info.filename.startswith("own/mine/"):
            name = info.filename.replace("own/mine/", "own/ResNet50/")
            hostile.put(name, content.replace(b"name: mine", b"name: ResNet50"))
    with pytest.raises(ModelError, match="name of a bundled network"):
        archive.unpack(hostile.write(packed.with_name("hostile.zip")))
    assert left(elsewhere) == []


def test_compressed_members_are_refused(packed: Path, elsewhere: Path) -> None:
    hostile = Hostile(packed)
    path = packed.with_name("bomb.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("manifest.json"), json.dumps(hostile.manifest))
        for info, content in hostile.members:
            file.writestr(info.filename, content)
    with pytest.raises(DataError, match="is compressed or encrypted"):
        archive.unpack(path)
    assert left(elsewhere) == []


@pytest.mark.parametrize("content", [b"", b"not a zip", None], ids=["empty", "text", "cut"])
def test_files_that_are_no_archives_are_refused(content: bytes | None, packed: Path, elsewhere: Path) -> None:
    path = packed.with_name("bad.zip")
    path.write_bytes(packed.read_bytes()[:-500] if content is None else content)
    with pytest.raises(DataError, match=r"bad\.zip: is not an archive of networks"):
        archive.unpack(path)
    with pytest.raises(DataError, match="no such file"):
        archive.unpack(packed.with_name("gone.zip"))
    assert left(elsewhere) == []


def test_the_names_of_published_files_are_those_of_a_mirror() -> None:
    file = published.remote_file(catalogue.find(NETWORK))
    assert file is not None
    assert file.name == FILE
