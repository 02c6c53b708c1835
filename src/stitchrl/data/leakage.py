"""Leakage: columns of the observation that were recorded after the action, know how the episode ends, or repeat the reward.

A policy that reads such a column looks excellent on the log and cannot be used: at the time of the decision it is not there. What a
single column tells is measured on episodes held out, in 64 quantile bins, and compared with what it told one step earlier: a state
that the behaviour reads changes little in a step, a record of the action changes with it. The test cannot tell a record of the action
from a behaviour that reads nothing but this column; it says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.core.spec import Discrete
from stitchrl.data.column_checks import at_rows
from stitchrl.data.dataset import Dataset
from stitchrl.data.doctor import examine_parts
from stitchrl.data.findings import ORDER, Finding

Array = np.ndarray[Any, np.dtype[Any]]

SAMPLE = 50_000  # steps, drawn as whole episodes
WIDEST = 256  # columns; images are passed over
BINS = 64
FEWEST = 200  # steps, on either side of the split; less says nothing
TELLS_ACTION = 0.95  # AUROC (share of variance where continuous) from which one column alone tells the action
TELLS_VARIANCE = 0.95
DROP = 0.1  # and by so much less from the column one step earlier (0.3 of the variance)
DROP_VARIANCE = 0.3
TELLS_ONE, DROP_ONE = 0.99, 0.2  # of a single action among many
GOES_WITH_REWARD = 0.99999  # correlation
TELLS_RETURN = 0.98  # of the variance of returns, or of returns to go, explained at each step
EPISODES = 20
ADVICE = "If it is only known afterwards, take it out: the policy will not have it when it decides."


def leakage(dataset: Dataset, *, seed: int = 0) -> list[Finding]:
    """Returns what in the observations may have been recorded after the decision, errors first; empty where nothing is suspicious.

    Codes: `action-in-observation`, `reward-in-observation`, `outcome-in-observation`, `return-to-go-in-observation`,
    `terminal-in-observation`, all warnings. Judged on at most 50,000 steps, for columns of real numbers; discrete states and images
    hold no single columns and are passed over. The same for the same seed.
    """
    observations = dataset.observations
    if isinstance(dataset.spec.observation, Discrete) or observations.ndim != 2 or observations.shape[1] > WIDEST:
        return []
    some = _sampled(dataset, seed)
    if some.episodes < 2:
        return []
    held = np.repeat(np.random.default_rng(seed).permutation(some.episodes) % 2 == 1, some.lengths)
    values = np.asarray(some.observations, np.float64)
    usable = [k for k in range(values.shape[1]) if np.isfinite(values[:, k]).all() and values[:, k].min() < values[:, k].max()]
    found = []
    for k in usable:
        column = values[:, k]
        label = f"observations[{k}]"
        for check in (_tells_action, _is_reward, _knows_return, _marks_end):
            found += check(some, column, label, held)
    return sorted(found, key=lambda finding: ORDER[finding.severity])


def shared_groups(train: Dataset, evaluation: Dataset) -> list[Finding]:
    """Returns groups (an error) and whole episodes (a warning) that are in both logs.

    With discrete observations equal episodes can be chance: there a note.
    """
    found = examine_parts({"train": train, "evaluation": evaluation})
    if not isinstance(train.spec.observation, Discrete):
        return found
    chance = "With discrete observations equal episodes can be chance; split again only if the log repeats records."
    return [
        Finding(f.code, "note", f.message, f.column, f.episodes, f.steps, f.count, chance) if f.code == "episode-in-several-parts" else f
        for f in found
    ]


def _sampled(dataset: Dataset, seed: int) -> Dataset:
    if len(dataset) <= SAMPLE:
        return dataset
    order = np.random.default_rng(seed).permutation(dataset.episodes)
    count = int(np.searchsorted(np.cumsum(dataset.lengths[order]), SAMPLE)) + 1
    return dataset.select(order[: max(count, 2)])


def _previous(dataset: Dataset) -> tuple[Array, Array]:
    """Returns the rows that have one before them in their episode, and those."""
    later = np.ones(len(dataset), np.bool_)
    later[dataset.offsets[:-1]] = False
    rows = np.flatnonzero(later)
    return rows, rows - 1


def _cells(column: Array) -> Array:
    edges = np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1]))
    distinct = np.unique(column)
    edges = (distinct[1:] + distinct[:-1]) / 2 if len(distinct) <= BINS else edges  # each value its own bin
    return np.searchsorted(edges, column, side="right")


def _means(cell: Array, target: Array, fit: Array) -> Array:
    """Returns [M]: the mean of the target in each row's bin, from the rows of `fit`; the mean of all where a bin is empty."""
    size = int(cell.max()) + 1
    count = np.bincount(cell[fit], minlength=size)
    total = np.bincount(cell[fit], target[fit], minlength=size)
    return np.asarray((total + target[fit].mean()) / (count + 1))[cell]


