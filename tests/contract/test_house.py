"""The limits of CONTRIBUTING.md: sizes of files and functions, one workflow per command, tests like the package."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from tlcli.cli.main import cli

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "tlcli"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
# Commands that only print bundled files need no workflow.
WITHOUT_WORKFLOW = {"completion", "recipe", "zoo"}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without decorators and docstring."""
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    docstring_lines = 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
    return (node.end_lineno or 0) - node.lineno + 1 - docstring_lines


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of parameters of a function without `self` and `cls`."""
    arguments = node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


FUNCTIONS = [(path.relative_to(PACKAGE), node) for path in MODULES for node in functions(path)]


def test_no_file_is_longer_than_400_lines() -> None:
    assert len(MODULES) > 80
    sizes = {str(path.relative_to(CHECKOUT)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_functions_are_short() -> None:
    sizes = sorted(code_lines(node) for _, node in FUNCTIONS)
    assert len(sizes) > 800
    assert {f"{path}:{node.name}": code_lines(node) for path, node in FUNCTIONS if code_lines(node) > 60} == {}
    assert statistics.median(sizes) <= 8
    assert sizes[int(0.9 * len(sizes))] <= 30


def test_functions_take_at_most_six_parameters() -> None:
    """Commands are exempt, because Click passes their parameters by name."""
    counts = {f"{path}:{node.name}": parameters(node) for path, node in FUNCTIONS if not str(path).startswith("cli/")}
    assert {name: count for name, count in counts.items() if count > 6} == {}


@pytest.mark.parametrize("command", sorted(set(cli.commands) - WITHOUT_WORKFLOW))
def test_a_command_is_one_file_that_calls_the_workflow_of_its_name(command: str) -> None:
    source = (PACKAGE / "cli" / f"{command}.py").read_text(encoding="utf-8")
    workflow = PACKAGE / "workflows" / f"{command}.py"
    assert len(workflow.read_text(encoding="utf-8").splitlines()) < 80
    assert f"from tlcli.workflows import {command}" in source or f"from tlcli.workflows.{command} import" in source


def test_only_the_command_line_imports_click_and_rich() -> None:
    importers = [
        str(path.relative_to(PACKAGE))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.partition(".")[0] in ("click", "rich")
    ]
    assert importers
    assert [name for name in importers if not name.startswith("cli/")] == []


def test_folders_of_tests_are_those_of_the_package() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    tested = {path.name for path in (CHECKOUT / "tests").iterdir() if path.is_dir() and list(path.glob("**/test_*.py"))}
    assert tested == rooms | {"contract", "e2e", "hardening"}
