"""The table of KerasHub presets: found by name, without Keras and without KerasHub."""

import importlib.util
import subprocess
import sys

import pytest

from tlcli.errors import ModelError, WeightsError
from tlcli.zoo import catalogue, presets


def test_every_preset_has_a_card() -> None:
    cards = catalogue.load()
    assert len(presets.table()) >= 150
    for name, preset in presets.table().items():
        card = cards[name]
        assert catalogue.find(name) is catalogue.find(f"kerashub:{name}") is card
        assert (card.source, card.preprocessing) == (f"kerashub:{name}", "none")
        assert card.groups == presets.FAMILIES[preset.backbone].groups


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("resnet_50_imagenet", 224, 23_561_152),
        ("vit_base_patch16_384_imagenet", 384, 86_090_496),
        ("clip_vit_large_patch14_336", 336, None),
        ("efficientnet_b1_ra4_e3600_r240_imagenet", 240, 7_794_184),
        ("mit_b0_cityscapes_1024", 1024, 3_321_962),
    ],
)
def test_cards_have_the_sizes_and_parameters_that_kerashub_states(name, size, parameters) -> None:
    card = catalogue.find(name)
    assert (card.size, card.parameters) == (size, parameters)


def test_networks_with_trained_positions_take_only_their_own_size() -> None:
    assert catalogue.find("vit_base_patch16_384_imagenet").min_size == 384
    assert catalogue.find("dinov2_base").min_size == 32


def test_listing_loads_neither_keras_nor_kerashub() -> None:
    code = (
        "import sys; from tlcli.cli.main import cli; cli(['zoo', 'list'], standalone_mode=False);"
        "sys.exit(bool({'keras', 'keras_hub', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) >= 190


def test_an_unknown_preset_gets_a_suggestion() -> None:
    with pytest.raises(ModelError, match=r"no image preset 'resnet_5_imagenet'. Did you mean 'resnet_50_imagenet'\?"):
        catalogue.find("kerashub:resnet_5_imagenet")


def test_a_missing_library_gives_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from tlcli.zoo.sources import kerashub

    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "keras_hub", raising=False)
    monkeypatch.delenv("TLCLI_OFFLINE", raising=False)
    sys.path_importer_cache.clear()
    with pytest.raises(ModelError, match=r"pip install 'tlcli\[kerashub\]'"):
        kerashub.network(catalogue.find("resnet_18_imagenet"), size=(32, 32), arguments={}, weights=True)


def test_offline_every_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    from tlcli.zoo.sources import kerashub

    monkeypatch.setenv("TLCLI_OFFLINE", "1")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        kerashub.network(catalogue.find("resnet_18_imagenet"), size=(32, 32), arguments={}, weights=True)
    text = str(caught.value)
    assert f"to {tmp_path}/models/keras/resnetv1/keras/resnet_18_imagenet/3\n" in text
    assert "--model kerashub:FOLDER" in text
    assert "efficientnet_lite0" in text
    with pytest.raises(WeightsError, match="TLCLI_OFFLINE is set"):
        catalogue.find("kerashub:hf://somebody/some-net")
    assert "- connection: unset TLCLI_OFFLINE" in text
    has_library = importlib.util.find_spec("keras_hub") is not None
    assert ("keras-hub, which builds it, is not installed either" in text) is not has_library
    assert ("- library: install it: pip install 'tlcli[kerashub]'" in text) is not has_library
