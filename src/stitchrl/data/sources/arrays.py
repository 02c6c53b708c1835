"""Columns that are in memory already, under any of their usual names, as a Dataset; the flat file formats end here too.

Layouts. `flat`: `terminals` and `timeouts` mark the ends (D4RL). `ogbench`: `terminals` marks the ends of trajectories, which are
timeouts; `masks` 0, where there are masks, is a true terminal; goal-conditioned sets have no rewards.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.columns import EPISODE_NAMES, Array, flag_column, integer_column
from stitchrl.data.dataset import Dataset
from stitchrl.data.frame_stacks import frames_of, single_frames, stack_frames
from stitchrl.data.storage import parse_json

OWN_RECORD = "stitchrl_json"  # a uint8 column of JSON: spec and metadata, in files that this library wrote
_USUAL_NAMES = {
    "observations": ("observations", "observation", "obs", "states", "state"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminals": ("terminals", "terminal", "terminations", "terminated"),
    "timeouts": ("timeouts", "timeout", "truncations", "truncated"),
    "next_observations": ("next_observations", "next_observation", "next_obs", "next_states", "next_state"),
    "final_observations": ("final_observations",),
    "masks": ("masks",),
    "episode": EPISODE_NAMES,
    "episode_starts": ("episode_starts",),
    "behaviour_log_probabilities": (
        "behaviour_log_probabilities",
        "behavior_logp",
        "behaviour_logp",
        "behavior_log_prob",
        "infos/action_log_probs",
    ),
    "behaviour_probabilities": ("behaviour_probabilities", "behavior_prob", "behaviour_prob", "propensity", "pscore"),
    "groups": ("groups", "group"),
    "goals": ("goals",),
}

Layout = Literal["auto", "flat", "ogbench"]


def read(
    arrays: Mapping[str, Array],
    *,
    where: str = "arrays",
    layout: Layout = "auto",
    infos: Sequence[str] | Literal["all"] | None = None,
    spec: Spec | None = None,
    transitions: bool = False,
    episode_length: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Dataset:
    """Returns the dataset that flat columns hold; each column is looked up once, so `arrays` may load lazily.

    infos: further columns to keep as infos/<name>; by default those with one number for each step; "all" for all.
    episode_length: cut after so many steps since the last end, where the log has terminals and no timeouts.
    Raises DataError that begins with `where`.
    """
    shapes = shapes or {name: np.shape(value) for name, value in arrays.items()}
    try:
        return _read(arrays, shapes, layout, infos, spec, transitions, episode_length, dict(metadata or {}))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def columns_of(dataset: Dataset, finals: bool = True) -> dict[str, Array]:
    """Returns the columns from which `read` makes the same dataset again, for writers of flat files.

    finals: with final observations, and stacked frames once; without, whoever writes them adds the next observations.
    """
    told: dict[str, Any] = {"spec": dataset.spec.to_json(), "metadata": dataset.metadata}
    stacks = frames_of(dataset)
    if stacks is not None and finals:  # each frame once
        told, dataset = told | {"frame_stack": stacks.depth}, single_frames(dataset)
    record = json.dumps(told, allow_nan=False)
    columns = dict(dataset.columns)
    if finals:
        columns["final_observations"] = dataset.final_observations
    columns[OWN_RECORD] = np.frombuffer(record.encode(), dtype=np.uint8)
    return columns


def _read(
    arrays: Mapping[str, Array],
    shapes: Mapping[str, tuple[int, ...]],
    layout: Layout,
    infos: Sequence[str] | Literal["all"] | None,
    spec: Spec | None,
    transitions: bool,
    episode_length: int | None,
    metadata: dict[str, Any],
) -> Dataset:
    if OWN_RECORD in shapes:
        spec, metadata, depth = _own_record(arrays[OWN_RECORD], spec, metadata)
        if depth is not None:
            single = {name: arrays[name] for name in shapes if name != OWN_RECORD}
            own_shapes = {name: shapes[name] for name in single}
            return stack_frames(_read(single, own_shapes, layout, infos, _unstacked(spec), transitions, episode_length, metadata), depth)
    found = _find_names(shapes)
    columns = {name: np.asanyarray(arrays[actual]) for name, actual in found.items()}
    observations = columns["observations"]
    rows = len(observations) if observations.ndim else 0
    extra: dict[str, Array] = {}
    for name in ("behaviour_log_probabilities", "groups", "goals"):
        if name in columns:
            extra[name] = columns[name]
    if "behaviour_probabilities" in columns and "behaviour_log_probabilities" not in extra:
        discrete = columns["actions"].dtype.kind in "iub"
        extra["behaviour_log_probabilities"] = log_of_probabilities(columns["behaviour_probabilities"], discrete)
    rest = [name for name in shapes if name not in found.values() and name != OWN_RECORD]
    kept, left_out = _choose_infos(rest, shapes, rows, infos)
    extra |= {name if name.startswith("infos/") else f"infos/{name}": arrays[name] for name in kept}
    leave_out(metadata, left_out)
    if "rewards" not in columns:
        columns["rewards"] = np.zeros(rows, dtype=np.float32)
        metadata["rewards_missing"] = True
    if layout == "auto":
        others = {"timeouts", "final_observations", "next_observations", "episode", "episode_starts"} & set(found)
        layout = "ogbench" if "masks" in found or ("terminals" in found and "rewards" not in found and not others) else "flat"
    if layout == "ogbench":
        return _from_ogbench(columns, extra, spec, metadata)
    timeouts = _timeouts(columns, rows, episode_length, metadata)
    terminals = columns.get("terminals", np.zeros(rows, dtype=np.bool_))
    following, final = columns.get("next_observations"), columns.get("final_observations")
    flat = (columns["observations"], columns["actions"], columns["rewards"])
    return Dataset.from_flat(*flat, terminals, timeouts, spec, following, final, extra, metadata, transitions)


def log_of_probabilities(values: Array, discrete: bool) -> Array:
    """Returns float32 logarithms of behaviour probabilities. Raises DataError for 0, negatives, and above 1 where discrete."""
    values = np.asarray(values, dtype=np.float64).reshape(len(values), -1)[:, 0]
    wrong = ~(values > 0) | ~np.isfinite(values)
    if discrete:
        wrong |= values > 1 + 1e-6
    if wrong.any():
        rows = np.flatnonzero(wrong)
        guess = "; all are at most 0, so they look like log-probabilities" if (values <= 0).all() else ""
        shown = ", ".join(f"{row:,} ({values[row]:g})" for row in rows[:3])
        limit = "above 0 and at most 1" if discrete else "above 0"
        raise DataError(f"behaviour probabilities in {len(rows):,} rows, first {shown}; a logged action's must be {limit}{guess}")
    return np.log(values).astype(np.float32)


def _find_names(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    found = {}
    for name, usual in _USUAL_NAMES.items():
        actual = next((x for x in usual if x in shapes), None)
        if actual is not None:
            found[name] = actual
    for name in ("observations", "actions"):
        if name not in found:
            near = difflib.get_close_matches(name, list(shapes), n=1, cutoff=0.5)
            hint = f"; nearest is {near[0]!r}. Rename it" if near else ""
            raise DataError(f"no column '{name}'; found {', '.join(repr(x[:40]) for x in list(shapes)[:12]) or 'none'}{hint}")
    vague = next((x for x in ("dones", "done") if x in shapes), None)
    if vague is not None and "terminals" not in found:
        raise DataError(f"'{vague}' does not say whether the task or the clock ended; rename it to 'terminals' or to 'timeouts'")
    return found


def _own_record(values: Array, spec: Spec | None, metadata: dict[str, Any]) -> tuple[Spec | None, dict[str, Any], int | None]:
    if values.dtype != np.uint8 or values.ndim != 1 or len(values) > 1 << 24:
        raise DataError(f"'{OWN_RECORD}' is not a column of bytes; the file is damaged")
    record = parse_json(values.tobytes(), OWN_RECORD)
    if (
        set(record) - {"frame_stack"} != {"spec", "metadata"}
        or not isinstance(record["metadata"], dict)
        or not isinstance(record["spec"], dict)
    ):
        raise DataError(f"'{OWN_RECORD}' must hold spec and metadata; the file is damaged")
    stack = record.get("frame_stack")
    try:
        return spec or Spec.from_json(record["spec"]), record["metadata"] | metadata, None if stack is None else int(stack)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{OWN_RECORD}': spec is not understood ({str(error)[:120]})") from None


def _unstacked(spec: Spec | None) -> Spec | None:
    """The spaces of a log before its frames were stacked."""
    if spec is None or isinstance(spec.observation, Discrete):
        return spec
    seen = spec.observation
    return Spec(Box(seen.shape[1:], seen.low, seen.high, seen.dtype), spec.action)


def _choose_infos(
    rest: list[str], shapes: Mapping[str, tuple[int, ...]], rows: int, infos: Sequence[str] | Literal["all"] | None
) -> tuple[list[str], list[str]]:
    fitting = [name for name in rest if shapes[name] and shapes[name][0] == rows]
    if infos is None:
        kept = [name for name in fitting if shapes[name] in ((rows,), (rows, 1))]
    elif infos == "all":
        kept = fitting
    else:
        wanted = {name.removeprefix("infos/") for name in infos}
        kept = [name for name in fitting if name.removeprefix("infos/") in wanted]
        unknown = sorted(wanted - {name.removeprefix("infos/") for name in kept})
        if unknown:
            raise DataError(f"no column {unknown[0]!r} with {rows:,} rows; further columns are {', '.join(map(repr, fitting)) or 'none'}")
    return kept, [name for name in rest if name not in kept]


def leave_out(metadata: dict[str, Any], names: Sequence[str]) -> None:
    """Notes columns that are not read, where there are any."""
    if names:
        metadata["columns_left_out"] = [*metadata.get("columns_left_out", []), *names]


def _timeouts(columns: Mapping[str, Array], rows: int, episode_length: int | None, metadata: dict[str, Any]) -> Array:
    """Returns where the clock ended an episode, from whatever the log has to say it."""
    if "timeouts" in columns:
        return _timeouts_beside_names(columns, rows, metadata)
    ends = _ends_of_names(columns, rows)
    timeouts = np.zeros(rows, dtype=np.bool_)
    if ends is not None:
        timeouts = ends
    elif episode_length is not None:
        metadata["timeouts_from_episode_length"] = episode_length
        if episode_length < 1:
            raise DataError(f"episode_length is {episode_length}; expected at least 1")
        if "terminals" not in columns:
            timeouts[episode_length - 1 :: episode_length] = True
        else:
            ends = np.flatnonzero(flag_column(columns["terminals"], "terminals")) + 1
            for start, stop in zip([0, *ends], [*ends, rows], strict=True):
                timeouts[start + episode_length - 1 : stop : episode_length] = True
    elif "next_observations" in columns:
        timeouts = _jumps(columns["observations"], columns["next_observations"])
        metadata["timeouts_from_jumps"] = True
    elif "terminals" not in columns:
        raise DataError("no 'terminals', 'timeouts', 'episode' or 'episode_starts', so the ends of episodes are unknown. Add one of them")
    else:
        metadata["timeouts_unknown"] = True
    return timeouts if "terminals" not in columns else timeouts & ~flag_column(columns["terminals"], "terminals")


def _timeouts_beside_names(columns: Mapping[str, Array], rows: int, metadata: dict[str, Any]) -> Array:
    """Returns the logged timeouts, and the ends of named episodes beside them: timeouts may be a column of zeros. Names that tell no ends
    (one an episode, say, or others' rows between theirs) are noted as left out."""
    try:
        ends = _ends_of_names(columns, rows)
    except DataError:
        leave_out(metadata, [name for name in ("episode_starts", "episode") if name in columns])
        return columns["timeouts"]
    if ends is None:
        return columns["timeouts"]
    terminals = flag_column(columns["terminals"], "terminals") if "terminals" in columns else np.zeros(rows, dtype=np.bool_)
    return flag_column(columns["timeouts"], "timeouts") | (ends & ~terminals)


def _ends_of_names(columns: Mapping[str, Array], rows: int) -> Array | None:
    """Returns the last row of each episode, where a column says which row is of which, or begins one; else None."""
    name = next((x for x in ("episode_starts", "episode") if x in columns), None)
    if name is None:
        return None
    values = columns[name]
    if values.shape == (rows, 1):
        values = values[:, 0]
    if values.shape != (rows,):
        raise DataError(f"'{name}' has shape {list(values.shape)} and 'observations' {rows:,} rows; each step needs one")
    ends = np.ones(rows, dtype=np.bool_)
    if name == "episode_starts":
        ends[:-1] = flag_column(values, name)[1:]
        return ends
    names = values if values.dtype.kind in "US" else integer_column(values, name)
    ends[:-1] = names[1:] != names[:-1]
    if int(ends.sum()) != len(np.unique(names)):
        raise DataError("'episode': an episode's rows are not together; sort the log by episode and time")
    return ends


def _jumps(observations: Array, following: Array) -> Array:
    """Returns where the next row is not what was seen next: the rule by which D4RL's users recover lost timeouts."""
    if observations.shape != following.shape:
        raise DataError(f"'next_observations' has shape {list(following.shape)}; expected {list(observations.shape)}")
    jumps = np.zeros(len(observations), dtype=np.bool_)
    jumps[-1:] = True
    for start in range(0, len(observations) - 1, 1 << 16):
        stop = min(start + (1 << 16), len(observations) - 1)
        said, seen = following[start:stop], observations[start + 1 : stop + 1]
        same = np.isclose(said, seen, rtol=1e-6, atol=1e-6, equal_nan=True) if said.dtype.kind == "f" else said == seen
        jumps[start:stop] = ~same.reshape(stop - start, -1).all(1)
    return jumps


def _from_ogbench(columns: Mapping[str, Array], extra: dict[str, Array], spec: Spec | None, metadata: dict[str, Any]) -> Dataset:
    """Returns trajectories whose last row only shows what was seen last; a mask of 0 within one cuts it there."""
    observations = columns["observations"]
    if "terminals" not in columns:
        raise DataError("no 'terminals'; OGBench's layout marks the ends of trajectories there")
    rows = len(observations)
    last = flag_column(columns["terminals"], "terminals").copy()
    if len(last) != rows:
        raise DataError(f"'terminals' has {len(last):,} rows and 'observations' {rows:,}; each step needs one")
    unfinished = not last[-1]
    last[-1] = True
    keep = np.flatnonzero(~last)
    if not len(keep):
        raise DataError("every trajectory has one row, so no transition is left; expected 'terminals' only at the ends of trajectories")
    finished = np.zeros(rows, dtype=np.bool_)
    if "masks" in columns:
        finished = ~flag_column(columns["masks"], "masks")
        if len(finished) != rows:
            raise DataError(f"'masks' has {len(finished):,} rows and 'observations' {rows:,}; each step needs one")
    terminals = finished[keep]
    timeouts = last[keep + 1] & ~terminals
    metadata |= {"layout": "ogbench", "dropped_transitions": int(last.sum())}
    if unfinished and not last[-2]:  # its trajectory keeps a step
        metadata["unfinished_episode"] = int((terminals | timeouts).sum()) - 1
    final = observations[keep[terminals | timeouts] + 1]
    columns = {name: columns[name] for name in ("observations", "actions", "rewards")} | extra
    for name, column in columns.items():
        if len(column) != rows:
            raise DataError(f"'{name}' has {len(column):,} rows and 'observations' {rows:,}; each step needs one")
    kept = {name: column[keep] for name, column in columns.items()}
    flat = (kept.pop("observations"), kept.pop("actions"), kept.pop("rewards"))
    return Dataset.from_flat(*flat, terminals, timeouts, spec, None, final, kept, metadata)
