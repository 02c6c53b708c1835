"""A chain of five states whose values are solved exactly, and logs of it; and small random logs with no truth behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stitchrl.environments.tasks.tabular import TabularMDP, policy_q, state_values
from stitchrl.evaluation.evidence import Episodes, Model

Array = np.ndarray[Any, np.dtype[Any]]

BEHAVIOUR = np.array([[0.5, 0.5], [0.4, 0.6], [0.5, 0.5], [0.3, 0.7], [0.5, 0.5]])
TARGET = np.array([[0.3, 0.7], [0.25, 0.75], [0.4, 0.6], [0.15, 0.85], [0.5, 0.5]])


def chain() -> TabularMDP:
    """States 0 to 4, the last ends; action 0 steps left, 1 right, each fails (stays) with 0.2; rewards differ by state, action and outcome."""
    transition, reward = np.zeros((5, 2, 5)), np.zeros((5, 2, 5))
    for state in range(4):
        for action, move in ((0, max(state - 1, 0)), (1, state + 1)):
            transition[state, action, move] += 0.8
            transition[state, action, state] += 0.2
            reward[state, action] = 0.3 * action - 0.1 * state
    reward[3, 1, 4] = 2.0
    return TabularMDP.from_dense(transition, reward, [0.7, 0.3, 0, 0, 0], [0, 0, 0, 0, 1], 0.9)


@dataclass(frozen=True)
class Log:
    states: Array
    actions: Array
    next_states: Array
    episodes: Episodes


def simulate(mdp: TabularMDP, count: int, seed: int, *, steps: int = 1000, behaviour: Array = BEHAVIOUR, target: Array = TARGET) -> Log:
    """Returns `count` episodes of the behaviour, each up to a terminal or `steps`, with the true ratios to the target."""
    generator = np.random.default_rng(seed)
    dense = np.zeros((mdp.states, mdp.actions, mdp.states))
    rewards = np.zeros_like(dense)
    rows, columns = mdp.transition.nonzero()
    dense.reshape(-1, mdp.states)[rows, columns] = mdp.transition.data
    rewards.reshape(-1, mdp.states)[rows, columns] = mdp.outcome_rewards
    state, who = generator.choice(mdp.states, count, p=mdp.initial), np.arange(count)
    parts: list[Array] = []
    for time in range(steps):
        action = (generator.random(len(who)) > np.cumsum(behaviour[state], 1)[:, 0]).astype(int)
        drawn = (generator.random((len(who), 1)) > np.cumsum(dense[state, action], 1)).sum(1)
        ended = mdp.terminal[drawn]
        parts.append(np.stack([who, np.full(len(who), time), state, action, drawn, rewards[state, action, drawn], ended]))
        state, who = drawn[~ended], who[~ended]
        if not len(who):
            break
    table = np.concatenate(parts, 1)
    table = table[:, np.lexsort((table[1], table[0]))]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(table[0].astype(int), minlength=count))])
    states, actions, next_states = table[2].astype(int), table[3].astype(int), table[4].astype(int)
    with np.errstate(divide="ignore"):
        log_ratios = np.log(target[states, actions]) - np.log(behaviour[states, actions])
    return Log(states, actions, next_states, Episodes(offsets, table[5], table[6].astype(bool), mdp.discount, log_ratios))


def model_of(mdp: TabularMDP, log: Log, *, target: Array = TARGET, error: Array | float = 0.0) -> Model:
    """Returns the exact values of the target, or with `error [S, A]` added to q, which v follows."""
    q = policy_q(mdp, target) + error
    v = state_values(mdp, target) if np.all(error == 0) else (target * q).sum(1)
    v_next = np.where(mdp.terminal[log.next_states], 0.0, v[log.next_states])
    first = log.episodes.offsets[:-1]
    return Model(q[log.states, log.actions], v[log.states], v_next, v[log.states[first]])


def random_log(seed: int, *, zeros: bool = True) -> tuple[Episodes, Model]:
    """Returns 1 to 8 episodes of 1 to 6 steps with arbitrary ratios (some 0), rewards and values; v_next is v of the next row."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 7, size=int(generator.integers(1, 9)))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    size = int(offsets[-1])
    log_ratios = generator.normal(size=size)
    if zeros:
        log_ratios[generator.random(size) < 0.05] = -np.inf
        log_ratios[offsets[0] : offsets[1]] = generator.normal(size=lengths[0])  # one episode keeps a weight, so that sums are above 0
    last = offsets[1:] - 1
    terminals = np.zeros(size, bool)
    terminals[last] = generator.random(len(last)) < 0.5
    v = generator.normal(size=size)
    beyond = generator.normal(size=size)
    v_next = np.append(v[1:], 0.0)
    v_next[last] = np.where(terminals[last], 0.0, beyond[last])
    episodes = Episodes(offsets, generator.normal(size=size), terminals, float(generator.choice([0.5, 0.9, 1.0])), log_ratios)
    return episodes, Model(generator.normal(size=size), v, v_next, v[offsets[:-1]])


def chosen(episodes: Episodes, rows: Array) -> Episodes:
    """Returns the log made of these episodes, in this order, repeats allowed."""
    at = np.concatenate([np.arange(episodes.offsets[i], episodes.offsets[i + 1]) for i in rows])
    offsets = np.concatenate([[0], np.cumsum(episodes.lengths[rows])])
    ratios = None if episodes.log_ratios is None else episodes.log_ratios[at]
    return replace(episodes, offsets=offsets, rewards=episodes.rewards[at], terminals=episodes.terminals[at], log_ratios=ratios)


def chosen_model(episodes: Episodes, model: Model, rows: Array) -> Model:
    """Returns the model's values beside `chosen`."""
    at = np.concatenate([np.arange(episodes.offsets[i], episodes.offsets[i + 1]) for i in rows])
    return Model(model.q[at], model.v[at], model.v_next[at], model.v_start[rows])
