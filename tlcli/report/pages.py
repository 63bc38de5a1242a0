"""Self-contained HTML pages: rendering with escapes, and the page of a check."""

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from tlcli.data.pixels import decode
from tlcli.errors import DataError
from tlcli.paths import write_text
from tlcli.quality.check import CheckResult
from tlcli.quality.finding import Finding
from tlcli.text import printable

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


# Of each finding so many files, or groups and files in one of them, are shown.
FILES = 24
GROUPS = 12
IN_A_GROUP = 6
# Height and width of a thumbnail at most, pixels.
SIDE = 160

# Their paths are shown as text: there is no picture in them, or none that is meant.
_TEXT = frozenset(
    {
        *("unreadable", "truncated", "empty", "bomb", "no_permission", "bad_file_name", "unmatched_exclusion"),
        *("not_an_image", "unread_format", "hidden", "link_loop", "broken_link"),
    }
)


@dataclass(frozen=True)
class _Shown:
    """What of a finding is on the page: groups, or files, or names only."""

    finding: Finding
    groups: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    more: int


def write_check_page(found: CheckResult, file: Path) -> None:
    """Write the page."""
    shown = [_shown(finding) for finding in found.findings]
    wanted = [path for each in shown for path in (*each.files, *(path for group in each.groups for path in group))]
    thumbnails = _thumbnails(found.index.root, wanted)
    values = {
        "data": str(found.data),
        "summary": found.summary(),
        "findings": [_fields(each, thumbnails) for each in shown],
    }
    write_text(file, render("check.html", values))


def _shown(finding: Finding) -> _Shown:
    is_text = finding.kind in _TEXT
    names = tuple(path for path in finding.paths if is_text or path.endswith("/"))[:FILES]
    groups = () if names else tuple(group[:IN_A_GROUP] for group in finding.groups[:GROUPS])
    files = () if names or groups else finding.paths[:FILES]
    on_page = {path for group in groups for path in group} | {*files, *names}
    return _Shown(finding, groups, files, names, max(finding.count - len(on_page & set(finding.paths)), 0))


def _fields(shown: _Shown, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    finding = shown.finding
    notes = finding.notes or {}

    def listed(paths: Iterable[str]) -> list[dict[str, str]]:
        return [
            {
                "path": path,
                "note": notes.get(path, ""),
                "thumbnail": thumbnails.get(path, ""),
            }
            for path in paths
        ]

    return {
        "kind": finding.kind,
        "title": finding.kind.replace("_", " "),
        "severity": finding.severity,
        "count": finding.count,
        "message": finding.message[:1].upper() + finding.message[1:],
        "remedy": finding.remedy,
        "folders": listed(shown.names),
        "groups": [listed(group) for group in shown.groups],
        "files": listed(shown.files),
        "more": shown.more,
    }


def _thumbnails(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Path to a small JPEG as a data URL, of those that can be decoded."""
    once = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {path: url for path, url in zip(once, pool.map(lambda path: _thumbnail(root / path), once), strict=True)}


def _thumbnail(path: Path) -> str:
    try:
        image = decode(path, at_least=(SIDE, SIDE))
    except DataError:
        return ""
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
