"""Errors: texts, exit codes and suggestions."""

import inspect

import pytest

from tlcli import errors
from tlcli.errors import Problem, RecipeError, TlcliError, did_you_mean

CODES = {
    "UsageError": ("usage", 2),
    "RecipeError": ("recipe", 2),
    "DataError": ("data", 2),
    "ManifestError": ("data", 2),
    "TooManyPixelsError": ("data", 2),
    "ModelError": ("model", 2),
    "WeightsError": ("weights", 2),
    "OutputError": ("output", 2),
    "RunError": ("run", 1),
    "DivergedError": ("run", 1),
    "ExpectationError": ("expectation", 3),
}


def kinds() -> dict[str, type[TlcliError]]:
    classes = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    return {name: kind for name, kind in classes.items() if issubclass(kind, TlcliError) and kind is not TlcliError}


def test_every_error_has_a_kind_and_the_exit_code_of_the_contract() -> None:
    assert {name: (error.kind, error.exit_code) for name, error in kinds().items()} == CODES


@pytest.mark.parametrize("name", CODES)
def test_the_module_docstring_lists_every_error(name: str) -> None:
    (line,) = [line for line in (errors.__doc__ or "").splitlines() if f"─ {name} " in line]
    assert f"exit {CODES[name][1]} " in line


@pytest.mark.parametrize(
    ("where", "hint", "sentence"),
    [
        ("", "", "too small."),
        ("data.size", "", "data.size: too small."),
        ("", "Choose 32.", "too small. Choose 32."),
        ("data.size", "Choose 32.", "data.size: too small. Choose 32."),
    ],
)
def test_the_text_joins_place_message_and_hint(where: str, hint: str, sentence: str) -> None:
    assert str(errors.DataError("too small", where=where, hint=hint)) == sentence


@pytest.mark.parametrize("message", ["done.", "really?", "no!"])
def test_the_text_ends_with_one_punctuation_mark(message: str) -> None:
    assert str(TlcliError(message)) == message


def test_a_recipe_error_shows_all_problems() -> None:
    first, second = Problem("a:1:1 x", "unknown key", "Did you mean 'y'?"), Problem("a:2:1 z", "is missing")
    error = RecipeError([first, second])
    assert str(error) == "a:1:1 x: unknown key. Did you mean 'y'?\na:2:1 z: is missing."
    assert (error.where, error.message, error.hint) == ("a:1:1 x", "unknown key", "Did you mean 'y'?")
    assert error.problems == (first, second)


@pytest.mark.parametrize(
    ("word", "known", "suggestion"),
    [
        ("epochss", ["epochs", "lr"], "Did you mean 'epochs'?"),
        ("RESNET50", ["ResNet50", "vgg16"], "Did you mean 'ResNet50'?"),
        ("zzz", ["epochs"], ""),
        ("", ["epochs"], ""),
        ("a", [], ""),
    ],
)
def test_suggestions(word: str, known: list[str], suggestion: str) -> None:
    assert did_you_mean(word, known) == suggestion
