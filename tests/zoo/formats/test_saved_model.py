"""Reading `saved_model.pb` without TensorFlow: real modules, and damaged files."""

import subprocess
import sys
from pathlib import Path

import pytest
import saved_models

from tlcli.errors import ModelError
from tlcli.zoo.formats import saved_model


def test_endpoints_of_real_modules(tmp_path: Path) -> None:
    new = saved_model.read(saved_models.module(tmp_path / "new"))
    assert (new.endpoint.name, new.endpoint.image.dtype, new.tags) == ("__call__", "float32", ("serve",))
    assert new.endpoint.image.shape == (None, None, None, 3)
    old = saved_model.read(saved_models.old_module(tmp_path / "old"))
    assert (old.endpoint.name, old.endpoint.image.name, old.tags) == ("default", "x", ())
    assert old.endpoint.image.shape == (None, 32, 32, 3)
    assert (new.has_objects, old.has_objects) == (True, False)
    writing = saved_model.read(saved_models.writing_module(tmp_path / "writing", tmp_path / "target"))
    assert (new.reaching, writing.reaching) == ((), ("WriteFile",))


def test_a_damaged_file_is_one_error(tmp_path: Path) -> None:
    content = (saved_models.keras_export(tmp_path / "whole") / saved_model.FILE).read_bytes()
    broken = tmp_path / "broken"
    broken.mkdir()
    refused = 0
    for length in range(0, len(content), max(1, len(content) // 60)):
        flipped = bytearray(content)
        flipped[length] ^= 0xFF
        for damaged in (content[:length], bytes(flipped)):
            (broken / saved_model.FILE).write_bytes(damaged)
            try:
                saved_model.read(broken)
            except ModelError as error:
                refused += str(broken) in str(error)
    assert refused > 60


def test_a_folder_without_one_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no readable saved_model.pb.*A .keras or .h5 file"):
        saved_model.read(tmp_path)


@pytest.mark.parametrize("name", ["saved_model.cpb", "saved_model.pbtxt"])
def test_a_second_graph_that_tensorflow_might_load_instead_is_refused(tmp_path: Path, name: str) -> None:
    module = saved_models.module(tmp_path / "new")
    (module / name).touch()
    with pytest.raises(ModelError, match=f"holds its graph in {name}"):
        saved_model.read(module)


def test_reading_loads_no_network_library(tmp_path: Path) -> None:
    module = saved_models.module(tmp_path / "new")
    code = f"""
import sys
from tlcli.zoo import catalogue, trust
with trust.allowing():
    catalogue.find("tfhub:{module}")
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tlcli.zoo.sources.saved_model" in done.stdout.split()
    assert {"keras", "tensorflow", "tensorflow_hub"} & set(done.stdout.split()) == set()
