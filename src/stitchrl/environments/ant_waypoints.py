"""An ant steered along waypoints: a walker that obeys directions, told to head for the next cell on the way to goals of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.environments.behaviours import Acted
from stitchrl.environments.maze_paths import MazePaths, OwnGoals

Array = np.ndarray[Any, np.dtype[Any]]
Walker = Callable[[Array], Array]  # observations [N, 29] of AntDirections to actions [N, 8]


@final
class AntWaypointBehaviour:
    """Walks the shortest way through free cells to hidden goals, drawn anew on arrival.

    Observations `[N, 29 or more]` begin with x, y and the ant's other 27 numbers. goal: one place `[2]` instead, for all (an expert).
    among: cells of the goals. noise: standard deviation of the Gaussian added to each action, which is clipped to [-1, 1].
    """

    def __init__(
        self,
        paths: MazePaths,
        walker: Walker,
        *,
        goal: Array | None = None,
        among: Sequence[tuple[int, int]] | None = None,
        noise: float = 0.2,
    ) -> None:
        if noise < 0 or (goal is not None and np.shape(goal) != (2,)):
            raise ConfigError(f"an ant's waypoints have noise {noise} and goal {goal}; expected noise of at least 0 and a place [x, y]")
        self.paths, self.walker, self.goal, self.noise = paths, walker, goal, noise
        self.own_goals = OwnGoals(paths, among)
        whose = "the task's goal" if goal is not None else "goals of its own" if among is None else f"goals in {len(among)} cells"
        self.description = f"ant steered along waypoints to {whose}, noise {noise:g}"

    def reset(self, mask: Array) -> None:
        self.own_goals.reset(mask)

    def act(self, observations: Array, generator: np.random.Generator) -> Acted:
        position = observations[:, :2].astype(np.float64)
        goal = self.own_goals.of(position, generator) if self.goal is None else np.tile(self.goal, (len(position), 1))
        away = self.paths.towards(position, goal) - position
        direction = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
        actions = self.walker(np.concatenate([observations[:, 2:29], direction], axis=1).astype(np.float32))
        return np.clip(actions + self.noise * generator.standard_normal(actions.shape), -1.0, 1.0), None

    def action_probabilities(self, observations: Array) -> Array | None:
        return None

    def policy_ids(self) -> Array | None:
        return None
