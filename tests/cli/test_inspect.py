"""`tlcli inspect` and `tlcli doctor`: true numbers, in every form."""

import csv
import hashlib
import io
import os
import shutil
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
    "stored_bytes": int,
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


@pytest.mark.parametrize("name", ["mobilenet_v2", "convnext_tiny"])
def test_layers_add_up_to_groups(name: str, tlcli: Callable) -> None:
    found = tlcli("inspect", name, "--format", "json", "--by", "layer").document
    for group in found["groups"]:
        # What is inside another layer is counted there.
        layers = [layer for layer in found["layers"] if layer["group"] == group["name"] and layer["inside"] is None]
        weighted = [layer for layer in layers if layer["parameters"]]
        assert len(weighted) == group["layers"]
        assert [layer["name"] for layer in layers if layer["boundary"]] == [group["last_layer"]]
        assert group["first_layer"] == next(each["name"] for each in layers if each["kind"] != "InputLayer")
        plain = [each for each in layers if not each["parameters"] and each["kind"] != "InputLayer"]
        assert len(plain) == group["layers_without_weights"]
        for key in ("parameters", "trainable_parameters", "flops"):
            assert sum(layer[key] for layer in layers) == group[key]


def test_a_selection_is_marked(tlcli: Callable) -> None:
    found = tlcli("inspect", "mobilenet_v2", "--format", "json", "--by", "layer", "--train", "block15..top").document
    trained = {group["name"] for group in found["groups"] if group["trained_layers"]}
    assert trained == {"block15", "block16", "top"}
    assert {layer["group"] for layer in found["layers"] if layer["trained"]} == trained
    text = tlcli("inspect", "mobilenet_v2", "--train", "head").stdout
    assert "head trains 0 parameters of the network and a head of 1.28 k a class" in text


@pytest.mark.parametrize("norms", ["frozen", "affine", "train"])
def test_what_is_trained_is_told_after_the_norm_policy(norms: str, tlcli: Callable) -> None:
    words = ("inspect", "mobilenet_v2", "--by", "layer", "--train", "top:2", "--batch-norm", norms, "--json")
    found = tlcli(*words).document
    chosen = [layer for layer in found["layers"] if layer["group"] in ("block16", "top")]
    learning = {layer["kind"] for layer in chosen if layer["trained"]}
    assert learning == {"Conv2D", "DepthwiseConv2D"} | ({"BatchNormalization"} if norms != "frozen" else set())
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["Conv_1_bn"]["batch_norm_mode"] == norms
    assert by_name["block_15_project_BN"]["batch_norm_mode"] == "frozen"
    assert by_name["Conv_1"]["batch_norm_mode"] is None
    modes = {group["name"]: group["batch_norm_mode"] for group in found["groups"]}
    assert (modes["block15"], modes["block16"], modes["top"]) == ("frozen", norms, norms)
    trained = sum(layer["trained_parameters"] for layer in chosen)
    assert trained == found["training"]["trained_parameters"] == sum(g["trained_parameters"] for g in found["groups"])
    # The statistics of BatchNorm are no parameters that gradients reach.
    assert trained == {"frozen": 879_040, "affine": 886_080, "train": 886_080}[norms]


def test_one_trained_layer_makes_its_group_partly_trained(tlcli: Callable) -> None:
    words = ("inspect", "mobilenet_v2", "--train", "re:block_3_expand$|block_5_.*_BN", "--json")
    states = {group["name"]: group["state"] for group in tlcli(*words).document["groups"]}
    assert states["block3"] == "partly"
    assert states["block5"] == "frozen", "its BatchNorm was chosen, and the policy leaves that frozen"
    assert set(states.values()) == {"partly", "frozen"}


