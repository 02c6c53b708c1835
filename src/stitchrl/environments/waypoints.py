"""A controller for PointMaze that walks from cell to cell, as the one behind D4RL's maze2d (Fu et al., 2020, arXiv:2004.07219).

D4RL's maze2d asks for one thing and logs another: the task's goal stays in one cell, while the controller walks to goals of its own,
drawn anew whenever it arrives, and the reward in the log is the task's (1 within reach of its goal, else 0). So an imitator
wanders, and a learner of values can stitch the way to the goal and stay there. The same is done here, with two differences: D4RL logs
one endless walk, we log episodes that end by the environment's clock (timeouts, no terminals), each from a random start; and
Gymnasium-Robotics moves the goal by up to 0.25 within its cell at each reset, so observations hold it: x, y, velocities, goal x, y.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, final

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.environments.behaviours import Acted

Array = np.ndarray[Any, np.dtype[Any]]

_REACHED = 0.45  # metres, the task's own reach
_JITTER = 0.25  # of goals within their cell, in cells, as the task's


@final
class WaypointBehaviour:
    """Walks the shortest way through free cells: proportional-derivative control towards the next one, then Gaussian noise.

    goals: "own", hidden ones drawn anew on arrival; "task", the one in the observation (an expert). gain, damping: of the
    controller. noise: standard deviation, in units of the action's bound (D4RL: 0.5). Actions are clipped to [-1, 1].
    """

    def __init__(
        self, environment: Any, goals: Literal["own", "task"] = "own", gain: float = 10.0, damping: float = 1.0, noise: float = 0.5
    ) -> None:
        maze = getattr(environment.unwrapped, "maze", None)
        if maze is None or not hasattr(environment.unwrapped, "point_env"):
            name = environment.spec.id if environment.spec is not None else type(environment).__name__
            raise ConfigError(f"waypoints need a PointMaze environment of gymnasium-robotics; found {name}")
        if goals not in ("own", "task") or noise < 0:
            raise ConfigError(f"waypoints with goals {goals!r} and noise {noise}; expected goals 'own' or 'task', noise of at least 0")
        self.goals, self.gain, self.damping, self.noise = goals, gain, damping, noise
        self.free = np.array([[cell != 1 for cell in row] for row in maze.maze_map])
        self.size = float(maze.maze_size_scaling)
        self.corner = np.array([-maze.x_map_center, maze.y_map_center])  # the map's upper left, in metres
        self.cells = np.argwhere(self.free)
        self.centres = self.corner + (self.cells[:, ::-1] + 0.5) * self.size * [1, -1]
        self.next_cell = _next_cells(self.free, self.cells)
        whose = "goals of its own" if goals == "own" else "the task's goal"
        self.description = f"waypoint controller to {whose}, gain {gain:g}, damping {damping:g}, noise {noise:g}"
        self._own = np.zeros((0, 2))
        self._fresh: Array = np.zeros(0, np.bool_)

    def reset(self, mask: Array) -> None:
        if len(self._fresh) != len(mask):
            self._own, self._fresh = np.zeros((len(mask), 2)), np.ones(len(mask), np.bool_)
        self._fresh = self._fresh | mask

    def act(self, observations: Array, generator: np.random.Generator) -> Acted:
        position, velocity = observations[:, :2].astype(np.float64), observations[:, 2:4].astype(np.float64)
        goal = self._draw_goals(position, generator) if self.goals == "own" else observations[:, 4:6].astype(np.float64)
        here, there = self._cell_of(position), self._cell_of(goal)
        ahead = self.next_cell[here, there]
        # Two neighbouring cells are one rectangle, so that the straight way from any point of one to any point of the other is free.
        target = np.where((ahead == there)[:, None], goal, self.centres[ahead])
        force = self.gain * (target - position) - self.damping * velocity
        force = force + self.noise * generator.standard_normal(force.shape)
        return np.clip(force, -1.0, 1.0), None

    def action_probabilities(self, observations: Array) -> Array | None:
        return None

    def policy_ids(self) -> Array | None:
        return None

    def _draw_goals(self, position: Array, generator: np.random.Generator) -> Array:
        if len(self._fresh) != len(position):
            self.reset(np.ones(len(position), np.bool_))
        arrived = np.linalg.norm(position - self._own, axis=1) <= _REACHED * self.size
        new = np.flatnonzero(self._fresh | arrived)
        if len(new):
            drawn = generator.integers(len(self.cells), size=len(new))
            jitter = generator.uniform(-_JITTER, _JITTER, (len(new), 2)) * self.size
            self._own[new] = self.centres[drawn] + jitter
            self._fresh = np.zeros(len(position), np.bool_)
        return self._own

    def _cell_of(self, position: Array) -> Array:
        """`[N]`, the free cell whose centre is nearest: the one that holds the point, where it is not inside a wall."""
        return np.asarray(np.abs(position[:, None] - self.centres).max(2).argmin(1))


def _next_cells(free: Array, cells: Array) -> Array:
    """`[C, C]`, the cell to enter next on a shortest way from the first to the second; itself where there is none."""
    number = {tuple(cell): i for i, cell in enumerate(cells.tolist())}
    table = np.tile(np.arange(len(cells))[:, None], (1, len(cells)))
    for goal in range(len(cells)):
        queue, seen = deque([goal]), {goal}
        while queue:
            cell = queue.popleft()
            row, column = cells[cell]
            for neighbour in ((row - 1, column), (row, column + 1), (row + 1, column), (row, column - 1)):
                i = number.get((int(neighbour[0]), int(neighbour[1])))
                if i is not None and i not in seen:
                    seen.add(i)
                    table[i, goal] = cell
                    queue.append(i)
    return table
