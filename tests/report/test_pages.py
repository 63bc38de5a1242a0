"""Pages: whatever a name holds stays text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from tlcli.report import pages


@pytest.fixture
def page(tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text('<p title="{{ name }}">{{ name }}</p>', encoding="utf-8")
    monkeypatch.setattr(pages, "TEMPLATES", tmp_path)
    return lambda name: pages.render("page.html", {"name": name})


def test_markup_is_escaped_in_text_and_in_attributes(page) -> None:
    told = page("\"><script>alert(1)</script>&'")
    assert told.count("<") == told.count(">") == 2
    assert told.count('"') == 2
    assert "&lt;script&gt;" in told


def test_characters_that_hide_or_turn_the_writing_are_shown() -> None:
    assert pages._printable("a\u202eb\x00c") == "a\\x202eb\\x00c"


@settings(max_examples=30)
@given(st.text())
def test_no_name_becomes_markup(name: str) -> None:
    told = pages.render("network.html", network(name))
    assert told.count("<script") == told.count("<img") == 0
    assert told.count("<h1>") == 1
    assert told.count("<") == pages.render("network.html", network("plain")).count("<")


def network(name: str) -> dict:
    table = {"columns": [name], "rows": [{"cells": [name], "is_chosen": False, "is_inside": False}]}
    drawn = {
        "number": 0, "name": name, "state": "plain", "is_cut_point": True, "is_low": True, "width": 1.0, "heat": 1.0,
        "parameters": name, "facts": {name: name},
    }  # fmt: skip
    return {
        "title": name, "facts": {name: name}, "column": [drawn], "above": name, "picture": name, "notes": [name],
        "training": None, "groups": table, "layers": [{"name": name, "count": name, **table}],
    }  # fmt: skip


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        pages.render("network.html", {"title": "x"})
