"""Checks of episodes: how they end, whether they repeat, whose they are, in what order, and what gives their outcome away."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from stitchrl.core.spec import Box, Discrete
from stitchrl.data.column_checks import at_rows
from stitchrl.data.columns import EPISODE_NAMES
from stitchrl.data.dataset import Dataset
from stitchrl.data.findings import SHOWN, Finding, Severity

Array = np.ndarray[Any, np.dtype[Any]]

SAMPLE = 100_000  # steps that the leakage checks look at


def check_reading(dataset: Dataset) -> list[Finding]:
    """Returns what the reader had to leave out or decide, as it noted in the metadata."""
    found, noted = [], dataset.metadata
    severity: Severity
    if dropped := int(noted.get("dropped_transitions") or 0):
        episodes = int(noted.get("dropped_episodes") or 0)
        message = f"{dropped:,} steps were left out when the file was read: the last of an episode, where nothing tells what followed it"
        message += f"; {episodes:,} episodes of one step went with them" if episodes else ""
        advice = (
            "If the task ended there, say so in a column of terminals: the step and its reward count then. Else add the final observations."
        )
        severity = "note" if noted.get("layout") == "ogbench" else "warning"
        found.append(Finding("dropped-step", severity, message, "terminals", (), (), dropped, advice))
    if left := [str(name) for name in noted.get("columns_left_out") or ()]:
        shown = ", ".join(map(repr, left[:SHOWN])) + (f" and {len(left) - SHOWN:,} more" if len(left) > SHOWN else "")
        advice = "Rename what is one of the columns that are read (docs/data.md), or name further ones with infos when reading."
        named = set(EPISODE_NAMES) & {name.removeprefix("infos/") for name in left} and int(np.asarray(dataset.timeouts).sum()) <= 1
        if named:  # it would have told where episodes end, and nothing else does
            advice = "Give each row the number of its episode there, the rows of one episode together: where episodes end is then known."
        flags = [name for name in ("terminal", "timeout") if name in left]  # of a table, by our own names
        if flags:
            advice = f"Name it in the schema (--table.{flags[0]} {flags[0]}), unless it says something else than how episodes end."
        severity = "warning" if named or flags else "note"
        found.append(Finding("columns-left-out", severity, f"the file has {shown}, not read", "", (), (), len(left), advice))
    if wrappers := [str(name) for name in noted.get("environment_wrappers") or ()]:
        task = noted.get("environment")
        message = f"the log was made in {task} wrapped in {', '.join(wrappers)}, which is left out where {task} is opened: another task may be judged"
        advice = "Register the wrapped environment under an id of yours and name it: --env MODULE:ID."
        found.append(Finding("wrappers-left-out", "warning", message, "", (), (), len(wrappers), advice))
    if noted.get("timeouts_unknown"):
        message = f"nothing tells where the clock ended an episode: each goes on to the next terminal, {int(np.max(dataset.lengths)):,} steps at most"
        advice = "Add a column of timeouts, or of episodes' numbers, or name their length: data convert --episode-length, where the clock ends them."
        found.append(Finding("timeouts-unknown", "warning", message, "timeouts", (), (), 1, advice))
    if apart := int(noted.get("scattered_episodes") or 0):
        message = f"the rows of {apart:,} episodes are not together in the file; they were put together in its order"
        advice = "Where two episodes have one name, as in two logs that were joined, give them two; else name the column of time."
        found.append(Finding("scattered-episodes", "warning", message, "", (), (), apart, advice))
    if both := int(noted.get("terminal_and_timeout") or 0):
        message = f"{both:,} steps of the file were marked both terminal and timeout"
        advice = "They count as terminals. Clear the terminal where only the clock ended the episode."
        found.append(Finding("terminal-and-timeout", "warning", message, "terminals", (), (), both, advice))
    if (episode := noted.get("unfinished_episode")) is not None:
        message = f"the last episode ({int(episode):,}) ends with neither a terminal nor a timeout; it counts as cut off"
        found.append(Finding("open-end", "note", message, "timeouts", (int(episode),), (), 1, "Value is added after its last step."))
    return found


def check_ends(dataset: Dataset) -> list[Finding]:
    """Returns flags set within an episode, both flags at one step, and episodes that end with neither."""
    last = np.zeros(len(dataset), dtype=np.bool_)
    last[np.asarray(dataset.offsets[1:]) - 1] = True
    terminals, timeouts = np.asarray(dataset.terminals), np.asarray(dataset.timeouts)
    found = []
    for name, flags in (("terminals", terminals), ("timeouts", timeouts)):
        rows = np.flatnonzero(flags & ~last)
        if len(rows):
            message = f"'{name}' is set within an episode in {len(rows):,} steps"
            advice = "Begin a new episode after each of them, or clear the flag."
            found.append(at_rows(dataset, rows, "end-inside-episode", "error", message, name, advice))
    rows = np.flatnonzero(terminals & timeouts & last)
    if len(rows):
        message = f"{len(rows):,} of {dataset.episodes:,} episodes end as both terminal and timeout"
        advice = "They count as terminals: no value is added after them. Clear 'terminals' where only the clock ended the episode."
        found.append(at_rows(dataset, rows, "terminal-and-timeout", "warning", message, "terminals", advice))
    rows = np.flatnonzero(last & ~terminals & ~timeouts)
    if len(rows):
        message = f"{len(rows):,} of {dataset.episodes:,} episodes end with neither a terminal nor a timeout"
        advice = "They count as cut off: value is added after them. Set 'terminals' where the task ended."
        found.append(at_rows(dataset, rows, "open-end", "warning", message, "timeouts", advice))
    return found


def check_piled_lengths(dataset: Dataset) -> list[Finding]:
    """Returns a warning where many terminal episodes share one greatest length, as a step limit would make them.

    Says so where, among episodes that end with a terminal alone, at least 3 and 5 % have exactly the greatest length of the log (10 or
    more), and that length is at least five times as frequent as the mean of the tenth of lengths below it.
    """
    lengths = np.asarray(dataset.lengths)
    ends = np.asarray(dataset.offsets[1:]) - 1
    terminal = np.asarray(dataset.terminals)[ends] & ~np.asarray(dataset.timeouts)[ends]
    longest = int(lengths.max())
    at_limit = np.flatnonzero(terminal & (lengths == longest))
    if longest < 10 or len(at_limit) < max(3, 0.05 * terminal.sum()):
        return []
    below = max(1, longest // 10)
    neighbours = int(((lengths >= longest - below) & (lengths < longest)).sum()) / below
    if len(at_limit) < 5 * neighbours:
        return []
    message = (
        f"{len(at_limit):,} of {int(terminal.sum()):,} episodes with a terminal last exactly {longest:,} steps, the longest of the log"
    )
    advice = "If a step limit ended them, move the flag to 'timeouts': as terminals they teach that nothing is worth anything afterwards."
    rows = ends[at_limit]
    return [at_rows(dataset, rows, "timeouts-as-terminals", "warning", message, "terminals", advice)]


def episode_digests(dataset: Dataset) -> list[bytes]:
    """Returns one hash of observations, actions and rewards for each episode."""
    offsets = np.asarray(dataset.offsets)
    digests = []
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist()):
        digest = hashlib.blake2b(digest_size=16)
        for column in (dataset.observations, dataset.actions, dataset.rewards):
            digest.update(np.ascontiguousarray(column[start:stop]).view(np.uint8).data)
        digests.append(digest.digest())
    return digests


def check_duplicates(dataset: Dataset) -> list[Finding]:
    """Returns episodes equal to an earlier one: a warning with real-valued observations, a note where chance can repeat them.

    Nothing of a log whose episodes are single steps (a bandit's): the same context, action and reward come again all the time.
    """
    if int(dataset.lengths.max()) == 1:
        return []
    first_seen: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []
    for episode, digest in enumerate(episode_digests(dataset)):
        earlier = first_seen.setdefault(digest, episode)
        if earlier != episode:
            copies.append((earlier, episode))
    if not copies:
        return []
    real = isinstance(dataset.spec.observation, Box) and dataset.observations.dtype.kind == "f"
    pairs = ", ".join(f"{copy:,} = {earlier:,}" for earlier, copy in copies[:3]) + (" …" if len(copies) > 3 else "")
    message = f"{len(copies):,} of {dataset.episodes:,} episodes repeat an earlier one step for step ({pairs})"
    advice = "Drop the copies: they count twice in training and shrink every interval."
    if not real:
        advice = "With discrete observations equal episodes can be chance; drop them only if the log repeats records."
    episodes = tuple(copy for _, copy in copies[:SHOWN])
    return [Finding("duplicate-episode", "warning" if real else "note", message, None, episodes, (), len(copies), advice)]


def check_groups(dataset: Dataset) -> list[Finding]:
    """Returns groups that change within an episode (a warning) and groups of several episodes (a note: split by group)."""
    groups = dataset.columns.get("groups")
    if groups is None:
        return []
    values = np.asarray(groups)
    starts = np.asarray(dataset.offsets[:-1])
    rows = np.flatnonzero((values != np.repeat(values[starts], dataset.lengths)).reshape(len(dataset), -1).any(axis=1))
    if len(rows):
        message = f"'groups' changes within {len(np.unique(dataset.episode_of(rows))):,} episodes"
        advice = "An episode belongs to one group (patient, vehicle, user): split it there, or correct the column."
        return [at_rows(dataset, rows, "group-changes", "warning", message, "groups", advice)]
    count = len(np.unique(values[starts], axis=0))
    if count == dataset.episodes:
        return []
    message = f"{dataset.episodes:,} episodes belong to {count:,} groups"
    advice = "Split by group, not by episode, or the same group is learned from and judged on."
    return [Finding("group-of-several-episodes", "note", message, "groups", count=dataset.episodes - count, advice=advice)]


def check_time(dataset: Dataset) -> list[Finding]:
    """Returns steps at which `infos/time` runs backwards or stands still, and episodes of one group that overlap in time."""
    time = dataset.columns.get("infos/time")
    if time is None or time.ndim != 1 or time.dtype.kind not in "iufmM":
        return []
    clock = np.asarray(time)
    clock = clock.astype(np.int64) if clock.dtype.kind in "mM" else clock.astype(np.float64)
    within = np.ones(len(dataset), dtype=np.bool_)
    within[np.asarray(dataset.offsets[:-1])] = False
    change = np.diff(clock, prepend=clock[:1])
    found = []
    for code, severity, test, words, advice in (
        ("time-backwards", "error", change < 0, "runs backwards", "Sort each episode by time; interleaved episodes need their own key."),
        ("time-repeats", "warning", change == 0, "stands still", "Look for repeated records or the repeated hour when summer time ends."),
    ):
        rows = np.flatnonzero(test & within)
        if len(rows):
            message = f"'infos/time' {words} in {len(rows):,} steps"
            found.append(at_rows(dataset, rows, code, severity, message, "infos/time", advice))  # type: ignore[arg-type]
    groups = dataset.columns.get("groups")
    if groups is not None and groups.ndim == 1 and not found:
        found.extend(_overlapping(dataset, clock, np.asarray(groups)))
    return found


def _overlapping(dataset: Dataset, clock: Array, groups: Array) -> list[Finding]:
    starts, ends = np.asarray(dataset.offsets[:-1]), np.asarray(dataset.offsets[1:]) - 1
    _, group = np.unique(groups[starts], return_inverse=True)
    order = np.lexsort((clock[starts], group))
    same = group[order][1:] == group[order][:-1]
    overlaps = np.flatnonzero(same & (clock[starts][order][1:] < clock[ends][order][:-1]))
    if not len(overlaps):
        return []
    episodes = np.sort(order[1:][overlaps])
    message = (
        f"{len(overlaps):,} episodes begin before an earlier episode of their group has ended, the first of them episode {episodes[0]:,}"
    )
    advice = "The rows of two episodes may be interleaved: split the log by its episode key, then sort by time."
    return [
        Finding(
            "overlapping-episodes", "warning", message, "infos/time", tuple(int(e) for e in episodes[:SHOWN]), (), len(overlaps), advice
        )
    ]


def check_leakage(dataset: Dataset) -> list[Finding]:
    """Returns notes on single columns that give the action away, and on columns that know an episode's return from its first step."""
    stride = max(1, -(-len(dataset) // SAMPLE))
    actions = np.asarray(dataset.actions[::stride])
    found = []
    for name, column in dataset.columns.items():
        if name != "observations" and not name.startswith("infos/"):
            continue
        # the whole state of a tabular task may well decide the action; an image is no single column
        if (
            name == "infos/next_observations"
            or column.dtype.kind not in "biuf"
            or column.ndim > 2
            or isinstance(_space(dataset, name), Discrete)
        ):
            continue
        values = np.asarray(column[::stride], dtype=np.float64).reshape(len(actions), -1)
        for k in range(min(values.shape[1], 256)):
            label = name if column.ndim == 1 else f"{name}[{k}]"
            if not np.isfinite(values[:, k]).all() or values[0, k] == values[:, k].mean():
                continue
            if _tells_action(values[:, k], actions, dataset.spec.action):
                message = f"'{label}' alone tells the action that was taken"
                advice = "Fine if the behaviour policy reads only this; a leak if it is recorded after the action."
                found.append(Finding("column-tells-action", "note", message, label, count=len(dataset), advice=advice))
    return found + _outcome_columns(dataset)


def _space(dataset: Dataset, name: str) -> Box | Discrete | None:
    return dataset.spec.observation if name == "observations" else None


def _tells_action(values: Array, actions: Array, space: Box | Discrete) -> bool:
    if len(actions) < 100:
        return False
    if isinstance(space, Discrete):
        if actions.min() < 0 or np.bincount(actions).max() > 0.95 * len(actions):
            return False
        edges = np.unique(np.quantile(values, np.linspace(0, 1, 65)[1:-1]))
        cell = np.searchsorted(edges, values, side="right")
        table = np.zeros((len(edges) + 1, space.n))
        np.add.at(table, (cell, np.minimum(actions, space.n - 1)), 1)
        return bool(table.max(axis=1).sum() >= 0.999 * len(actions))
    flat = actions.reshape(len(actions), -1).astype(np.float64)
    if not np.isfinite(flat).all():
        return False
    centred, own = flat - flat.mean(axis=0), values - values.mean()
    scale = np.linalg.norm(centred, axis=0) * np.linalg.norm(own)
    correlation = np.abs(own @ centred) / np.where(scale > 0, scale, np.inf)
    return bool((correlation > 0.9999).any())


def _outcome_columns(dataset: Dataset) -> list[Finding]:
    # a column that keeps one value through each episode and orders the episodes by their return: an outcome, a discharge code
    observations = dataset.observations
    if dataset.episodes < 20 or observations.ndim != 2 or observations.dtype.kind != "f" or int(dataset.lengths.max()) < 2:
        return []
    starts = np.asarray(dataset.offsets[:-1])
    returns = np.asarray(dataset.returns())
    first, last = np.asarray(observations[starts]), np.asarray(observations[np.asarray(dataset.offsets[1:]) - 1])
    found = []
    for k in np.flatnonzero((first == last).all(axis=0) & (first != first[0]).any(axis=0)):
        if (np.repeat(first[:, k], dataset.lengths) != np.asarray(observations[:, k])).any():
            continue
        with np.errstate(all="ignore"):
            correlation = float(np.abs(np.corrcoef(first[:, k].astype(np.float64), returns)[0, 1]))
        if correlation > 0.95:
            message = f"'observations[{k}]' is fixed within each episode and goes with its return (correlation {correlation:.3f})"
            advice = "If it is only known afterwards (an outcome, a final code), take it out: the policy will not have it."
            found.append(Finding("column-knows-outcome", "warning", message, f"observations[{k}]", count=dataset.episodes, advice=advice))
    return found
