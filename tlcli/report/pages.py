"""Self-contained HTML pages: a renderer that escapes all text, and the page of `tlcli check`."""

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
from tlcli.storage.location import join
from tlcli.text import printable

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(name: str, values: dict[str, Any]) -> str:
    """Render a page from a template.

    Args:
        name: File name in `templates/`.
        values: Values for the template. Strings are always text, never markup.
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
    """Escape characters that are invisible or change the writing direction, which names of files may contain."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return printable(value)


# At most this many files, or groups and files per group, are shown for each finding.
MAX_FILES = 24
MAX_GROUPS = 12
MAX_FILES_PER_GROUP = 6
# Maximum height and width of a thumbnail, pixels.
SIDE = 160

# Findings without thumbnails: the files are not images, cannot be decoded, or are skipped.
_TEXT_ONLY = frozenset(
    {
        *("unreadable", "truncated", "empty", "bomb", "no_permission", "bad_file_name", "unmatched_exclusion"),
        *("not_an_image", "unsupported_format", "hidden", "link_loop", "broken_link"),
    }
)


@dataclass(frozen=True)
class _Excerpt:
    """The part of a finding that is on the page.

    Attributes:
        finding: The finding.
        groups: Groups of images with thumbnails.
        images: Images with thumbnails; empty if there are groups.
        names: Paths without thumbnails; if there are any, `groups` and `images` are empty.
        more: Number of paths that are left out.
    """

    finding: Finding
    groups: tuple[tuple[str, ...], ...]
    images: tuple[str, ...]
    names: tuple[str, ...]
    more: int


def write_check_page(result: CheckResult, file: Path) -> None:
    """Write the findings of a check as an HTML page with thumbnails."""
    excerpts = [_excerpt(finding) for finding in result.findings]
    images = [path for part in excerpts for path in (*part.images, *(path for group in part.groups for path in group))]
    pictures = thumbnails(result.index.root, images)
    values = {
        "title": f"tlcli check {result.data}",
        "summary": result.summary(),
        "findings": [_template_values(excerpt, pictures) for excerpt in excerpts],
    }
    write_text(file, render("check.html", values))


def _excerpt(finding: Finding) -> _Excerpt:
    """The first paths of a finding: names, groups or single images."""
    is_text = finding.kind in _TEXT_ONLY
    names = tuple(path for path in finding.paths if is_text or path.endswith("/"))[:MAX_FILES]
    groups = () if names else tuple(group[:MAX_FILES_PER_GROUP] for group in finding.groups[:MAX_GROUPS])
    images = () if names or groups else finding.paths[:MAX_FILES]
    on_page = {path for group in groups for path in group} | {*images, *names}
    return _Excerpt(finding, groups, images, names, max(finding.count - len(on_page & set(finding.paths)), 0))


def _template_values(excerpt: _Excerpt, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """Values of one finding for check.html."""
    finding = excerpt.finding
    notes = finding.notes or {}

    def listed(paths: Iterable[str]) -> list[dict[str, str]]:
        return [{"path": path, "note": notes.get(path, ""), "thumbnail": thumbnails.get(path, "")} for path in paths]

    return {
        "kind": finding.kind,
        "title": finding.kind.replace("_", " "),
        "severity": finding.severity,
        "count": finding.count,
        "message": finding.message[:1].upper() + finding.message[1:],
        "remedy": finding.remedy,
        "folders": listed(excerpt.names),
        "groups": [listed(group) for group in excerpt.groups],
        "files": listed(excerpt.images),
        "more": excerpt.more,
    }


def thumbnails(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """A thumbnail for each path, as a data URL; empty if the image cannot be decoded."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(unique, pool.map(lambda path: _thumbnail(join(root, path)), unique), strict=True))


def _thumbnail(path: Path) -> str:
    """A JPEG of at most `SIDE` pixels as a data URL; empty if the image cannot be decoded."""
    try:
        image = decode(path, min_size=(SIDE, SIDE))
    except DataError:
        return ""
    return data_url(image, SIDE)


def data_url(image: Image.Image, side: int) -> str:
    """An RGB image as a JPEG of at most `side` pixels, as a data URL. The image is changed."""
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
