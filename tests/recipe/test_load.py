"""Recipes: loading, merging, settings, and errors with their places."""

from itertools import pairwise

import pytest
import yaml

from tlcli.errors import RecipeError
from tlcli.recipe import load

MINIMAL = "recipe: 1\nname: tiny\nphases:\n  - {name: head, train: head}\n"

# All keys of the public contract. Scripts rely on these names.
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


def test_the_contract_recipe_is_valid():
    recipe = load.parse(CONTRACT)
    assert recipe.optimizer.lr == 1e-3  # YAML 1.1 reads 1e-3 as text; the schema converts it
    assert recipe.phases[1].until.confidence == 0.8
    assert recipe.head.hidden[0].activation == "elu"


@pytest.mark.parametrize("name", load.names())
def test_bundled_recipes_are_valid_and_render_to_themselves(name):
    recipe = load.load(name)
    assert recipe.name == name
    assert recipe.description
    assert load.parse(load.render(recipe)) == recipe


def test_all_recipes_are_bundled():
    named = "best-accuracy ci-smoke demo depth-search fine-grained from-scratch full head-only imbalanced lp-ft"
    named += " noisy-labels sparse surgical textbook tiny-data two-phase unfreeze-until-plateau"
    assert load.names() == named.split()


@pytest.mark.parametrize("name", load.names())
def test_bundled_recipes_open_with_their_use_their_costs_and_a_command(name):
    head, _, _ = load.locate(name).read_text(encoding="utf-8").partition("recipe: 1\n")
    assert head.startswith(f"# {name}: ")
    assert all(line.startswith("#") for line in head.splitlines())
    assert "\n# Costs: " in head
    assert "\n#   tlcli " in head
    assert len(head.splitlines()) <= 13


def test_an_unknown_key_gives_its_place_and_a_suggestion():
    assert problems_of(MINIMAL + "optimizer:\n  lrr: 1\n") == [
        "r.yaml:6:3 optimizer.lrr: unknown key. Did you mean 'lr'?"
    ]


@pytest.mark.parametrize(
    ("text", "place", "new"),
    [
        (MINIMAL.replace("head}", "head, blend: true}"), "r.yaml:4:31 phases[0].blend", "interpolate"),
        (MINIMAL.replace("head}", "head, pick: 2}"), "r.yaml:4:31 phases[0].pick", "group_count"),
        (
            MINIMAL.replace("head}", "head, until: {go_on: 0.5}}"),
            "r.yaml:4:39 phases[0].until.go_on",
            "min_relative_gain",
        ),
        (MINIMAL + "performance: {recall: false}\n", "r.yaml:5:15 performance.recall", "reuse_results"),
    ],
    ids=["blend", "pick", "go_on", "recall"],
)
def test_a_renamed_key_gives_one_error_with_its_place_and_the_new_name(text, place, new):
    old = place.rpartition(".")[2]
    assert problems_of(text) == [f"{place}: {old} was renamed. Write {new} instead."]


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("phases.0.until.go_on", "min_relative_gain"),
        ("phases.0.blend", "interpolate"),
        ("phases.0.pick", "group_count"),
        ("performance.recall", "reuse_results"),
    ],
)
def test_a_renamed_key_in_a_setting_gives_one_error(key, new):
    (problem,) = problems_of(MINIMAL, f"{key}=1")
    assert problem.startswith("--set ")
    assert problem.endswith(f"{key.rpartition('.')[2]} was renamed. Write {new} instead.")


