"""AntMaze as D4RL's (Fu et al., 2020, arXiv:2004.07219), in gymnasium-robotics' mazes: an ant walks to one cell, told only on arrival.

The body is D4RL's, which OGBench ships: Gymnasium's own has stronger motors and twice the control rate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, final

import gymnasium
import numpy as np
from gymnasium import spaces

from stitchrl.core.errors import ConfigError
from stitchrl.environments import robotics_notice
from stitchrl.environments.maze_paths import MazePaths

Array = np.ndarray[Any, np.dtype[Any]]
Size = Literal["umaze", "medium", "large"]

REACH = 0.5  # metres from the goal that are a success: D4RL's
# size -> the map in gymnasium-robotics, the cells (row, column) of the start and of the goal: D4RL's (umaze's mirrored)
MAZES: dict[str, tuple[str, tuple[int, int], tuple[int, int]]] = {
    "umaze": ("U_MAZE", (3, 1), (1, 1)),
    "medium": ("MEDIUM_MAZE", (1, 1), (6, 6)),
    "large": ("LARGE_MAZE", (1, 1), (7, 9)),
}


@final
class AntMaze(gymnasium.Env[Array, Array]):
    """Observations float32 `[29]`: x, y, the other 13 positions and angles, 14 velocities. The goal stays in one place and is not in them.

    The reward is 1 within 0.5 m of the goal, which ends the episode, and 0 elsewhere. start: "task", one cell; "any", a random free one,
    for logs. An ant that falls over lies there until the clock ends the episode.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, size: Size = "umaze", start: Literal["task", "any"] = "task") -> None:
        if size not in MAZES or start not in ("task", "any"):
            raise ConfigError(f"AntMaze has size {size!r} and start {start!r}; expected {', '.join(MAZES)}, and task or any")
        name, first, goal = MAZES[size]
        self.start = start
        self._inner = _maze(name)
        self.paths = MazePaths(self._inner.maze)
        self.goal: Array = self.paths.centres[self.paths.number(goal)]
        self._first = self.paths.number(first)
        self.observation_space = spaces.Box(-np.inf, np.inf, (29,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (8,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        ant = self._inner.ant_env
        cell = self._first if self.start == "task" else int(self.np_random.integers(len(self.paths.cells)))
        ant.reset(seed=int(self.np_random.integers(2**31)))
        position, velocity = ant.init_qpos.copy(), ant.init_qvel.copy()
        position += self.np_random.uniform(-0.1, 0.1, position.shape)  # as the ant of the other tasks starts
        velocity += 0.1 * self.np_random.standard_normal(velocity.shape)
        position[:2] = self.paths.centres[cell] + self.np_random.uniform(-0.5, 0.5, 2)
        ant.set_state(position, velocity)
        return self._observation(), {"success": self._success()}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        ant = self._inner.ant_env
        ant.do_simulation(np.asarray(action, np.float64), ant.frame_skip)
        success = self._success()
        return self._observation(), float(success), success, False, {"success": success}

    def close(self) -> None:
        self._inner.close()

    def _success(self) -> bool:
        return bool(np.linalg.norm(self._inner.ant_env.data.qpos[:2] - self.goal) <= REACH)

    def _observation(self) -> Array:
        data = self._inner.ant_env.data
        return np.concatenate([data.qpos, data.qvel]).astype(np.float32)


def _maze(name: str) -> Any:
    """gymnasium-robotics' maze of this map with D4RL's ant in it."""
    robotics_notice.only_for("AntMaze")
    try:
        import ogbench
        from gymnasium_robotics.envs.maze import maps
        from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv
    except ModuleNotFoundError as error:
        raise ConfigError(f"AntMaze needs the package {error.name}. Run: pip install 'stitchrl[mujoco,ogbench]'") from None
    body = Path(str(ogbench.__file__)).parent / "online_locomotion" / "assets" / "ant.xml"
    return AntMazeEnv(maze_map=getattr(maps, name), xml_file=str(body), include_cfrc_ext_in_observation=False)
