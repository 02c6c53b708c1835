"""Rollouts of trained policies: they begin each episode anew, and are told what they earned."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from stitchrl.agent import Agent
from stitchrl.evaluation.rollout import Rollout, rollout
from stitchrl.evaluation.slots import Environment, Slots


def play(agent: Agent, environment: Environment | Slots, *, sampled: bool = False, **options: Any) -> Rollout:
    """Returns what each seed's policy earns, by its mode or mean or `sampled`; `options` are those of `rollout`."""
    player = _Player(agent, sampled)
    return rollout(player, environment, seeds=list(agent.seeds), earned=player.earned, **options)


@final
class _Player:
    """Policies at play: a policy with a memory forgets where an episode begins, and hears of its rewards."""

    def __init__(self, agent: Agent, sampled: bool) -> None:
        self.agent, self.sampled = agent, sampled
        self.rewards: np.ndarray | None = None
        agent.reset()

    def __call__(self, observations: np.ndarray, episode_start: np.ndarray) -> np.ndarray:
        self.agent.reset(episode_start)
        return self.agent.act(observations, self.rewards, sampled=self.sampled)

    def earned(self, rewards: np.ndarray) -> None:
        self.rewards = rewards
