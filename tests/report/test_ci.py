"""Outcomes of recipes in CI: JUnit XML, annotations and job summary, also with hostile names."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tlcli.errors import Problem, RecipeError, RunError
from tlcli.report import ci

HOSTILE = "a\x00<b>|`&\"'\n::error::% \ud800é"
MET = {"expectation": "val.accuracy > 0.5", "passed": True, "reason": "measured 0.9"}
UNMET = {"expectation": 'test.per_class["<b>"].recall > 1', "passed": False, "reason": "measured 0.25"}
SCORES = {"val": {"accuracy": 0.9, "loss": 0.1}}
PASSED = ci.Outcome("good.yaml", 0, 1.5, "runs/1", SCORES, [MET])
NOT_MET = ci.Outcome("strict.yaml", 3, 2.0, "runs/2", SCORES, [MET, UNMET])
FAILED = ci.outcome_of_error("gone.yaml", RunError(f"no memory {HOSTILE}", hint="Use less."), 0.25)
INVALID = ci.outcome_of_error(
    "wrong.yaml", RecipeError([Problem("wrong.yaml:2:3 sed", "unknown key"), Problem("wrong.yaml:4:1 x", "100%\nbad")])
)
ALL = [PASSED, NOT_MET, FAILED, INVALID]


def test_junit_has_a_case_per_run_and_expectation() -> None:
    root = ET.fromstring(ci.junit(ALL).encode())
    assert (root.tag, root.attrib) == (
        "testsuites",
        {"name": "tlcli", "tests": "7", "failures": "1", "errors": "2", "skipped": "0", "time": "3.75"},
    )
    assert [(suite.get("name"), suite.get("tests")) for suite in root] == [
        ("good.yaml", "2"),
        ("strict.yaml", "3"),
        ("gone.yaml", "1"),
        ("wrong.yaml", "1"),
    ]
    names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(set(names)) == 7, "GitLab tells cases apart by these two"
    assert ("strict.yaml", UNMET["expectation"]) in names
    (failure,) = root.iter("failure")
    assert failure.get("message") == "measured 0.25"
    assert [error.get("type") for error in root.iter("error")] == ["run", "recipe"]
    assert root.findall(".//error")[1].text == "wrong.yaml:2:3 sed: unknown key.\nwrong.yaml:4:1 x: 100%\nbad."


@pytest.mark.parametrize("code", [*range(0x20), 0x7F, 0xD800, 0xDFFF, 0xFFFE, 0xFFFF, 0x10FFFF], ids=hex)
def test_junit_is_xml_whatever_the_names(code: int) -> None:
    name = f"x{chr(code)}y"
    verdict = {"expectation": name, "passed": False, "reason": name}
    root = ET.fromstring(ci.junit([ci.Outcome(name, 3, expectations=[verdict])]).encode())
    legal = chr(code) if code in (0x9, 0xA, 0xD, 0x7F, 0x10FFFF) else ""
    assert root.find("testsuite").get("name") == f"x{legal}y"


def test_annotations_stand_at_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "sub" / "a,b.yaml"
    recipe.parent.mkdir()
    recipe.write_text(f"name: a\nexpect:\n  - {MET['expectation']}\n  - {UNMET['expectation']}\n", encoding="utf-8")
    outcome = ci.Outcome(str(recipe), 3, expectations=[MET, UNMET])
    (command,) = ci.annotations([outcome])
    assert command.startswith("::error file=sub/a%2Cb.yaml,line=4,col=5,title=tlcli ")
    assert command.endswith('::test.per_class["<b>"].recall > 1: not met, measured 0.25')


def test_annotations_are_one_line_each() -> None:
    commands = list(ci.annotations(ALL))
    assert commands[-2:] == [
        "::error file=wrong.yaml,line=2,col=3,title=tlcli wrong.yaml::unknown key.",
        "::error file=wrong.yaml,line=4,col=1,title=tlcli wrong.yaml::100%25%0Abad.",
    ]
    assert "%0A::error::%25 " in commands[1]
    assert not any("\n" in command for command in commands)
    assert "::error title=tlcli x%3Ay%2Cz::" in ci.annotation("", "m", recipe="x:y,z")


def test_the_summary_shows_names_as_text() -> None:
    outcome = ci.Outcome(HOSTILE, 3, 1.0, expectations=[{"expectation": HOSTILE, "passed": False, "reason": "r"}])
    text = ci.summary([PASSED, outcome])
    assert "| good.yaml | ✅ passed | 0.9000 | – | 1.5 s |" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.count("|") for row in rows] == [6, 6, 6]
    assert not re.search(r"<|`|::", text)
    assert "&#60;b&#62;" in text


def test_a_long_summary_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "summary.md"
    file.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    ci.write_summary([ci.Outcome("é" * 40_000, 0)] * 10)
    assert file.read_text(encoding="utf-8").startswith("before\n### Recipes\n")
    assert len(file.read_bytes()) <= ci.MAX_SUMMARY_BYTES + 7


@pytest.mark.parametrize(
    ("codes", "worst"),
    [((0,), 0), ((), 0), ((0, 3), 3), ((3, 2, 0), 2), ((2, 1, 3), 1), ((1, 130), 130), ((0, -9), 1), ((3, 77), 1)],
)
def test_the_exit_code_is_the_worst(codes: tuple[int, ...], worst: int) -> None:
    assert ci.worst_code([ci.Outcome("x", code) for code in codes]) == worst


def test_a_process_that_dies_without_a_word_is_a_failed_run() -> None:
    outcome = ci.outcome_of_process("no.yaml", -9, "", "line\nKilled: no memory\n", 1.0)
    assert (outcome.status, outcome.problems) == ("failed", [("", "ended with exit code -9. Killed: no memory")])
    assert ci.outcome_of_process("no.yaml", 0, "[", "", 1.0).code == 1