def test_all_problems_are_reported_in_the_order_of_the_file():
    text = (
        "recipe: 1\nname: x\nseeed: 3\ndata:\n  val: 1.5\n  resize: cropp\nphases:\n"
        "  - {name: a, train: head, epochss: 3}\n  - {name: b, policy: gradul}\nexpect: [accuracy is high]\n"
    )
    problems = problems_of(text)
    assert [problem.split(" ")[0] for problem in problems] == [
        "r.yaml:3:1",
        "r.yaml:5:3",
        "r.yaml:6:3",
        "r.yaml:8:28",
        "r.yaml:9:15",
        "r.yaml:10:10",
    ]
    assert "Did you mean 'gradual'?" in problems[4]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.val=1.5", "less than 1; a folder is allowed too (got 1.5)"),
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
        ("augment={preset: none, flip: vertical}", "preset: custom"),
        ("augment.flip=none", None),
        ("augment.hue=0.1", "preset: custom"),
        ("augment.jpeg=0", "greater than or equal to 1"),
        ("augment.preset=randaugmnt", "Did you mean 'randaugment'?"),
        ("augment={preset: custom, randaugment: 9, trivialaugment: true}", "exclude each other"),
        ("data={class_weights: balanced, sampling: balanced}", "exclude each other"),
        ("loss.name=focall", "Did you mean 'focal'?"),
        ("loss.gamma=-1", "greater than or equal to 0"),
        ("teacher={temperature: 4}", "is missing"),
        ("teacher={run: runs/a, weight: 0}", "greater than 0"),
        ("teacher=''", "must name a run folder"),
        ("teacher=runs/a", None),
        ("phases.3.epochs=2", "there is no phases[3].epochs"),
        ("epochs", "must read key=value"),
        ("phases.0.init=probe", None),
        ("phases.0.epochs=0", "epochs: 0"),
        ("phases.0.policy=gradual", "leave train out"),
        ("phases.0.train=null", "needs train"),
        ("phases.0.train='re:['", "is not a regular expression"),
        ("phases.0.train='head, re:conv_(1'", "is not a regular expression"),
        ("phases.0.train=top:x", "top: takes a number of groups"),
        ("phases.0.train=top:0", "top: takes a number of groups"),
        ("phases.0.train=top:101%", "top: takes a number of groups"),
        ("phases.0.train='head,'", "an empty part"),
        ("phases.0.train=block1..", "a range needs both ends"),
        ("phases.0.train='top:3, block1[3-6], re:conv_(dw|pw)_1[0-3], top:2.5%, a..b'", None),
        ("optimizer.weight_decay=0.01", "weight_decay: has no effect with adam (got 0.01)"),
        ("optimizer={name: lion, weight_decay: 0.01}", None),
        ("optimizer={name: sgd, weight_decay: 0}", None),
        ("loss.gamma=3", "has no effect with cross_entropy (got 3)"),
        ("head.hidden=[{units: 8, batch_norm_momentum: 0.5}]", "has no effect without BatchNorm (got 0.5)"),
        ("phases.0.until.patience=2", "has no effect without rounds"),
        ("phases.0.until.confidence=0.9", None),
        ("phases.0={name: a, train: head, init: probe, epochs: 0}", None),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    if message is None:
        load.parse(MINIMAL, settings=[setting])
    else:
        assert message in problems_of(MINIMAL, setting)[0]


@pytest.mark.parametrize(
    ("recipe", "settings", "options", "message"),
    [
        (load.DEFAULT, ["phases.1.epochs=0"], {}, "--set phases[1].epochs: 0 trains nothing"),
        ("depth-search", ["data.folds=3"], {}, "--set data.folds: policy depth_search needs"),
        ("depth-search", [], {"data.folds": 3}, "--folds: data.folds: policy depth_search needs"),
        ("two-phase", [], {"phases.lr": "fast"}, "--lr: input should be a number or 'find' (got 'fast')"),
    ],
)
def test_a_rule_of_a_section_blames_what_was_given(recipe, settings, options, message):
    with pytest.raises(RecipeError) as caught:
        load.load(recipe, settings=settings, options=options)
    assert [str(problem)[: len(message)] for problem in caught.value.problems] == [message]


def test_options_for_phases_set_those_that_train():
    given = {"phases.epochs": 2, "phases.lr": 0.01, "data.size": [64, 48], "performance.batch": 8, "seed": 3}
    default = load.load(load.DEFAULT, options=given)
    assert [phase.epochs for phase in default.phases] == [0, 2]
    assert [phase.lr for phase in default.phases] == [None, 0.01]
    both = load.load("two-phase", options=given)
    assert [(phase.epochs, phase.lr) for phase in both.phases] == [(2, 0.01), (2, 0.01)]
    assert (both.optimizer.lr, both.data.size, both.performance.batch, both.seed) == (0.01, (64, 48), 8, 3)


@pytest.mark.parametrize(
    ("option", "setting", "name"),
    [
        ({"phases.epochs": 2}, "phases.1.epochs=3", "--epochs"),
        ({"phases.lr": 0.1}, "optimizer.lr=0.2", "--lr"),
        ({"phases.lr": 0.1}, "phases=[]", "--lr"),
        ({"data.path": "photos"}, "data={val: 0.2}", "DATA"),
        ({"seed": 1}, "seed=1", "--seed"),
    ],
)
def test_a_key_is_set_once(option, setting, name):
    with pytest.raises(RecipeError, match=f"is also set by {name}"):
        load.load("two-phase", options=option, settings=[setting])


@pytest.mark.parametrize("written", ["off", "'off'", "OFF", "false"])
def test_a_bare_off_means_off(written):
    """YAML reads a bare `off` as false."""
    recipe = load.parse(MINIMAL + f"performance: {{cache: {written}}}\n")
    assert recipe.performance.cache == "off"
    assert load.parse(load.render(recipe)) == recipe


@pytest.mark.parametrize(("written", "views"), [("auto", "auto"), ("live", "live"), ("1", 1), ("64", 64)])
def test_views_are_a_number_or_a_word(written, views):
    recipe = load.parse(MINIMAL, settings=[f"augment.views={written}"])
    assert recipe.augment.views == views
    assert type(recipe.augment.views) is type(views)
    assert load.parse(load.render(recipe)) == recipe


