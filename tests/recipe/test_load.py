import pytest
import yaml

from tlcli.errors import RecipeError
from tlcli.recipe import load

MINIMAL = "recipe: 1\nname: tiny\nphases:\n  - {name: head, train: head}\n"

# The recipe of the contract, whole: scripts rely on these names.
CONTRACT = """
recipe: 1
name: everything
extends: null
seed: 0
data: {path: null, val: 0.15, test: 0.15, size: auto, resize: crop, classes: null, class_weights: none}
model: {name: mobilenet_v2, weights: null, arguments: {alpha: 0.35}, drop_top: 0}
head:
  pooling: avg
  hidden: [{units: 256, activation: elu, initializer: he_normal, batch_norm: true, dropout: 0.5}]
  dropout: 0.2
  l1: 0.0
  l2: 0.0
  max_norm: null
augment: {preset: light, views: live, mixup: 0.0, label_smoothing: 0.0}
optimizer: {name: adam, lr: 1e-3, schedule: none, clip_norm: null, clip_value: null}
phases:
  - {name: head, train: head, epochs: 20, patience: 3}
  - name: unfreeze
    policy: gradual
    step: 1
    lr: 3e-4
    layer_decay: 0.8
    batch_norm: frozen
    epochs: 8
    patience: 2
    until: {metric: val_loss, min_delta: 0.0, confidence: 0.8, patience: 1}
performance: {precision: auto, cache: auto, cache_budget: 8GB, batch: 32}
expect: [val.accuracy >= 0.90, seconds.total <= 600]
"""


def problems_of(text: str, *settings: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load.parse(text, origin="r.yaml", settings=settings)
    return [str(problem) for problem in caught.value.problems]


def test_the_contract_recipe_is_taken_as_written():
    recipe = load.parse(CONTRACT)
    assert recipe.optimizer.lr == 1e-3  # YAML 1.1 reads 1e-3 as text; the schema makes it a number
    assert recipe.phases[1].until.confidence == 0.8
    assert recipe.head.hidden[0].activation == "elu"


@pytest.mark.parametrize("name", load.names())
def test_bundled_recipes_are_valid_and_render_to_themselves(name):
    recipe = load.load(name)
    assert recipe.name == name
    assert recipe.description
    assert load.parse(load.render(recipe)) == recipe


def test_the_bundled_recipes_are_all_there():
    names = ["demo", "depth-search", "from-scratch", "full", "head-only", "lp-ft", "surgical", "two-phase"]
    assert load.names() == [*names, "unfreeze-until-plateau"]


def test_unknown_keys_are_errors_with_a_suggestion_and_a_place():
    assert problems_of(MINIMAL + "optimizer:\n  lrr: 1\n") == [
        "r.yaml:6:3 optimizer.lrr: unknown key. Did you mean 'lr'?"
    ]


def test_all_problems_are_told_at_once_in_the_order_of_the_file():
    text = (
        "recipe: 1\nname: x\nseeed: 3\ndata:\n  val: 1.5\n  resize: cropp\nphases:\n"
        "  - {name: a, train: head, epochss: 3}\n  - {name: b, policy: gradul}\nexpect: [accuracy is high]\n"
    )
    found = problems_of(text)
    assert [line.split(" ")[0] for line in found] == [
        "r.yaml:3:1",
        "r.yaml:5:3",
        "r.yaml:6:3",
        "r.yaml:8:28",
        "r.yaml:9:15",
        "r.yaml:10:10",
    ]
    assert "Did you mean 'gradual'?" in found[4]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.val=1.5", "less than 1"),
        ("data.val=0.6 ", None),
        ("head.dropout=1", "less than 1"),
        ("optimizer.lr=0", "greater than 0"),
        ("optimizer.lr=.nan", "finite"),
        ("optimizer.name=adamm", "Did you mean 'adam'?"),
        ("phases.0.epochs=-1", "greater than or equal to 0"),
        ("phases.0.epochs=2.5", "integer"),
        ("phases[0].batch_norm=froze", "Did you mean 'frozen'?"),
        ("performance.cache_budget=lots", "pattern"),
        ("performance.batch=0", "greater than or equal to 1"),
        ("phases.0.epochs=many", "input should be a number or 'auto' (got 'many')"),
        (
            "phases.0.step=200%",
            "a number, a share such as 30% or 30% of parameters, 'all', 'double' or 'auto' (got '200%')",
        ),
        ("performance.cache=off", None),
        ("performance.reuse_results=ja", "should be true or false (got 'ja')"),
        ("performance.cache=on", "'auto' or 'off'"),
        ("augment.views=0", "greater than or equal to 1"),
        ("augment.views=65", "less than or equal to 64"),
        ("augment.views=2.5", "integer"),
        ("augment.views=lve", "Did you mean 'live'?"),
        ("augment.views=7", None),
        ("data.size=[96]", "size"),
        ("augment.rotation=10", "preset: custom"),
        ("phases.3.epochs=2", "there is no phases[3].epochs"),
        ("epochs", "must read key=value"),
        ("phases.0.init=probe", None),
        ("phases.0.epochs=0", "epochs: 0"),
        ("phases.0.policy=gradual", "leave train out"),
        ("phases.0.train=null", "needs train"),
    ],
)
def test_values_out_of_range_are_refused_and_others_taken(setting, words):
    if words is None:
        load.parse(MINIMAL, settings=[setting])
    else:
        assert words in problems_of(MINIMAL, setting)[0]


