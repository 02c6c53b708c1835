"""A log of experience: columns of steps, and the offsets at which its episodes begin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from numpy.typing import ArrayLike

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Discrete, Spec

REQUIRED = ("observations", "actions", "rewards", "terminals", "timeouts")

Array = np.ndarray[Any, np.dtype[Any]]


@final
@dataclass(frozen=True)
class Dataset:
    """Episodes of steps. Arrays may be in memory or memory-mapped; nothing here copies them unasked. Stacked frames may be stored once
    (data/frame_stacks.py).

    columns: `observations [N, *O]`, `actions [N, *A]` (int64 `[N]` where discrete), `rewards [N]` float32, `terminals [N]`
        bool (the task ended), `timeouts [N]` bool (the clock did); optional `behaviour_log_probabilities [N]`,
        `groups [N]`, `goals [N, G]`, `infos/<name> [N, …]`.
    offsets: `[E + 1]` int64; episode e is rows offsets[e] … offsets[e + 1] - 1.
    final_observations: `[E, *O]`, what was seen after the last action of each episode.
    metadata: plain JSON values: name, environment, discount, reference returns, provenance.
    """

    spec: Spec
    columns: Mapping[str, Array]
    offsets: Array
    final_observations: Array
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in REQUIRED:
            if name not in self.columns:
                raise DataError(f"the dataset has no column '{name}'; it has {', '.join(map(repr, self.columns)) or 'none'}")
        if self.offsets.ndim != 1 or len(self.offsets) < 2:
            raise DataError("the dataset has 0 episodes; expected at least one step")
        rows = len(self.columns["observations"])
        if self.offsets[0] != 0 or self.offsets[-1] != rows or (np.diff(self.offsets) < 1).any():
            raise DataError(f"episode offsets must rise from 0 to {rows:,} rows; found {self.offsets[0]:,} … {self.offsets[-1]:,}")
        for name, column in self.columns.items():
            if len(column) != rows:
                raise DataError(f"'{name}' has {len(column):,} rows and 'observations' {rows:,}; each step needs one")
        if self.final_observations.shape != (self.episodes, *self.observations.shape[1:]):
            raise DataError(
                f"'final_observations' has shape {list(self.final_observations.shape)}; "
                f"expected {[self.episodes, *self.observations.shape[1:]]}, one for each episode"
            )
        self._check_dtypes()

    def _check_dtypes(self) -> None:
        observation, action = self.spec.observation, self.spec.action
        seen = "int64" if isinstance(observation, Discrete) else observation.dtype
        done = "int64" if isinstance(action, Discrete) else action.dtype
        arrays = {**self.columns, "final_observations": self.final_observations}
        expected = {"observations": seen, "final_observations": seen, "actions": done, "rewards": "float32"}
        for name, dtype in (expected | {"terminals": "bool", "timeouts": "bool"}).items():
            if arrays[name].dtype != np.dtype(dtype):
                raise DataError(f"'{name}' is {arrays[name].dtype}; expected {dtype}. Dataset.from_flat converts columns")
        for name, space in (("observations", observation), ("actions", action)):
            shape = () if isinstance(space, Discrete) else space.shape
            if arrays[name].shape[1:] != shape:
                raise DataError(f"'{name}' has rows of shape {list(arrays[name].shape[1:])}; expected {list(shape)}, as its space says")

    @property
    def observations(self) -> Array:
        """[N, *O]"""
        return self.columns["observations"]

    @property
    def actions(self) -> Array:
        """[N, *A], or int64 [N] where discrete"""
        return self.columns["actions"]

    @property
    def rewards(self) -> Array:
        """float32 [N]"""
        return self.columns["rewards"]

    @property
    def terminals(self) -> Array:
        """bool [N]: the task ended with this step"""
        return self.columns["terminals"]

    @property
    def timeouts(self) -> Array:
        """bool [N]: the clock (or the log) ended with this step"""
        return self.columns["timeouts"]

    @property
    def episodes(self) -> int:
        """The number of episodes E."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """int64 [E]: steps of each episode"""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def returns(self, discount: float = 1.0) -> Array:
        """Returns float64 [E]: the sum over each episode of discount^t · reward."""
        rewards = np.asarray(self.rewards, dtype=np.float64)
        if discount != 1.0:
            step = np.arange(len(self)) - np.repeat(self.offsets[:-1], self.lengths)
            rewards = rewards * np.power(float(discount), step)
        return np.asarray(np.add.reduceat(rewards, self.offsets[:-1]))

    def episode_of(self, indices: ArrayLike) -> Array:
        """Returns int64 [B]: the episode to which each row belongs."""
        return np.searchsorted(self.offsets, np.asarray(indices), side="right") - 1

    def next_observations(self, indices: ArrayLike | slice | None = None) -> Array:
        """Returns [B, *O] (all N rows by default): what was seen after each step, never across an episode's end. A slice must have step 1."""
        if indices is None or isinstance(indices, slice):
            start, stop, step = (indices or slice(None)).indices(len(self))
            if step != 1:
                raise DataError(f"the slice of next observations has step {step}; expected 1. Pass the rows themselves")
            following = np.empty((max(stop - start, 0), *self.observations.shape[1:]), self.observations.dtype)
            known = self.observations[start + 1 : stop + 1]  # the log's last step has no row after it
            following[: len(known)] = known
            ends = self.offsets[1:]
            first, last = np.searchsorted(ends, (start, stop), side="right")
            following[ends[first:last] - 1 - start] = self.final_observations[first:last]
            return following
        rows = np.asarray(indices)
        if rows.size and (rows.min() < -len(self) or rows.max() >= len(self)):
            raise DataError(f"row {int(rows.max()):,} does not exist; the dataset has {len(self):,} steps")
        rows = np.where(rows < 0, rows + len(self), rows).astype(np.int64)
        episode = self.episode_of(rows)
        last = np.atleast_1d(rows + 1 == self.offsets[episode + 1])
        following = np.asarray(self.observations[np.atleast_1d(np.minimum(rows + 1, len(self) - 1))])
        following[last] = self.final_observations[np.atleast_1d(episode)[last]]
        return following.reshape(*rows.shape, *self.observations.shape[1:])

    def episode(self, index: int) -> Dataset:
        """Returns episode `index` alone, as views of this dataset's arrays."""
        if not -self.episodes <= index < self.episodes:
            raise DataError(f"episode {index:,} does not exist; the dataset has {self.episodes:,}")
        return self.select([index % self.episodes])

    def select(self, episode_indices: ArrayLike) -> Dataset:
        """Returns the chosen episodes in the given order: views where they are neighbours, else copies of these rows alone."""
        chosen = np.asarray(episode_indices)
        if chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64).reshape(-1)
        if not len(chosen):
            raise DataError("no episode is selected; expected at least one")
        if chosen.min() < 0 or chosen.max() >= self.episodes:
            raise DataError(f"episodes {chosen.min():,} … {chosen.max():,} are selected; the dataset has 0 … {self.episodes - 1:,}")
        from stitchrl.data.frame_stacks import rows_of_column

        offsets = np.concatenate([[0], np.cumsum(self.lengths[chosen])]).astype(np.int64)
        rows: Any
        if (np.diff(chosen) == 1).all():
            rows = slice(int(self.offsets[chosen[0]]), int(self.offsets[chosen[-1] + 1]))
            kept: Any = slice(chosen[0], chosen[-1] + 1)
        else:
            rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], np.diff(offsets))
            kept = chosen
        final = rows_of_column(self.final_observations, kept)
        columns = {name: rows_of_column(column, rows) for name, column in self.columns.items()}
        return Dataset(self.spec, columns, offsets, final, dict(self.metadata))

    def split(self, fraction: float, seed: int, by: Literal["episode", "group"] = "episode") -> tuple[Dataset, Dataset]:
        """Returns two datasets with no episode (or no group) in common; the first holds `fraction` of them.

        Episodes keep their order. Raises DataError where one of the two would be empty or a group changes within an episode.
        """
        if not 0 < fraction < 1:
            raise DataError(f"split fraction is {fraction}; expected a number between 0 and 1, both excluded")
        if by not in ("episode", "group"):
            raise DataError(f"split by {by!r} is unknown; expected 'episode' or 'group'")
        unit = np.arange(self.episodes) if by == "episode" else self._groups_of_episodes()
        names, unit = np.unique(unit, return_inverse=True)
        if len(names) < 2:
            raise DataError(f"the dataset has only one {by}; a split needs at least two")
        count = min(max(round(fraction * len(names)), 1), len(names) - 1)
        first = np.zeros(len(names), dtype=np.bool_)
        first[np.random.default_rng(seed).permutation(len(names))[:count]] = True
        return self.select(np.flatnonzero(first[unit])), self.select(np.flatnonzero(~first[unit]))

    def _groups_of_episodes(self) -> Array:
        if "groups" not in self.columns:
            raise DataError("the dataset has no column 'groups'; split by='episode', or name the group column when reading the file")
        groups = self.columns["groups"]
        of_episode = groups[self.offsets[:-1]]
        changed = np.flatnonzero(groups != np.repeat(of_episode, self.lengths))
        if len(changed):
            episode = int(self.episode_of(changed[0]))
            raise DataError(
                f"'groups' changes within episode {episode:,} at step {changed[0] - self.offsets[episode]:,}; expected one group"
            )
        return np.asarray(of_episode)

    def column_of(self, told: str) -> str | None:
        """Returns the column that is told by its name, with or without "infos/"; None where there is none."""
        return next((name for name in (told, f"infos/{told}") if name in self.columns), None)

    def fingerprint(self) -> str:
        """Returns the sha256 of spec, columns, offsets and final observations; metadata and storage do not matter."""
        return self._hashed(self.columns, json.dumps(self.spec.to_json(), sort_keys=True))

    def steps_fingerprint(self) -> str:
        """Returns the sha256 of what was done and earned, and of what was seen at the ends of episodes: the same however the log was read."""
        columns = {name: self.columns[name] for name in ("actions", "rewards", "terminals", "timeouts")}
        return self._hashed(columns | {"first_observations": self.observations[self.offsets[:-1]]})

    def groups_fingerprint(self) -> str | None:
        """Returns the sha256 of the groups; None where there are none."""
        return self._hashed({"groups": self.columns["groups"]}) if "groups" in self.columns else None

    def _hashed(self, columns: Mapping[str, Array], beside: str = "") -> str:
        digest = hashlib.sha256(beside.encode())
        arrays = {**{f"columns/{name}": column for name, column in columns.items()}, "offsets": self.offsets}
        arrays["final_observations"] = self.final_observations
        for name in sorted(arrays):
            array = arrays[name]
            digest.update(f"\n{name} {array.dtype.newbyteorder('<').str} {list(array.shape)}\n".encode())
            rows = max(1, (1 << 24) // max(1, array[:1].nbytes))
            for start in range(0, len(array), rows):
                chunk = np.ascontiguousarray(array[start : start + rows])
                digest.update(chunk.astype(chunk.dtype.newbyteorder("<"), copy=False).view(np.uint8).data)
        return digest.hexdigest()

    def save(self, directory: str | Path, overwrite: bool = False) -> None:
        """Writes dataset.json and one .npy for each column; complete or not at all. Raises DataError where something is there."""
        from stitchrl.data.storage import save_dataset

        save_dataset(self, Path(directory), overwrite=overwrite)

    @classmethod
    def open(cls, directory: str | Path) -> Dataset:
        """Returns the dataset saved in `directory`, memory-mapped. Raises DataError for anything that `save` did not write."""
        from stitchrl.data.storage import open_dataset

        return open_dataset(Path(directory))

    @classmethod
    def from_flat(
        cls,
        observations: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        terminals: ArrayLike,
        timeouts: ArrayLike | None = None,
        spec: Spec | None = None,
        next_observations: ArrayLike | None = None,
        final_observations: ArrayLike | None = None,
        extra: Mapping[str, ArrayLike] | None = None,
        metadata: Mapping[str, Any] | None = None,
        transitions: bool = False,
    ) -> Dataset:
        """Returns episodes split after each terminal or timeout; see `data/flat.py` for what becomes of each episode's end.

        All arrays have N rows, `final_observations` one for each episode. `transitions=True`: every row is an episode of
        one step (the log's order means nothing). Raises DataError naming column, episode and step.
        """
        from stitchrl.data.flat import split_flat

        columns = {"observations": observations, "actions": actions, "rewards": rewards, "terminals": terminals}
        arrays = {name: _array(value) for name, value in columns.items()}
        ends = np.zeros(arrays["terminals"].shape, np.bool_) if timeouts is None else _array(timeouts)
        following = None if next_observations is None else _array(next_observations)
        final = None if final_observations is None else _array(final_observations)
        more = {name: _array(value) for name, value in (extra or {}).items()}
        return cls(*split_flat(arrays | {"timeouts": ends}, spec, following, final, more, dict(metadata or {}), transitions))

    @classmethod
    def from_episodes(
        cls, episodes: Iterable[Mapping[str, ArrayLike]], spec: Spec | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Dataset:
        """Returns a dataset of episodes, each with `observations [T + 1, *O]`, `actions`, `rewards`, `terminals` [T] and more.

        `terminals` may be one truth value for the whole episode; an episode that they do not end is a timeout. Further keys are columns of
        T rows.
        Raises DataError naming episode and column.
        """
        from stitchrl.data.flat import join_episodes

        return cls(*join_episodes(list(episodes), spec, dict(metadata or {})))


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """Returns one dataset with all episodes in order. Raises DataError where spaces or columns differ.

    The metadata are the first one's, with the names of all under `concatenated`.
    """
    if not datasets:
        raise DataError("no dataset to concatenate; expected at least one")
    first = datasets[0]
    for number, other in enumerate(datasets[1:], start=1):
        if other.spec != first.spec:
            raise DataError(
                f"dataset {number} has spaces {other.spec}; expected those of dataset 0: {first.spec}. Pass the same spec= to both"
            )
        if set(other.columns) != set(first.columns):
            odd = sorted(set(other.columns) ^ set(first.columns))
            raise DataError(
                f"datasets 0 and {number} do not both have {', '.join(map(repr, odd))}; expected the same columns. Drop it first"
            )
    from stitchrl.data.frame_stacks import concatenate_columns

    seen, final = concatenate_columns(datasets)
    columns = {name: seen if name == "observations" else np.concatenate([d.columns[name] for d in datasets]) for name in first.columns}
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([d.lengths for d in datasets]))]).astype(np.int64)
    names = [d.metadata.get("name") for d in datasets]
    metadata = {**first.metadata, "concatenated": names} if len(datasets) > 1 else dict(first.metadata)
    return Dataset(first.spec, columns, offsets, final, metadata)


def _array(value: ArrayLike) -> Array:
    if isinstance(value, np.ndarray):
        return value  # a memory-mapped column stays one
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(f"rows differ in shape ({str(error)[:120]}); expected one shape for all steps") from None
