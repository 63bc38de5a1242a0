"""`tlcli inspect` and `tlcli doctor`: numbers, output formats and errors."""

import csv
import hashlib
import io
import os
import shutil
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
GOLDEN = CHECKOUT / "tests" / "golden"
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
def test_tables_match_the_golden_files(file: str, words: list[str], tlcli: Callable) -> None:
    """After an intended change, run RENEW_GOLDEN=1 pytest tests/cli and read the diff."""
    path = GOLDEN / f"{file}.txt"
    result = tlcli("inspect", *words)
    assert (result.code, result.stderr) == (0, "")
    text = "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())
    if "RENEW_GOLDEN" in os.environ:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_json_has_the_keys_of_the_contract(tlcli: Callable) -> None:
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
        # The containing layer counts nested layers already.
        layers = [layer for layer in found["layers"] if layer["group"] == group["name"] and layer["inside"] is None]
        weighted = [layer for layer in layers if layer["parameters"]]
        assert len(weighted) == group["layers"]
        assert [layer["name"] for layer in layers if layer["boundary"]] == [group["last_layer"]]
        assert group["first_layer"] == next(layer["name"] for layer in layers if layer["kind"] != "InputLayer")
        without_weights = [layer for layer in layers if not layer["parameters"] and layer["kind"] != "InputLayer"]
        assert len(without_weights) == group["layers_without_weights"]
        for key in ("parameters", "trainable_parameters", "flops"):
            assert sum(layer[key] for layer in layers) == group[key]


def test_selected_groups_are_trained(tlcli: Callable) -> None:
    found = tlcli("inspect", "mobilenet_v2", "--format", "json", "--by", "layer", "--train", "block15..top").document
    trained = {group["name"] for group in found["groups"] if group["trained_layers"]}
    assert trained == {"block15", "block16", "top"}
    assert {layer["group"] for layer in found["layers"] if layer["trained"]} == trained
    text = tlcli("inspect", "mobilenet_v2", "--train", "head").stdout
    assert "head trains 0 parameters of the network and a head of 1.28 k per class" in text


@pytest.mark.parametrize("policy", ["frozen", "affine", "train"])
def test_trained_parameters_depend_on_the_batch_norm_policy(policy: str, tlcli: Callable) -> None:
    words = ("inspect", "mobilenet_v2", "--by", "layer", "--train", "top:2", "--batch-norm", policy, "--json")
    found = tlcli(*words).document
    selected = [layer for layer in found["layers"] if layer["group"] in ("block16", "top")]
    trained_kinds = {layer["kind"] for layer in selected if layer["trained"]}
    assert trained_kinds == {"Conv2D", "DepthwiseConv2D"} | ({"BatchNormalization"} if policy != "frozen" else set())
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["Conv_1_bn"]["batch_norm_mode"] == policy
    assert by_name["block_15_project_BN"]["batch_norm_mode"] == "frozen"
    assert by_name["Conv_1"]["batch_norm_mode"] is None
    modes = {group["name"]: group["batch_norm_mode"] for group in found["groups"]}
    assert (modes["block15"], modes["block16"], modes["top"]) == ("frozen", policy, policy)
    trained = sum(layer["trained_parameters"] for layer in selected)
    assert trained == found["training"]["trained_parameters"] == sum(g["trained_parameters"] for g in found["groups"])
    # Gradients do not reach BatchNorm statistics.
    assert trained == {"frozen": 879_040, "affine": 886_080, "train": 886_080}[policy]


def test_one_trained_layer_makes_its_group_partly_trained(tlcli: Callable) -> None:
    words = ("inspect", "mobilenet_v2", "--train", "re:block_3_expand$|block_5_.*_BN", "--json")
    states = {group["name"]: group["state"] for group in tlcli(*words).document["groups"]}
    assert states["block3"] == "partly"
    assert states["block5"] == "frozen", "only its BatchNorm is selected, and the policy freezes it"
    assert set(states.values()) == {"partly", "frozen"}