@pytest.mark.parametrize("written", ["off", "'off'", "OFF", "false"])
def test_a_bare_off_is_no_truth_value(written):
    """As YAML has it."""
    recipe = load.parse(MINIMAL + f"performance: {{cache: {written}}}\n")
    assert recipe.performance.cache == "off"
    assert load.parse(load.render(recipe)) == recipe


@pytest.mark.parametrize(("written", "views"), [("auto", "auto"), ("live", "live"), ("1", 1), ("64", 64)])
def test_renderings_are_a_number_or_a_word(written, views):
    recipe = load.parse(MINIMAL, settings=[f"augment.views={written}"])
    assert recipe.augment.views == views
    assert type(recipe.augment.views) is type(views)
    assert load.parse(load.render(recipe)) == recipe


def test_settings_reach_lists_and_make_missing_sections():
    recipe = load.parse(MINIMAL, settings=["phases[0].epochs=3", "model.arguments.alpha=0.35", "data.val=extra/val"])
    assert recipe.phases[0].epochs == 3
    assert recipe.model.arguments == {"alpha": 0.35}
    assert str(recipe.data.val) == "extra/val"


@pytest.mark.parametrize(
    "setting",
    [
        "head.max_norm=1",
        "head.hidden=[{units: 8}]",
        "phases=[{name: a, train: head}, {name: b, train: head, init: probe}]",
    ],
)
def test_the_probe_is_refused_where_it_cannot_be(setting):
    assert problems_of(MINIMAL, "phases.0.init=probe", setting)


def test_phases_need_names_of_their_own():
    assert "twice" in problems_of(MINIMAL, "phases=[{name: a, train: head}, {name: a, train: all}]")[0]


def test_the_shares_must_leave_images_to_train_on():
    assert "below 1" in problems_of(MINIMAL, "data.val=0.6", "data.test=0.5")[0]


def test_a_key_that_stands_twice_is_an_error():
    assert "stands twice" in problems_of(MINIMAL + "seed: 1\nseed: 2\n")[0]


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "", "!!python/object/apply:os.system ['true']", "\x00"])
def test_what_is_no_recipe_is_one_clear_error(text):
    assert problems_of(text)[0].startswith("r.yaml")


def test_extends_merges_sections_and_replaces_lists(tmp_path):
    child = tmp_path / "mine.yaml"
    child.write_text("extends: two-phase\nname: mine\ndata: {val: 0.2}\n", encoding="utf-8")
    recipe = load.load(str(child))
    parent = load.load("two-phase")
    assert (recipe.name, recipe.data.val, recipe.phases) == ("mine", 0.2, parent.phases)


def test_extends_goes_one_level_deep(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: two-phase\nname: a\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nname: b\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="One level is allowed"):
        load.load(str(tmp_path / "b.yaml"))


def test_a_mistyped_recipe_name_gets_a_suggestion():
    with pytest.raises(RecipeError, match="Did you mean 'two-phase'"):
        load.load("twophase")


def test_a_rendered_recipe_is_safe_yaml():
    recipe = load.parse(MINIMAL, settings=["data.path=photos/ä b", "data.classes=[b, a]"])
    tree = yaml.safe_load(load.render(recipe))
    assert tree["data"]["path"] == "photos/ä b"
    assert tree["data"]["classes"] == ["b", "a"]
