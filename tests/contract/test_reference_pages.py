"""The pages that are made from the program are up to date and complete."""

import json
import os
import re
from pathlib import Path

import pytest
import reference_pages as pages

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def renewed(path: Path, text: str) -> str:
    """The text of a page; written again first if RENEW_GOLDEN is set."""
    if os.environ.get("RENEW_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("reference/commands.md", pages.commands_page()),
        ("reference/run-json.md", pages.run_json_page(README)),
        ("adr/index.md", pages.decisions_page(DOCS / "adr")),
    ],
    ids=["commands", "run-json", "decisions"],
)
def test_the_page_is_up_to_date(name: str, text: str) -> None:
    assert renewed(DOCS / name, text) == text, pages.RENEW


def test_every_key_of_a_record_is_on_the_page(finished: tuple) -> None:
    record = json.loads((finished[0] / "run.json").read_text(encoding="utf-8"))
    found = {path for path in pages.paths(record) if not path.startswith("recipe.")}
    assert found - pages.NESTED.keys() == set()
    # Of what is on the page, a run without suggestions, arguments and warnings lacks at most these.
    assert pages.NESTED.keys() - found <= {"model.arguments", "advice.suggestions[]"}


def test_the_page_of_licences_names_every_library_and_network() -> None:
    path = DOCS / "reference" / "licences.md"
    text = renewed(path, pages.licences_page())
    rows = dict(re.findall(r"^\| ([\w.-]+) \| (.*) \|$", text, re.MULTILINE))
    # Libraries of other platforms are not installed here, so only those that are here are compared.
    for name, licence in pages.dependencies().items():
        assert rows[name] == licence, pages.RENEW
    for licence, names in pages.weights_licences():
        assert f"| {licence} | {names} |\n" in text, pages.RENEW
