"""Detectors of columns that are shifted by a step against each other: next observations, rewards, actions."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.core.spec import Discrete
from stitchrl.data.column_checks import at_rows
from stitchrl.data.dataset import Dataset
from stitchrl.data.findings import SHOWN, Finding

Array = np.ndarray[Any, np.dtype[Any]]

SAMPLE = 20_000  # steps that a regression sees
WIDEST = 128  # columns; beyond it (images, large tabular tasks) the regressions say nothing
ADVICE = "Compare a few steps with the recording program; np.roll within each episode repairs a shift."


def examine_transitions(observations: Array, next_observations: Array, offsets: Array) -> list[Finding]:
    """Returns what is wrong between `next_observations[t]` and `observations[t + 1]` ([N, *O] each) within the episodes of `offsets`.

    Silent where 99.9 % of the steps agree. Else tells a column that repeats the present observation, one that is a step too far,
    and scattered disagreement; and last steps whose next observation is the first of the next episode.
    """
    rows = len(observations)
    last = np.zeros(rows, dtype=np.bool_)
    last[np.asarray(offsets[1:]) - 1] = True
    agrees = {shift: np.zeros(rows, dtype=np.bool_) for shift in (0, 1, 2)}
    step = max(1, (1 << 24) // max(1, observations[:1].nbytes))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        for shift, flags in agrees.items():
            end = min(rows, stop + shift) - shift
            if end > start:
                left, right = np.asarray(next_observations[start:end]), np.asarray(observations[start + shift : end + shift])
                flags[start:end] = _equal(left, right)
    found = _rolled(agrees[1], last, offsets)
    inner = np.flatnonzero(~last)
    if not len(inner) or agrees[1][inner].mean() >= 0.999:
        return found
    wrong = inner[~agrees[1][inner]]
    second = inner[~last[np.minimum(inner + 1, rows - 1)]]
    if agrees[0][inner].mean() >= 0.999:
        code, words = "next-observation-shifted", "repeats the present observation: it is one step behind"
    elif len(second) and agrees[2][second].mean() >= 0.999:
        code, words = "next-observation-shifted", "is the observation two steps later: it is one step ahead"
    else:
        code, words = "next-observation-differs", f"is not the following observation in {len(wrong):,} of {len(inner):,} steps"
    first = wrong[:SHOWN]
    episodes = np.searchsorted(offsets, first, side="right") - 1
    places = tuple(int(e) for e in episodes), tuple(int(s) for s in first - np.asarray(offsets)[episodes])
    message = f"'next_observations' {words}; first at episode {places[0][0]:,}, step {places[1][0]:,}"
    return [*found, Finding(code, "error", message, "next_observations", *places, len(wrong), ADVICE)]


def _equal(left: Array, right: Array) -> Array:
    left, right = left.reshape(len(left), -1), right.reshape(len(right), -1)
    if left.dtype.kind == "f":
        return np.asarray(np.isclose(left, right, rtol=1e-5, atol=1e-6, equal_nan=True).all(axis=1))
    return np.asarray((left == right).all(axis=1))


def _rolled(agrees: Array, last: Array, offsets: Array) -> list[Finding]:
    ends = np.flatnonzero(last[:-1])
    crossing = ends[agrees[ends]]
    if len(ends) < 2 or len(crossing) < 0.9 * len(ends):
        return []
    episodes = np.searchsorted(offsets, crossing[:SHOWN], side="right") - 1
    steps = crossing[:SHOWN] - np.asarray(offsets)[episodes]
    message = f"'next_observations' of {len(crossing):,} last steps is the first observation of the following episode"
    advice = "Store the true final observation; without one, mark the step as terminal only if the task ended there."
    places = tuple(int(e) for e in episodes), tuple(int(s) for s in steps)
    return [Finding("next-observation-crosses", "warning", message, "next_observations", *places, len(crossing), advice)]


def check_stored_next(dataset: Dataset) -> list[Finding]:
    """Returns the findings on a stored `infos/next_observations`, where there is one of the observations' shape."""
    stored = dataset.columns.get("infos/next_observations")
    if stored is None:
        return []
    if stored.shape != dataset.observations.shape:
        message = f"'infos/next_observations' has rows of shape {list(stored.shape[1:])}; expected {list(dataset.observations.shape[1:])}"
        return [Finding("next-observation-differs", "error", message, "infos/next_observations", count=len(stored), advice=ADVICE)]
    return examine_transitions(dataset.observations, stored, dataset.offsets)


def check_shifts(dataset: Dataset, seed: int = 0) -> list[Finding]:
    """Returns warnings where rewards or actions fit the log better one step earlier or later, judged on steps held out.

    Ridge regressions on at most 20,000 steps: rewards from (s, a, s', and squares), changes of observation from (s, a). Needs 500
    steps that have two neighbours on either side, and fewer than 128 features.
    """
    rows = _rows_with_neighbours(dataset, seed)
    action = dataset.spec.action
    width = int(np.prod(dataset.observations.shape[1:])) + (action.n if isinstance(action, Discrete) else action.size)
    if len(rows) < 500 or width > WIDEST or isinstance(dataset.spec.observation, Discrete):
        return []
    train = _halves(dataset, rows)
    states = {k: _standard(np.asarray(dataset.observations[rows + k])) for k in (-1, 0, 1, 2)}
    actions = {k: _action_features(dataset, rows + k) for k in (-1, 0, 1)}
    rewards = np.asarray(dataset.rewards[rows], dtype=np.float64)
    if not all(np.isfinite(x).all() for x in (*states.values(), *actions.values(), rewards)) or min(train.sum(), (~train).sum()) < 200:
        return []
    return _shifted_reward(dataset, rows, rewards, states, actions, train) + _shifted_action(dataset, rows, states, actions, train)


