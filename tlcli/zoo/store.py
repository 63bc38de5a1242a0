"""The weights of the networks on this machine: where they lie, what is missing, and whether they are undamaged."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from tlcli.errors import TlcliError, WeightsError
from tlcli.paths import bundled
from tlcli.recipe.schema import RANDOM, Recipe
from tlcli.zoo import beside, catalogue, download, hub, own, published
from tlcli.zoo.card import ModelCard, sha256_of, verified_weights
from tlcli.zoo.download import RemoteFile
from tlcli.zoo.sources import architecture, kerashub, package

Where = Literal["bundled", "installed", "package", "own", "cached", "download", "file", "source", "random", "none"]
"""Bundled with tlcli; in a package that is installed or not; in one's own zoo; downloaded; on
a server; a user's file; as its source decides; random; none."""
# The libraries that fetch the weights of a kind of source.
FETCHERS = {"kerashub": "KerasHub", "tfhub": "TensorFlow Hub"}


@dataclass(frozen=True)
class State:
    """The weights of a network.

    Attributes:
        where: Where they are.
        path: Their file on this machine; None if there is none.
        file: The file that a server offers; None for networks with weights of their own.
        fetcher: The library that fetches them when the network is built; empty if tlcli knows their file.
    """

    where: Where
    path: Path | None = None
    file: RemoteFile | None = None
    fetcher: str = ""

    @property
    def is_local(self) -> bool:
        """True if the weights are on this machine."""
        return self.path is not None

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `weights` in `tlcli plan --json`."""
        return {
            "where": self.where,
            "file": None if self.path is None else str(self.path),
            "url": None if self.file is None else self.file.url,
            "hash": (self.file.hash or None) if self.file else None,
        }

    @property
    def word(self) -> str:
        """One word for lists: who fetches the weights, or where they are."""
        return self.fetcher or self.where

    def __str__(self) -> str:
        if self.fetcher:
            return f"to be fetched by {self.fetcher}, which keeps them in a cache of its own"
        if self.where == "package":
            return "in a package that is not installed"
        if self.where != "download" or self.file is None:
            return self.where
        return f"to be downloaded from {urlsplit(self.file.url).hostname}"


@dataclass(frozen=True)
class Verdict:
    """The check of one file: `ok`, `damaged`, `missing`, or `not checked` if no hash is known.

    Attributes:
        name: The network.
        file: The file; None if a card is damaged.
        status: The result.
        hash: What it was compared with: `sha256 of the card`, `md5 published by Keras` …
        message: What is wrong, and what to do.
    """

    name: str
    file: Path | None
    status: Literal["ok", "damaged", "missing", "not checked"]
    hash: str = ""
    message: str = ""


def state(card: ModelCard, *, arguments: Mapping[str, Any] | None = None, size: tuple[int, int] | None = None) -> State:
    """Where the weights of a network are. Reads no file and opens no socket.

    Raises:
        WeightsError: There are no weights for these arguments.
    """
    kind, _, handle = card.source.partition(":")
    if kind == "architecture" and card.weights is None:
        return State("none")
    if kind == "package":
        try:
            return State("installed", package.find_weights(card))
        except WeightsError:
            return State("package")
    if card.weights is None and beside.is_local(card):
        path = beside.weights_of(card)
        return State(_owner(path), path)
    if card.weights is not None or kind == "file":
        path = Path(card.weights or handle)
        return State(_owner(path), path if path.is_file() else None)
    file = published.remote_file(card, arguments=arguments, size=size)
    if file is None:
        return State("source", fetcher=FETCHERS.get(kind, ""))
    path_or_none = download.find_local(file, checked=False)
    return State("download" if path_or_none is None else "cached", path_or_none, file)


def own_state(card: ModelCard) -> State:
    """Where the weights of a card are, for lists: those for its own arguments and size, or others on this machine."""
    try:
        found = state(card)
    except WeightsError:
        return State("none")
    if found.where == "download":
        for _, _, file in published.all_files(card):
            if path := download.find_local(file, checked=False):
                return State("cached", path, file)
    return found


def weights_state(recipe: Recipe, card: ModelCard, size: tuple[int, int]) -> State:
    """Where the weights of a recipe are. `size` is the input height and width, pixels.

    Raises:
        WeightsError: There are no weights for the arguments of the recipe.
    """
    model = recipe.model
    if model.weights == RANDOM:
        return State("random")
    if model.weights is not None:
        return State("file", Path(str(model.weights)))
    return state(card, arguments=model.arguments, size=size)


def pull(card: ModelCard, *, arguments: Mapping[str, Any] | None = None, size: tuple[int, int] | None = None) -> Path:
    """Bring the weights of a network onto this machine, checked. Returns their file.

    Raises:
        WeightsError: They cannot be had, or are damaged.
    """
    found = state(card, arguments=arguments, size=size)
    if found.file is not None:
        return download.fetch(found.file)
    if card.kind == "package":
        return package.weights_path(card)
    kind, _, handle = card.source.partition(":")
    if card.weights is None and beside.is_local(card):
        return beside.weights_of(card)
    if kind == "kerashub":
        return kerashub.pull(handle)
    if kind == "tfhub":
        return hub.locate(handle)[1]
    if kind == "architecture":
        architecture.require_weights(card)
    if kind == "state_dict" and card.weights is None:
        hint = f"Import some: tlcli zoo import FILE --architecture {handle} --name NAME."
        raise WeightsError(f"no weights of {card.name} are published for tlcli", where=card.source, hint=hint)
    return verified_weights(card)


def pull_untrusted(text: str) -> tuple[str, Path] | None:
    """Bring a SavedModel of TensorFlow Hub onto this machine without loading it, so it need not be trusted yet.

    Returns:
        Its name and folder; None if the text names another kind of network.

    Raises:
        ModelError: It cannot be fetched or unpacked.
    """
    kind, _, handle = text.partition(":")
    if kind != "tfhub":
        return None
    source, folder = hub.locate(handle)
    return hub.short_name(source), folder


def verify(names: Iterable[str]) -> list[Verdict]:
    """Check the files on this machine of networks by name: bundled, own and downloaded ones.

    A published network may have several files, for other arguments and sizes; all that are here are checked.
    """
    verdicts = []
    for name in names:
        try:
            card = catalogue.find(name)
        except TlcliError as error:
            verdicts.append(Verdict(name, None, "damaged", message=str(error)))
            continue
        verdicts += _verify_card(card)
    return verdicts


def _verify_card(card: ModelCard) -> list[Verdict]:
    kind, _, handle = card.source.partition(":")
    if card.weights is None and kind != "file":
        return list(_verify_published(card)) if kind == "keras" else []
    try:
        path = package.find_weights(card) if kind == "package" else Path(card.weights or handle)
    except WeightsError:
        return []  # A package that is not installed is not on this machine.
    if not path.is_file():
        return [Verdict(card.name, path, "missing", message="Restore the file, or remove the network.")]
    if card.sha256 is None:
        return [Verdict(card.name, path, "not checked", message="The card states no sha256.")]
    if sha256_of(path) == card.sha256:
        return [Verdict(card.name, path, "ok", "sha256 of the card")]
    return [Verdict(card.name, path, "damaged", "sha256 of the card", "Restore the file, or remove the network.")]


def _verify_published(card: ModelCard) -> Iterator[Verdict]:
    for arguments, size, file in published.all_files(card):
        settings = "".join(f" --set model.arguments.{name}={value}" for name, value in arguments.items())
        pull = f"tlcli zoo pull {card.name}{settings}" + (f" --size {size} {size}" if size else "")
        for folder in (*file.also_in, download.weights_cache()):
            if (folder / file.name).is_file():
                yield _verify_file(card.name, file, folder / file.name, pull)


def _verify_file(name: str, file: RemoteFile, path: Path, pull: str) -> Verdict:
    recorded = Path(f"{path}.sha256")
    if file.hash:
        against = f"{file.hash.partition(':')[0]} published by Keras"
        is_right = download.has_right_hash(path, file)
    elif recorded.is_file():
        against = "sha256 at its download"
        is_right = download.has_right_hash(path, file)
    else:
        return Verdict(name, path, "not checked", message="Keras publishes no hash for it.")
    if is_right:
        return Verdict(name, path, "ok", against)
    return Verdict(name, path, "damaged", against, f"Delete it, and then: {pull}")


def _owner(path: Path) -> Where:
    if path.is_relative_to(bundled("models")):
        return "bundled"
    return "own" if path.is_relative_to(own.folder().resolve()) else "file"
