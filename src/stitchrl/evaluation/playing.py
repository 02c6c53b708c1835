"""Rollouts of trained policies: they begin each episode anew, and are told what they earned."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch

from stitchrl.agent import Agent
from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Discrete, Spec
from stitchrl.evaluation.rollout import Rollout, rollout
from stitchrl.evaluation.slots import Environment, Slots


def play(
    agent: Agent, environment: Environment | Slots, *, sampled: bool = False, epsilon: float | None = None, seed: int = 0, **options: Any
) -> Rollout:
    """Returns what each seed's policy earns, by its mode or mean or `sampled`, as one that is `drawn` always is; `options`: of `rollout`.

    epsilon: share of the actions that are uniformly random instead. seed: decides the episodes and, with the policies' own, what they draw.
    Raises ConfigError where that cannot be.
    """
    player = Player(agent, sampled, epsilon=epsilon, seed=seed)
    return rollout(player, environment, seeds=list(agent.seeds), earned=player.earned, seed=seed, **options)


def check_epsilon(epsilon: float | None, spec: Spec) -> None:
    """Raises ConfigError for a share of random actions that is none, or where actions are no integers."""
    if not epsilon:
        return
    if not 0 <= epsilon <= 1:
        raise ConfigError(f"epsilon is {epsilon:g}; expected a share of the actions, from 0 to 1")
    if not isinstance(spec.action, Discrete):
        raise ConfigError(f"epsilon is {epsilon:g}, and actions are real-valued; it is for integer ones: leave it out")


def partly_random(agent: Agent, actions: np.ndarray, epsilon: float) -> np.ndarray:
    """Returns integer actions `[S, N]`, a share `epsilon` of them uniformly random, drawn by each seed's own generator."""
    assert isinstance(space := agent.spec.action, Discrete)
    draws = torch.stack([torch.rand(2, actions.shape[1], generator=g, dtype=torch.float64) for g in agent.generators]).numpy()  # [S, 2, N]
    return np.where(draws[:, 0] < epsilon, (draws[:, 1] * space.n).astype(np.int64), actions)


@final
class Player:
    """Policies at play, as they were loaded: the same rollout twice is the same, and one of another seed draws other numbers. A policy with a
    memory forgets where an episode begins, and hears of its rewards.

    targets: how many things each seed's policy is asked for side by side: to the rollout they are S · G policies of N environments, to the
    agent S policies of G · N.
    """

    def __init__(self, agent: Agent, sampled: bool, targets: int = 1, epsilon: float | None = None, seed: int = 0) -> None:
        check_epsilon(epsilon, agent.spec)
        if epsilon and agent.remembers:
            raise ConfigError(f"epsilon is {epsilon:g}, and a policy of '{agent.name}' acts on what it did before: leave epsilon out")
        self.epsilon = epsilon or 0.0
        self.agent, self.sampled, self.targets = agent.anew(seed), sampled or agent.policy.drawn, targets
        self.rewards: np.ndarray | None = None

    def __call__(self, observations: np.ndarray, episode_start: np.ndarray) -> np.ndarray:
        self.agent.reset(self._as_agents(episode_start))
        actions = self.agent.act(self._as_agents(observations), self.rewards, sampled=self.sampled)
        actions = actions.reshape(*observations.shape[:2], *actions.shape[2:])
        return partly_random(self.agent, actions, self.epsilon) if self.epsilon else actions

    def earned(self, rewards: np.ndarray) -> None:
        self.rewards = self._as_agents(rewards)

    def _as_agents(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(self.agent.seeds), self.targets * x.shape[1], *x.shape[2:])
