"""Trust in programs: by the hash of all their files, remembered until a file changes."""

import os
from pathlib import Path

import pytest

from tlcli.errors import ModelError
from tlcli.zoo import trust


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "program"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


def test_the_hash_covers_names_and_contents(program: Path) -> None:
    first = trust.folder_sha256(program)
    assert first == trust.folder_sha256(program)
    (program / "saved_model.pb").write_bytes(b"another graph")
    second = trust.folder_sha256(program)
    (program / "variables" / "variables.index").rename(program / "variables.index")
    third = trust.folder_sha256(program)
    (program / "new").touch()
    assert len({first, second, third, trust.folder_sha256(program)}) == 4


def test_a_link_to_a_folder_is_refused(program: Path) -> None:
    os.symlink(program / "variables", program / "assets")
    with pytest.raises(ModelError, match="is a link to a folder"):
        trust.folder_sha256(program)


def test_trust_is_remembered_by_hash(program: Path) -> None:
    sha256 = trust.folder_sha256(program)
    with pytest.raises(ModelError, match=rf"here: the SavedModel is not trusted yet.*It prints\. .*{sha256}.*--trust"):
        trust.require(sha256, where="here", facts="It prints.")
    with trust.allowing():
        trust.require(sha256, where="here")
    trust.require(sha256, where="elsewhere")
    with pytest.raises(ModelError, match="has changed since it was trusted"):
        trust.require("0" * 64, where="here")
    file = Path(os.environ["TLCLI_CONFIG"]) / "trusted.json"
    for damaged in ("", "[]", '{"a": 1}'):
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(ModelError, match="is not trusted yet"):
            trust.require(sha256, where="here")
