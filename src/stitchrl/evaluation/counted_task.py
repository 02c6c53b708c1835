"""A finite task as a log's counts tell it, and the exact value of a policy in it: the fixed point of tabular fitted Q-evaluation.

What was never logged is assumed, not known. An action never logged in a state does what the logged steps of that state did on average;
a state never logged does what the log's steps did on average. Both leave a policy as the behaviour was, neither better nor worse,
and both follow a shift or scale of the rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy.sparse import csr_array, diags_array, eye_array, vstack
from scipy.sparse.linalg import splu

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Discrete, Spec

Array = np.ndarray[Any, np.dtype[Any]]

ASSUMED = (
    "an action never logged in a state is assumed to do what that state's logged steps did on average, and a state never logged what the "
    "log's steps did on average"
)


@final
@dataclass(frozen=True)
class CountedTask:
    """S states, one more for all that were never logged ("elsewhere", the last), A actions.

    counts: `[S + 1, A]` logged steps. logged: bool `[S + 1, A]`. reward: `[S + 1, A]` mean, as assumed where not logged.
    pairs: sparse `[(S + 1) · A, S + 1]`, the share of logged steps that went on, and where; rows of unlogged pairs are empty.
    pooled: sparse `[S + 1, S + 1]`, the same of a state's steps together. place: int64 `[S]`, a state's own number, or that of elsewhere.
    """

    counts: Array
    logged: Array
    reward: Array
    pairs: csr_array
    pooled: csr_array
    place: Array

    def chain(self, policy: Array) -> tuple[csr_array, Array]:
        """Returns the policy's `[S + 1, S + 1]` next-state shares (what is missing to 1 ends) and its mean reward `[S + 1]`."""
        states, actions = self.logged.shape
        known = np.where(self.logged, policy, 0.0)
        rows = np.repeat(np.arange(states), actions)
        weights = csr_array((known.reshape(-1), (rows, np.arange(states * actions))), shape=(states, states * actions))
        unknown = policy.sum(1) - known.sum(1)
        return csr_array(weights @ self.pairs + diags_array(unknown) @ self.pooled), (policy * self.reward).sum(1)

    def action_values(self, values: Array, discount: float) -> Array:
        """Returns `[S + 1, A]` from next states' `values [S + 1]`."""
        states, actions = self.logged.shape
        after = np.where(self.logged, (self.pairs @ values).reshape(states, actions), (self.pooled @ values)[:, None])
        return np.asarray(self.reward + discount * after)


def count_task(
    spec: Spec, observations: Array, actions: Array, rewards: Array, following: Array, ends: Array, weights: Array
) -> CountedTask:
    """Returns the task of logged steps, each counted `weights [N]` times."""
    assert isinstance(spec.observation, Discrete) and isinstance(spec.action, Discrete)
    states, choices = spec.observation.n, spec.action.n
    pair = observations * choices + actions
    visits = np.bincount(pair, weights, states * choices).reshape(states, choices)
    earned = np.bincount(pair, weights * rewards, states * choices).reshape(states, choices)
    place = np.where(visits.sum(1) > 0, np.arange(states), states)
    on = ~ends & (weights > 0)
    flow = csr_array((weights[on], (pair[on], place[following[on]])), shape=(states * choices, states + 1))
    owner = csr_array((np.ones(states * choices), (np.repeat(np.arange(states), choices), np.arange(states * choices))))
    by_state = csr_array(owner @ flow)
    overall = csr_array(by_state.sum(0)[None])
    with np.errstate(divide="ignore", invalid="ignore"):
        per_pair = np.where(visits > 0, 1 / visits, 0.0)
        per_state = np.where(visits.sum(1) > 0, 1 / visits.sum(1), 0.0)
    own_mean = earned.sum(1) * per_state
    reward = np.full((states + 1, choices), earned.sum() / visits.sum())
    reward[:states] = np.where(visits > 0, earned * per_pair, own_mean[:, None])
    pairs = vstack([diags_array(per_pair.reshape(-1)) @ flow, csr_array((choices, states + 1))], format="csr")
    pooled = vstack([diags_array(per_state) @ by_state, overall / visits.sum()], format="csr")
    counts = np.concatenate([visits, np.zeros((1, choices))])
    return CountedTask(counts, counts > 0, reward, csr_array(pairs), csr_array(pooled), place)


