"""The form of a selection of layers, as far as it can be judged without a network."""

import re


def parts(text: str) -> list[str]:
    """The parts between commas; commas inside brackets or after a backslash do not separate."""
    found, open_brackets, is_escaped = [""], "", False
    for character in text:
        if not is_escaped:
            if character == "," and not open_brackets:
                found.append("")
                continue
            # Inside [ ] only the closing bracket counts: [(] is a character class.
            if character in "([{" and not open_brackets.endswith("["):
                open_brackets += character
            elif open_brackets and character == {"(": ")", "[": "]", "{": "}"}[open_brackets[-1]]:
                open_brackets = open_brackets[:-1]
        is_escaped = character == "\\" and not is_escaped
        found[-1] += character
    return [part.strip() for part in found]


def check(text: str) -> str:
    """The text of a selection, if some network may have it.

    Raises:
        ValueError: If no network can: a part is empty, is no regular expression, or takes no number of groups.
    """
    for part in parts(text):
        if not part:
            raise ValueError(f"a selection has an empty part (got '{text}')")
        if part.startswith("re:"):
            _check_expression(part.removeprefix("re:"))
        elif part.startswith("top:"):
            _check_amount(part.removeprefix("top:").strip())
        elif ".." in part and not all(end.strip() for end in part.partition("..")[::2]):
            raise ValueError(f"a range needs both ends, such as block13..top (got '{part}')")
    return text


def _check_expression(expression: str) -> None:
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"'{expression}' is not a regular expression ({error})") from error
    if not expression:
        raise ValueError("re: needs a regular expression, such as re:conv_.*")


def _check_amount(amount: str) -> None:
    number = amount.removesuffix("%").strip()
    is_number = re.fullmatch(r"\d+" if number == amount else r"\d+(\.\d*)?|\.\d+", number)
    if not is_number or float(number) <= 0 or (number != amount and float(number) > 100):
        raise ValueError(f"top: takes a number of groups, or a percentage such as top:30% (got '{amount}')")
