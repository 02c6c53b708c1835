"""Every algorithm's first losses are those recorded: a change of numbers is never an accident.

To 1e-5 relative, not to the bit: a processor with other vector instructions sums in another order.
"""

from __future__ import annotations

import pytest

from stitchrl import algorithms
from tests.golden.record import FOLDER, text


def parsed(content: str) -> list[tuple[str, list[float]]]:
    """Returns each line as its words and its numbers."""
    found = []
    for line in content.splitlines():
        words = line.split()
        numbers = [] if line.startswith("#") else [float(word) for word in words[2::2]]
        names = words if line.startswith("#") else [words[0], *words[1::2]]
        found.append((" ".join(names), numbers))
    return found


@pytest.mark.parametrize("name", algorithms.names())
def test_losses_are_those_recorded(name: str) -> None:
    path = FOLDER / f"{name}.txt"
    assert path.is_file(), f"record {path.name} with `make golden`"
    recorded, now = parsed(path.read_text(encoding="utf-8")), parsed(text(name))
    assert [words for words, _ in recorded] == [words for words, _ in now]
    for (words, before), (_, after) in zip(recorded, now, strict=True):
        assert after == pytest.approx(before, rel=2e-5, abs=2e-6), f"{name}: {words}"
