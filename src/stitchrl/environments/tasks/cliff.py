"""The cliff walk of Sutton and Barto (2018, example 6.6) on 6 × 9 cells: the short way to the goal runs along an edge that ends the episode.

Moves, slips and prizes are those of `gridworld.py`; unlike its map of the same name there is no wall and no second prize.
"""

from __future__ import annotations

from stitchrl.environments.tasks.gridworld import DISCOUNT, Gridworld, gridworld

STEP_LIMIT = 100
ROWS = (
    ".........",
    ".........",
    ".........",
    ".........",
    ".........",
    "SCCCCCCCG",
)


def cliff(slip: float = 0.1, step_cost: float = 0.01, discount: float = DISCOUNT) -> Gridworld:
    """Returns the cliff walk: goal +1, cliff −1, every step `step_cost`. Raises ConfigError for a slip outside [0, 1]."""
    return gridworld(ROWS, slip, step_cost, discount)