def test_costs_rise_with_depth(tlcli: Callable) -> None:
    training = tlcli("inspect", "resnet50", "--train", "top:3", "--json").document["training"]
    depths = training["depths"]
    assert [depth["train"] for depth in depths] == ["head", *(f"top:{count}" for count in range(1, 18))]
    assert [depth["train"] for depth in depths if depth["is_selection"]] == ["top:3"]
    for key in ("trained_parameters", "epoch_cached", "epoch_uncached"):
        costs = [depth[key] for depth in depths]
        assert costs == sorted(costs)
        assert training[key] == depths[3][key]
    assert (depths[0]["epoch_cached"], depths[0]["cut_point"]) == (0, "pooled")
    assert depths[0]["epoch_uncached"] == pytest.approx(1 / 3)
    assert (depths[-1]["epoch_cached"], depths[-1]["epoch_uncached"], depths[-1]["cut_point"]) == (1, 1, "pixels")
    assert depths[3]["stored_bytes"] == 4 * 14 * 14 * 1024
    uncached = tlcli("inspect", "resnet50", "--train", "top:3", "--set", "performance.cache=off", "--json").document
    assert uncached["training"]["epoch_cached"] == training["epoch_uncached"]


def test_memory_grows_with_the_batch(tlcli: Callable) -> None:
    words = ("inspect", "mobilenet_v2", "--train", "all", "--json", "--set")
    small, large = (tlcli(*words, f"performance.batch={batch}").document["training"] for batch in (8, 64))
    assert (small["batch"], large["batch"]) == (8, 64)
    assert large["memory_bytes"] > small["memory_bytes"] + 1e9


def test_plan_and_inspect_agree(tlcli: Callable, photos: Path) -> None:
    """Both commands show the same estimate."""
    words = ("--set", "phases.1.policy=fixed", "--set", "phases.1.train=top:3", "--json")
    plan = tlcli("plan", photos, "-m", "mobilenet_v2", "-r", "two-phase", *words)
    assert plan.code == 0, plan.stderr
    report = tlcli("inspect", "mobilenet_v2", "--train", "top:3", "--set", "performance.batch=16", "--json").document
    phase = plan.document["phases"][1]
    heads = 3 * report["training"]["head_parameters_per_class"]
    assert phase["trainable_parameters"] == report["training"]["trained_parameters"] + heads
    assert phase["cut_point"] == report["training"]["cut_point"]
    head = tlcli("inspect", "mobilenet_v2", "--train", "head", "--set", "performance.batch=16", "--json").document
    peaks = [document["training"]["memory_bytes"] for document in (head, report)]
    assert plan.document["estimates"]["memory_bytes"] == max(peaks)


def test_the_header_has_the_facts_of_the_card(tlcli: Callable) -> None:
    about = tlcli("inspect", "resnet50", "--json").document["about"]
    assert (about["kind"], about["source"], about["licence"]) == ("card", "keras:ResNet50", "MIT")
    assert (about["imagenet_top1"], about["min_size"], about["sha256"]) == (0.749, 32, None)
    assert (about["preprocessing"], about["classes"]) == ("caffe", None)
    assert about["expects"].startswith("BGR")
    assert about["published_hash"].startswith("md5:4d473c1d")
    assert "md5         4d473c1dd8becc155b73f8504c6f6626" in tlcli("inspect", "resnet50").stdout
    bundled = tlcli("inspect", "mobilenet_synthetic", "--json").document["about"]
    assert bundled["imagenet_top1"] is None
    assert bundled["sha256"].startswith("fd707ed3")


def test_value_ranges_match_the_preprocessing() -> None:
    import keras

    from tlcli.model.backbone import preprocess
    from tlcli.report.target import RANGES

    ends = {"none": (0, 255), "tf": (-1, 1), "torch": (-2.1, 2.6), "caffe": (-124, 152)}  # rounded outwards
    ends |= {"unit": (0, 1), "lite": (-1, 1)}
    assert RANGES.keys() == ends.keys()
    image = keras.Input((1, 2, 3))
    for mode, (low, high) in ends.items():
        model = keras.Model(image, preprocess(image, mode) + 0)
        values = keras.ops.convert_to_numpy(model(keras.ops.array([[[[0.0] * 3, [255.0] * 3]]])))
        tolerance = 1 if mode == "caffe" else 0.05
        assert (values.min(), values.max()) == (pytest.approx(low, abs=tolerance), pytest.approx(high, abs=tolerance))
        assert str(low) in RANGES[mode]
        assert str(high) in RANGES[mode]