@final
@dataclass(frozen=True)
class Solution:
    """A policy's values in a counted task: `values [H + 1, S + 1]` by the steps that are left, of one row where no clock ends the task.

    unlogged: the share of the policy's expected visits that rests on what is assumed. stuck: states whose value is assumed (see `solve`).
    """

    task: CountedTask
    discount: float
    values: Array
    unlogged: float
    stuck: int

    def q(self, observations: Array, actions: Array, left: Array | None) -> Array:
        """Returns `[N]` of logged steps, `left [N]` steps before the clock's end, this one included."""
        state = self.task.place[observations]
        if left is None:
            return np.asarray(self.task.action_values(self.values[0], self.discount)[state, actions])
        result = np.empty(len(state))
        for steps in np.unique(left):
            at = left == steps
            result[at] = self.task.action_values(self.values[steps - 1], self.discount)[state[at], actions[at]]
        return result

    def v(self, observations: Array, left: Array | None) -> Array:
        """Returns `[N]` of states with `left [N]` steps before the clock's end."""
        return np.asarray(self.values[0 if left is None else left, self.task.place[observations]])


def solve(task: CountedTask, policy: Array, starts: Array, discount: float, limit: int | None) -> Solution:
    """Returns the exact values of `policy [S, A]` from `starts [E]`, first states; with a limit, by backward recursion from the clock's end.

    Where some logged steps end, states from which none of the policy's leads to an end (`stuck`) are mostly rare ones whose few logged steps close
    into a loop: they are given one more step, the log's average one, beside those logged of the policy's action there. Without a discount they
    would have no value at all. Raises DataError where that does not end either, or values are not finite.
    """
    policy = np.concatenate([policy, np.full((1, policy.shape[1]), 1 / policy.shape[1])])
    chain, reward = task.chain(policy)
    start = np.bincount(task.place[starts], minlength=len(reward)) / len(starts)
    resting = np.where(task.logged, 0.0, policy).sum(1)
    if limit is not None:
        values = np.zeros((limit + 1, len(reward)))
        visits, total = start, np.zeros(len(reward))
        for h in range(limit):
            values[h + 1] = reward + discount * (chain @ values[h])
            total += discount**h * visits
            visits = chain.T @ visits
        return Solution(task, discount, values, float(resting @ total / total.sum()), 0)
    stuck = np.zeros(len(reward), np.bool_)
    if discount == 1 or _ending(task.pooled).any():
        stuck = ~leads_to(chain, _ending(chain))
    if stuck.any():
        share = np.where(stuck, 1 / (1 + (policy * task.counts).sum(1)), 0.0)
        chain, reward = _loosened(task, share, chain, reward)
        resting = resting + share * (1 - resting)
    if discount == 1:
        endless = leads_to(csr_array(chain.T), start > 0) & ~leads_to(chain, _ending(chain))
        if endless.any():
            raise DataError(
                f"not estimable: in the logged steps the policy never ends once in state {int(np.flatnonzero(endless)[0])}, and with "
                "discount 1 its value has no bound; use a discount below 1"
            )
    inside = leads_to(chain, _ending(chain)) if discount == 1 else np.ones(len(reward), np.bool_)
    matrix = splu(csr_array(eye_array(int(inside.sum())) - discount * chain[inside][:, inside]).tocsc())
    solved, visits = matrix.solve(reward[inside]), matrix.solve(start[inside], trans="T")
    if not np.isfinite(solved).all():
        raise DataError("not estimable: the equations of the counted task have no finite solution")
    values = np.full(len(reward), solved.mean())
    values[inside] = solved
    return Solution(task, discount, values[None], float(resting[inside] @ visits / visits.sum()), int(stuck.sum()))


def _ending(chain: csr_array) -> Array:
    """bool `[S + 1]`: states of which some steps end."""
    return np.asarray(np.asarray(chain.sum(1)).reshape(-1) < 1 - 1e-9)


def _loosened(task: CountedTask, share: Array, chain: csr_array, reward: Array) -> tuple[csr_array, Array]:
    """The chain and rewards where a `share [S + 1]` of a state's steps is the log's average one."""
    average = csr_array(np.ones((len(share), 1))) @ task.pooled[[-1]]
    return csr_array(diags_array(1 - share) @ chain + diags_array(share) @ average), (1 - share) * reward + share * task.reward[-1].mean()


def leads_to(chain: csr_array, goal: Array) -> Array:
    """Returns bool `[S]`: the states from which `goal` is reached along entries above 0, itself included."""
    found, count = np.asarray(goal, np.bool_), -1
    while found.sum() > count:
        count = int(found.sum())
        found = found | (chain @ found.astype(np.float64) > 0)
    return np.asarray(found)