def _rows_with_neighbours(dataset: Dataset, seed: int) -> Array:
    inner = np.ones(len(dataset), dtype=np.bool_)
    offsets = np.asarray(dataset.offsets)
    for edge in (offsets[:-1], offsets[1:] - 1, np.maximum(offsets[1:] - 2, 0)):
        inner[edge] = False
    rows = np.flatnonzero(inner)
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, SAMPLE, replace=False))
    return np.asarray(rows)


def _halves(dataset: Dataset, rows: Array) -> Array:
    # whole episodes on either side; a log of few long ones is cut into blocks of 100 steps instead
    unit = dataset.episode_of(rows) if dataset.episodes >= 10 else rows // 100
    return np.asarray(unit % 2 == 0)


def _standard(values: Array) -> Array:
    flat = values.reshape(len(values), -1).astype(np.float64)
    scale = flat.std(axis=0)
    return np.asarray((flat - flat.mean(axis=0)) / np.where(scale > 0, scale, 1.0))


def _action_features(dataset: Dataset, rows: Array) -> Array:
    actions = np.asarray(dataset.actions[rows])
    if isinstance(dataset.spec.action, Discrete):
        return np.asarray(actions[:, None] == np.arange(dataset.spec.action.n), dtype=np.float64)
    return _standard(actions)


def _residuals(inputs: list[Array], target: Array, train: Array) -> Array:
    """Returns the errors [M, K] on all rows of a ridge regression fitted on the rows of `train`."""
    features = np.concatenate([*inputs, np.ones((len(target), 1))], axis=1)
    x, y = features[train], target[train]
    gram = x.T @ x + 1e-3 * len(x) * np.diag([1.0] * (x.shape[1] - 1) + [0.0]) + 1e-9 * np.eye(x.shape[1])
    return np.asarray(target - features @ np.linalg.solve(gram, x.T @ y))


def _explained(inputs: list[Array], target: Array, train: Array) -> float:
    """Returns R², summed over the target's columns, on the rows that the regression has not seen."""
    held = target[~train]
    total = float(((held - held.mean(axis=0)) ** 2).sum())
    return 1.0 - float((_residuals(inputs, target, train)[~train] ** 2).sum()) / total if total > 0 else 0.0


def _shifted_reward(
    dataset: Dataset, rows: Array, rewards: Array, states: dict[int, Array], actions: dict[int, Array], train: Array
) -> list[Finding]:
    if rewards.std() == 0:
        return []
    target = ((rewards - rewards.mean()) / rewards.std())[:, None]
    pairs = {k: [states[k], states[k] ** 2, actions[k], actions[k] ** 2] for k in (-1, 0, 1)}
    triples = {k: [*pairs[k], states[k + 1], states[k + 1] ** 2] for k in (-1, 0, 1)}  # a reward may be for what it led to
    by_pair, fit = ({k: _explained(columns, target, train) for k, columns in inputs.items()} for inputs in (pairs, triples))
    best = max((-1, 1), key=lambda k: fit[k] + by_pair[k])
    clearly = _much_better(fit, best) or (1 - fit[best] <= 1.1 * (1 - fit[0]) and _much_better(by_pair, best))
    if not clearly:
        return []
    if not _much_better(fit, best):
        fit, triples = by_pair, pairs
    aligned, shifted = (np.abs(_residuals(triples[k], target, train))[:, 0] for k in (0, best))
    worst = rows[np.argsort(shifted - aligned, kind="stable")[:SHOWN]]
    word = "previous" if best == -1 else "next"
    message = f"'rewards' fits the {word} step (R² {fit[best]:.3f}) better than its own (R² {fit[0]:.3f}): perhaps off by one"
    return [at_rows(dataset, np.sort(worst), "reward-shifted", "warning", message, "rewards", ADVICE, len(dataset))]


def _much_better(fit: dict[int, float], best: int) -> bool:
    # a third of the unexplained variance: R² near 1 on either side is common, as rewards change slowly
    return fit[best] > 0.5 and fit[best] > fit[0] + 0.001 and 1 - fit[best] < (1 - fit[0]) / 3


def _shifted_action(dataset: Dataset, rows: Array, states: dict[int, Array], actions: dict[int, Array], train: Array) -> list[Finding]:
    change = np.asarray(dataset.observations[rows + 1], dtype=np.float64) - np.asarray(dataset.observations[rows], dtype=np.float64)
    target = _standard(change)
    plain = _explained([states[0], states[0] ** 2], target, train)
    gain = {k: _explained([states[0], states[0] ** 2, actions[k]], target, train) - plain for k in (-1, 0, 1)}
    best = max((-1, 1), key=lambda k: gain[k])
    if gain[best] < 0.02 + 2 * max(gain[0], 0.0):
        return []
    if best == 1:
        # a policy that reads s' betrays s' by its next action in any log; a shift shows only if this one reads the last state
        if gain[0] > 0.1 * gain[1]:
            return []
        reads = {k: _explained([states[k], states[k] ** 2], actions[0], train) for k in (-1, 0)}
        if reads[0] > reads[-1] + 0.02:
            return []
    before = _residuals([states[0], states[0] ** 2, actions[0]], target, train)
    after = _residuals([states[0], states[0] ** 2, actions[best]], target, train)
    worst = rows[np.argsort((after**2).sum(axis=1) - (before**2).sum(axis=1), kind="stable")[:SHOWN]]
    word = "previous" if best == -1 else "next"
    message = (
        f"the {word} step's action explains the change of observation better ({gain[best]:.2f} of its variance) "
        f"than the step's own ({max(gain[0], 0.0):.2f}): 'actions' is perhaps off by one"
    )
    return [at_rows(dataset, np.sort(worst), "action-shifted", "warning", message, "actions", ADVICE, len(dataset))]
