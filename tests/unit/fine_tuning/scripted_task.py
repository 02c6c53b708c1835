"""A task whose every number can be worked out: x += action; it pays the action; it ends by the clock or by itself."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import register, registry

CLOCKED, ENDING, FORGETFUL = "tests/Clocked-v0", "tests/Ending-v0", "tests/Forgetful-v0"


class Walk(gymnasium.Env[Any, Any]):
    """x starts at the reset's seed mod 4 (of a forgetful one: anywhere), observation (x, t); the third step terminates, or none does."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, ends: bool = False, forgets: bool = False) -> None:
        self.ends, self.forgets = ends, forgets

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = float(np.random.default_rng().normal() if self.forgets else (seed or 0) % 4), 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x, self.t = self.x + float(action[0]), self.t + 1
        return self._seen(), float(action[0]), self.ends and self.t == 3, False, {}

    def _seen(self) -> Any:
        return np.array([self.x, self.t])  # float64, as many environments say


def register_tasks() -> None:
    for id, options in ((CLOCKED, {}), (ENDING, {"ends": True}), (FORGETFUL, {"forgets": True})):
        if id not in registry:
            register(id=id, entry_point=Walk, max_episode_steps=4, kwargs=options)
