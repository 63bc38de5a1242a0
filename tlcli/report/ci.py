"""The outcomes of recipes in CI: JUnit XML, annotations and job summary of GitHub Actions."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from tlcli.errors import ExpectationError, TlcliError, sentences
from tlcli.recipe.files import expectations_in
from tlcli.text import duration

# Exit codes from bad to good: interrupted, the run failed, the recipe is wrong, an expectation was not met.
WORST_FIRST = (130, 1, 2, 3, 0)
SPLITS = ("val", "test")
# GitHub refuses a larger summary as a whole.
MAX_SUMMARY_BYTES = 1_000_000
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLACE = re.compile(r"(?P<file>.+?):(?P<line>\d+):(?P<col>\d+)(?: |$)")


@dataclass(frozen=True)
class Outcome:
    """What became of one recipe.

    Attributes:
        recipe: Its name or file.
        code: The exit code of its run.
        seconds: Time that it took.
        run: The run folder; None if nothing was trained.
        scores: The scores of run.json.
        expectations: The verdicts of run.json; before a run, only the key `expectation`.
        error: The error in its JSON form; None if there was none.
        is_dry: True if it was only checked.
    """

    recipe: str
    code: int
    seconds: float = 0.0
    run: str | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)
    expectations: Sequence[Mapping[str, Any]] = ()
    error: Mapping[str, Any] | None = None
    is_dry: bool = False

    @property
    def status(self) -> str:
        """`passed`, `ready` after a check, `not met`, `invalid`, `interrupted` or `failed`."""
        words = {0: "ready" if self.is_dry else "passed", ExpectationError.exit_code: "not met", 2: "invalid"}
        return {**words, 130: "interrupted"}.get(self.code, "failed")

    @property
    def unmet(self) -> list[Mapping[str, Any]]:
        """The expectations that were not met."""
        return [row for row in self.expectations if not row.get("passed", True)]

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Each problem of the error: where, and what is wrong and what to do."""
        problems = [] if self.error is None else self.error.get("problems") or [self.error]
        return [(row["where"], sentences(row["message"], row["hint"])) for row in problems]

    @property
    def told(self) -> list[str]:
        """The problems, each in one sentence or two that also name the recipe."""
        places = [(where if where.startswith(self.recipe) else f"{self.recipe}: {where}") for where, _ in self.problems]
        pairs = zip(places, self.problems, strict=True)
        return [f"{place.removesuffix(': ')}: {message}" for place, (_, message) in pairs]

    def to_json(self) -> dict[str, Any]:
        """The outcome in its JSON form."""
        kept = ("recipe", "code", "status", "seconds", "run", "scores", "error")
        scores = {split: {"accuracy": row["accuracy"], "loss": row["loss"]} for split, row in self.scores.items()}
        values = {name: getattr(self, name) for name in kept} | {"scores": scores}
        return values | {"expectations": [dict(row) for row in self.expectations]}


def outcome_of_error(recipe: str, error: TlcliError, seconds: float = 0.0, *, is_dry: bool = False) -> Outcome:
    """The outcome of a recipe that ended in an error."""
    return Outcome(
        recipe, error.exit_code, seconds, expectations=unjudged(recipe), error=error.to_json(), is_dry=is_dry
    )


def outcome_of_process(recipe: str, code: int, stdout: str, stderr: str, seconds: float) -> Outcome:
    """The outcome of a process that printed a run or an error as JSON, or ended without a word."""
    try:
        document = json.loads(stdout)
    except ValueError:
        last = stderr.strip().splitlines()[-1:] or ["It printed no result."]
        error = {"kind": "internal", "where": "", "message": f"ended with exit code {code}", "hint": last[0]}
        document = {"error": error}
    if error := document.get("error"):
        return Outcome(recipe, code or 1, seconds, expectations=unjudged(recipe), error=error)
    return Outcome(recipe, code, seconds, document["run"], document["scores"], document["expectations"])


def unjudged(recipe: str) -> list[dict[str, str]]:
    """The expectations of a recipe before its run."""
    return [{"expectation": text} for text in expectations_in(recipe)]


def worst_code(outcomes: Sequence[Outcome]) -> int:
    """The exit code for all recipes together; an unknown code counts as a failed run."""
    codes = {outcome.code if outcome.code in WORST_FIRST else 1 for outcome in outcomes}
    return next((code for code in WORST_FIRST if code in codes), 0)


