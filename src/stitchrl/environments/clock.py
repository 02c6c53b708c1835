"""Clocks of episodes: an environment that has none and does not end its episodes is told of, not waited for."""

from __future__ import annotations

import math
from typing import Any

from stitchrl.core.errors import ConfigError

_ENDLESS = 30_000  # steps


def name_of(environment: Any) -> str:
    """Returns the id of an environment, or the name of its class where it has none."""
    return str(environment.spec.id) if environment.spec is not None else type(environment.unwrapped).__name__


def longest_episode(environment: Any) -> float:
    """Returns the steps after which an episode is taken for endless: infinity where the environment has a clock, or ALE's own."""
    from gymnasium import Wrapper
    from gymnasium.wrappers import TimeLimit

    if environment.spec is not None and environment.spec.max_episode_steps is not None:
        return math.inf
    if type(environment.unwrapped).__module__.startswith("ale_py."):
        return math.inf
    while isinstance(environment, Wrapper):
        if isinstance(environment, TimeLimit):
            return math.inf
        environment = environment.env
    return _ENDLESS


def endless(name: str) -> ConfigError:
    """Returns the error of an episode that is as long as `longest_episode`."""
    return ConfigError(
        f"{name}: an episode did not end within {_ENDLESS:,} steps, and the environment has no clock. Give it one where it is registered, "
        "such as gymnasium.register(…, max_episode_steps=1000), wrap it in gymnasium.wrappers.TimeLimit, or, in Python, give max_episode_steps "
        "among the environment's options"
    )
