"""The programs of the documentation run: the README's whole, as a user would, in an empty folder."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation.pages import PAGES, ROOT, Block, blocks

PYTHON = [block for page in PAGES for block in blocks(page) if block.language in ("python", "py")]
README = [block for block in PYTHON if block.page == ROOT / "README.md"]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_program_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", README, ids=str)
def test_a_program_of_the_readme_runs(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
