"""Stacked frames that are stored once: a column that reads like an array of observations `[N, D, *F]` and holds only the frames.

The first frame of an episode is repeated where a stack would begin before it, as gymnasium's FrameStackObservation does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Space, Spec
from stitchrl.data.dataset import Array, Dataset


@final
@dataclass(frozen=True, eq=False)
class FrameStacks:
    """N observations of D frames each. Reading rows builds their stacks; `take` chooses rows without reading any.

    frames: uint8 `[F, *F]`, in memory or memory-mapped. newest, first: int64 `[N]`, the position of each observation's newest frame and of
    its episode's first.
    """

    frames: Array
    newest: Array
    first: Array
    depth: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.newest), self.depth, *self.frames.shape[1:])

    @property
    def ndim(self) -> int:
        return self.frames.ndim + 1

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.frames.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of one frame a row: what it adds to a log, not what its stacks would take."""
        return len(self.newest) * int(self.frames[:1].nbytes)

    def __len__(self) -> int:
        return len(self.newest)

    def __getitem__(self, rows: Any) -> Array:
        """Returns the stacks `[*, D, *F]` of some rows, as numpy would index them; a tuple goes on into the stacks."""
        inner: tuple[Any, ...] = ()
        if isinstance(rows, tuple):
            rows, inner = rows[0], rows[1:]
        newest, first = np.asarray(self.newest[rows]), np.asarray(self.first[rows])
        position = np.maximum(newest[..., None] + np.arange(1 - self.depth, 1), first[..., None])
        stacks = np.asarray(self.frames[position])
        return stacks[(slice(None),) * newest.ndim + inner] if inner else stacks

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def take(self, rows: Any) -> FrameStacks:
        """Returns some rows, with the same frames behind them."""
        return FrameStacks(self.frames, self.newest[rows], self.first[rows], self.depth)


def rows_of_column(column: Array, rows: Any) -> Array:
    """Returns some rows of a column: a view or copy of an array, and of stacked frames their positions alone."""
    read: Any = column
    chosen: Any = read.take(rows) if isinstance(read, FrameStacks) else read[rows]
    return cast(Array, chosen)


def frames_of(dataset: Dataset) -> FrameStacks | None:
    """Returns a log's observations if their frames are stored once, those of its final observations among them; else None."""
    seen, final = cast(Any, dataset.observations), cast(Any, dataset.final_observations)
    if isinstance(seen, FrameStacks) and isinstance(final, FrameStacks) and seen.frames is final.frames:
        return seen
    return None


def stacks_of_episodes(frames: Array, offsets: Array, depth: int) -> tuple[Array, Array]:
    """Returns observations and final observations of episodes whose frames lie one after another, `[N + E, *F]`: each one's T + 1."""
    lengths = np.diff(offsets)
    starts = offsets[:-1] + np.arange(len(lengths))  # each episode before has one frame more than steps
    first = np.repeat(starts, lengths)
    newest = np.arange(offsets[-1]) + np.repeat(np.arange(len(lengths)), lengths)
    if len(frames) != offsets[-1] + len(lengths):
        raise DataError(
            f"{len(frames):,} frames for {offsets[-1]:,} steps in {len(lengths):,} episodes; expected one more than steps for each"
        )
    return cast(Array, FrameStacks(frames, newest, first, depth)), cast(Array, FrameStacks(frames, starts + lengths, starts, depth))


def episode_frames(dataset: Dataset) -> Array:
    """Returns the positions `[N + E]` in `frames_of(dataset).frames` of the log's frames, episode by episode."""
    final = cast(FrameStacks, dataset.final_observations)
    counts = final.newest - final.first + 1
    ends = np.cumsum(counts)
    return np.asarray(np.arange(ends[-1]) + np.repeat(final.first - (ends - counts), counts))


def frames_in_order(dataset: Dataset) -> Array:
    """Returns the frames `[N + E, *F]` of a log whose frames are stored once, episode by episode: themselves where they lie so already."""
    stacks = cast(FrameStacks, dataset.observations)
    positions = episode_frames(dataset)
    whole = len(positions) == len(stacks.frames) and np.array_equal(positions, np.arange(len(positions)))
    return stacks.frames if whole else np.asarray(stacks.frames[positions])


def stack_frames(dataset: Dataset, depth: int = 4) -> Dataset:
    """Returns a log of single frames with observations of `depth` stacked ones, oldest first, never across the start of an episode.

    Frames are `[H, W]`, `[1, H, W]` or `[H, W, 1]`; the axis of 1 is dropped. Raises DataError for a log whose observations are no frames of
    uint8, coloured, or stacked already.
    """
    sides = _sides(dataset.spec.observation)
    if depth < 1:
        raise DataError(f"a stack of {depth} frames; expected at least 1")
    frames = frames_one_by_one(dataset).reshape(-1, *sides)
    seen, final = stacks_of_episodes(frames, dataset.offsets, depth)
    spec = Spec(Box((depth, *sides), (0.0,), (255.0,), "uint8"), dataset.spec.action)
    return Dataset(spec, {**dataset.columns, "observations": seen}, dataset.offsets, final, dataset.metadata)


