"""Logs whose every number tells where it came from, and the transitions they were made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset

Array = np.ndarray[Any, np.dtype[Any]]


class Stream(NamedTuple):
    """What an environment produced: a list of episodes, each with T + 1 observations, and how each ended."""

    observations: list[Array]
    actions: list[Array]
    rewards: list[Array]
    ended: list[bool]  # the task ended (else the clock did)

    @property
    def steps(self) -> int:
        return sum(len(x) for x in self.rewards)

    def flat(self) -> dict[str, Array]:
        """Returns columns without final observations."""
        last = np.concatenate([np.arange(len(x)) == len(x) - 1 for x in self.rewards])
        ended = np.repeat(self.ended, [len(x) for x in self.rewards])
        return {
            "observations": np.concatenate([x[:-1] for x in self.observations]),
            "actions": np.concatenate(self.actions),
            "rewards": np.concatenate(self.rewards),
            "terminals": last & ended,
            "timeouts": last & ~ended,
        }

    @property
    def following(self) -> Array:
        return np.concatenate([x[1:] for x in self.observations])

    @property
    def final(self) -> Array:
        return np.stack([x[-1] for x in self.observations])

    def dataset(self, spec: Spec, **options: Any) -> Dataset:
        flat = self.flat()
        return Dataset.from_flat(**flat, spec=spec, final_observations=self.final, **options)

    def transitions(self, drop_unknown: bool = False, where: Array | None = None) -> set[tuple[Any, ...]]:
        """Returns (s, a, r, s', terminal) of every step; with `drop_unknown` not of those whose s' a flat log does not tell."""
        found = set()
        for s, a, r, ended in zip(self.observations, self.actions, self.rewards, self.ended, strict=True):
            for t in range(len(r)):
                last = t == len(r) - 1
                if drop_unknown and last and not ended:
                    continue
                unknown = drop_unknown and last
                found.add((_key(s[t]), _key(a[t]), float(r[t]), _key(s[t + 1]) if not unknown else "unknown", last and ended))
        return found


def transitions_of(dataset: Dataset, unknown_finals: bool = False) -> set[tuple[Any, ...]]:
    """Returns (s, a, r, s', terminal) of every step of a dataset."""
    found = set()
    following = dataset.next_observations()
    for i in range(len(dataset)):
        terminal = bool(dataset.terminals[i])
        s_next = "unknown" if unknown_finals and terminal else _key(following[i])
        found.add((_key(dataset.observations[i]), _key(dataset.actions[i]), float(dataset.rewards[i]), s_next, terminal))
    return found


def _key(values: Any) -> tuple[float, ...]:
    return tuple(np.asarray(values).reshape(-1).tolist())


@st.composite
def streams(draw: st.DrawFn, discrete: bool | None = None, least: int = 1) -> tuple[Stream, Spec]:
    """Draws a stream whose observations count up from 1, so that no two are alike, and its spec."""
    discrete = draw(st.booleans()) if discrete is None else discrete
    lengths = draw(st.lists(st.integers(least, 6), min_size=1, max_size=5))
    ended = draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    width = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**16))
    generator, count = np.random.default_rng(seed), 1
    observations, actions, rewards = [], [], []
    for length in lengths:
        first = np.arange(count, count + length + 1, dtype=np.float32)
        count += length + 1
        observations.append(first[:, None] + np.arange(width, dtype=np.float32) / 8)
        actions.append(generator.integers(0, 3, length) if discrete else generator.uniform(-1, 1, (length, 2)).astype(np.float32))
        rewards.append(generator.standard_normal(length).astype(np.float32))
    spec = Spec(Box((width,)), Discrete(3) if discrete else Box((2,), (-1.0,), (1.0,)))
    return Stream(observations, actions, rewards, ended), spec


def rich_dataset(stream: Stream, spec: Spec) -> Dataset:
    """Returns the stream's dataset with every optional column."""
    n = stream.steps
    extra = {
        "behaviour_log_probabilities": -np.arange(n, dtype=np.float32) / 16,
        "groups": np.repeat(np.arange(len(stream.rewards)), [len(x) for x in stream.rewards]),
        "goals": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        "infos/policy": np.arange(n) % 4,
    }
    return stream.dataset(spec, extra=extra, metadata={"name": "counted", "discount": 0.9, "reference": None})
