"""Pages: names stay text, whatever they contain."""

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
    text = page("\"><script>alert(1)</script>&'")
    assert text.count("<") == text.count(">") == 2
    assert text.count('"') == 2
    assert "&lt;script&gt;" in text


def test_invisible_and_direction_changing_characters_are_escaped() -> None:
    assert pages._printable("a\u202eb\x00c") == "a\\x202eb\\x00c"


@settings(max_examples=30)
@given(st.text())
def test_no_name_becomes_markup(name: str) -> None:
    text = pages.render("network.html", network(name))
    assert text.count("<script") == text.count("<img") == 0
    assert text.count("<h1>") == 1
    assert text.count("<") == pages.render("network.html", network("plain")).count("<")


def network(name: str) -> dict:
    table = {"columns": [name], "rows": [{"cells": [name], "is_selection": False, "is_inside": False}]}
    column = {
        "number": 0, "name": name, "state": "plain", "is_cut_point": True, "is_low": True, "width": 1.0, "heat": 1.0,
        "parameters": name, "facts": {name: name},
    }  # fmt: skip
    return {
        "title": name, "facts": {name: name}, "column": [column], "above": name, "input_size": name, "notes": [name],
        "training": None, "groups": table, "layers": [{"name": name, "count": name, **table}],
    }  # fmt: skip


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        pages.render("network.html", {"title": "x"})
