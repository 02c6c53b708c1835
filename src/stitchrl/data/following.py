"""What follows each logged step: the next logged action, and the discounted return to the end of its episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from stitchrl.core.batch import BatchKind, ReturnTransitions
from stitchrl.core.errors import ConfigError, DataError
from stitchrl.data.dataset import Dataset
from stitchrl.data.transforms import Affine, apply

Array = np.ndarray[Any, np.dtype[Any]]


def usable_rows(dataset: Dataset, kind: BatchKind) -> Array | None:
    """Returns int64 `[M]`, the rows that hold all that the kind needs, rising; None where all do. Raises DataError where none would teach.

    Only a next action can be missing: of the last step of an episode that the clock or the log ended.
    """
    if "next_actions" not in kind.columns(dataset.spec):
        return None
    last = dataset.offsets[1:] - 1
    if in_no_order(dataset):
        raise DataError(
            f"{dataset.metadata.get('name', 'data')}: no step has a next action, since every episode is one step; this algorithm needs "
            "episodes in their order. Read the log with its episodes, or choose one that learns from single transitions, such as td3_bc"
        )
    without = last[~dataset.terminals[last]]
    return np.delete(np.arange(len(dataset)), without) if len(without) else None


def in_no_order(dataset: Dataset) -> bool:
    """Returns whether the log is of single transitions: many episodes, each one step, of which not all end the task."""
    ended = dataset.terminals[dataset.offsets[1:] - 1]
    return dataset.episodes > 1 and bool((dataset.lengths == 1).all() and not ended.all())


def next_actions(dataset: Dataset, rows: slice | Array, transforms: Sequence[Affine]) -> Array:
    """Returns `[B, …]`: the action logged after each of the rows, as the learner sees it; 0 after an episode's last step."""
    numbers = np.arange(*rows.indices(len(dataset))) if isinstance(rows, slice) else rows
    last = numbers + 1 == dataset.offsets[dataset.episode_of(numbers) + 1]
    following = apply(transforms, "actions", np.asarray(dataset.actions[np.where(last, numbers, numbers + 1)]))
    following[last] = 0
    return following


def computed_columns(dataset: Dataset, kind: BatchKind, transforms: Sequence[Affine]) -> dict[str, Array]:
    """Returns the columns of the kind that take the whole log to compute, by name: `returns_to_go`, float32 `[N]`.

    Raises DataError for a log whose rows are in no order, ConfigError for a value without bound.
    """
    if not isinstance(kind, ReturnTransitions):
        return {}
    name, last = dataset.metadata.get("name", "data"), dataset.offsets[1:] - 1
    terminal = np.asarray(dataset.terminals[last])
    if in_no_order(dataset):
        raise DataError(
            f"{name}: every episode is one step and not all end the task, so that the returns that followed are unknown; this algorithm "
            "needs whole episodes. Read the log with its episodes, or choose one that learns from single transitions, such as cql"
        )
    if kind.discount == 1.0 and kind.beyond_timeout == "last_reward" and not terminal.all():
        raise ConfigError(
            f"{name}: with discount 1 an episode that the clock ended has no finite value if its last reward goes on for ever; "
            "use a discount below 1, or beyond_timeout = nothing"
        )
    rewards = apply(transforms, "rewards", np.asarray(dataset.rewards))
    return {"returns_to_go": returns_to_go(rewards, dataset.offsets, terminal, kind.discount, kind.beyond_timeout)}


def returns_to_go(
    rewards: Array, offsets: Array, terminal: Array, discount: float, beyond_timeout: Literal["last_reward", "nothing"]
) -> Array:
    """Returns float32 `[N]`: at each step the discounted sum of its own and all later rewards of its episode.

    rewards: `[N]` of E episodes, rows offsets[e] … offsets[e + 1] - 1. terminal: bool `[E]`, whether an episode's last step ended the task;
    one that did not is followed by its last reward for ever, r / (1 - discount), or by nothing.
    """
    found = np.zeros(len(rewards), np.float64)
    last, lengths = offsets[1:] - 1, np.diff(offsets)
    beyond = np.zeros(len(last))
    if beyond_timeout == "last_reward":
        beyond[~terminal] = np.asarray(rewards, np.float64)[last[~terminal]] / (1 - discount)
    for back in range(int(lengths.max())):  # from the ends, all episodes at once
        long = lengths > back
        row = last[long] - back
        beyond[long] = found[row] = rewards[row] + discount * beyond[long]
    return found.astype(np.float32)
