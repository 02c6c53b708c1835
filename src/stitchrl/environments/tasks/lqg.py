"""Linear dynamics, quadratic costs, Gaussian noise: continuous control whose values are solved exactly (Bertsekas, 2017, chapters 3 and 4).

State x in R², action u in R: x' = A x + B u + noise, reward −(x'Qx + R u²). After each step the episode ends with probability `stop`,
so that values are stationary: J = E Σ (discount · (1 − stop))^t · reward. The state is observed whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Spec
from stitchrl.data.dataset import Dataset

Array = np.ndarray[Any, np.dtype[Any]]

STEP_LIMIT = 1000  # reached with probability 0.9^1000
BOUND = 10.0  # of the action space as it is declared; the dynamics clip nothing


@final
@dataclass(frozen=True)
class LQG:
    """The task: a mass with position and speed, pushed. All matrices float64.

    dynamics: A `[2, 2]`. control: B `[2, 1]`. noise: covariance `[2, 2]` of a step. state_cost: Q `[2, 2]`. action_cost: R.
    start_mean `[2]`, start_covariance `[2, 2]`: of the first state. stop: probability that an episode ends after a step.
    """

    dynamics: Array = field(default_factory=lambda: np.array([(1.0, 0.2), (0.0, 0.95)]))
    control: Array = field(default_factory=lambda: np.array([(0.0,), (0.2,)]))
    noise: Array = field(default_factory=lambda: np.array([(0.001, 0.0), (0.0, 0.004)]))
    state_cost: Array = field(default_factory=lambda: np.array([(1.0, 0.0), (0.0, 0.1)]))
    action_cost: float = 0.1
    start_mean: Array = field(default_factory=lambda: np.array([1.0, 0.0]))
    start_covariance: Array = field(default_factory=lambda: np.array([(0.05, 0.0), (0.0, 0.05)]))
    stop: float = 0.1
    discount: float = 0.97

    def __post_init__(self) -> None:
        if not 0 <= self.stop <= 1 or not 0 <= self.discount <= 1:
            raise ConfigError(f"stop is {self.stop} and discount {self.discount}; expected numbers from 0 to 1")

    @property
    def survival(self) -> float:
        """What the value one step later counts: discount · (1 − stop)."""
        return self.discount * (1 - self.stop)

    @property
    def spec(self) -> Spec:
        """Observations in R², actions in R."""
        return Spec(Box((2,)), Box((1,), (-BOUND,), (BOUND,)))


@final
@dataclass(frozen=True)
class LinearGaussian:
    """The policy u ~ N(gain · x + offset, deviation²)."""

    gain: tuple[float, float]
    deviation: float
    offset: float = 0.0

    def mean(self, observations: ArrayLike) -> Array:
        """Returns float64 `[N]` of states `[N, 2]`."""
        return np.asarray(np.asarray(observations, np.float64) @ np.asarray(self.gain) + self.offset)

    def log_probabilities(self, observations: ArrayLike, actions: ArrayLike) -> Array:
        """Returns float64 `[N]`, the log-density of actions `[N]` or `[N, 1]`. Raises ConfigError for a deviation of 0."""
        if not self.deviation > 0:
            raise ConfigError(f"the policy's deviation is {self.deviation}; a policy without noise has no density")
        z = (np.asarray(actions, np.float64).reshape(-1) - self.mean(observations)) / self.deviation
        return np.asarray(-0.5 * z**2 - np.log(self.deviation) - 0.5 * np.log(2 * np.pi))


def optimal_gain(task: LQG) -> tuple[float, float]:
    """Returns the gain of the best policy, which has no noise: the algebraic Riccati equation with A and B scaled by √survival."""
    root = np.sqrt(task.survival)
    a, b, r = root * task.dynamics, root * task.control, np.array([[task.action_cost]])
    p = solve_discrete_are(a, b, task.state_cost, r)
    gain = -np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)[0]
    return float(gain[0]), float(gain[1])


def quadratic_values(task: LQG, policy: LinearGaussian, horizon: int | None = None) -> Array:
    """Returns W `[3, 3]` with V(x) = −z'Wz, z = (x, 1): what the policy earns in `horizon` steps, or without a clock.

    Without a clock W solves a Lyapunov equation; with one it is reached by `horizon` steps of its recursion. Raises ConfigError where
    the value is not finite.
    """
    moves, cost, noise = _closed_loop(task, policy)
    if horizon is not None:
        w = np.zeros((3, 3))
        for _ in range(horizon):
            w = _before(task, w, moves, cost, noise)
        return w
    root = np.sqrt(task.survival) * moves
    radius = float(np.abs(np.linalg.eigvals(root)).max())
    if radius >= 1:
        raise ConfigError(f"the policy with gain {policy.gain} has no finite value (spectral radius {radius:.3g}); expected one below 1")
    # The noise adds survival · tr(W noise) to the corner of W, and with it the corner alone: first without, then its geometric series.
    w = solve_discrete_lyapunov(root.T, cost)
    w[2, 2] += task.survival * float(np.trace(w @ noise)) / (1 - task.survival)
    return np.asarray(w)


def value(task: LQG, policy: LinearGaussian, horizon: int | None = None) -> float:
    """Returns J, the expected value of the policy over the first state; see `quadratic_values`."""
    second = np.zeros((3, 3))
    second[:2, :2] = task.start_covariance
    z = np.append(task.start_mean, 1.0)
    return -float(np.trace(quadratic_values(task, policy, horizon) @ (second + np.outer(z, z))))


def sample_lqg(task: LQG, policy: LinearGaussian, episodes: int, generator: np.random.Generator, step_limit: int = STEP_LIMIT) -> Dataset:
    """Returns a log of `episodes` with `behaviour_log_probabilities`; one that is not over after `step_limit` steps ends in a timeout.

    Observations, actions and rewards are float32; the log-densities are those of the numbers as logged.
    """
    state = generator.multivariate_normal(task.start_mean, task.start_covariance, episodes)
    running = np.arange(episodes)
    parts: list[tuple[Array, ...]] = []
    final = np.empty((episodes, 2), np.float32)
    for time in range(step_limit):
        seen = state.astype(np.float32)
        action = (policy.mean(seen) + policy.deviation * generator.standard_normal(len(seen))).astype(np.float32)
        following, reward, ended = advance(task, state, action, generator)
        late = ~ended & (time + 1 == step_limit)
        parts.append((running, seen, action, reward, ended, late, policy.log_probabilities(seen, action)))
        final[running] = following
        state, running = following[~ended & ~late], running[~ended & ~late]
        if not len(running):
            break
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    _, seen, action, reward, ended, late, logs = (column[order] for column in columns)
    arrays = {"observations": seen, "actions": action[:, None], "rewards": reward.astype(np.float32), "terminals": ended, "timeouts": late}
    arrays["behaviour_log_probabilities"] = logs.astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(columns[0], minlength=episodes))]).astype(np.int64)
    return Dataset(task.spec, arrays, offsets, final)


def advance(task: LQG, state: Array, action: Array, generator: np.random.Generator) -> tuple[Array, Array, Array]:
    """Returns the next states `[N, 2]`, rewards `[N]` and ends `[N]` of states `[N, 2]` and actions `[N]`."""
    action = np.asarray(action, np.float64).reshape(-1)
    reward = -(np.einsum("ni,ij,nj->n", state, task.state_cost, state) + task.action_cost * action**2)
    noise = generator.multivariate_normal(np.zeros(2), task.noise, len(state))
    following = state @ task.dynamics.T + action[:, None] * task.control[:, 0] + noise
    return following, reward, generator.random(len(state)) < task.stop


def _closed_loop(task: LQG, policy: LinearGaussian) -> tuple[Array, Array, Array]:
    """Moves, cost and noise `[3, 3]` of z = (x, 1) under the policy; the policy's own noise is in cost and noise."""
    act = np.array([*policy.gain, policy.offset])
    moves = np.zeros((3, 3))
    moves[:2, :2], moves[2, 2] = task.dynamics, 1.0
    moves[:2] += task.control @ act[None]
    cost = task.action_cost * np.outer(act, act)
    cost[:2, :2] += task.state_cost
    cost[2, 2] += task.action_cost * policy.deviation**2
    noise = np.zeros((3, 3))
    noise[:2, :2] = task.noise + policy.deviation**2 * task.control @ task.control.T
    return moves, cost, noise


def _before(task: LQG, w: Array, moves: Array, cost: Array, noise: Array) -> Array:
    """W one step earlier."""
    earlier = cost + task.survival * moves.T @ w @ moves
    earlier[2, 2] += task.survival * float(np.trace(w @ noise))
    return np.asarray(earlier)
