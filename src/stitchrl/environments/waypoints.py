"""A controller for PointMaze that walks from cell to cell, as the one behind D4RL's maze2d (Fu et al., 2020, arXiv:2004.07219).

D4RL's maze2d asks for one thing and logs another: the task's goal stays in one cell, while the controller walks to goals of its own,
drawn anew whenever it arrives, and the reward in the log is the task's (1 within reach of its goal, else 0). So an imitator
wanders, and a learner of values can stitch the way to the goal and stay there. The same is done here, with two differences: D4RL logs
one endless walk, we log episodes that end by the environment's clock (timeouts, no terminals), each from a random start; and
Gymnasium-Robotics moves the goal by up to 0.25 within its cell at each reset, so observations hold it: x, y, velocities, goal x, y.
"""

from __future__ import annotations

from typing import Any, Literal, final

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.environments.behaviours import Acted
from stitchrl.environments.maze_paths import MazePaths, OwnGoals

Array = np.ndarray[Any, np.dtype[Any]]


@final
class WaypointBehaviour:
    """Walks the shortest way through free cells: proportional-derivative control towards the next one, then Gaussian noise.

    goals: "own", hidden ones drawn anew on arrival; "task", the one in the observation (an expert); or one place `[2]`. gain, damping: of
    the controller. noise: standard deviation, in units of the action's bound (D4RL: 0.5). Actions are clipped to [-1, 1].
    """

    def __init__(
        self,
        environment: Any,
        goals: Literal["own", "task"] | Array = "own",
        gain: float = 10.0,
        damping: float = 1.0,
        noise: float = 0.5,
    ) -> None:
        maze = getattr(environment.unwrapped, "maze", None)
        if maze is None or not hasattr(environment.unwrapped, "point_env"):
            name = environment.spec.id if environment.spec is not None else type(environment).__name__
            raise ConfigError(f"waypoints need a PointMaze environment of gymnasium-robotics; found {name}")
        fixed = not isinstance(goals, str)
        if (np.shape(goals) != (2,) if fixed else goals not in ("own", "task")) or noise < 0:
            raise ConfigError(
                f"waypoints with goals {goals!r} and noise {noise}; expected goals 'own', 'task' or a place [x, y], noise of at least 0"
            )
        self.goals, self.gain, self.damping, self.noise = goals, gain, damping, noise
        self.paths = MazePaths(maze)
        whose = f"({goals[0]:g}, {goals[1]:g})" if fixed else "goals of its own" if goals == "own" else "the task's goal"
        self.description = f"waypoint controller to {whose}, gain {gain:g}, damping {damping:g}, noise {noise:g}"
        self.own_goals = OwnGoals(self.paths)

    def reset(self, mask: Array) -> None:
        self.own_goals.reset(mask)

    def act(self, observations: Array, generator: np.random.Generator) -> Acted:
        position, velocity = observations[:, :2].astype(np.float64), observations[:, 2:4].astype(np.float64)
        target = self.paths.towards(position, self._goals_of(observations, position, generator))
        force = self.gain * (target - position) - self.damping * velocity
        force = force + self.noise * generator.standard_normal(force.shape)
        return np.clip(force, -1.0, 1.0), None

    def _goals_of(self, observations: Array, position: Array, generator: np.random.Generator) -> Array:
        if not isinstance(self.goals, str):
            return np.tile(self.goals, (len(position), 1))
        return self.own_goals.of(position, generator) if self.goals == "own" else observations[:, 4:6].astype(np.float64)

    def action_probabilities(self, observations: Array) -> Array | None:
        return None

    def policy_ids(self) -> Array | None:
        return None
