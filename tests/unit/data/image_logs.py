"""Made-up logs of small frames, each of one shade that tells its number."""

from __future__ import annotations

import numpy as np

from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset

SIDE = 36


def frame(shade: int) -> np.ndarray:
    return np.full((SIDE, SIDE), shade, np.uint8)


def single(lengths: tuple[int, ...] = (3, 2), seed: int = 0) -> Dataset:
    """Episodes whose frames have the shades 0, 1, 2 …, their final ones among them; the last episode ends by the clock."""
    rng = np.random.default_rng(seed)
    episodes, shade = [], 0
    for i, length in enumerate(lengths):
        frames = np.stack([frame((shade + t) % 256) for t in range(length + 1)])
        terminals = np.zeros(length, np.bool_)
        terminals[-1] = i + 1 < len(lengths)
        rewards = rng.standard_normal(length).astype(np.float32)
        episodes.append({"observations": frames, "actions": rng.integers(3, size=length), "rewards": rewards, "terminals": terminals})
        shade += length + 1
    return Dataset.from_episodes(episodes, Spec(Box((SIDE, SIDE), (0.0,), (255.0,), "uint8"), Discrete(3)))


def dense(dataset: Dataset) -> Dataset:
    """The same log with every observation written out."""
    columns = {**dataset.columns, "observations": np.array(dataset.observations)}
    return Dataset(dataset.spec, columns, dataset.offsets, np.array(dataset.final_observations), dict(dataset.metadata))
