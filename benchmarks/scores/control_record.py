"""Flat logs, evaluation episodes and raw results files: what score runs share; of control's, every library's, so that only the learner differs.

Needs numpy and gymnasium alone, and no package of ours, so that it also runs in the peers' environment.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]
IDENTITY = ("library", "version", "algorithm", "data", "seed", "steps", "settings")


@dataclass(frozen=True)
class FlatLog:
    """Columns of N steps in E episodes; `ends[e]` is the row after episode e's last, `final_observations[e]` what followed that row."""

    observations: NDArray[np.float32]  # [N, O]
    actions: NDArray[np.float32]  # [N, A]
    rewards: NDArray[np.float32]  # [N]
    terminals: NDArray[np.bool_]  # [N]
    final_observations: NDArray[np.float32]  # [E, O]
    ends: NDArray[np.int64]  # [E]

    def bounds(self) -> list[tuple[int, int]]:
        """Returns each episode's first row and the row after its last."""
        ends = self.ends.tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def returns(self) -> NDArray[np.float64]:
        """Returns each episode's undiscounted return [E]."""
        return np.array([self.rewards[start:stop].sum(dtype=np.float64) for start, stop in self.bounds()])

    def next_observations(self) -> NDArray[np.float32]:
        """Returns what followed every row [N, O]; at an episode's last row its final observation."""
        following = np.roll(self.observations, -1, axis=0)
        following[self.ends - 1] = self.final_observations
        return following


def read_flat_log(path: Path) -> FlatLog:
    """Returns the log of a flat npz file; raises ValueError if its rows do not end with an episode or final observations do not match."""
    with np.load(path, allow_pickle=False) as columns:
        ends = np.flatnonzero(columns["terminals"] | columns["timeouts"]) + 1
        log = FlatLog(
            observations=columns["observations"].astype(np.float32),
            actions=columns["actions"].astype(np.float32),
            rewards=columns["rewards"].astype(np.float32),
            terminals=columns["terminals"].astype(np.bool_),
            final_observations=columns["final_observations"].astype(np.float32),
            ends=ends,
        )
    steps = len(log.rewards)
    if not len(ends) or ends[-1] != steps:
        raise ValueError(f"{path}: the last of {steps} rows ends no episode; expected a terminal or a timeout there.")
    if len(log.final_observations) != len(ends):
        raise ValueError(f"{path}: {len(log.final_observations)} final observations for {len(ends)} episodes; expected one each.")
    return log


def evaluate_episodes(
    act: Callable[[NDArray[np.float32]], NDArray[np.float32]], environment: str, seed: int, episodes: int = 20
) -> list[float]:
    """Returns the undiscounted returns of `episodes` consecutive episodes; only the first reset is seeded, with 1000 + seed."""
    import gymnasium

    task = gymnasium.make(environment)
    returns = []
    for episode in range(episodes):
        observation, _ = task.reset(seed=1000 + seed if episode == 0 else None)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = task.step(act(np.asarray(observation, np.float32)))
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    task.close()
    return returns


def is_recorded(path: Path, row: Row) -> bool:
    """Returns whether the raw file has a row with the same library, version, algorithm, data, seed, steps and settings."""
    wanted = json.loads(json.dumps({key: row[key] for key in IDENTITY}))
    return any({key: old.get(key) for key in IDENTITY} == wanted for old in read_rows(path))


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a raw file, none where there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def append_row(path: Path, row: Row) -> None:
    """Returns nothing; adds one JSON line, whole even when several processes write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")
        file.flush()


def mean_and_error(values: Sequence[float], digits: int = 0) -> str:
    """Returns `mean ± standard error` over seeds; of one seed its value alone, of none a dash."""
    if not len(values):
        return "–"
    error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"
