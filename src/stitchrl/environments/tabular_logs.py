"""Logs of finite MDPs, many episodes at once: the fast way for behaviours that are tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.environments.behaviours import Behaviour, MixtureBehaviour, TabularBehaviour, draw_actions
from stitchrl.environments.tasks.tabular import TabularMDP

Array = np.ndarray[Any, np.dtype[Any]]


def tables_of(behaviour: Behaviour, states: int) -> tuple[Array, Array] | None:
    """Returns weights `[K]` and tables `[K, S, A]` of a behaviour that is a table, or a mixture of tables; None for any other.

    Raises ConfigError for a table of another number of states.
    """
    parts = behaviour.parts if isinstance(behaviour, MixtureBehaviour) else [behaviour]
    weights = behaviour.weights if isinstance(behaviour, MixtureBehaviour) else np.ones(1)
    for part in parts:
        if isinstance(part, TabularBehaviour) and len(part.probabilities) != states:
            raise ConfigError(f"the behaviour's table ({part.description}) has {len(part.probabilities)} states; the task has {states}")
    tables = [part.action_probabilities(np.arange(states)) for part in parts]
    known = [table for table in tables if table is not None]
    return (weights, np.stack(known)) if len(known) == len(tables) else None


def sample_log(
    mdp: TabularMDP, weights: Array, tables: Array, episodes: int, generator: np.random.Generator, step_limit: int | None = None
) -> Dataset:
    """Returns a log of `episodes`, each following one table of `tables [K, S, A]`, drawn by `weights [K]`.

    An episode that is not over after `step_limit` steps ends in a timeout. Columns beside the required ones:
    `behaviour_log_probabilities` (under the table followed) and, where K > 1, `infos/policy_id`.
    """
    if step_limit is None and mdp.discount >= 1 and not mdp.terminal.any():
        raise ConfigError("this task never ends; give a step limit")
    policy_of = generator.choice(len(weights), episodes, p=weights)
    state = generator.choice(mdp.states, episodes, p=mdp.initial)
    sums = mdp.transition.indptr[:-1]
    # Row r's cumulative probabilities, shifted by r: one sorted array, in which one search finds the next states of all episodes.
    cumulative = np.cumsum(mdp.transition.data)
    before = np.concatenate([[0.0], cumulative])[sums]
    row_of = np.repeat(np.arange(len(sums)), np.diff(mdp.transition.indptr))
    sorted_points = np.clip(cumulative - before[row_of], 0, 1) + row_of
    running = np.arange(episodes)
    steps: list[tuple[Array, ...]] = []
    for time in range(step_limit or 1_000_000):
        now = state[running]
        probabilities = tables[policy_of[running], now]
        action = draw_actions(probabilities, generator)
        row = now * mdp.actions + action
        entry = np.searchsorted(sorted_points, row + generator.random(len(row)), side="right")
        entry = np.clip(entry, mdp.transition.indptr[row], mdp.transition.indptr[row + 1] - 1)
        following = mdp.transition.indices[entry]
        ended = mdp.terminal[following]
        late = ~ended & (time + 1 == step_limit)
        chosen = probabilities[np.arange(len(row)), action]
        steps.append((running, now, action, mdp.outcome_rewards[entry], ended, late, np.log(chosen), following))
        state[running] = following
        running = running[~ended & ~late]
        if not len(running):
            return _assemble(mdp, steps, policy_of, state, len(weights))
    raise ConfigError("an episode did not end within 1,000,000 steps; give a step limit")


def _assemble(mdp: TabularMDP, steps: list[tuple[Array, ...]], policy_of: Array, state: Array, policies: int) -> Dataset:
    columns = [np.concatenate(column) for column in zip(*steps, strict=True)]
    episode = columns[0]
    order = np.argsort(episode, kind="stable")  # time runs forward in `steps`, so it does within each episode
    lengths = np.bincount(episode, minlength=len(policy_of))
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "behaviour_log_probabilities")
    dtypes = ("int64", "int64", "float32", "bool", "bool", "float32")
    arrays = {name: column[order].astype(dtype) for name, column, dtype in zip(names, columns[1:7], dtypes, strict=True)}
    if policies > 1:
        arrays["infos/policy_id"] = np.repeat(policy_of, lengths).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Dataset(Spec(Discrete(mdp.states), Discrete(mdp.actions)), arrays, offsets, state.astype(np.int64))
