"""Which environments have a clock."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import pytest
from gymnasium.wrappers import TimeLimit

from stitchrl.environments.clock import longest_episode
from stitchrl.environments.make import make


class Bare(gymnasium.Env[Any, Any]):
    observation_space = action_space = gymnasium.spaces.Discrete(2)


@pytest.mark.parametrize("id", ["CartPole-v1", "ALE/Breakout-v5", "stitchrl/Gridworld-v0"])
def test_an_environment_with_a_clock_of_its_own_is_waited_for(id: str) -> None:
    world = make(id)
    assert longest_episode(world) == math.inf
    world.close()


def test_a_limit_anywhere_among_the_wrappers_is_a_clock() -> None:
    assert longest_episode(Bare()) == 30_000
    assert longest_episode(gymnasium.Wrapper(TimeLimit(Bare(), 50_000))) == math.inf