def test_settings_change_list_items_and_create_missing_sections():
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
def test_the_probe_is_refused_if_it_cannot_be_solved_or_is_not_first(setting):
    assert problems_of(MINIMAL, "phases.0.init=probe", setting)


def test_phase_names_must_be_unique():
    assert "twice" in problems_of(MINIMAL, "phases=[{name: a, train: head}, {name: a, train: all}]")[0]


def test_the_shares_must_leave_images_to_train_on():
    assert "below 1" in problems_of(MINIMAL, "data.val=0.6", "data.test=0.5")[0]


def test_a_duplicate_key_is_an_error():
    assert problems_of(MINIMAL + "seed: 1\nseed: 2\n") == ["r.yaml:6:1 seed: duplicate key. Keep one of the two."]


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "", "!!python/object/apply:os.system ['true']", "\x00"])
def test_text_that_is_not_a_recipe_is_one_error(text):
    (problem,) = problems_of(text)
    assert problem.startswith("r.yaml")


def test_a_mistyped_parent_hides_no_other_mistake():
    assert problems_of("name: x\nextends: two-fase\nseed: -1\nseed: -2\noptimizer: {lrr: 1}\n") == [
        "r.yaml:2:1 extends: there is no bundled recipe and no file 'two-fase'. Did you mean 'two-phase'?",
        "r.yaml:4:1 seed: duplicate key. Keep one of the two.",
        "r.yaml:4:1 seed: input should be greater than or equal to 0 (got -2).",
        "r.yaml:5:13 optimizer.lrr: unknown key. Did you mean 'lr'?",
    ]


def test_one_rule_of_a_section_hides_no_other():
    problems = problems_of(MINIMAL + "optimizer:\n  rho: 0.9\n  momentum: 0.8\n  clip_norm: 1\n  clip_value: 1\n")
    assert [problem.partition(": ")[0] for problem in problems] == [
        "r.yaml:5:1 optimizer",
        "r.yaml:6:3 optimizer.rho",
        "r.yaml:7:3 optimizer.momentum",
    ]


def test_a_teacher_needs_a_phase_that_trains():
    settings = ("phases.0.init=probe", "phases.0.epochs=0", "teacher=runs/a")
    assert "nothing learns from it" in problems_of(MINIMAL, *settings)[0]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases make more than 100000 values"),
        ("a: &a [*a]\n", "an alias that contains itself"),
        (f"a: {'[' * 60}{']' * 60}", "more than 50 levels"),
        ("a: 2020-13-45", "cannot be read"),
        (f"seed: {'1' * 5000}", "cannot be read"),
        (f"a: {'[' * 5000}{']' * 5000}", "more than 50 levels"),
    ],
    ids=["bomb", "circle", "levels", "no date", "digits", "recursion"],
)
def test_a_short_text_cannot_become_a_huge_tree(text, message):
    (problem,) = problems_of(text)
    assert message in problem


def test_the_place_of_a_key_is_known_after_loading(tmp_path):
    child = tmp_path / "mine.yaml"
    child.write_text("extends: two-phase\nname: mine\nseed: 3\n", encoding="utf-8")
    assert load.place("seed", str(child)) == f"{child}:3:1 seed"
    assert load.place("phases[0].train", str(child)).startswith(f"{load.locate('two-phase')}:")
    assert load.place("phases[0].train", "two-phase", settings=["phases.0.train=all"]) == "--set phases[0].train"
    assert load.place("phases[0].lr", "two-phase", options={"phases.lr": 0.1}) == "--lr"


def test_extends_merges_sections_and_replaces_lists(tmp_path):
    child = tmp_path / "mine.yaml"
    child.write_text("extends: two-phase\nname: mine\ndata: {val: 0.2}\n", encoding="utf-8")
    recipe = load.load(str(child))
    parent = load.load("two-phase")
    assert (recipe.name, recipe.data.val, recipe.phases) == ("mine", 0.2, parent.phases)


def test_extends_goes_one_level_deep(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: two-phase\nname: a\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nname: b\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="Only one level is allowed"):
        load.load(str(tmp_path / "b.yaml"))


def test_a_mistyped_recipe_name_gets_a_suggestion():
    with pytest.raises(RecipeError, match="Did you mean 'two-phase'"):
        load.load("twophase")


def test_a_rendered_recipe_is_safe_yaml():
    recipe = load.parse(MINIMAL, settings=["data.path=photos/ä b", "data.classes=[b, a]"])
    tree = yaml.safe_load(load.render(recipe))
    assert tree["data"]["path"] == "photos/ä b"
    assert tree["data"]["classes"] == ["b", "a"]
