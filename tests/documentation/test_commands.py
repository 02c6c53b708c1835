"""Every command in the documentation exists, with each of its flags."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.documentation.pages import PAGES, ROOT, Command, commands

ALL = [command for page in PAGES for command in commands(page)]
STITCH = [command for command in ALL if command.words[0] == "stitchrl"]
MAKE = [command for command in ALL if command.words[0] == "make"]


@cache
def help_of(words: tuple[str, ...]) -> str:
    """Returns what `stitchrl WORDS --help` prints; raises AssertionError where it fails."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); sys.argv[0] = 'stitchrl'; from stitchrl.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program, *words, "--help"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def positionals(command: Command) -> tuple[str, ...]:
    """Returns the words before the first flag: the verb and what it works on."""
    words = command.words[1:]
    return words[: next((i for i, word in enumerate(words) if word.startswith("-")), len(words))]


@pytest.mark.parametrize("command", [command for command in MAKE if len(command.words) > 1], ids=str)
def test_a_make_target_exists(command: Command) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    wanted = [word for word in command.words[1:] if "=" not in word and not word.startswith("-")]
    assert set(wanted) <= set(targets)


def test_every_make_target_is_explained() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.findall(r"^\.PHONY: (.+)$", text, flags=re.MULTILINE)[0].split())
    assert set(re.findall(r"^([a-z-]+):.*## \w", text, flags=re.MULTILINE)) == phony


def test_the_reader_of_pages_finds_commands(tmp_path: Path) -> None:
    page = ROOT / "README.md"
    found = [words for _, words in commands(page)]
    assert ("make", "quickstart") in found and ("make", "test") in found


if (ROOT / "src" / "stitchrl" / "cli.py").exists():

    @pytest.mark.parametrize("command", STITCH, ids=str)
    def test_a_command_exists_with_its_flags(command: Command) -> None:
        shown = help_of(positionals(command)).replace("_", "-")
        flags = [word.partition("=")[0].replace("_", "-") for word in command.words if word.startswith("--")]
        assert [flag for flag in flags if not re.search(re.escape(flag) + r"(?![\w-])", shown)] == []

    def test_an_unknown_verb_is_refused() -> None:
        with pytest.raises(AssertionError):
            help_of(("no-such-verb",))
