"""Lists in the documentation are those of the code."""

from __future__ import annotations

import re

import stitchrl
from stitchrl import algorithms
from tests.documentation.pages import ROOT


def code_in(page: str, start: str) -> list[str]:
    """Returns the inline code of the paragraph or row of a page that holds `start`, up to its first full stop."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"`([^`\n]+)`", re.split(r"\.\s|\n\n|\|\n", text[text.index(start) + len(start) :])[0])


def test_the_algorithms_that_go_on_online_are_listed() -> None:
    able = [name for name in algorithms.names() if algorithms.find(name)[0].fine_tunes]
    assert [word for word in code_in("docs/finetune.md", "Which algorithms can:") if "=" not in word] == able


def test_the_python_face_is_listed() -> None:
    listed = code_in("docs/architecture.md", "the Python face:")
    assert {word for word in listed if word not in ("fit", "predict")} == set(stitchrl.__all__) - {"__version__"}
