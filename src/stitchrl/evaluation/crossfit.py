"""A log as fitted estimators read it: where steps end, what follows, what the policy does there, and parts of episodes.

The value that is fitted never crosses an episode's end: what follows its last step is the log's final observation. A log's clock
(`clock="ends"`) that always strikes at the same step is a horizon: the time then belongs to the state. Where it strikes at different
times, a timeout is an end that may come to any step, as often as the log shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.goals import is_with_goal
from stitchrl.core.spec import Box, Discrete, words_of
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.evidence import Clock, Target

Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 16_384  # rows asked of a policy at once: its hidden layers stay small


@final
@dataclass(frozen=True)
class Steps:
    """The N steps of a log. ends: bool `[N]`, nothing is worth anything after it. following: `[N, *O]`. time: int64 `[N]` within the episode.

    rewards: float64 `[N]`. first: int64 `[E]` rows. limit: the step at which the clock ends every episode; None where it does not, or varies.
    """

    ends: Array
    following: Array
    time: Array
    rewards: Array
    first: Array
    limit: int | None


def read_steps(dataset: Dataset, discount: float, clock: Clock) -> Steps:
    """Returns the steps of a log. Raises DataError for numbers that are not finite, and where the value has no bound (discount 1, no end)."""
    if not 0 <= discount <= 1:
        raise DataError(f"discount is {discount}; expected a number from 0 to 1")
    if clock not in ("continues", "ends"):
        raise DataError(f"clock is {clock!r}; expected 'continues' or 'ends'")
    for name, values in (*dataset.columns.items(), ("final_observations", dataset.final_observations)):
        if name in ("observations", "actions", "rewards", "final_observations") and not _finite(values):
            raise DataError(f"'{name}' holds a number that is not finite; `stitchrl data validate` lists all such rows")
    ends = np.array(dataset.terminals, np.bool_)
    lengths = dataset.lengths
    limit = None
    if clock == "ends":
        last = dataset.offsets[1:] - 1
        cut = lengths[~ends[last]]
        if len(cut) and cut.min() == lengths.max():
            limit = int(cut.min())
        ends[last] = True
    if discount == 1 and not ends.any():
        raise DataError("not estimable: discount is 1 and no episode of the log ends, so the value has no bound; use a discount below 1")
    time = np.arange(len(dataset)) - np.repeat(dataset.offsets[:-1], lengths)
    rewards = np.asarray(dataset.rewards, np.float64)
    return Steps(ends, dataset.next_observations(), time, rewards, np.array(dataset.offsets[:-1]), limit)


def _finite(values: Array) -> bool:
    return all(bool(np.isfinite(values[i : i + 200_000]).all()) for i in range(0, len(values), 200_000))


def check_target(dataset: Dataset, target: Target) -> None:
    """Raises DataError where a policy is not of this log's spaces, or the log's steps have goals that it does not read."""
    own, log = target.spec, dataset.spec
    for what, a, b in (("observations", own.observation, log.observation), ("actions", own.action, log.action)):
        if type(a) is not type(b) or (a.n if isinstance(a, Discrete) else a.shape) != (b.n if isinstance(b, Discrete) else b.shape):
            todo = "give a log of its own task"
            if what == "observations" and is_with_goal(a, b):
                todo = "a policy that reads a goal beside what it sees cannot be judged from a log; evaluate it in its environment"
            raise DataError(f"{target.name}: its {what} are {words_of(a)}, those of the log {words_of(b)}; {todo}")
    goals = dataset.columns.get("goals")
    if (
        goals is not None
        and len(dataset)
        and any((np.asarray(goals[i : i + CHUNK]) != goals[0]).any() for i in range(0, len(goals), CHUNK))
    ):
        size = int(np.prod(goals.shape[1:]))
        together = "" if not isinstance(log.observation, Box) else f" ([{log.observation.size + size}] here, the goal last)"
        raise DataError(
            f"{target.name}: column 'goals' of the log changes, and the policy does not read it: what is earned on the way to one goal would be "
            f"taken for another's. Expected a policy of observations and goals side by side{together}, or a log of one goal; where the goals "
            "make no difference, read the log without them (Minari: goal_keys=[])"
        )


def policy_at(target: Target, observations: Array, draws: int, seed: int) -> Array:
    """Returns what the policy does at `observations [M, *O]`: float64 probabilities `[M, n]`, or float32 drawn actions `[M, K, A]` flattened.

    K is `draws`, or 1 where the policy is deterministic. The same for the same seed.
    """
    discrete = isinstance(target.spec.action, Discrete)
    count = 1 if target.deterministic else draws
    parts = []
    for number, start in enumerate(range(0, len(observations), CHUNK)):
        part = np.asarray(observations[start : start + CHUNK])
        if discrete:
            parts.append(target.probabilities(part))
            continue
        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        drawn = target.draw(part, count, own)  # [K, M, *A]
        parts.append(np.moveaxis(drawn.reshape(count, len(part), -1), 0, 1).astype(np.float32))
    result = np.concatenate(parts)
    if not np.isfinite(result).all():
        raise DataError(f"{target.name}: its actions or probabilities hold numbers that are not finite")
    return result


def folds_of(dataset: Dataset, folds: int, seed: int) -> Array:
    """Returns int64 `[E]`: the part that each episode belongs to, drawn at random; groups stay whole where the log has a column `groups`."""
    units = np.arange(dataset.episodes)
    if "groups" in dataset.columns:
        units = np.unique(np.asarray(dataset.columns["groups"])[dataset.offsets[:-1]], return_inverse=True)[1]
    count = int(units.max()) + 1
    if not 1 <= folds <= count:
        raise DataError(f"not estimable: {folds} parts of {count:,} episodes or groups; expected from 1 to {count:,} parts")
    order = np.random.default_rng([seed, 7]).permutation(count)
    part = np.empty(count, np.int64)
    part[order] = np.arange(count) % folds
    return np.asarray(part[units])


def parts(fold: Array, lengths: Array) -> list[tuple[Array, Array]]:
    """Returns for each part (rows to fit on, rows to judge), bool `[N]`; of one part alone both are all rows (nothing is held out)."""
    of_row = np.repeat(fold, lengths)
    count = int(fold.max()) + 1
    if count == 1:
        return [(np.ones(len(of_row), np.bool_), np.ones(len(of_row), np.bool_))]
    return [(of_row != k, of_row == k) for k in range(count)]


def returns_to_go(log: Steps, discount: float) -> Array:
    """Returns float64 `[N]`: the discounted sum of rewards from each step to its episode's end in the log."""
    to_go, tail = np.empty(len(log.time)), 0.0
    for i in range(len(log.time) - 1, -1, -1):
        tail = log.rewards[i] + discount * tail
        to_go[i] = tail
        tail = tail if log.time[i] else 0.0  # the row before the first step is another episode's
    return to_go
