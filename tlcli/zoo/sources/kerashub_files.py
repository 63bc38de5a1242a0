"""Where the files of KerasHub's presets are: in the cache of tlcli, or in a mirror as `kerashub/NAME/FILE`."""

from contextlib import suppress
from pathlib import Path

from tlcli.errors import WeightsError
from tlcli.zoo import download
from tlcli.zoo.beside import PRESET_FILES, PRESET_OPTIONAL
from tlcli.zoo.download import RemoteFile


def remote_files(name: str) -> list[RemoteFile]:
    """The files of a preset of the table in a mirror; no server offers them singly, and nobody states their hashes."""
    title = f"the files of the preset {name}"
    return [RemoteFile(f"kerashub/{name}/{file}", "", title=title) for file in (*PRESET_FILES, *PRESET_OPTIONAL)]


def find(name: str) -> Path | None:
    """The folder of a preset in the cache of tlcli, if it is complete."""
    folder = download.weights_cache() / "kerashub" / name
    return folder if all((folder / file).is_file() for file in PRESET_FILES) else None


def from_mirror(name: str) -> Path | None:
    """The folder of a preset, from the cache or copied from the mirror; None if neither has it.

    Raises:
        OutputError: The cache cannot be written.
    """
    if (found := find(name)) is not None or download.mirror() is None:
        return found
    required, optional = remote_files(name)[: len(PRESET_FILES)], remote_files(name)[len(PRESET_FILES) :]
    try:
        for file in required:
            download.fetch(file)
    except WeightsError:
        return None
    for file in optional:
        with suppress(WeightsError):
            download.fetch(file)
    return find(name)
