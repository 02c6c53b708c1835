"""Finite Markov decision processes, solved exactly: optimum, policy values and occupancies (Puterman, 1994, chapters 4 to 7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from stitchrl.core.errors import ConfigError

Array = np.ndarray[Any, np.dtype[Any]]

_TOLERANCE = 1e-9  # action values closer than this are ties
_SUM = 1e-9  # how far probabilities may be from summing to 1


@final
@dataclass(frozen=True)
class TabularMDP:
    """S states, A actions. An episode ends on entering a terminal state; there is no clock.

    transition: sparse `[S·A, S]`; row s·A + a holds the probabilities of the next state. Rows of terminal states do not matter.
    outcome_rewards: `[Z]` for each stored entry of `transition`, in the order of its `data`.
    initial: `[S]` probabilities of the first state. terminal: bool `[S]`. discount: in [0, 1]; 1 for tasks that end by themselves.
    """

    transition: csr_array
    outcome_rewards: Array
    initial: Array
    terminal: Array
    discount: float = 1.0

    def __post_init__(self) -> None:
        states = self.states
        if self.transition.shape[0] % states or self.terminal.shape != (states,):
            shape, masks = list(self.transition.shape), list(self.terminal.shape)
            raise ConfigError(f"transition has shape {shape}, initial {states} entries, terminal {masks}; expected [S·A, S], [S], [S]")
        if self.transition.shape[1] != states or self.outcome_rewards.shape != self.transition.data.shape:
            raise ConfigError(
                f"transition has {self.transition.shape[1]} columns and {len(self.transition.data):,} entries; expected {states} columns "
                f"and {len(self.outcome_rewards):,} entries, one for each outcome reward"
            )
        if not 0 <= self.discount <= 1:
            raise ConfigError(f"discount is {self.discount}; expected a number from 0 to 1")
        if not np.isfinite(self.outcome_rewards).all():
            raise ConfigError("outcome_rewards has NaN or infinite numbers; expected finite ones")
        _check_probabilities("initial", self.initial[None])
        rows = np.asarray(self.transition.sum(axis=1)).reshape(states, -1)
        bad = np.argwhere((np.abs(rows - 1) > _SUM) & ~self.terminal[:, None])
        if len(bad) or self.transition.data.min() < 0:
            state, action = bad[0] if len(bad) else (-1, -1)
            raise ConfigError(f"transition: state {state}, action {action} sums to {rows[state, action]:.9g}; expected probabilities")

    @classmethod
    def from_dense(
        cls, transition: ArrayLike, reward: ArrayLike, initial: ArrayLike, terminal: ArrayLike, discount: float = 1.0
    ) -> TabularMDP:
        """Returns the MDP of `transition [S, A, S]` and `reward`, of shape `[S, A]`, or `[S, A, S]` where it depends on the outcome."""
        dense, rewards = np.asarray(transition, np.float64), np.asarray(reward, np.float64)
        if dense.ndim != 3 or rewards.shape not in (dense.shape[:2], dense.shape):
            raise ConfigError(f"transition has shape {list(dense.shape)}, reward {list(rewards.shape)}; expected [S, A, S] and [S, A]")
        sparse = csr_array(dense.reshape(-1, dense.shape[2]))
        if rewards.ndim == 2:
            outcome = np.repeat(rewards.reshape(-1), np.diff(sparse.indptr))
        else:
            outcome = rewards.reshape(dense.shape[0] * dense.shape[1], -1)[sparse.nonzero()]
        return cls(sparse, outcome, np.asarray(initial, np.float64), np.asarray(terminal, np.bool_), discount)

    @property
    def states(self) -> int:
        """S"""
        return len(self.initial)

    @property
    def actions(self) -> int:
        """A"""
        return int(self.transition.shape[0]) // self.states

    @cached_property
    def reward(self) -> Array:
        """[S, A] expected reward of each action; 0 in terminal states"""
        sums = np.add.reduceat(np.append(self.transition.data * self.outcome_rewards, 0.0), self.transition.indptr[:-1])
        sums[np.diff(self.transition.indptr) == 0] = 0.0
        return np.asarray(np.where(self.terminal[:, None], 0.0, sums.reshape(self.states, self.actions)))

    def action_values(self, values: Array, discount: float | None = None) -> Array:
        """Returns `[S, A]`: reward + discount · expected `values [S]` of the next state; 0 in terminal states."""
        discount = self.discount if discount is None else discount
        following = (self.transition @ np.where(self.terminal, 0.0, values)).reshape(self.states, self.actions)
        return np.asarray(np.where(self.terminal[:, None], 0.0, self.reward + discount * following))


def solve(mdp: TabularMDP) -> tuple[Array, Array]:
    """Returns the optimal values `V [S]` and `Q [S, A]`: value iteration from 0, then policy iteration with exact evaluation.

    Raises ConfigError where the optimum is not finite or not found.
    """
    values = np.zeros(mdp.states)
    for _ in range(10_000):
        previous, values = values, mdp.action_values(values).max(1)
        if np.abs(values - previous).max() < 1e-10:
            break
    choice = mdp.action_values(values).argmax(1)
    for _ in range(1000):
        values = state_values(mdp, np.eye(mdp.actions)[choice])
        q = mdp.action_values(values)
        better = q.max(1) > q[np.arange(mdp.states), choice] + 1e-12  # a tie keeps its action, so that this ends
        if not better.any():
            return q.max(1), q
        choice = np.where(better, q.argmax(1), choice)
    raise ConfigError("the optimal policy was not found in 1,000 improvements; expected a task that ends, or a discount below 1")


def state_values(mdp: TabularMDP, policy: ArrayLike, discount: float | None = None, steps: int | None = None) -> Array:
    """Returns `V [S]`, the expected discounted sum of rewards of `policy [S, A]` from each state.

    discount: the MDP's own by default. steps: a clock that ends each episode; without one the linear equations are solved.
    Raises ConfigError for a policy that is no table of probabilities, or whose undiscounted value is not finite.
    """
    probabilities = _policy(mdp, policy)
    discount = mdp.discount if discount is None else discount
    if steps is not None:
        values = np.zeros(mdp.states)
        for _ in range(steps):
            values = (probabilities * mdp.action_values(values, discount)).sum(1)
        return values
    reward = (probabilities * mdp.reward).sum(1)
    inside = _inside(mdp, probabilities, reward, discount)
    values = np.zeros(mdp.states)
    matrix = np.eye(int(inside.sum())) - discount * _chain(mdp, probabilities)[inside][:, inside].toarray()
    values[inside] = np.linalg.solve(matrix, reward[inside])
    return values


def policy_value(mdp: TabularMDP, policy: ArrayLike, discount: float | None = None, steps: int | None = None) -> float:
    """Returns J, the expected value of `policy [S, A]` over the first state; see `state_values`."""
    return float(mdp.initial @ state_values(mdp, policy, discount, steps))


def policy_q(mdp: TabularMDP, policy: ArrayLike) -> Array:
    """Returns `Q [S, A]` of `policy [S, A]`; 0 in terminal states."""
    return mdp.action_values(state_values(mdp, policy))


def occupancy(mdp: TabularMDP, policy: ArrayLike) -> Array:
    """Returns `[S, A]`, the expected discounted number of times each pair is met in an episode, so that J = Σ occupancy · reward."""
    probabilities = _policy(mdp, policy)
    reward = np.ones(mdp.states)  # an endless undiscounted stay is infinite whatever it earns
    start = np.where(mdp.terminal, 0.0, mdp.initial)
    reached = _reachable(_chain(mdp, probabilities), start > 0) & ~mdp.terminal
    inside = _inside(mdp, probabilities, np.where(reached, reward, 0.0), mdp.discount) & reached
    visits = np.zeros(mdp.states)
    matrix = np.eye(int(inside.sum())) - mdp.discount * _chain(mdp, probabilities)[inside][:, inside].toarray().T
    visits[inside] = np.linalg.solve(matrix, start[inside])
    return np.asarray(visits[:, None] * probabilities)


def greedy_policy(q: ArrayLike, tolerance: float = _TOLERANCE) -> Array:
    """Returns `[S, A]`: the best actions of `q [S, A]`, ties shared equally, so that rounding cannot choose among them."""
    values = np.asarray(q, np.float64)
    best = values >= values.max(1, keepdims=True) - tolerance
    return np.asarray(best / best.sum(1, keepdims=True))


def soft_policy(q: ArrayLike, temperature: float) -> Array:
    """Returns `[S, A]` proportional to exp(q / temperature)."""
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}; expected a number above 0. For the best action alone use greedy_policy")
    values = np.asarray(q, np.float64) / temperature
    weights = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def uniform_policy(mdp: TabularMDP) -> Array:
    """Returns `[S, A]` of 1/A."""
    return np.full((mdp.states, mdp.actions), 1.0 / mdp.actions)


def epsilon_policy(policy: ArrayLike, epsilon: float) -> Array:
    """Returns `[S, A]`: `policy` with probability 1 − epsilon, any action with probability epsilon."""
    if not 0 <= epsilon <= 1:
        raise ConfigError(f"epsilon is {epsilon}; expected a number from 0 to 1")
    probabilities = np.asarray(policy, np.float64)
    return np.asarray((1 - epsilon) * probabilities + epsilon / probabilities.shape[1])


def _policy(mdp: TabularMDP, policy: ArrayLike) -> Array:
    probabilities = np.asarray(policy, np.float64)
    if probabilities.shape != (mdp.states, mdp.actions):
        raise ConfigError(f"the policy has shape {list(probabilities.shape)}; expected {[mdp.states, mdp.actions]}, states by actions")
    _check_probabilities("policy", probabilities[~mdp.terminal])
    return probabilities


def _check_probabilities(name: str, rows: Array) -> None:
    sums = rows.sum(1)
    bad = np.flatnonzero(~(np.abs(sums - 1) <= 1e-5) | ~(rows >= 0).all(1))  # 1e-5: a float32 softmax is welcome
    if len(bad):
        raise ConfigError(f"{name}: row {bad[0]} sums to {sums[bad[0]]:.9g}, smallest {rows[bad[0]].min():.3g}; expected probabilities")


def _chain(mdp: TabularMDP, probabilities: Array) -> csr_array:
    """`[S, S]`, the next state's probabilities under the policy."""
    states, actions = mdp.states, mdp.actions
    rows = np.repeat(np.arange(states), actions)
    weights = csr_array((probabilities.reshape(-1), (rows, np.arange(states * actions))), shape=(states, states * actions))
    return csr_array(weights @ mdp.transition)


def _inside(mdp: TabularMDP, probabilities: Array, reward: Array, discount: float) -> Array:
    """bool `[S]`: the states whose values solve the linear equations; the others are worth 0.

    Without discount, a state that can never end has the value 0 where nothing is earned from it on, else none.
    """
    inside = ~mdp.terminal
    if discount < 1:
        return np.asarray(inside)
    chain = _chain(mdp, probabilities)
    ends = _reachable(csr_array(chain.T), mdp.terminal)
    endless = np.flatnonzero(~ends & (reward != 0))
    if len(endless):
        raise ConfigError(f"state {endless[0]}: this policy never ends from here, and with discount 1 its value is not finite")
    return np.asarray(inside & ends)


def _reachable(chain: csr_array, start: Array) -> Array:
    """bool `[S]`: reached from `start` along entries above 0; those of `start` itself included."""
    reached, count = np.asarray(start, np.bool_), -1
    while reached.sum() > count:
        count = int(reached.sum())
        reached = reached | (reached.astype(np.float64) @ chain > 0)
    return np.asarray(reached)
