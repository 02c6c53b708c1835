"""The documentation's pages and what can be tested in them: programs, commands, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SHELL = {"", "sh", "bash", "shell", "console", "text"}


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Command(NamedTuple):
    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where} {' '.join(self.words)}"


def blocks(page: Path) -> Iterator[Block]:
    """Returns a page's fenced blocks."""
    language, start, lines = None, 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.lstrip().startswith("```"):
            lines.append(line)
        elif language is None:
            language, start, lines = line.strip().strip("`").split(" ")[0], number, []
        else:
            yield Block(page, start, language, "\n".join(lines) + "\n")
            language = None
    if language is not None:
        raise AssertionError(f"{page}:{start}: this block is never closed")


def commands(page: Path) -> Iterator[Command]:
    """Returns each line of a page's shell blocks that calls `stitchrl` or `make`; a backslash continues a line."""
    for block in blocks(page):
        if block.language not in SHELL:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = (
                shlex.split(re.sub(r"^[$>] ", "", line.strip()), comments=True) if re.match(r"\s*([$>] )?(stitchrl|make)\b", line) else []
            )
            if words:
                yield Command(str(block), tuple(words))


def without_code(page: Path) -> str:
    """Returns a page's text without its fenced blocks and inline code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^\s*```.*?^\s*```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE))


def links(page: Path) -> list[str]:
    """Returns the targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)[^)]*\)", without_code(page)) + re.findall(r"(?:src|href)=\"([^\"]+)\"", without_code(page))


def anchors(page: Path) -> set[str]:
    """Returns the anchors that a page's headings get on a forge."""
    headings = re.findall(
        r"^#+ +(.+?) *#*$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL), flags=re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