def _explained(cell: Array, target: Array, held: Array) -> float:
    """Returns the share of variance that the bins explain on rows held out; 0 where it does not vary."""
    variance = ((target[held] - target[~held].mean()) ** 2).sum()
    return 1 - float(((target[held] - _means(cell, target, ~held)[held]) ** 2).sum() / variance) if variance > 1e-12 else 0.0


def _auroc(scores: Array, positive: Array) -> float:
    ranks, count = _ranks(scores), int(positive.sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def _tells_action(dataset: Dataset, column: Array, label: str, held: Array) -> list[Finding]:
    rows, before = _previous(dataset)
    test = held[rows]
    if min(test.sum(), (~test).sum()) < FEWEST:
        return []
    if isinstance(dataset.spec.action, Discrete):
        actions = np.asarray(dataset.actions)[rows]
        one, other = (_action_aurocs(_cells(column[where]), actions, test) for where in (rows, before))
        told, now, earlier, which = _told_by(one, other, np.bincount(actions[test], minlength=len(one)))
        measure = "AUROC"
    else:
        flat = np.asarray(dataset.actions[rows], np.float64).reshape(len(rows), -1)
        cells = [_cells(column[where]) for where in (rows, before)]
        pairs = [tuple(_explained(cell, flat[:, j], test) for cell in cells) for j in range(flat.shape[1])]
        best = int(np.argmax([pair[0] for pair in pairs]))
        now, earlier = pairs[best]
        told = now >= TELLS_VARIANCE and now - earlier >= DROP_VARIANCE
        measure, which = "share of variance", f"actions[{best}]"
    if not told:
        return []
    message = f"'{label}' alone tells {which} of its own step ({measure} {now:.3f} on other episodes), but not from one step earlier ({earlier:.3f})"
    advice = f"It may be a record of the action. {ADVICE} Fine if the behaviour read nothing but this column."
    return [Finding("action-in-observation", "warning", message, label, count=len(dataset), advice=advice)]


def _action_aurocs(cell: Array, actions: Array, held: Array) -> Array:
    """Returns [n]: the AUROC on rows held out of each action against the rest; NaN where it is rare or nearly always taken."""
    counts = np.bincount(actions[held], minlength=int(actions.max()) + 1)
    found = np.full(len(counts), np.nan)
    for action in np.flatnonzero((counts >= 20) & (counts <= 0.98 * held.sum())):
        is_it = actions == action
        found[action] = _auroc(_means(cell, is_it.astype(np.float64), ~held)[held], is_it[held])
    return found


def _told_by(now: Array, earlier: Array, counts: Array) -> tuple[bool, float, float, str]:
    """Returns whether the column tells the actions together, or one of them (as a column of a one-hot code does), and how well."""
    known = np.isfinite(now)
    if not known.any():
        return False, 0.5, 0.5, ""
    both, lagged = (float(np.average(x[known], weights=counts[known])) for x in (now, earlier))
    if counts[known].sum() >= 0.5 * counts.sum() and both >= TELLS_ACTION and both - lagged >= DROP:
        return True, both, lagged, "the action"
    best = int(np.nanargmax(now))
    return bool(now[best] >= TELLS_ONE and now[best] - earlier[best] >= DROP_ONE), float(now[best]), float(earlier[best]), f"action {best}"


def _is_reward(dataset: Dataset, column: Array, label: str, held: Array) -> list[Finding]:
    rewards = np.asarray(dataset.rewards, np.float64)
    changing = rewards != np.median(rewards)
    if changing.sum() < 10 or len(np.unique(column)) < 2:
        return []
    equal = np.isclose(column, rewards, rtol=1e-4, atol=1e-6 * max(1.0, float(np.abs(rewards).max())))
    if equal.mean() < 0.999 or equal[changing].mean() < 0.99:
        if abs(_correlation(column, rewards)) < GOES_WITH_REWARD:
            return []
        equal, same = np.ones(len(rewards), np.bool_), "is the reward of its own step in other units"
    else:
        same = f"equals the reward of its own step in {equal.mean():.1%} of the steps"
    message = f"'{label}' {same}: what the action earned is known before it is taken"
    advice = f"{ADVICE} Fine if the reward is a score of the observed state alone; the reward of the step before may be an input, too."
    rows = np.flatnonzero(equal & changing)
    return [at_rows(dataset, rows, "reward-in-observation", "warning", message, label, advice, int(equal.sum()))]


def _knows_return(dataset: Dataset, column: Array, label: str, held: Array) -> list[Finding]:
    """A column that tells the episode's return throughout, fixed or not; and one that goes with the returns to go."""
    returns, starts = np.asarray(dataset.returns()), np.asarray(dataset.offsets[:-1])
    if dataset.episodes < EPISODES or returns.std() <= 1e-9 * max(1.0, float(np.abs(returns).max())) or int(dataset.lengths.max()) < 2:
        return []
    fixed = bool((np.repeat(column[starts], dataset.lengths) == column).all())
    if fixed:
        told, what = _explained(_cells(column[starts]), returns, held[starts]), "is fixed within each episode and"
        told = max(told, _correlation(column[starts], returns) ** 2, _correlation(_ranks(column[starts]), _ranks(returns)) ** 2)
    else:
        told, what = _correlation(column, np.repeat(returns, dataset.lengths)) ** 2, "throughout each episode"
    if told >= TELLS_RETURN:
        message = f"'{label}' {what} tells its return ({told:.1%} of the variance between episodes)"
        return [Finding("outcome-in-observation", "warning", message, label, count=dataset.episodes, advice=ADVICE)]
    rewards, discount = np.asarray(dataset.rewards, np.float64), float(dataset.metadata.get("discount") or 1.0)
    for gamma in {1.0, discount}:
        ahead = _returns_to_go(dataset, rewards, gamma)
        # within each time step, for a clock alone tells much of what is to come
        told = _correlation(_centred(dataset, column), _centred(dataset, ahead)) ** 2
        if told >= TELLS_RETURN:
            message = f"'{label}' goes with the rewards still to come ({told:.1%} of their variance among steps at the same time)"
            return [Finding("return-to-go-in-observation", "warning", message, label, count=len(dataset), advice=ADVICE)]
    return []


def _correlation(one: Array, other: Array) -> float:
    a, b = one - one.mean(), other - other.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 1e-12 * len(a) else 0.0


def _ranks(values: Array) -> Array:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values))


