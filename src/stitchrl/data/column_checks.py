"""Checks of single columns: values that are not finite, too large, constant, out of bounds or impossible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stitchrl.core.spec import Box, Discrete, bounds_of, looks_like_image
from stitchrl.data.dataset import Dataset
from stitchrl.data.findings import SHOWN, Finding, Severity

Array = np.ndarray[Any, np.dtype[Any]]

CHUNK_BYTES = 1 << 24
SQUARE_OVERFLOWS = float(np.sqrt(np.finfo(np.float32).max))  # 1.8e19
LARGE = 1e6
BOUND_TOLERANCE = 1e-5  # relative to the bound where that is above 1: float32 rounding, not a wrong action
LOG_PROBABILITIES = "behaviour_log_probabilities"


def chunks(column: Array) -> Iterator[tuple[int, Array]]:
    """Yields (first row, rows) in pieces of at most 16 MiB, so that a memory-mapped column is never read whole."""
    rows = max(1, CHUNK_BYTES // max(1, column[:1].nbytes))
    for start in range(0, len(column), rows):
        yield start, np.asarray(column[start : start + rows])


def places(dataset: Dataset, rows: Array | list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns (episodes, steps within them) of the first few rows."""
    first = np.asarray(rows[:SHOWN], dtype=np.int64)
    episodes = np.searchsorted(dataset.offsets, first, side="right") - 1
    steps = first - np.asarray(dataset.offsets)[episodes]
    return tuple(int(e) for e in episodes), tuple(int(s) for s in steps)


def where(dataset: Dataset, rows: Array | list[int]) -> str:
    """Returns the first place in words."""
    episodes, steps = places(dataset, rows)
    return f"first at episode {episodes[0]:,}, step {steps[0]:,}"


def at_rows(
    dataset: Dataset,
    rows: Array | list[int],
    code: str,
    severity: Severity,
    message: str,
    column: str,
    advice: str,
    count: int | None = None,
) -> Finding:
    """Returns a finding whose places are `rows`; the message gains the first of them."""
    episodes, steps = places(dataset, rows)
    text = f"{message}; {where(dataset, rows)}"
    return Finding(code, severity, text, column, episodes, steps, len(rows) if count is None else count, advice)


def matching_rows(column: Array, test: Any) -> tuple[list[int], int]:
    """Returns the first few rows of which some element passes `test` (a function of a chunk), and how many rows do."""
    first: list[int] = []
    count = 0
    for start, chunk in chunks(column):
        hit = np.asarray(test(chunk)).reshape(len(chunk), -1).any(axis=1)
        found = np.flatnonzero(hit)
        count += len(found)
        first.extend(int(start + row) for row in found[: SHOWN - len(first)])
    return first, count


def component(column: Array, row: int, test: Any) -> str:
    """Returns "[k]" for the first element of a row that passes `test`, or nothing for a scalar column."""
    if column.ndim == 1:
        return ""
    hit = np.argwhere(test(np.asarray(column[row])))
    return f"[{', '.join(str(int(k)) for k in hit[0])}]"


def check_finite(dataset: Dataset) -> list[Finding]:
    """Returns NaN and infinite values of each column, with episode, step and component."""
    found = []
    for name, column in dataset.columns.items():
        if column.dtype.kind not in "fc":
            continue
        severity: Severity = "warning" if name.startswith("infos/") else "error"
        # -inf has its own meaning, and finding, among the log-probabilities
        infinite = np.isposinf if name == LOG_PROBABILITIES else np.isinf
        for code, word, test in (("not-a-number", "NaN", np.isnan), ("infinite", "an infinite value", infinite)):
            rows, count = matching_rows(column, test)
            if count:
                message = f"'{name}{component(column, rows[0], test)}' holds {word} in {count:,} of {len(column):,} steps"
                advice = "Drop these episodes, or fill the values in and say how; training refuses them."
                found.append(at_rows(dataset, rows, code, severity, message, name, advice, count))
    final = dataset.final_observations
    if final.dtype.kind == "f":
        rows, count = matching_rows(final, lambda chunk: ~np.isfinite(chunk))
        if count:
            message = f"'final_observations' is not finite for {count:,} of {len(final):,} episodes; first at episode {rows[0]:,}"
            advice = "Mark these episodes' last steps as terminals if the task ended, else drop the last step."
            found.append(Finding("not-a-number", "error", message, "final_observations", tuple(rows), (), count, advice))
    return found


