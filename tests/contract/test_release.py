"""Files of a release: one version everywhere, and forms that the hosts can read."""

import re
import tomllib
from pathlib import Path

import yaml

import tlcli

CHECKOUT = Path(__file__).resolve().parents[2]


def text(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere() -> None:
    assert re.findall(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)[0] == tlcli.__version__
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == tlcli.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()


def test_the_forms_for_issues_ask_for_what_is_needed() -> None:
    forms = [yaml.safe_load(text(f".github/ISSUE_TEMPLATE/{name}.yml")) for name in ("bug", "idea")]
    for form in forms:
        assert {"name", "description", "body"} <= form.keys()
        required = [field["id"] for field in form["body"] if field.get("validations", {}).get("required")]
        assert required
        assert len({field["id"] for field in form["body"]}) == len(form["body"])
    assert "doctor" in [field["id"] for field in forms[0]["body"]]


def test_optional_libraries_are_tested_unless_they_need_a_device_or_an_account() -> None:
    groups = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    tested = re.findall(r"^EXTRAS := (.*)$", text("Makefile"), re.MULTILINE)[0].split(",")
    devices, stores = {"cuda", "jax-cuda", "tpu"}, {"az", "gs", "hf", "http"}
    assert set(groups) - set(tested) == {"dev", "docs"} | devices | stores