def _sides(space: Space) -> tuple[int, ...]:
    """Returns (H, W) of single grey frames. Raises DataError for other observations."""
    if isinstance(space, Box) and space.dtype == "uint8":
        match space.shape:
            case (height, width) | (1, height, width) | (height, width, 1):
                return height, width
            case (3, _, _) | (_, _, 3):
                raise DataError(
                    f"observations are uint8 {list(space.shape)}; expected single grey frames [H, W] to stack. If the 3 are colours, make each "
                    "frame grey and small before converting, for instance with OpenCV: "
                    "cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (84, 84), interpolation=cv2.INTER_AREA)"
                )
    raise DataError(f"observations are {space}; expected single frames [H, W] of uint8 to stack")


def join_frames(episodes: Sequence[Mapping[str, Array]], spec: Spec, depth: int) -> Dataset:
    """Returns episodes as `Dataset.from_episodes` takes them, with single frames `[T + 1, *F]` as observations, in a log of their stacks."""
    shown = [{**episode, "observations": np.zeros((len(episode["observations"]), 1), np.float32)} for episode in episodes]
    log = Dataset.from_episodes(shown, Spec(Box((1,)), spec.action))
    seen, final = stacks_of_episodes(np.concatenate([episode["observations"] for episode in episodes]), log.offsets, depth)
    return Dataset(spec, {**log.columns, "observations": seen}, log.offsets, final, log.metadata)


def cut_observations(dataset: Dataset, steps: int, episode: int) -> tuple[Array, Array]:
    """Returns the observations of a log's first `steps` steps, which end within `episode`, and the final ones of its episodes till then."""
    stacks = frames_of(dataset)
    if stacks is not None:
        ends = cast(FrameStacks, dataset.final_observations)
        newest = np.append(ends.newest[:episode], stacks.newest[steps - 1] + 1)
        final = FrameStacks(stacks.frames, newest, ends.first[: episode + 1], stacks.depth)
        return cast(Array, stacks.take(slice(0, steps))), cast(Array, final)
    last = dataset.next_observations([steps - 1])
    return dataset.observations[:steps].copy(), np.concatenate([dataset.final_observations[:episode], last])


def single_frames(dataset: Dataset) -> Dataset:
    """Returns the log that `stack_frames` made, with its newest frames as observations: the arrays of a file that has no stacks."""
    stacks, space = frames_of(dataset), dataset.spec.observation
    assert stacks is not None and isinstance(space, Box)
    final = cast(FrameStacks, dataset.final_observations)
    columns = {**dataset.columns, "observations": np.asarray(stacks.frames[stacks.newest])}
    spec = Spec(Box(space.shape[1:], space.low, space.high, "uint8"), dataset.spec.action)
    return Dataset(spec, columns, dataset.offsets, np.asarray(stacks.frames[final.newest]), dataset.metadata)


def frames_one_by_one(dataset: Dataset) -> Array:
    """Returns whole observations as frames `[N + E, *O]`, each episode's final one after its others: a copy."""
    lengths, ends = dataset.lengths, dataset.offsets[1:] + np.arange(dataset.episodes)
    frames = np.empty((len(dataset) + dataset.episodes, *dataset.observations.shape[1:]), dataset.observations.dtype)
    for episode, length in enumerate(lengths):
        stop = int(ends[episode])
        frames[stop - int(length) : stop] = dataset.observations[int(dataset.offsets[episode]) : int(dataset.offsets[episode + 1])]
    frames[ends] = dataset.final_observations
    return frames


def concatenate_columns(parts: Sequence[Dataset]) -> tuple[Array, Array]:
    """Returns the observations and final observations of several logs, one after another; stacked frames stay stored once."""
    stacks = [frames_of(part) for part in parts]
    known = [s for s in stacks if s is not None]
    if len(known) < len(parts):
        return np.concatenate([p.observations for p in parts]), np.concatenate([p.final_observations for p in parts])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([p.lengths for p in parts]))]).astype(np.int64)
    if len({id(s.frames) for s in known}) == 1:  # parts of one log: nothing is copied
        finals = [cast(FrameStacks, p.final_observations) for p in parts]
        joined = (
            FrameStacks(s[0].frames, np.concatenate([x.newest for x in s]), np.concatenate([x.first for x in s]), s[0].depth)
            for s in (known, finals)
        )
        seen, final = (cast(Array, x) for x in joined)
        return seen, final
    frames = np.concatenate([frames_in_order(part) for part in parts])
    return stacks_of_episodes(frames, offsets, known[0].depth)
