"""Flat logs cut into episodes, and episodes joined into flat columns: where each step's next observation is settled.

Within an episode the next observation of row i is row i + 1, by construction. What becomes of an episode's end:
  final observation known (given, or in next_observations)   kept as it is
  unknown, the task ended (terminal)                         a copy of the last observation: never bootstrapped from
  unknown, the clock or the log ended (timeout)              the last step is dropped, its observation becomes the final one
A step marked as both terminal and timeout counts as a terminal. All of this is counted in the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.columns import action_column, extra_column, flag_column, observation_column, reward_column

Array = np.ndarray[Any, np.dtype[Any]]
Parts = tuple[Spec, dict[str, Array], Array, Array, dict[str, Any]]

_CHUNK = 1 << 16
_SAME = 1e-6  # relative and absolute: next_observations written through another precision are still the same


def split_flat(
    arrays: Mapping[str, Array],
    spec: Spec | None,
    following: Array | None,
    final: Array | None,
    extra: Mapping[str, Array],
    metadata: dict[str, Any],
    transitions: bool,
) -> Parts:
    """Returns spec, columns, offsets, final observations and metadata of a Dataset. Raises DataError."""
    spec, columns = _typed_columns(arrays, spec, [x for x in (following, final) if x is not None], metadata)
    for name, value in extra.items():
        columns[checked_name(name)] = extra_column(value, name, len(columns["observations"]))
    _settle_both(columns, metadata)
    if following is not None:
        if len(following) != len(columns["observations"]):
            raise _length("next_observations", following, columns)
        following = observation_column(following, spec.observation, "next_observations")[0]
    if transitions:
        offsets = _cut_every_row(columns, following)
        final = following
    else:
        offsets = _cut(columns, metadata)
        if following is not None:
            _check_shift(columns["observations"], following, offsets)
            final = final if final is not None else following[offsets[1:] - 1]
    _check_log_probabilities(columns, offsets, spec)
    if final is None:
        columns, offsets, final = _finals_from_log(columns, offsets, metadata)
    final = observation_column(np.asarray(final), spec.observation, "final_observations")[0]
    if len(final) != len(offsets) - 1:
        raise DataError(
            f"'final_observations' has {len(final):,} rows and the log {len(offsets) - 1:,} episodes (ends of 'terminals' and 'timeouts'); "
            "each episode needs one"
        )
    return spec, columns, offsets, final, metadata


def join_episodes(episodes: Sequence[Mapping[str, ArrayLike]], spec: Spec | None, metadata: dict[str, Any]) -> Parts:
    """Returns the parts of a Dataset from episodes that hold T + 1 observations and T of everything else. Raises DataError."""
    if not episodes:
        raise DataError("there are 0 episodes; expected at least one")
    keys = set(episodes[0])
    pieces: dict[str, list[Array]] = {name: [] for name in episodes[0]}
    pieces |= {"terminals": [], "timeouts": []}
    for number, episode in enumerate(episodes):
        if set(episode) != keys:
            odd = sorted(set(episode) ^ keys)
            raise DataError(f"episode {number:,} and episode 0 do not both have {', '.join(map(repr, odd))}; expected the same columns")
        for name, value in _episode_arrays(number, episode).items():
            if pieces[name] and value.shape[1:] != pieces[name][0].shape[1:]:
                found, expected = list(value.shape[1:]), list(pieces[name][0].shape[1:])
                raise DataError(f"episode {number:,}: '{name}' has rows of shape {found}; expected {expected}, as in episode 0")
            pieces[name].append(value)
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in pieces["actions"]])]).astype(np.int64)
    seen = pieces.pop("observations")
    arrays = {name: np.concatenate(values) for name, values in pieces.items()}
    arrays["observations"] = np.concatenate([x[:-1] for x in seen])
    final = np.stack([x[-1] for x in seen])
    spec, columns = _typed_columns(arrays, spec, [final], metadata)
    for name in keys - set(columns):
        columns[checked_name(name)] = extra_column(arrays[name], name, int(offsets[-1]))
    _settle_both(columns, metadata)
    _check_log_probabilities(columns, offsets, spec)
    return spec, columns, offsets, observation_column(final, spec.observation, "final_observations")[0], metadata


def checked_name(name: str) -> str:
    """Returns the column name itself. Raises DataError where no part of the library would read such a column."""
    known = ("behaviour_log_probabilities", "groups", "goals")
    if name not in known and not (name.startswith("infos/") and len(name) > 6):
        raise DataError(f"column '{name[:80]}' is unknown; expected {', '.join(known)} or infos/<name>")
    return name


def _typed_columns(
    arrays: Mapping[str, Array], spec: Spec | None, seen: Sequence[Array], metadata: dict[str, Any]
) -> tuple[Spec, dict[str, Array]]:
    """Returns the space and the typed columns; `seen` are further observations, which may hold states that are only reached last.

    The metadata are told where nobody stated the bounds of actions.
    """
    rows = len(arrays["observations"]) if arrays["observations"].ndim else 0
    if not rows:
        raise DataError("'observations' has 0 rows; expected at least one step")
    for name in ("actions", "rewards", "terminals", "timeouts"):
        if arrays[name].ndim == 0 or len(arrays[name]) != rows:
            raise _length(name, arrays[name], arrays)
    observations, observation = observation_column(arrays["observations"], spec.observation if spec else None)
    actions, action = action_column(arrays["actions"], spec.action if spec else None)
    columns = {"observations": observations, "actions": actions, "rewards": reward_column(arrays["rewards"])}
    columns |= {name: flag_column(arrays[name], name) for name in ("terminals", "timeouts")}
    if spec is None and isinstance(action, Box):
        metadata["action_bounds_inferred"] = True
    if spec is None and isinstance(observation, Discrete):
        inferred = [observation_column(x, None, "next_observations")[1] for x in seen if len(x)]
        observation = Discrete(max([observation.n, *(x.n for x in inferred if isinstance(x, Discrete))]))
    return spec or Spec(observation, action), columns


def _length(name: str, array: Array, arrays: Mapping[str, Array]) -> DataError:
    rows, steps = len(array) if array.ndim else 0, len(arrays["observations"])
    hint = ""
    if rows == steps + 1 or (name != "next_observations" and steps > rows > 0 and steps % rows == 0):
        hint = ". If the file stores a final observation per episode, pass it as final_observations="
    return DataError(f"'{name}' has {rows:,} rows and 'observations' {steps:,}; each step needs one{hint}")


def _settle_both(columns: dict[str, Array], metadata: dict[str, Any]) -> None:
    both = columns["terminals"] & columns["timeouts"]
    if both.any():
        columns["timeouts"] = columns["timeouts"] & ~both
        metadata["terminal_and_timeout"] = int(both.sum())


def _cut(columns: dict[str, Array], metadata: dict[str, Any]) -> Array:
    rows = len(columns["observations"])
    ends = np.flatnonzero(columns["terminals"] | columns["timeouts"]) + 1
    if not len(ends) or ends[-1] != rows:
        columns["timeouts"] = columns["timeouts"].copy()
        columns["timeouts"][-1] = True
        ends = np.append(ends, rows)
        metadata["unfinished_episode"] = len(ends) - 1
    return np.concatenate([[0], ends]).astype(np.int64)


def _cut_every_row(columns: dict[str, Array], following: Array | None) -> Array:
    if following is None:
        raise DataError("transitions=True without 'next_observations'; expected one for each step, since the order of rows means nothing")
    columns["timeouts"] = ~columns["terminals"]
    return np.arange(len(following) + 1, dtype=np.int64)


def _check_shift(observations: Array, following: Array, offsets: Array) -> None:
    """Raises DataError unless every step but an episode's last is followed by the next row's observation."""
    last = np.zeros(len(observations), dtype=np.bool_)
    last[offsets[1:] - 1] = True
    for start in range(0, len(observations) - 1, _CHUNK):
        stop = min(start + _CHUNK, len(observations) - 1)
        said, seen = following[start:stop], observations[start + 1 : stop + 1]
        if said.dtype.kind == "f":
            differ = ~np.isclose(said, seen, rtol=_SAME, atol=_SAME, equal_nan=True)
        else:
            differ = said != seen
        wrong = differ.reshape(stop - start, -1).any(1) & ~last[start:stop]
        if wrong.any():
            row = start + int(np.flatnonzero(wrong)[0])
            episode = int(np.searchsorted(offsets, row, side="right")) - 1
            raise DataError(
                f"episode {episode:,} step {row - int(offsets[episode]):,} (row {row:,}): 'next_observations' is not the next row's "
                "observation; an episode's end is missing from 'terminals' and 'timeouts', or rows are shuffled. "
                "Mark the end, or pass transitions=True for unordered rows"
            )


def _finals_from_log(columns: dict[str, Array], offsets: Array, metadata: dict[str, Any]) -> tuple[dict[str, Array], Array, Array]:
    """Returns columns, offsets and final observations where the log holds none: see the module's first lines."""
    last = offsets[1:] - 1
    final = np.array(columns["observations"][last])
    dropped = ~columns["terminals"][last]
    if not dropped.any():
        return columns, offsets, final
    lengths = np.diff(offsets) - dropped
    keep = np.ones(len(columns["observations"]), dtype=np.bool_)
    keep[last[dropped]] = False
    if not keep.any():
        raise DataError(
            "every episode has one step and no final observation, so no transition is left. Pass next_observations= or final_observations="
        )
    columns = {name: column[keep] for name, column in columns.items()}
    metadata["dropped_transitions"] = int(dropped.sum())
    if (lengths == 0).any():
        metadata["dropped_episodes"] = int((lengths == 0).sum())
        if "unfinished_episode" in metadata:
            if lengths[-1] == 0:
                del metadata["unfinished_episode"]
            else:
                metadata["unfinished_episode"] = int((lengths > 0).sum()) - 1
    kept = lengths > 0
    offsets = np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64)
    columns["timeouts"][offsets[1:][dropped[kept]] - 1] = True
    return columns, offsets, final[kept]