def junit(outcomes: Sequence[Outcome]) -> str:
    """JUnit XML: a suite per recipe, with a case for its run and one per expectation.

    GitLab tells cases apart by `classname` and `name`, and shows the text of a failure; Jenkins also its `message`.
    """
    root = ET.Element("testsuites", name="tlcli")
    for outcome in outcomes:
        suite = ET.SubElement(root, "testsuite", name=_xml(outcome.recipe))
        _add_cases(suite, outcome)
        _count(suite, outcome.seconds)
    _count(root, sum(outcome.seconds for outcome in outcomes))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add_cases(suite: ET.Element, outcome: Outcome) -> None:
    recipe = _xml(outcome.recipe)
    run = ET.SubElement(suite, "testcase", classname=recipe, name="run", file=recipe, time=f"{outcome.seconds:.2f}")
    if outcome.error is not None:
        text = "\n".join(": ".join(filter(None, problem)) for problem in outcome.problems)
        _add(run, "error", message=text.splitlines()[0], kind=str(outcome.error["kind"]), text=text)
    for row in outcome.expectations:
        case = ET.SubElement(
            suite, "testcase", classname=recipe, name=_xml(row["expectation"]), file=recipe, time="0.00"
        )
        if "passed" not in row:
            _add(case, "skipped", message="the run did not get so far")
        elif not row["passed"]:
            text = f"{row['expectation']}: {row['reason']}"
            _add(case, "failure", message=row["reason"], kind="expectation", text=text)


def _add(case: ET.Element, tag: str, *, message: str, kind: str = "", text: str = "") -> None:
    child = ET.SubElement(case, tag, message=_xml(message))
    if kind:
        child.set("type", kind)
    child.text = _xml(text) or None


def _count(element: ET.Element, seconds: float) -> None:
    """Add the numbers of cases and of those that failed."""
    element.set("tests", str(len(list(element.iter("testcase")))))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(len(list(element.iter(tag)))))
    element.set("time", f"{seconds:.2f}")


def _xml(text: str) -> str:
    """The text without characters that XML does not allow."""
    return _NOT_XML.sub("", text)


def is_github() -> bool:
    """True in a job of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotations(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Commands of GitHub Actions that show each problem and each unmet expectation beside its line."""
    for outcome in outcomes:
        for where, message in outcome.problems:
            yield annotation(where, message, recipe=outcome.recipe)
        places = expectations_in(outcome.recipe) if outcome.unmet else {}
        for row in outcome.unmet:
            where = places.get(row["expectation"], "")
            yield annotation(where, f"{row['expectation']}: not met, {row['reason']}", recipe=outcome.recipe)


def annotation(where: str, message: str, *, recipe: str = "") -> str:
    """One command of GitHub Actions that shows an error.

    Args:
        where: Begins with `file:line:column`, or names no place in a file.
        message: What is wrong.
        recipe: The file to show it at if `where` names none.
    """
    match = _PLACE.match(where)
    place = dict(match.groupdict()) if match else {"file": recipe} if Path(recipe).is_file() else {}
    if "file" in place:
        place["file"] = _in_workspace(place["file"])
    title = f"tlcli {recipe}".strip()
    values = {**place, "title": title}
    shown = ",".join(f"{name}={_property(value)}" for name, value in values.items())
    return f"::error {shown}::{_data(message if match or not where else f'{where}: {message}')}"


def _in_workspace(file: str) -> str:
    """The path of a file in the checkout of the job, where GitHub looks for it."""
    workspace, path = Path(os.environ.get("GITHUB_WORKSPACE") or "."), Path(file)
    resolved, root = path.resolve(), workspace.resolve()
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else path.as_posix()


def _data(text: str) -> str:
    """The text of a command, with the escapes that GitHub Actions reads."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def write_summary(outcomes: Sequence[Outcome]) -> None:
    """Append to the summary of the job, if GitHub Actions has named its file."""
    if file := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(file).open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(summary(outcomes))


def summary(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in Markdown: a table of the recipes, then every expectation and problem."""
    lines = ["### Recipes", "", "| recipe | result | val accuracy | test accuracy | time |", "|---|---|---:|---:|---:|"]
    for outcome in outcomes:
        accuracies = [f"{outcome.scores[name]['accuracy']:.4f}" if name in outcome.scores else "–" for name in SPLITS]
        mark = "✅" if outcome.code == 0 else "❌"
        cells = [_markdown(outcome.recipe), f"{mark} {outcome.status}", *accuracies, duration(outcome.seconds)]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for outcome in outcomes:
        lines += [f"- ❌ {_markdown(text)}" for text in outcome.told]
        for row in outcome.expectations:
            if "passed" in row:
                mark, what = ("✅", "met") if row["passed"] else ("❌", "not met")
                text = f"{outcome.recipe}: {row['expectation']}: {what}, {row['reason']}"
                lines.append(f"- {mark} {_markdown(text)}")
    text = "\n".join(lines) + "\n\n"
    return text.encode("utf-8", "replace")[:MAX_SUMMARY_BYTES].decode("utf-8", "ignore")


def _markdown(text: str) -> str:
    """The text on one line, with numeric references in place of characters that Markdown or HTML would read."""
    return "".join(char if char.isalnum() or char in " .,/=-" else f"&#{ord(char)};" for char in " ".join(text.split()))
