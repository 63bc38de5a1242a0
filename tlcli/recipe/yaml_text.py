"""YAML text as plain values. All YAML of users is read here, so that a short text cannot become a huge tree."""

from typing import Any

import yaml

# Most values of a text, with aliases written out.
MAX_VALUES = 100_000
# Most levels of lists and sections. Python's own limit of recursion lies above.
MAX_LEVELS = 50


def read(text: str, loader: Any = yaml.SafeLoader) -> tuple[yaml.Node | None, Any]:
    """The node of a YAML text, which knows its lines, and its value.

    Args:
        text: The text.
        loader: A safe loader of PyYAML.

    Raises:
        yaml.YAMLError: If it is not YAML, is nested too deep, or aliases make it too large.
    """
    try:
        opened = loader(text)
    except yaml.reader.ReaderError as error:
        raise _forbidden(error) from error
    try:
        node = opened.get_single_node()
        if node is None:
            return None, None
        _count(node, {}, 0)
        return node, opened.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError(f"it has more than {MAX_LEVELS} levels") from None
    except yaml.reader.ReaderError as error:
        raise _forbidden(error) from error
    except (ValueError, OverflowError) as error:
        # A date that does not exist, or a number of thousands of digits.
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error
    finally:
        opened.dispose()


def _forbidden(error: yaml.reader.ReaderError) -> yaml.YAMLError:
    """The error for a control character, in one line."""
    return yaml.YAMLError(f"it has a character that YAML does not allow, near position {error.position + 1}")


def _count(node: yaml.Node, counts: dict[int, int], level: int) -> int:
    """Number of values of a node, with aliases written out.

    Args:
        node: The node.
        counts: The numbers that are known, by the `id` of the node.
        level: Number of nodes around it.
    """
    if id(node) in counts:
        return counts[id(node)]
    if level > MAX_LEVELS:
        # An alias of a value around itself ends here too.
        raise yaml.MarkedYAMLError(
            problem=f"more than {MAX_LEVELS} levels, or an alias that contains itself", problem_mark=node.start_mark
        )
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        below = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    count = 1
    for child in below:
        count += _count(child, counts, level + 1)
        if count > MAX_VALUES:
            raise yaml.MarkedYAMLError(
                problem=f"aliases make more than {MAX_VALUES} values of it", problem_mark=child.start_mark
            )
    counts[id(node)] = count
    return count