def test_each_depth_has_its_price(tlcli: Callable) -> None:
    told = tlcli("inspect", "resnet50", "--train", "top:3", "--json").document["training"]
    depths = told["depths"]
    assert [each["train"] for each in depths] == ["head", *(f"top:{count}" for count in range(1, 18))]
    assert [each["train"] for each in depths if each["is_selection"]] == ["top:3"]
    for key in ("trained_parameters", "epoch_cached", "epoch_uncached"):
        rising = [each[key] for each in depths]
        assert rising == sorted(rising)
        assert told[key] == depths[3][key]
    assert (depths[0]["epoch_cached"], depths[0]["frontier"]) == (0, "pooled")
    assert depths[0]["epoch_uncached"] == pytest.approx(1 / 3)
    assert (depths[-1]["epoch_cached"], depths[-1]["epoch_uncached"], depths[-1]["frontier"]) == (1, 1, "pixels")
    assert depths[3]["stored_bytes"] == 4 * 14 * 14 * 1024
    uncached = tlcli("inspect", "resnet50", "--train", "top:3", "--set", "performance.cache=off", "--json").document
    assert uncached["training"]["epoch_cached"] == told["epoch_uncached"]


def test_the_batch_decides_the_memory(tlcli: Callable) -> None:
    words = ("inspect", "mobilenet_v2", "--train", "all", "--json", "--set")
    small, large = (tlcli(*words, f"performance.batch={batch}").document["training"] for batch in (8, 64))
    assert (small["batch"], large["batch"]) == (8, 64)
    assert large["memory_bytes"] > small["memory_bytes"] + 1e9


def test_the_plan_and_the_report_say_the_same(tlcli: Callable, photos: Path) -> None:
    """One estimate, in two places."""
    words = ("--set", "phases.1.policy=fixed", "--set", "phases.1.train=top:3", "--json")
    plan = tlcli("plan", photos, "-m", "mobilenet_v2", "-r", "two-phase", *words)
    assert plan.code == 0, plan.stderr
    shown = tlcli("inspect", "mobilenet_v2", "--train", "top:3", "--set", "performance.batch=16", "--json").document
    phase = plan.document["phases"][1]
    heads = 3 * shown["training"]["head_parameters_per_class"]
    assert phase["trainable_parameters"] == shown["training"]["trained_parameters"] + heads
    assert phase["frontier"] == shown["training"]["frontier"]
    head = tlcli("inspect", "mobilenet_v2", "--train", "head", "--set", "performance.batch=16", "--json").document
    peaks = [each["training"]["memory_bytes"] for each in (head, shown)]
    assert plan.document["estimates"]["memory_bytes"] == max(peaks)


def test_the_header_states_what_the_card_states(tlcli: Callable) -> None:
    about = tlcli("inspect", "resnet50", "--json").document["about"]
    assert (about["kind"], about["source"], about["licence"]) == ("card", "keras:ResNet50", "MIT")
    assert (about["imagenet_top1"], about["min_size"], about["sha256"]) == (0.749, 32, None)
    assert (about["preprocessing"], about["classes"]) == ("caffe", None)
    assert about["expects"].startswith("BGR")
    drawn = tlcli("inspect", "mobilenet_synthetic", "--json").document["about"]
    assert drawn["imagenet_top1"] is None
    assert drawn["sha256"].startswith("fd707ed3")


def test_ranges_are_those_that_networks_are_given() -> None:
    import keras

    from tlcli.model.backbone import preprocess
    from tlcli.report.target import RANGES

    ends = {"none": (0, 255), "tf": (-1, 1), "torch": (-2.1, 2.6), "caffe": (-124, 152)}  # rounded outwards
    assert RANGES.keys() == ends.keys()
    picture = keras.Input((1, 2, 3))
    for mode, (low, high) in ends.items():
        model = keras.Model(picture, preprocess(picture, mode) + 0)
        found = keras.ops.convert_to_numpy(model(keras.ops.array([[[[0.0] * 3, [255.0] * 3]]])))
        off = 1 if mode == "caffe" else 0.05
        assert (found.min(), found.max()) == (pytest.approx(low, abs=off), pytest.approx(high, abs=off))
        assert str(low) in RANGES[mode]
        assert str(high) in RANGES[mode]


