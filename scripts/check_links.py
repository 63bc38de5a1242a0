"""Ask every http(s) link of README, docs and the other pages whether it still leads somewhere.

    python scripts/check_links.py    # or: make links

A page that is gone (404, 410) is an error. A server that cannot be reached, or refuses programs, is reported and is
none: that says nothing about the link. Example addresses and those of this machine are left out. Links between the
pages are checked by `make docs`.
"""

import re
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"https?://[^\s<>\"'`)\]|…]+")
RESERVED = re.compile(r"(?:^|\.)example(?:\.(?:com|net|org))?$|\.(?:test|invalid|localhost)$|^[0-9.]+$")
GONE = (404, 410)
TIMEOUT_S = 20
# Some servers refuse programs that do not say what they are.
HEADERS = {"User-Agent": "tlcli-link-check/1.0"}


def main() -> int:
    """Check all links. Returns 1 if a page is gone."""
    links = collect(sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]))
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(links, pool.map(ask, links), strict=True))
    for link, answer in answers.items():
        if answer:
            print(f"{answer}: {link} ({', '.join(links[link])})")
    gone = [link for link, answer in answers.items() if answer.startswith("gone")]
    unknown = [link for link, answer in answers.items() if answer and link not in gone]
    print(f"{len(links)} links: {len(links) - len(gone) - len(unknown)} work, {len(gone)} gone, {len(unknown)} unknown")
    return 1 if gone else 0


def collect(pages: list[Path]) -> Mapping[str, list[str]]:
    """Every link and the places, `file:line`, where it is."""
    places: dict[str, list[str]] = defaultdict(list)
    for page in pages:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            for match in LINK.findall(line):
                link = match.rstrip(".,;:!?")
                host = urlsplit(link).hostname or ""
                if "." in host and not RESERVED.search(host):
                    places[link].append(f"{page.relative_to(ROOT)}:{number}")
    return places


def ask(link: str) -> str:
    """What is wrong with a link; empty if it works."""
    try:
        with urllib.request.urlopen(urllib.request.Request(link, headers=HEADERS), timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"gone ({error.code})" if error.code in GONE else f"refused ({error.code})"
    except (OSError, ValueError) as error:
        return f"not reached ({getattr(error, 'reason', error)})"


if __name__ == "__main__":
    sys.exit(main())
