"""`tlcli inspect` and `tlcli doctor`: true numbers, in every form."""

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
GROUP_KEYS = {
    "name": str,
    "layers": int,
    "parameters": int,
    "trainable_parameters": int,
    "share": float,
    "flops": int,
    "output_shape": list,
    "activation_bytes": int,
    "batch_norm": int,
    "frontier": bool,
}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("inspect", ["mobilenet_v2"]),
        ("inspect-train", ["resnet50", "--train", "top:30%", "--size", "160", "160"]),
        ("inspect-layers", ["vgg16", "--by", "layer"]),
    ],
)
def test_tables_read_as_they_were_written(file: str, words: list[str], tlcli: Callable) -> None:
    """After a wanted change: RENEW_GOLDEN=1 pytest tests/cli, then look at the difference."""
    path = GOLDEN / f"{file}.txt"
    said = tlcli("inspect", *words)
    assert (said.code, said.stderr) == (0, "")
    text = "".join(f"{line.rstrip()}\n" for line in said.stdout.splitlines())
    if "RENEW_GOLDEN" in os.environ:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_contracts_json(tlcli: Callable) -> None:
    found = tlcli("inspect", "mobilenet_v2", "--format", "json").document
    assert (found["name"], found["parameters"], found["input_size"]) == ("mobilenet_v2", 2_257_984, [224, 224])
    assert "layers" not in found
    for group in found["groups"]:
        assert {key: type(group[key]) for key in GROUP_KEYS} == GROUP_KEYS
    assert sum(group["parameters"] for group in found["groups"]) == 2_257_984
    assert sum(group["share"] for group in found["groups"]) == pytest.approx(1)
    assert sum(group["flops"] for group in found["groups"]) == found["flops"]


def test_layers_add_up_to_groups(tlcli: Callable) -> None:
    found = tlcli("inspect", "mobilenet_v2", "--format", "json", "--by", "layer").document
    for group in found["groups"]:
        layers = [layer for layer in found["layers"] if layer["group"] == group["name"]]
        assert len(layers) == group["layers"]
        for key in ("parameters", "trainable_parameters", "flops"):
            assert sum(layer[key] for layer in layers) == group[key]


def test_a_selection_is_marked(tlcli: Callable) -> None:
    found = tlcli("inspect", "mobilenet_v2", "--format", "json", "--by", "layer", "--train", "block15..top").document
    trained = {group["name"] for group in found["groups"] if group["trained_layers"]}
    assert trained == {"block15", "block16", "top"}
    assert {layer["group"] for layer in found["layers"] if layer["trained"]} == trained
    text = tlcli("inspect", "mobilenet_v2", "--train", "head").stdout
    assert text.splitlines()[-1] == "head trains 0 parameters of the network and the head"


@pytest.mark.parametrize("by", ["group", "layer"])
def test_csv_holds_what_json_holds(by: str, tlcli: Callable) -> None:
    rows = list(csv.DictReader(io.StringIO(tlcli("inspect", "vgg16", "--by", by, "--format", "csv").stdout)))
    told = tlcli("inspect", "vgg16", "--by", by, "--format", "json").document[f"{by}s"]
    assert [row["name"] for row in rows] == [row["name"] for row in told]
    assert [int(row["parameters"]) for row in rows] == [row["parameters"] for row in told]


def test_a_smaller_input_costs_less_and_keeps_the_parameters(tlcli: Callable) -> None:
    own, small = (
        tlcli("inspect", "resnet50", "--format", "json", *size).document for size in ((), ("--size", 112, 112))
    )
    assert small["parameters"] == own["parameters"]
    assert small["flops"] == pytest.approx(own["flops"] / 4, rel=0.1)
    assert small["input_size"] == [112, 112]


def test_a_run_shows_the_network_it_trained(tlcli: Callable, finished: tuple) -> None:
    found = tlcli("inspect", finished[0], "--format", "json").document
    assert (found["name"], found["input_size"]) == ("mobilenet", [32, 32])
    assert [group["name"] for group in found["groups"]] == finished[1].document["model"]["groups"]
    assert found["parameters"] == finished[1].document["model"]["parameters"]


def test_a_model_file_is_inspected_too(tlcli: Callable, finished: tuple) -> None:
    said = tlcli("inspect", finished[0] / "model.keras", "--format", "json")
    assert said.code == 0, said.stderr
    assert said.document["parameters"] == pytest.approx(218_544, rel=0.02)


def test_doctor_tells_versions_devices_and_folders(tlcli: Callable) -> None:
    import keras

    found = tlcli("doctor", "--json").document
    assert set(found) == {"versions", "devices", "folders", "extras"}
    assert found["versions"]["keras"] == keras.version()
    assert found["devices"]["backend"] == keras.backend.backend()
    assert found["folders"]["cache"].startswith(os.environ["TLCLI_CACHE"])
    assert found["folders"]["recipes"].endswith("(6)")
    assert found["folders"]["models"].endswith("(41)")
    said = tlcli("doctor")
    assert (said.code, said.stderr) == (0, "")
    for section, lines in found.items():
        assert section in said.stdout.splitlines()
        assert all(f"  {name:<24} {value}" in said.stdout for name, value in lines.items())
