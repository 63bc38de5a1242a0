"""Pages from templates: one self-contained HTML file each, everything in it escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tlcli.shown import printable

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(name: str, values: dict[str, Any]) -> str:
    """The page of a template in `templates/`.

    Args:
        name: File name of the template.
        values: What it is filled with. Strings are text: whatever is in them, they never become markup.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    return environment.get_template(name).render(values)


def _printable(value: Any) -> Any:
    """Without characters that no one sees, or that turn the writing around: names of layers and files may hold them."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return printable(value)