def _check_log_probabilities(columns: Mapping[str, Array], offsets: Array, spec: Spec) -> None:
    if "behaviour_log_probabilities" not in columns:
        return
    logs = columns["behaviour_log_probabilities"]
    bad = ~np.isfinite(logs)
    text = "expected a finite number: an action that was logged had a probability above 0"
    if not bad.any() and isinstance(spec.action, Discrete):
        bad = logs > 1e-5
        guess = "looks like probabilities; take their logarithm" if (logs >= 0).all() and (logs <= 1).all() else "not a log-probability"
        text = f"expected at most 0 for discrete actions ({guess})"
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        episode = int(np.searchsorted(offsets, row, side="right")) - 1
        place = f"episode {episode:,} step {row - int(offsets[episode]):,}"
        raise DataError(f"'behaviour_log_probabilities' is {logs[row]} in {place} and wrong in {int(bad.sum()):,} rows; {text}")


def _episode_arrays(number: int, episode: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Returns the columns of one episode, all of T rows but the observations (T + 1), with terminals and timeouts filled in."""
    missing = [name for name in ("observations", "actions", "rewards") if name not in episode]
    if missing:
        raise DataError(f"episode {number:,} has no '{missing[0]}'; it has {', '.join(map(repr, episode))}")
    try:
        arrays = {name: np.asarray(value) for name, value in episode.items()}
    except ValueError as error:
        raise DataError(f"episode {number:,} has rows of different shapes: {str(error)[:120]}") from None
    steps = len(arrays["actions"]) if arrays["actions"].ndim else 0
    if not steps:
        raise DataError(f"episode {number:,} has 0 steps; expected at least one")
    for name in ("terminals", "timeouts"):
        flags = arrays.get(name, np.asarray(False))
        if flags.ndim == 0:
            arrays[name] = np.zeros(steps, dtype=np.bool_)
            arrays[name][-1] = bool(flags)
        elif len(flags):
            arrays[name] = flags
            if flags[:-1].any():
                raise DataError(f"episode {number:,}: '{name}' is set at step {int(np.argmax(flags)):,}, before the last of {steps:,}")
    if len(arrays["terminals"]) == steps and len(arrays["timeouts"]) == steps and not arrays["terminals"][-1]:
        arrays["timeouts"] = arrays["timeouts"].copy()
        arrays["timeouts"][-1] = True
    for name, value in arrays.items():
        expected = steps + (name == "observations")
        if value.ndim == 0 or len(value) != expected:
            found = len(value) if value.ndim else "no"
            raise DataError(f"episode {number:,}: '{name}' has {found} rows; expected {expected:,} for {steps:,} actions")
    return arrays