@pytest.mark.parametrize(("width", "missing"), [(80, ["first", "last", "layers", "BatchNorm"]), (200, [])])
def test_columns_that_do_not_fit_are_named(
    width: int, missing: list[str], tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = tlcli("inspect", "mobilenet_v2").stdout.splitlines()
    (header,) = [line for line in lines if line.startswith("group ")]
    assert all((name in header.split()) == (name not in missing) for name in ("first", "last", "layers", "BatchNorm"))
    left_out = [line for line in lines if line.startswith("Left out at")]
    assert left_out == (
        [f"Left out at 80 columns (140 needed): {', '.join(missing)}. --format csv and html show all."]
        if missing
        else []
    )
    assert max(map(len, lines[lines.index(header) : lines.index(header) + 20])) <= width


def test_cut_points_are_explained_without_their_column(tlcli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "Every group ends at a cut point, where training can start." in tlcli("inspect", "resnet50").stdout
    text = tlcli("inspect", "nasnet_mobile").stdout
    assert (
        "At stem, cell0 … cell3, reduce4, cell5 … cell8, reduce8, cell9 … cell11, an earlier output is cached too"
        in text
    )


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
def test_csv_and_json_agree(by: str, tlcli: Callable) -> None:
    rows = list(csv.DictReader(io.StringIO(tlcli("inspect", "vgg16", "--by", by, "--format", "csv").stdout)))
    json_rows = tlcli("inspect", "vgg16", "--by", by, "--format", "json").document[f"{by}s"]
    assert [row["name"] for row in rows] == [row["name"] for row in json_rows]
    assert [int(row["parameters"]) for row in rows] == [row["parameters"] for row in json_rows]
    assert list(rows[0]) == list(json_rows[0])
    assert rows[-1]["output_shape"] == "7x7x512"
    assert rows[-1]["receptive_field"] == "212x212"
    assert {row["sees_all"] for row in rows} == {"false"}


def test_a_smaller_input_needs_fewer_flops_and_as_many_parameters(tlcli: Callable) -> None:
    default, small = (
        tlcli("inspect", "resnet50", "--format", "json", *size).document for size in ((), ("--size", 112, 112))
    )
    assert small["parameters"] == default["parameters"]
    assert small["flops"] == pytest.approx(default["flops"] / 4, rel=0.1)
    assert small["input_size"] == [112, 112]


def test_a_run_has_the_network_it_trained(tlcli: Callable, finished: tuple) -> None:
    found = tlcli("inspect", finished[0], "--format", "json").document
    assert (found["name"], found["input_size"]) == ("mobilenet", [32, 32])
    assert [group["name"] for group in found["groups"]] == finished[1].document["model"]["groups"]
    assert found["parameters"] == finished[1].document["model"]["parameters"]
    about = found["about"]
    assert (about["kind"], about["classes"], about["run"]["status"]) == ("run", ["blue", "green", "red"], "complete")
    assert about["run"]["scores"]["test"]["accuracy"] == finished[1].document["scores"]["test"]["accuracy"]
    assert about["imagenet_top1"] is None, "its width differs from the card, and its weights were random"


def test_a_copied_classifier_has_the_facts_of_its_run(tlcli: Callable, finished: tuple, tmp_path: Path) -> None:
    shutil.copy(finished[0] / "model.keras", tmp_path / "elsewhere.keras")
    result = tlcli("inspect", tmp_path / "elsewhere.keras", "--format", "json")
    assert result.code == 0, result.stderr
    found, run = result.document, tlcli("inspect", finished[0], "--format", "json").document
    assert found["groups"] == run["groups"]
    for name in ("preprocessing", "expects", "licence", "arguments", "sha256", "classes", "trained_on", "scores"):
        assert found["about"][name] == run["about"][name], name
    assert (found["about"]["kind"], found["about"]["classes"]) == ("file", ["blue", "green", "red"])
    assert (found["input_size"], found["about"]["own_size"]) == ([32, 32], [32, 32])
    assert found["about"]["sha256"] == hashlib.sha256((finished[0] / "model.keras").read_bytes()).hexdigest()
    resized = tlcli("inspect", tmp_path / "elsewhere.keras", "--size", 64, 64)
    assert (resized.code, "resizes images to 32 × 32 itself" in resized.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "give either MODEL or --diff A B"),
        (
            ("mobilenet_synthetic", "--diff", "mobilenet_synthetic", "mobilenet_synthetic"),
            "give either MODEL or --diff A B",
        ),
        (("mobilenet_synthetic", "--out", "x"), "--out: a table cannot be written to a file"),
        (
            ("--diff", "mobilenet_synthetic", "mobilenet_synthetic", "--train", "head"),
            "--train: cannot be combined with --diff",
        ),
        (
            ("--diff", "mobilenet_synthetic", "mobilenet_synthetic", "--format", "html"),
            "--format html: cannot be combined with --diff",
        ),
        (
            ("{run}", "--set", "model.arguments.alpha=1.0"),
            "--set model.arguments.alpha=1.0: the network is already built",
        ),
        (("mobilenet_synthetic", "--batch-norm", "train"), "--batch-norm: needs --train"),
        (
            ("--diff", "mobilenet_synthetic", "mobilenet_synthetic", "--batch-norm", "train"),
            "--batch-norm: needs --train",
        ),
        (("mobilenet_synthetic", "--train", "blok3"), "--train: no layer group 'blok3' in mobilenet_synthetic"),
        (("{run}/run.json",), "is the record of a run. Name its folder"),
        (("{run}/history.csv",), "is not a network. Name a card"),
        (("mobilenet_synthetic", "--size", "8", "8"), "--size: mobilenet_synthetic takes at least 32 × 32"),
        (("--diff", "resnet50", "{run}"), "share too few layers"),
        (("--diff", "mobilenet_synthetic", "nothing"), "there is no model 'nothing'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_errors_name_the_cause(words: tuple[str, ...], sentence: str, tlcli: Callable, finished: tuple) -> None:
    result = tlcli("inspect", *(word.replace("{run}", str(finished[0])) for word in words))
    assert (result.code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_json_excludes_other_formats(tlcli: Callable) -> None:
    result = tlcli("inspect", "mobilenet_synthetic", "--json", "--format", "csv")
    assert (result.code, result.document["error"]["where"]) == (2, "--json")
    assert tlcli("inspect", "mobilenet_synthetic", "--json", "--format", "json").code == 0


def test_a_written_file_equals_the_printed_text(tlcli: Callable, tmp_path: Path) -> None:
    for form in ("json", "csv", "html"):
        result = tlcli("inspect", "mobilenet_synthetic", "--format", form, "--out", tmp_path / f"x.{form}")
        assert (result.code, result.stdout) == (0, "")
        assert (tmp_path / f"x.{form}").read_text(encoding="utf-8") == tlcli(
            "inspect", "mobilenet_synthetic", "--format", form
        ).stdout


def test_doctor_lists_versions_devices_and_folders(tlcli: Callable) -> None:
    import keras

    found = tlcli("doctor", "--json").document
    assert set(found) == {"versions", "devices", "folders", "extras"}
    assert found["versions"]["keras"] == keras.version()
    assert found["devices"]["backend"] == keras.backend.backend()
    assert found["folders"]["cache"].startswith(os.environ["TLCLI_CACHE"])
    assert found["folders"]["recipes"].endswith("(17)")
    assert found["folders"]["models"].endswith("(199)")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(found["extras"]) == set(project["optional-dependencies"])
    assert found["extras"]["dev"].startswith(f"build {metadata.version('build')}, ")
    result = tlcli("doctor")
    assert (result.code, result.stderr) == (0, "")
    for section, lines in found.items():
        assert section in result.stdout.splitlines()
        assert all(f"  {name:<24} {value}" in result.stdout for name, value in lines.items())


def test_doctor_says_what_is_in_the_way_of_a_folder(
    tlcli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("TLCLI_CACHE", str(file))
    monkeypatch.setenv("TLCLI_ZOO", str(file / "zoo"))
    monkeypatch.setenv("TLCLI_CONFIG", str(file))
    folders = tlcli("doctor", "--json").document["folders"]
    assert folders["cache"] == folders["settings"] == f"{file} (is a file, not a folder)"
    assert folders["own zoo"] == f"{file / 'zoo'} ({file} is a file, not a folder)"