def _time(dataset: Dataset) -> Array:
    return np.asarray(np.arange(len(dataset)) - np.repeat(dataset.offsets[:-1], dataset.lengths))


def _centred(dataset: Dataset, values: Array) -> Array:
    step = _time(dataset)
    return np.asarray(values - (np.bincount(step, values) / np.bincount(step))[step])


def _returns_to_go(dataset: Dataset, rewards: Array, discount: float) -> Array:
    found, ahead = np.empty(len(rewards)), np.zeros(dataset.episodes)
    lengths = np.asarray(dataset.lengths)
    for back in range(1, int(lengths.max()) + 1):
        running = np.flatnonzero(lengths >= back)
        rows = np.asarray(dataset.offsets[1:])[running] - back
        ahead[running] = rewards[rows] + discount * ahead[running]
        found[rows] = ahead[running]
    return found


def _marks_end(dataset: Dataset, column: Array, label: str, held: Array) -> list[Finding]:
    """A column of few values, some of which are there at every terminal step and at no other; unless the clock tells as much."""
    terminal = np.asarray(dataset.terminals)
    if terminal.sum() < 10 or terminal.mean() > 0.5 or len(values := np.unique(column[terminal])) > 10:
        return []
    marked = np.isin(column, values)
    if (marked != terminal).mean() > 0.001 * terminal.mean() or len(np.unique(column)) > 100:
        return []
    time = _time(dataset)
    if (~terminal[np.isin(time, time[terminal])]).sum() < 10:
        return []
    message = f"'{label}' takes the value{'s' if len(values) > 1 else ''} {', '.join(f'{v:g}' for v in values[:3])} at terminal steps and at no other"
    advice = f"It may be a discharge or outcome code. {ADVICE}"
    return [at_rows(dataset, np.flatnonzero(terminal), "terminal-in-observation", "warning", message, label, advice)]
