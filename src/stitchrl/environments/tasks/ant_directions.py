"""An ant that is told where to go: how the walker behind AntMaze logs is trained (as OGBench's, Park et al., 2024, arXiv:2410.20092).

The body is D4RL's and OGBench's (weaker motors and half the control rate of Gymnasium's ant), so that the walker serves their mazes.
"""

from __future__ import annotations

import math
from typing import Any, final

import gymnasium
import numpy as np
from gymnasium import spaces

from stitchrl.core.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]


@final
class AntDirections(gymnasium.Env[Array, Array]):
    """Observations float32 `[29]`: 13 positions and angles without x and y, 14 velocities, and the wanted direction as a unit vector.

    The reward is the speed in that direction, metres a second; falling over ends the episode. A new direction is drawn every `interval` steps.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, interval: int = 100) -> None:
        try:
            from ogbench.online_locomotion.ant import AntEnv
        except ModuleNotFoundError:
            raise ConfigError("the ant of AntMaze needs the package ogbench. Run: pip install 'stitchrl[ogbench]'") from None
        self.ant = AntEnv()
        self.interval = interval
        self.observation_space = spaces.Box(-np.inf, np.inf, (29,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (8,), np.float32)
        self._direction = np.zeros(2)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        observation, _ = self.ant.reset(seed=int(self.np_random.integers(2**31)))
        self._steps = 0
        self._turn()
        return self._with_direction(observation), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        before = self.ant.data.qpos[:2].copy()
        observation, _, terminated, _, _ = self.ant.step(action)
        reward = float((self.ant.data.qpos[:2] - before) @ self._direction) / self.ant.dt
        self._steps += 1
        if self._steps % self.interval == 0:
            self._turn()
        return self._with_direction(observation), reward, bool(terminated), False, {}

    def close(self) -> None:
        self.ant.close()

    def _turn(self) -> None:
        angle = self.np_random.uniform(0, 2 * math.pi)
        self._direction = np.array([math.cos(angle), math.sin(angle)])

    def _with_direction(self, observation: Array) -> Array:
        return np.concatenate([observation, self._direction]).astype(np.float32)
