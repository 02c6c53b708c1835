"""OGBench's environments (Park et al., 2024, arXiv:2410.20092) with one flat observation, and their evaluation tasks in turn.

They take a task to be one of (usually five) pairs of a start and a goal, and a goal to be a whole observation, which `reset` tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import gymnasium
import numpy as np
from gymnasium import spaces

from stitchrl.core.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]


@final
class OwnNumbers:
    """What an environment of OGBench draws from numpy's global state, starts and goals within their cells: from the seed of its `reset`."""

    def __init__(self) -> None:
        self._state: Any = np.random.RandomState(0).get_state()

    def begin(self, seed: int | None, env: gymnasium.Env[Any, Any]) -> None:
        """Begins anew where a seed is given."""
        if seed is not None:
            self._state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed))).get_state()
            env.unwrapped.action_space.seed(seed)  # a reset takes a few random steps

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Within it numpy's global state is the environment's own; afterwards it is as it was."""
        outside = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._state)  # noqa: NPY002
        try:
            yield
        finally:
            self._state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(outside)  # noqa: NPY002


@final
class SeededTask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment of OGBench without a goal beside what is seen, decided by the seed of `reset` alone."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._numbers = OwnNumbers()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Returns what the environment does."""
        self._numbers.begin(seed, self.env)
        with self._numbers.drawn():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Returns what the environment does."""
        with self._numbers.drawn():
            return self.env.step(action)


@final
class GoalTasks(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Observations float32 `[2 O]`: what is seen, then the goal as it would be seen there. Success, told in the info, ends an episode.

    task: from 1 to the number of tasks, always that one; None: `options={"task_id": …}` of `reset`, else one drawn by its seed.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], task: int | None = None) -> None:
        super().__init__(env)
        count = int(env.unwrapped.num_tasks)  # type: ignore[attr-defined]
        if task is not None and not (isinstance(task, int) and 1 <= task <= count):
            raise ConfigError(f"the task is {task!r}; expected a number from 1 to {count}, or none for all in turn")
        self.task, self.tasks = task, 1 if task is not None else count  # how many tasks an evaluation goes through
        seen = env.observation_space
        if not isinstance(seen, spaces.Box) or len(seen.shape) != 1:
            raise ConfigError(
                f"goals stand beside observations that are vectors; found {seen}. Choose an environment of states, not pixels"
            )
        low, high = (np.tile(x, 2).astype(np.float32) for x in (seen.low, seen.high))
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self._goal: Array = np.zeros(seen.shape)
        self._numbers = OwnNumbers()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Returns the first observation with its goal, and the environment's info with `task_id`."""
        self._numbers.begin(seed, self.env)
        with self._numbers.drawn():
            asked = (options or {}).get("task_id", self.task)
            chosen = int(np.random.randint(1, self.tasks + 1)) if asked is None else int(asked)  # noqa: NPY002
            observation, info = self.env.reset(seed=seed, options={**(options or {}), "task_id": chosen})
        goal = np.asarray(info["goal"])
        if goal.shape != self._goal.shape:
            raise ConfigError(
                f"a goal has shape {goal.shape} and an observation {self._goal.shape}; goals are whole observations here: leave out use_oracle_rep"
            )
        self._goal = goal
        return self._beside(observation), {**info, "task_id": chosen}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Returns what the environment does, the goal beside the observation."""
        with self._numbers.drawn():
            observation, reward, terminated, truncated, info = self.env.step(action)
        return self._beside(observation), float(reward), terminated, truncated, info

    def _beside(self, observation: Any) -> Array:
        return np.concatenate([observation, self._goal]).astype(np.float32)


def is_ogbench(environment: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment is OGBench's."""
    return type(environment.unwrapped).__module__.startswith("ogbench.")


def has_goal_tasks(environment: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment is one of OGBench's that reach goals; its single-task variants and the online ones are not."""
    inner = environment.unwrapped
    single = getattr(inner, "_reward_task_id", None) is not None
    return is_ogbench(environment) and hasattr(inner, "num_tasks") and not single
