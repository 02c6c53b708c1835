"""Two ways of a ball that share a corridor and part at its end: what must be stitched, in a task of real numbers.

A ball begins at S and is paid while it is at the lesser prize (L) or at the goal (G); logs also begin at B, so far away that who comes
from there to the goal is paid less in all than who goes from S to the lesser prize. Where the ways part the goal is worth more: in what
is still earned from there, discounted by 0.99, too, though the clock cuts it shorter for who came from far:

    S       L
    . . . . .
    .       G
    .
    .
    . . . B
"""

from __future__ import annotations

from typing import Any, Literal, final

import gymnasium
import numpy as np
from gymnasium import spaces

from stitchrl.core.errors import ConfigError
from stitchrl.environments import robotics_notice
from stitchrl.environments.maze_paths import MazePaths

Array = np.ndarray[Any, np.dtype[Any]]
Cell = tuple[int, int]  # row, column

MAP = [
    [1, 1, 1, 1, 1, 1, 1],
    [1, 0, 1, 1, 1, 0, 1],
    [1, 0, 0, 0, 0, 0, 1],
    [1, 0, 1, 1, 1, 0, 1],
    [1, 0, 1, 1, 1, 1, 1],
    [1, 0, 1, 1, 1, 1, 1],
    [1, 0, 0, 0, 0, 1, 1],
    [1, 1, 1, 1, 1, 1, 1],
]
START, OTHER_START, LESSER, GOAL = (1, 1), (6, 4), (1, 5), (3, 5)
PRIZE, LESSER_PRIZE = 1.0, 0.45  # of a step
REACH = 0.45  # metres from a prize: gymnasium-robotics'
_JITTER = 0.25  # metres around a cell's centre, in each direction: gymnasium-robotics' resets


@final
class PointFork(gymnasium.Env[Array, Array]):
    """Observations float32 `[4]`: x, y in metres, velocities in metres a second; actions `[2]`, forces in [-1, 1].

    The reward is 1 for each step within 0.45 m of the goal, 0.45 of the lesser prize, 0 elsewhere; the clock alone ends an episode. start:
    "task", S, where policies are judged; "other", B.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, start: Literal["task", "other"] = "task") -> None:
        if start not in ("task", "other"):
            raise ConfigError(f"PointFork has start {start!r}; expected task or other")
        self._inner = _point_maze()
        self.maze, self.point_env = self._inner.maze, self._inner.point_env
        self.paths = MazePaths(self.maze)
        self._start, self.lesser, self.goal = (self._centre(cell) for cell in (START if start == "task" else OTHER_START, LESSER, GOAL))
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.point_env.reset(seed=int(self.np_random.integers(2**31)))
        self.point_env.set_state(self._start + self.np_random.uniform(-_JITTER, _JITTER, 2), np.zeros(2))
        return self._observation(), {"success": False}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.point_env.step(np.asarray(action, np.float64))
        at_goal, at_lesser = (bool(np.linalg.norm(self.point_env.data.qpos - place) <= REACH) for place in (self.goal, self.lesser))
        reward = PRIZE if at_goal else LESSER_PRIZE if at_lesser else 0.0
        return self._observation(), reward, False, False, {"success": at_goal}

    def close(self) -> None:
        self._inner.close()

    def _centre(self, cell: Cell) -> Array:
        return np.asarray(self.paths.centres[self.paths.number(cell)])

    def _observation(self) -> Array:
        data = self.point_env.data
        return np.concatenate([data.qpos, data.qvel]).astype(np.float32)


def _point_maze() -> Any:
    """gymnasium-robotics' ball in this map."""
    robotics_notice.only_for("PointMaze")
    try:
        from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
    except ModuleNotFoundError as error:
        raise ConfigError(f"PointFork needs the package {error.name}. Run: pip install 'stitchrl[mujoco]'") from None
    return PointMazeEnv(maze_map=[list(row) for row in MAP])
