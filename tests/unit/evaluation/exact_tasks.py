"""Tasks whose values are known: a chain that ends, and a linear-quadratic task with Gaussian noise; and logs of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.environments.tabular_logs import sample_log
from stitchrl.environments.tasks.tabular import TabularMDP, epsilon_policy
from stitchrl.evaluation.evidence import Target

Array = np.ndarray[Any, np.dtype[Any]]

RIGHT = np.tile([0.0, 1.0], (6, 1))
BEHAVIOUR = epsilon_policy(RIGHT, 0.8)
POLICY = epsilon_policy(RIGHT, 0.3)


def chain(discount: float) -> TabularMDP:
    """Five states and an end worth 1; a step costs 0.1 and goes the way of the action (0 left, 1 right) with probability 0.7 or 0.8."""
    transition = np.zeros((6, 2, 6))
    for s in range(5):
        transition[s, 1, s + 1] += 0.8
        transition[s, 1, max(s - 1, 0)] += 0.2
        transition[s, 0, max(s - 1, 0)] += 0.7
        transition[s, 0, s + 1] += 0.3
    reward = np.full((6, 2, 6), -0.1)
    reward[:, :, 5] = 0.9
    return TabularMDP.from_dense(transition, reward, [0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], discount)


def chain_log(discount: float, episodes: int, seed: int, policy: Array = BEHAVIOUR, limit: int | None = None) -> Dataset:
    return sample_log(chain(discount), np.ones(1), policy[None], episodes, np.random.default_rng(seed), limit)


def table_log(episodes: list[list[tuple[int, int, float]]], finals: list[int], ended: list[bool], states: int, actions: int) -> Dataset:
    """A log of (state, action, reward) steps written by hand."""
    steps = [step for episode in episodes for step in episode]
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in episodes])]).astype(np.int64)
    terminals = np.zeros(len(steps), np.bool_)
    terminals[offsets[1:] - 1] = ended
    timeouts = np.zeros(len(steps), np.bool_)
    timeouts[offsets[1:] - 1] = ~np.array(ended)
    columns = {
        "observations": np.array([s for s, _, _ in steps], np.int64),
        "actions": np.array([a for _, a, _ in steps], np.int64),
        "rewards": np.array([r for _, _, r in steps], np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    return Dataset(Spec(Discrete(states), Discrete(actions)), columns, offsets, np.array(finals, np.int64))


A = np.array([[0.9, 0.2], [0.0, 0.8]])
B = np.array([[0.0], [0.5]])
NOISE, ACTION_COST = 0.1, 0.1


class LinearPolicy(Target):
    """a = K s + std · normal."""

    def __init__(self, gain: list[float], std: float) -> None:
        self.gain, self.std = np.array([gain]), std
        self.spec, self.name, self.deterministic = Spec(Box((2,)), Box((1,))), "linear", std == 0

    def probabilities(self, observations: Array) -> Array:
        raise AssertionError("actions are continuous")

    def log_probabilities(self, observations: Array, actions: Array) -> Array:
        raise AssertionError("no estimator tested here reads a density")

    def draw(self, observations: Array, count: int, seed: int) -> Array:
        mean = np.asarray(observations, np.float64) @ self.gain.T
        noise = np.random.default_rng(seed).standard_normal((count, *mean.shape))
        return np.asarray(mean + self.std * noise, np.float32)


def lqg_values(policy: LinearPolicy, discount: float, states: Array) -> Array:
    """V of s' = A s + B a + noise with reward -(s's + 0.1 a'a), from the Lyapunov equation."""
    closed, cost = A + B @ policy.gain, np.eye(2) + ACTION_COST * policy.gain.T @ policy.gain
    quadratic = cost
    for _ in range(3000):
        quadratic = cost + discount * closed.T @ quadratic @ closed
    spread = NOISE**2 * np.eye(2) + policy.std**2 * B @ B.T
    constant = (ACTION_COST * policy.std**2 + discount * np.trace(quadratic @ spread)) / (1 - discount)
    return -(np.einsum("ni,ij,nj->n", states, quadratic, states) + constant)


def lqg_log(policy: LinearPolicy, episodes: int, length: int, seed: int) -> Dataset:
    generator = np.random.default_rng(seed)
    s = generator.standard_normal((episodes, 2)) * 0.5 + [1, 0]
    seen, done, rewards = [], [], []
    for _ in range(length):
        a = policy.draw(s, 1, int(generator.integers(1 << 31)))[0].astype(np.float64)
        seen.append(s)
        done.append(a)
        rewards.append(-np.square(s).sum(1) - ACTION_COST * np.square(a).sum(1))
        s = s @ A.T + a @ B.T + NOISE * generator.standard_normal(s.shape)
    timeouts = np.zeros((episodes, length), np.bool_)
    timeouts[:, -1] = True
    columns = {
        "observations": np.stack(seen, 1).reshape(-1, 2).astype(np.float32),
        "actions": np.stack(done, 1).reshape(-1, 1).astype(np.float32),
        "rewards": np.stack(rewards, 1).reshape(-1).astype(np.float32),
        "terminals": np.zeros(episodes * length, np.bool_),
        "timeouts": timeouts.reshape(-1),
    }
    return Dataset(policy.spec, columns, np.arange(episodes + 1) * length, s.astype(np.float32))


LQG_BEHAVIOUR = LinearPolicy([-0.2, -0.4], 0.5)
LQG_POLICY = LinearPolicy([-0.5, -0.6], 0.3)
