"""Rollouts of trained policies: they begin each episode anew, and are told what they earned."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from stitchrl.agent import Agent
from stitchrl.evaluation.rollout import Rollout, rollout
from stitchrl.evaluation.slots import Environment, Slots


def play(agent: Agent, environment: Environment | Slots, *, sampled: bool = False, **options: Any) -> Rollout:
    """Returns what each seed's policy earns, by its mode or mean or `sampled`, as one that is `drawn` always is; `options`: of `rollout`."""
    player = Player(agent, sampled)
    return rollout(player, environment, seeds=list(agent.seeds), earned=player.earned, **options)


@final
class Player:
    """Policies at play, as they were loaded: the same rollout twice is the same. A policy with a memory forgets where an episode begins, and
    hears of its rewards.

    targets: how many things each seed's policy is asked for side by side: to the rollout they are S · G policies of N environments, to the
    agent S policies of G · N.
    """

    def __init__(self, agent: Agent, sampled: bool, targets: int = 1) -> None:
        self.agent, self.sampled, self.targets = agent.anew(), sampled or agent.policy.drawn, targets
        self.rewards: np.ndarray | None = None

    def __call__(self, observations: np.ndarray, episode_start: np.ndarray) -> np.ndarray:
        self.agent.reset(self._as_agents(episode_start))
        actions = self.agent.act(self._as_agents(observations), self.rewards, sampled=self.sampled)
        return actions.reshape(*observations.shape[:2], *actions.shape[2:])

    def earned(self, rewards: np.ndarray) -> None:
        self.rewards = self._as_agents(rewards)

    def _as_agents(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(self.agent.seeds), self.targets * x.shape[1], *x.shape[2:])
