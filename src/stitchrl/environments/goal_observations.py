"""Goal-conditioned environments with one flat observation: where it is unless that is seen anyway, what is seen, then what is wanted."""

from __future__ import annotations

from typing import Any, final

import gymnasium
import numpy as np
from gymnasium import spaces


@final
class GoalObservations(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Observations float32 `[O + G]` = observation, desired_goal. AntMaze's `[G + O + G]` begin with achieved_goal, where the ant is: its
    observation leaves that out, where those of the other known environments hold it.

    For PointMaze: x, y, x velocity, y velocity, goal x, goal y.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        of_ants = env.spec is not None and env.spec.id.startswith("AntMaze")
        self.entries = ("achieved_goal",) * of_ants + ("observation", "desired_goal")
        parts = [env.observation_space[name] for name in self.entries]  # type: ignore[index]
        low = np.concatenate([x.low.reshape(-1) for x in parts]).astype(np.float32)
        high = np.concatenate([x.high.reshape(-1) for x in parts]).astype(np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
        parts = [np.asarray(observation[name]).reshape(-1) for name in self.entries]
        return np.concatenate(parts).astype(np.float32)


def has_goal_observations(space: Any) -> bool:
    """Whether a space is a Dict of Boxes with 'observation' and 'desired_goal'."""
    return isinstance(space, spaces.Dict) and all(isinstance(space.get(x), spaces.Box) for x in ("observation", "desired_goal"))
