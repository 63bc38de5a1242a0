"""`make links`: which addresses are asked, and what the answers mean."""

import runpy
from pathlib import Path

from file_server import file_server

LINKS = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "check_links.py"))
PAGE = """\
[a](https://site.org/a), `curl http://127.0.0.1:8000/` <https://site.org/b>; https://host/x https://example.com/y
again https://site.org/a. And (https://site.org/c?d=1#e)
"""


def test_links_are_found_once_with_their_places_and_examples_left_out(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    collect = LINKS["collect"]
    collect.__globals__["ROOT"] = tmp_path
    assert dict(collect([tmp_path / "page.md"])) == {
        "https://site.org/a": ["page.md:1", "page.md:2"],
        "https://site.org/b": ["page.md:1"],
        "https://site.org/c?d=1#e": ["page.md:2"],
    }


def test_only_a_missing_page_is_gone() -> None:
    with file_server() as server:
        server.files["here"] = b"x"
        assert LINKS["ask"](f"{server.url}here") == LINKS["ask"](f"{server.url}moved/here") == ""
        assert LINKS["ask"](f"{server.url}away") == "gone (404)"
        server.failures.append(403)
        assert LINKS["ask"](f"{server.url}here") == "refused (403)"
    assert LINKS["ask"](f"{server.url}here").startswith("not reached (")
