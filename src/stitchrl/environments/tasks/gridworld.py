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
    # Two logs cross at the junction under the letter J: S → J → g, and B → J → G. Nobody went from S to G.
    "stitch": (
        # ···J···
        "gB.....G",
        "CCC.CCCC",
        "CCC.CCCC",
        "CCCSCCCC",
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

    def starting_at(self, letters: str) -> TabularMDP:
        """Returns the same task, started at a cell of these letters, each as likely."""
        states = self.states(letters)
        if not len(states) or self.mdp.terminal[states].any():
            raise ConfigError(f"no episode can start at the cells {letters!r} of this map; expected ground such as 'S'")
        initial = np.zeros(self.mdp.states)
        initial[states] = 1 / len(states)
        return TabularMDP(self.mdp.transition, self.mdp.outcome_rewards, initial, self.mdp.terminal, self.mdp.discount)


def gridworld(
    map: str | tuple[str, ...] | list[str] = "cliff",
    slip: float = 0.1,
    step_cost: float = 0.01,
    discount: float = DISCOUNT,
    prizes: Mapping[str, float] | None = None,
) -> Gridworld:
    """Returns a grid world. `map` is a name in MAPS or rows of text; `prizes` replaces what entering a letter earns.

    Raises ConfigError for an unknown or unequal map, no start, or a slip outside [0, 1].
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
    starts = np.array([cell == "S" for cell in cells], np.float64)
    if not starts.any():
        raise ConfigError(f"the map of {height} × {width} cells has no start; write at least one cell as S")
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