def check_rewards(dataset: Dataset) -> list[Finding]:
    """Returns rewards whose squares overflow float32, far outliers, and rewards that are all zero or all the same."""
    rewards = np.asarray(dataset.rewards, dtype=np.float64)
    finite = rewards[np.isfinite(rewards)]
    if not len(finite):
        return []
    rows = np.flatnonzero(np.isfinite(rewards) & (np.abs(rewards) > SQUARE_OVERFLOWS))
    if len(rows):
        message = f"'rewards' reaches {rewards[rows[0]]:.3g} in {len(rows):,} steps; its square overflows float32 (limit 1.8e19)"
        return [at_rows(dataset, rows, "reward-overflow", "error", message, "rewards", "Scale the rewards, or repair these steps.")]
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return [_constant_reward(dataset, low)]
    middle = np.median(finite[finite != 0]) if (finite != 0).any() else 0.0
    spread = float(np.median(np.abs(finite[finite != 0] - middle)))
    scale = max(spread, abs(float(middle)))
    rows = np.flatnonzero(np.isfinite(rewards) & (np.abs(rewards - middle) > 1e4 * scale))
    if scale > 0 and 0 < len(rows) <= max(1, len(rewards) // 100):
        q01, q99 = np.quantile(finite, [0.01, 0.99])
        message = (
            f"{len(rows):,} rewards lie 10,000 times further out than the rest: {low:.4g} … {high:.4g}, "
            f"while 98 % lie in {q01:.4g} … {q99:.4g} (median of non-zero rewards {middle:.4g})"
        )
        return [at_rows(dataset, rows, "reward-outlier", "warning", message, "rewards", "Check the units of these steps; clip or scale.")]
    return []


def _constant_reward(dataset: Dataset, value: float) -> Finding:
    if value == 0 or len(np.unique(dataset.lengths)) == 1:
        message = f"every reward is {value:.6g}, so no episode is better than another"
        advice = "Only imitation and goal-conditioned methods can learn from this log; otherwise check the reward column."
        return Finding("constant-reward", "warning", message, "rewards", count=len(dataset), advice=advice)
    message = f"every reward is {value:.6g}, so an episode's return is its length"
    advice = "Right for tasks of staying alive, if 'terminals' tell a failure from a timeout."
    return Finding("constant-reward", "note", message, "rewards", count=len(dataset), advice=advice)


def check_magnitudes(dataset: Dataset) -> list[Finding]:
    """Returns columns other than rewards with values beyond 1e6."""
    found = []
    for name in ("observations", "actions", "goals"):
        column = dataset.columns.get(name)
        if column is None or column.dtype.kind != "f":
            continue

        def large(chunk: Array) -> Array:
            return np.asarray(np.isfinite(chunk) & (np.abs(chunk) > LARGE))

        rows, count = matching_rows(column, large)
        if count:
            message = f"'{name}{component(column, rows[0], large)}' exceeds 1e6 in size in {count:,} steps"
            advice = "Check for a sentinel such as 9999999 or a wrong unit; normalise otherwise."
            found.append(at_rows(dataset, rows, "large-value", "warning", message, name, advice, count))
    return found


def check_dtypes(dataset: Dataset) -> list[Finding]:
    """Returns columns of a type that no model can take. The required five are held to theirs by Dataset itself."""
    found = []
    for name, column in dataset.columns.items():
        if column.dtype.kind in "OV":
            message = f"'{name}' is of type {column.dtype}; expected numbers, truth values or text of fixed width"
            found.append(Finding("wrong-dtype", "error", message, name, count=len(column), advice="Convert the column to numbers."))
        elif name == LOG_PROBABILITIES and column.dtype.kind != "f":
            message = f"'{name}' is of type {column.dtype}; expected a float"
            found.append(Finding("wrong-dtype", "error", message, name, count=len(column), advice="Store natural logarithms."))
    return found


def check_actions(dataset: Dataset) -> list[Finding]:
    """Returns actions that are out of their space, exactly on its bounds, or never taken."""
    space = dataset.spec.action
    return _check_discrete(dataset, space) if isinstance(space, Discrete) else _check_box(dataset, space)


def _check_discrete(dataset: Dataset, space: Discrete) -> list[Finding]:
    rows, count = matching_rows(dataset.actions, lambda chunk: (chunk < 0) | (chunk >= space.n))
    if count:
        message = f"'actions' holds {int(dataset.actions[rows[0]])} among {count:,} actions outside 0 … {space.n - 1}"
        return [at_rows(dataset, rows, "action-outside", "error", message, "actions", "Map the actions to 0 … n-1.", count)]
    counts = np.zeros(space.n, dtype=np.int64)
    for _, chunk in chunks(dataset.actions):
        counts += np.bincount(chunk, minlength=space.n)
    unused = np.flatnonzero(counts == 0)
    if not len(unused):
        return []
    names = ", ".join(str(a) for a in unused[:10]) + (" …" if len(unused) > 10 else "")
    message = f"{len(unused)} of {space.n} actions never occur: {names}"
    advice = "No method can learn what they do; a policy that takes them is a guess."
    return [Finding("action-unused", "note", message, "actions", count=len(unused), advice=advice)]


def _check_box(dataset: Dataset, space: Box) -> list[Finding]:
    low, high = bounds_of(space)
    slack_low, slack_high = (BOUND_TOLERANCE * np.maximum(1.0, np.where(np.isfinite(b), np.abs(b), 1.0)) for b in (low, high))

    def far(chunk: Array) -> Array:
        return np.asarray((chunk < low - slack_low) | (chunk > high + slack_high))

    def just(chunk: Array) -> Array:
        # bounds in the data's own precision: float32(0.4) is above the float64 0.4
        return np.asarray(((chunk < low.astype(chunk.dtype)) | (chunk > high.astype(chunk.dtype))) & ~far(chunk))

    def exact(chunk: Array) -> Array:
        return np.asarray((chunk == low.astype(chunk.dtype)) | (chunk == high.astype(chunk.dtype)))

    found = []
    rows, count = matching_rows(dataset.actions, far)
    if count:
        taken = np.asarray(dataset.actions[rows[0]])
        value, label = taken[far(taken)][0], f"actions{component(dataset.actions, rows[0], far)}"
        message = f"'{label}' is {value:.6g}, outside {low.min():.6g} … {high.max():.6g}, in {count:,} steps"
        advice = "Clip them if the environment did, rescale them if the units differ, or correct the action space."
        found.append(at_rows(dataset, rows, "action-outside", "error", message, "actions", advice, count))
    rows, count = matching_rows(dataset.actions, just)
    if count:
        message = f"{count:,} of {len(dataset):,} steps have an action that is outside its bounds by less than 1e-5"
        found.append(at_rows(dataset, rows, "action-rounding", "note", message, "actions", "Rounding; they are clipped.", count))
    rows, count = matching_rows(dataset.actions, exact)
    if count:
        message = f"{count / len(dataset):.1%} of the actions lie exactly on a bound"
        advice = "The inverse of tanh is infinite there: a squashed policy's likelihood needs the actions clamped by a small margin."
        found.append(at_rows(dataset, rows, "action-at-bound", "note", message, "actions", advice, count))
    return found


def check_observation_space(dataset: Dataset) -> list[Finding]:
    """Returns discrete observations outside 0 … n-1, the final ones included."""
    space = dataset.spec.observation
    if not isinstance(space, Discrete):
        return []
    rows, count = matching_rows(dataset.observations, lambda chunk: (chunk < 0) | (chunk >= space.n))
    advice = "Correct the observation space, or map the states to 0 … n-1."
    found = []
    if count:
        message = f"'observations' holds {int(dataset.observations[rows[0]])} among {count:,} states outside 0 … {space.n - 1}"
        found.append(at_rows(dataset, rows, "observation-outside", "error", message, "observations", advice, count))
    final = np.flatnonzero((dataset.final_observations < 0) | (dataset.final_observations >= space.n))
    if len(final):
        first = tuple(int(e) for e in final[:SHOWN])
        message = (
            f"'final_observations' holds {int(dataset.final_observations[first[0]])} at episode {first[0]:,}, outside 0 … {space.n - 1}"
        )
        found.append(Finding("observation-outside", "error", message, "final_observations", first, (), len(final), advice))
    return found


def check_images(dataset: Dataset) -> list[Finding]:
    """Returns observations that seem to be images, of a layout or a type that is not read as one."""
    space = dataset.spec.observation
    if isinstance(space, Discrete) or not looks_like_image(space):
        return []
    message = (
        f"'observations' are {space.dtype} {list(space.shape)}: these look like images, but are learned from as {space.size:,} numbers side by "
        "side, without convolutions"
    )
    advice = (
        "Images are uint8 (0 … 255), [H, W], [C, H, W] or [H, W, C]: convert the pixels, drop an axis of 1, put the colours of several frames "
        "on one axis. Nothing to do if these are no images."
    )
    return [Finding("unread-images", "warning", message, "observations", count=len(dataset), advice=advice)]


def check_constants(dataset: Dataset) -> list[Finding]:
    """Returns components of observations (a note) and of actions (a warning) that never change; images are passed over."""
    found = []
    for name in ("observations", "actions"):
        column = dataset.columns[name]
        if len(column) < 2 or column.ndim > 2:
            continue
        first = np.asarray(column[0])
        same = np.ones(first.shape, dtype=np.bool_)
        for _, chunk in chunks(column):
            same &= (chunk == first).all(axis=0)
        which = np.flatnonzero(same)
        if not len(which):
            continue
        listed = "" if column.ndim == 1 else f"[{', '.join(str(k) for k in which[:10])}{' …' if len(which) > 10 else ''}]"
        severity: Severity = "note" if name == "observations" and len(which) < same.size else "warning"
        message = f"'{name}{listed}' never changes over {len(column):,} steps"
        advice = (
            "It carries nothing; normalisation divides it by 1."
            if name == "observations"
            else "Nothing can be learned about other actions."
        )
        found.append(Finding(f"constant-{name[:-1]}", severity, message, name, count=len(which), advice=advice))
    return found


def check_propensities(dataset: Dataset) -> list[Finding]:
    """Returns log-probabilities that are above 0 (discrete actions) or -inf at an action that was taken."""
    column = dataset.columns.get(LOG_PROBABILITIES)
    if column is None or column.dtype.kind != "f":
        return []
    found = []
    if isinstance(dataset.spec.action, Discrete):  # a density may be above 1, a probability not
        rows, count = matching_rows(column, lambda chunk: chunk > 1e-6)
        if count:
            low, high = float(np.nanmin(column)), float(np.nanmax(column))
            looks = low >= 0 and high <= 1
            guess = "these look like probabilities: store their natural logarithms" if looks else "check the column's meaning"
            message = f"'{LOG_PROBABILITIES}' is above 0 in {count:,} steps (range {low:.4g} … {high:.4g}), but log-probabilities are not"
            found.append(
                at_rows(dataset, rows, "propensity-above-one", "error", message, LOG_PROBABILITIES, f"{guess}.".capitalize(), count)
            )
    rows, count = matching_rows(column, np.isneginf)
    if count:
        message = f"'{LOG_PROBABILITIES}' says that {count:,} logged actions had probability 0, which is impossible"
        advice = "Correct the propensities or the actions; no importance weight exists for these steps."
        found.append(at_rows(dataset, rows, "propensity-zero", "error", message, LOG_PROBABILITIES, advice, count))
    return found
