"""Clocks of episodes: an environment that has none and does not end its episodes is told of, not waited for."""

from __future__ import annotations

import math
from typing import Any

from stitchrl.core.errors import ConfigError

_ENDLESS = 30_000  # steps; an Atari game, whose clock is its own, ends after 27,000


def name_of(environment: Any) -> str:
    """Returns the id of an environment, or the name of its class where it has none."""
    return str(environment.spec.id) if environment.spec is not None else type(environment.unwrapped).__name__


def longest_episode(environment: Any) -> float:
    """Returns the steps after which an episode is taken for endless: infinity where the environment has a clock."""
    clock = None if environment.spec is None else environment.spec.max_episode_steps
    return _ENDLESS if clock is None else math.inf


def endless(name: str) -> ConfigError:
    """Returns the error of an episode that is as long as `longest_episode`."""
    return ConfigError(
        f"{name}: an episode did not end within {_ENDLESS:,} steps, and the environment has no clock. Give it one where it is registered, "
        "such as gymnasium.register(…, max_episode_steps=1000), or wrap it in gymnasium.wrappers.TimeLimit"
    )
