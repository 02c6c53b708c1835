"""A task's map as a drawing has it: rectangles of walls, where a state lies among them, and where it is to go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@final
@dataclass(frozen=True)
class MazeWalls:
    """`walls [W, 4]`: x, y of the lower left corner, width and height of each; `columns`: cells a row where states are cells, else 0.

    `goal`: where it always lies; None where observations tell it, or nothing does. `goal_last`: their last two numbers are its place.
    """

    walls: Array
    columns: int = 0
    goal: Array | None = None
    goal_last: bool = False

    def positions(self, states: Array) -> Array:
        """Returns float64 `[…, 2]`: the first two numbers of states `[…, O]`, or the cell that an integer state `[…]` is, north up."""
        if not self.columns:
            return np.asarray(states[..., :2], np.float64)
        return np.stack([states % self.columns + 0.5, -(states // self.columns) - 0.5], -1).astype(np.float64)

    def goal_of(self, observation: Array) -> Array:
        """Returns `[2]`, where the task is to go, told by the map or the observation's second part; not a number where neither does."""
        if self.goal is not None:
            return self.goal
        unknown = np.full(2, np.nan)
        if self.columns:
            return unknown
        ahead = len(observation) - 2 if self.goal_last else len(observation) // 2  # else a state, and a goal of the same size
        return np.asarray(observation[ahead : ahead + 2], np.float64) if len(observation) != 29 else unknown


def walls_of(environment: Any, id: str, options: Mapping[str, Any]) -> MazeWalls | None:
    """Returns the walls of a maze of ours, of gymnasium-robotics or of OGBench; None for any other environment."""
    from stitchrl.environments.make import CLIFF, GRIDWORLD

    inner = environment.unwrapped
    if id in (GRIDWORLD, CLIFF):
        return _gridworld(options) if id == GRIDWORLD else None
    if hasattr(inner, "paths") and hasattr(inner, "goal"):  # our AntMaze
        return MazeWalls(_blocks(~inner.paths.free, inner.paths.size, inner.paths.centres[0], inner.paths.cells[0]), goal=inner.goal)
    if hasattr(inner, "maze") and hasattr(inner.maze, "maze_size_scaling"):
        from stitchrl.environments.maze_paths import MazePaths

        paths = MazePaths(inner.maze)
        return MazeWalls(_blocks(~paths.free, paths.size, paths.centres[0], paths.cells[0]), goal_last=True)
    if hasattr(inner, "maze_map") and hasattr(inner, "ij_to_xy"):  # OGBench's: rows go up
        size = float(np.abs(np.subtract(inner.ij_to_xy((1, 0)), inner.ij_to_xy((0, 0)))).max())
        centres = [inner.ij_to_xy(tuple(cell)) for cell in np.argwhere(np.asarray(inner.maze_map) == 1).tolist()]
        return MazeWalls(np.array([[x - size / 2, y - size / 2, size, size] for x, y in centres]))
    return None


def _blocks(blocked: Array, size: float, centre: Array, cell: Array) -> Array:
    """Rectangles of blocked cells, rows going down, given the centre of one cell."""
    corner = centre + np.array([-(cell[1] + 0.5), cell[0] + 0.5]) * size  # the map's upper left
    return np.array(
        [[corner[0] + column * size, corner[1] - (row + 1) * size, size, size] for row, column in np.argwhere(blocked).tolist()]
    )


def _gridworld(options: Mapping[str, Any]) -> MazeWalls:
    from stitchrl.environments.tasks.gridworld import gridworld

    world = gridworld(**options)
    rows, columns = world.shape
    cells = np.array([list(row) for row in world.rows])
    # beside walls, a frame: so that the whole map is drawn
    frame = [[-0.2, -rows, 0.2, rows], [columns, -rows, 0.2, rows], [-0.2, 0, columns + 0.4, 0.2], [-0.2, -rows - 0.2, columns + 0.4, 0.2]]
    walls = [[column, -row - 1, 1, 1] for row, column in np.argwhere(cells == "#").tolist()]
    goals = np.argwhere(cells == "G")
    goal = np.array([goals[0][1] + 0.5, -goals[0][0] - 0.5]) if len(goals) == 1 else None
    return MazeWalls(np.array(frame + walls, np.float64), columns, goal)
