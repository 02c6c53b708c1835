"""Grid worlds with walls, cliffs and slippery ground, drawn as text; small enough to be solved exactly and seen whole.

Actions: 0 up, 1 right, 2 down, 3 left. With probability `slip` a move goes to one of its two sides instead; a move into a wall or
over the edge stays. Cells: `.` ground, `#` wall, `S` start, `B` ground where another log starts, `G` the goal (+1), `g` a small prize,
`C` cliff (−1); the last three end the episode. Every step costs `step_cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.environments.tasks.tabular import TabularMDP

Array = np.ndarray[Any, np.dtype[Any]]

STEP_LIMIT = 100
DISCOUNT = 0.97
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left: rows grow downwards
PRIZES = {"G": 1.0, "C": -1.0}
SMALL_PRIZE = 0.2

MAPS: dict[str, tuple[str, ...]] = {
    # The short way runs along the cliff, a safe one around the wall above; `g` tempts to the wrong corner.
    "cliff": (
        "g........",
        ".###.###.",
        ".........",
        ".........",
        ".........",
        "SCCCCCCCG",
    ),
    # Two logs cross at the junction above S: S → junction → g, which is near, and B → junction → G after a long way.
    # Nobody went from S to G, and those who came to G earned less than those who came to g.
    "stitch": (
        "B.........",
        "#########.",
        "..........",
        ".#########",
        ".........G",
        "CCgC.CCCCC",
        "CCCC.CCCCC",
        "CCCCSCCCCC",
    ),
}


@final
@dataclass(frozen=True)
class Gridworld:
    """A map and its MDP. State = row · columns + column; walls are states that nothing reaches."""

    rows: tuple[str, ...]
    mdp: TabularMDP

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)"""
        return len(self.rows), len(self.rows[0])

    def states(self, letters: str) -> Array:
        """Returns the states whose cell is one of `letters`, int64 `[n]`."""
        return np.flatnonzero([cell in letters for row in self.rows for cell in row])


def gridworld(
    map: str | tuple[str, ...] | list[str] = "cliff",
    slip: float = 0.1,
    step_cost: float = 0.01,
    discount: float = DISCOUNT,
    prizes: Mapping[str, float] | None = None,
    start: str = "S",
) -> Gridworld:
    """Returns a grid world. `map` is a name in MAPS or rows of text; `prizes` replaces what entering a letter earns.

    start: letters of the cells where episodes begin, each as likely. Raises ConfigError for an unknown or unequal map, a start
    that is not there or not ground, or a slip outside [0, 1].
    """
    rows = _rows(map)
    if not 0 <= slip <= 1:
        raise ConfigError(f"slip is {slip}; expected a probability from 0 to 1")
    height, width = len(rows), len(rows[0])
    cells = "".join(rows)
    earned = {"g": SMALL_PRIZE, **PRIZES, **(prizes or {})}
    arrive = np.array([earned.get(cell, 0.0) for cell in cells]) - step_cost
    terminal = np.array([cell in "GgC" for cell in cells])
    transition = np.zeros((len(cells), 4, len(cells)))
    for state in range(len(cells)):
        reached = [_move(rows, state // width, state % width, move) for move in MOVES]
        for action in range(4):
            transition[state, action, reached[action]] += 1 - slip
            transition[state, action, reached[(action + 1) % 4]] += slip / 2
            transition[state, action, reached[(action + 3) % 4]] += slip / 2
    starts = np.array([cell in start for cell in cells]) & ~terminal & (np.array(list(cells)) != "#")
    if not starts.any():
        raise ConfigError(f"the map of {height} × {width} cells has no ground {start!r} to start from; write at least one such cell")
    reward = np.broadcast_to(arrive, transition.shape)
    return Gridworld(rows, TabularMDP.from_dense(transition, reward, starts / starts.sum(), terminal, discount))


def _rows(map: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    if isinstance(map, str):
        if map not in MAPS:
            raise ConfigError(f"map {map!r} is unknown; expected one of {', '.join(MAPS)}, or rows of text")
        return MAPS[map]
    rows = tuple(map)
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        raise ConfigError(f"the map has rows of {sorted({len(row) for row in rows})} cells; expected at least one row, all equally long")
    unknown = sorted(set("".join(rows)) - set(".#SBGgC"))
    if unknown:
        raise ConfigError(f"the map has the cell {unknown[0]!r}; expected . (ground), # (wall), S, B, G, g or C (cliff)")
    return rows


def _move(rows: tuple[str, ...], row: int, column: int, move: tuple[int, int]) -> int:
    height, width = len(rows), len(rows[0])
    to_row, to_column = row + move[0], column + move[1]
    if not (0 <= to_row < height and 0 <= to_column < width) or rows[to_row][to_column] == "#":
        to_row, to_column = row, column
    return to_row * width + to_column
