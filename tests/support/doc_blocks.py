"""The command blocks of the documentation: found, with the reasons why some are not run, and run by bash."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
# A block may stand in a list, indented, and have a reason before it, and its output behind it.
_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<reason>.*?) -->\n(?P=indent))?```sh\n(?P<script>.*?)^(?P=indent)```$"
    r"(?:\n\n(?P=indent)```text\n(?P<output>.*?)^(?P=indent)```$)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of shell commands on a page.

    Attributes:
        page: The file of the page.
        line: The line where it begins, from 1.
        script: Its commands.
        reason: Why it is not run, or None.
        output: First and last position of its output on the page, or None.
    """

    page: Path
    line: int
    script: str
    reason: str | None
    output: tuple[int, int] | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"


def pages() -> list[Path]:
    """All pages with commands for users."""
    return [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def find(page: Path) -> list[Block]:
    """All blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("script")),
            re.sub(rf"^{match['indent']}", "", match["script"], flags=re.MULTILINE),
            match["reason"],
            match.span("output") if match["output"] is not None else None,
        )
        for match in _BLOCK.finditer(text)
    ]


def run(block: Block, home: Path) -> "subprocess.CompletedProcess[str]":
    """Run a block in a folder, in a shell that stops at the first command that fails."""
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("TLCLI_", "XDG_", "KERAS_"))}
    environment = inherited | {"PATH": search, "COLUMNS": "100", "HOME": str(home)}
    shell = ["bash", "--noprofile", "--norc", "-eu", "-c", block.script]
    return subprocess.run(shell, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=600)


def renew(page: Path, outputs: dict[Block, str]) -> None:
    """Write the outputs of blocks into the page behind them."""
    text = page.read_text(encoding="utf-8")
    for block in sorted(outputs, key=lambda block: block.line, reverse=True):
        if block.output is not None:
            start, end = block.output
            lines = [line.rstrip() for line in outputs[block].rstrip().splitlines()]
            text = text[:start] + "\n".join(lines) + "\n" + text[end:]
    page.write_text(text, encoding="utf-8")