@pytest.mark.parametrize(("width", "missing"), [(80, ["first", "last", "layers", "BatchNorm"]), (200, [])])
def test_what_a_terminal_has_no_room_for_is_named(
    width: int, missing: list[str], tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = tlcli("inspect", "mobilenet_v2").stdout.splitlines()
    (header,) = [line for line in lines if line.startswith("group ")]
    assert all((name in header.split()) == (name not in missing) for name in ("first", "last", "layers", "BatchNorm"))
    left_out = [line for line in lines if line.startswith("Left out at")]
    assert left_out == (
        [f"Left out at 80 columns, where 140 are needed: {', '.join(missing)}. --format csv and html have all."]
        if missing
        else []
    )
    assert max(map(len, lines[lines.index(header) : lines.index(header) + 20])) <= width


def test_frontiers_are_told_where_the_column_has_no_room(tlcli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "cut: every group ends at a frontier" in tlcli("inspect", "resnet50").stdout
    told = tlcli("inspect", "nasnet_mobile").stdout
    assert "Above stem, cell0 … cell3, reduce4, cell5 … cell8, reduce8, cell9 … cell11 the output below is read" in told


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "nasnet_mobile", "mobilenet_synthetic"])
@pytest.mark.parametrize("words", [(), ("--by", "layer"), ("--train", "top:2")], ids=["groups", "layers", "train"])
def test_tables_fit_eighty_columns(
    name: str, words: tuple[str, ...], tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = tlcli("inspect", name, *words).stdout.splitlines()
    tables = [index for index, line in enumerate(lines) if line.startswith(("group ", "layer ", "train "))]
    for start in tables:
        assert len(lines[start]) <= 80
        assert len(lines[start + 1]) <= 80


@pytest.mark.parametrize("by", ["group", "layer"])
def test_csv_holds_what_json_holds(by: str, tlcli: Callable) -> None:
    rows = list(csv.DictReader(io.StringIO(tlcli("inspect", "vgg16", "--by", by, "--format", "csv").stdout)))
    told = tlcli("inspect", "vgg16", "--by", by, "--format", "json").document[f"{by}s"]
    assert [row["name"] for row in rows] == [row["name"] for row in told]
    assert [int(row["parameters"]) for row in rows] == [row["parameters"] for row in told]
    assert list(rows[0]) == list(told[0])
    assert rows[-1]["output_shape"] == "7x7x512"
    assert rows[-1]["receptive_field"] == "212x212"
    assert {row["sees_all"] for row in rows} == {"false"}


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
    about = found["about"]
    assert (about["kind"], about["classes"], about["run"]["status"]) == ("run", ["blue", "green", "red"], "complete")
    assert about["run"]["scores"]["test"]["accuracy"] == finished[1].document["scores"]["test"]["accuracy"]
    assert about["imagenet_top1"] is None, "its width was another, and its weights were random"


def test_a_classifier_taken_elsewhere_shows_what_its_run_shows(
    tlcli: Callable, finished: tuple, tmp_path: Path
) -> None:
    shutil.copy(finished[0] / "model.keras", tmp_path / "elsewhere.keras")
    said = tlcli("inspect", tmp_path / "elsewhere.keras", "--format", "json")
    assert said.code == 0, said.stderr
    found, run = said.document, tlcli("inspect", finished[0], "--format", "json").document
    assert found["groups"] == run["groups"]
    for name in ("preprocessing", "expects", "licence", "arguments", "sha256", "classes", "trained_on", "scores"):
        assert found["about"][name] == run["about"][name], name
    assert (found["about"]["kind"], found["about"]["classes"]) == ("file", ["blue", "green", "red"])
    assert (found["input_size"], found["about"]["own_size"]) == ([32, 32], [32, 32])
    assert found["about"]["sha256"] == hashlib.sha256((finished[0] / "model.keras").read_bytes()).hexdigest()
    other = tlcli("inspect", tmp_path / "elsewhere.keras", "--size", 64, 64)
    assert (other.code, "brings pictures to 32 × 32 itself" in other.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "one network is looked at, or two are compared"),
        (
            ("mobilenet_synthetic", "--diff", "mobilenet_synthetic", "mobilenet_synthetic"),
            "one network is looked at, or two are compared",
        ),
        (("mobilenet_synthetic", "--out", "x"), "--out: a table is for the terminal"),
        (
            ("--diff", "mobilenet_synthetic", "mobilenet_synthetic", "--train", "head"),
            "--train: does not go with --diff",
        ),
        (
            ("--diff", "mobilenet_synthetic", "mobilenet_synthetic", "--format", "html"),
            "--format html: does not go with --diff",
        ),
        (
            ("{run}", "--set", "model.arguments.alpha=1.0"),
            "--set model.arguments.alpha=1.0: the network is built already",
        ),
        (("mobilenet_synthetic", "--batch-norm", "train"), "--batch-norm: goes with --train"),
        (
            ("--diff", "mobilenet_synthetic", "mobilenet_synthetic", "--batch-norm", "train"),
            "--batch-norm: goes with --train",
        ),
        (("mobilenet_synthetic", "--train", "blok3"), "--train: no layer group 'blok3' in mobilenet_synthetic"),
        (("{run}/run.json",), "is the record of a run. Name its folder"),
        (("{run}/history.csv",), "is no network. Name a card"),
        (("mobilenet_synthetic", "--size", "8", "8"), "--size: mobilenet_synthetic takes at least 32 × 32"),
        (("--diff", "resnet50", "{run}"), "share hardly a layer"),
        (("--diff", "mobilenet_synthetic", "nothing"), "no model is called 'nothing'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_told(words: tuple[str, ...], sentence: str, tlcli: Callable, finished: tuple) -> None:
    said = tlcli("inspect", *(word.replace("{run}", str(finished[0])) for word in words))
    assert (said.code, said.stdout) == (2, "")
    assert sentence in said.stderr


def test_two_forms_are_one_too_many(tlcli: Callable) -> None:
    said = tlcli("inspect", "mobilenet_synthetic", "--json", "--format", "csv")
    assert (said.code, said.document["error"]["where"]) == (2, "--json")
    assert tlcli("inspect", "mobilenet_synthetic", "--json", "--format", "json").code == 0


def test_what_is_written_to_a_file_is_what_would_be_printed(tlcli: Callable, tmp_path: Path) -> None:
    for form in ("json", "csv", "html"):
        said = tlcli("inspect", "mobilenet_synthetic", "--format", form, "--out", tmp_path / f"x.{form}")
        assert (said.code, said.stdout) == (0, "")
        assert (tmp_path / f"x.{form}").read_text(encoding="utf-8") == tlcli(
            "inspect", "mobilenet_synthetic", "--format", form
        ).stdout


def test_doctor_tells_versions_devices_and_folders(tlcli: Callable) -> None:
    import keras

    found = tlcli("doctor", "--json").document
    assert set(found) == {"versions", "devices", "folders", "extras"}
    assert found["versions"]["keras"] == keras.version()
    assert found["devices"]["backend"] == keras.backend.backend()
    assert found["folders"]["cache"].startswith(os.environ["TLCLI_CACHE"])
    assert found["folders"]["recipes"].endswith("(9)")
    assert found["folders"]["models"].endswith("(41)")
    said = tlcli("doctor")
    assert (said.code, said.stderr) == (0, "")
    for section, lines in found.items():
        assert section in said.stdout.splitlines()
        assert all(f"  {name:<24} {value}" in said.stdout for name, value in lines.items())
