"""Rollouts: what a policy earns in an environment, for S policies (training seeds) at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.environments.clock import endless
from stitchrl.evaluation.references import Reference, normalized_score
from stitchrl.evaluation.slots import Environment, Slots, Success

Act = Callable[[np.ndarray, np.ndarray], np.ndarray]  # observations [S, N, *O], episode_start [S, N] -> actions [S, N, *A]


@final
@dataclass(frozen=True)
class Rollout:
    """Episodes in the order they were started, so that short ones are no likelier to be counted."""

    returns: np.ndarray  # [S, episodes] undiscounted
    discounted_returns: np.ndarray  # [S, episodes]
    lengths: np.ndarray  # [S, episodes] steps
    terminals: np.ndarray  # [S, episodes] bool: the task ended the episode, not the clock
    successes: np.ndarray | None  # [S, episodes] bool: success at any step; None where the environment does not tell
    seconds: float
    complete: bool  # False when stopped early; then only the longest finished run of first episodes is kept
    tasks: int = 1  # that the environment goes through in turn: episode k is of number k modulo these

    @property
    def episodes(self) -> int:
        return int(self.returns.shape[1])

    def success_by_task(self) -> np.ndarray | None:
        """Returns `[S, tasks]`, the share of each task's episodes that succeed; None where it is not told, or there is one task.

        Of fewer episodes than tasks only the first are judged.
        """
        if self.successes is None or self.tasks < 2:
            return None
        return np.stack([self.successes[:, k :: self.tasks].mean(1) for k in range(min(self.tasks, self.episodes))], 1)

    def record(
        self,
        *,
        step: int,
        seconds: float,
        environment: str,
        reference: Reference | None = None,
        exact_value: Sequence[float] | None = None,
        believed_value: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """The line of evaluations.jsonl. `seconds` is the training time so far; the rollout's own is `rollout_seconds`."""
        normalized = None if reference is None else normalized_score(self.returns, reference).tolist()
        by_task = self.success_by_task()
        return {
            "step": step,
            "seconds": seconds,
            "environment": environment,
            "episodes": self.episodes,
            "rollout_seconds": self.seconds,
            "returns": self.returns.tolist(),
            "discounted_returns": self.discounted_returns.tolist(),
            "lengths": self.lengths.tolist(),
            "successes": None if self.successes is None else self.successes.astype(int).tolist(),
            "normalized": normalized,
            "exact_value": None if exact_value is None else [float(x) for x in exact_value],
            "believed_value": None if believed_value is None else [float(x) for x in believed_value],
        } | ({} if by_task is None else {"success_by_task": by_task.tolist()})


def episode_seed(seed: int, policy: int, episode: int) -> int:
    """The number that resets episode `episode` of policy `policy`: a hash, so that neighbours are unrelated."""
    return int(np.random.SeedSequence((seed, policy, episode)).generate_state(1)[0])


def rollout(
    act: Act,
    environment: Environment | Slots,
    *,
    episodes: int = 10,
    seeds: int | Sequence[int] = 1,
    seed: int = 0,
    discount: float = 1.0,
    parallel: int = 16,
    processes: int | None = None,
    max_steps: int | None = None,
    success: Success = "info",
    environment_options: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] | None = None,
    earned: Callable[[np.ndarray], None] | None = None,
) -> Rollout:
    """Returns, lengths and successes of exactly `episodes` episodes for each of S policies.

    act: actions in the environment's own units for all S x N slots; `episode_start` marks slots whose episode just began.
    environment: an id, a function that opens one, or open `Slots` (S x N of them, kept open) to evaluate again and again.
    seeds: S, or the S policies' own seed numbers. Episode k of policy p is reset by (seed, p, k) alone, so that results do not
        depend on `parallel`, `processes`, or on which policies are evaluated together, if `act` treats rows independently.
    parallel: N, environments for each policy; never more than `episodes`.
    max_steps: a time limit where the environment has none. A time limit just ends the episode; nothing is bootstrapped. Where neither
        gives one, an episode that does not end is a ConfigError.
    should_stop: asked before every step; when true, what has finished comes back with complete=False.
    earned: told after every step what all S x N slots' actions earned, `[S, N]`, 0 in idle ones: for policies that read rewards.
    """
    policies = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not isinstance(episodes, int) or not isinstance(parallel, int):
        raise ConfigError(f"episodes is {episodes!r} and parallel {parallel!r}; expected whole numbers")
    if episodes < 1 or not policies or parallel < 1 or not 0 <= discount <= 1:
        raise ConfigError(
            f"rollout of {episodes} episodes, {len(policies)} policies, {parallel} parallel environments, discount {discount}; "
            "expected at least one of each and a discount from 0 to 1"
        )
    width = min(parallel, episodes)
    if isinstance(environment, Slots):
        if environment.count % len(policies):
            raise ConfigError(f"{environment.count} open slots for {len(policies)} policies; expected a multiple")
        return _Run(act, environment, policies, episodes, seed, discount, max_steps, earned).play(should_stop)
    count = len(policies) * width
    with Slots(environment, count, processes=processes, success=success, environment_options=environment_options) as slots:
        return _Run(act, slots, policies, episodes, seed, discount, max_steps, earned).play(should_stop)


@final
class _Run:
    """One rollout under way. Slot s * N + n runs episodes of policy s; a slot that ends takes its policy's next unstarted episode."""

    def __init__(
        self, act: Act, slots: Slots, policies: list[int], episodes: int, seed: int, discount: float, max_steps: int | None,
        earned: Callable[[np.ndarray], None] | None,
    ) -> None:  # fmt: skip
        self.earned = earned
        self.act, self.slots, self.policies, self.seed = act, slots, policies, seed
        self.episodes, self.discount, self.max_steps = episodes, discount, max_steps
        count, shape = len(policies), (len(policies), episodes)
        self.width = slots.count // count
        self.returns, self.discounted, self.lengths = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
        self.terminals, self.finished = np.zeros(shape, bool), np.zeros(shape, bool)
        self.successes = np.full(shape, -1, np.int8)
        self.observations = np.zeros((slots.count, *slots.observation_shape), slots.observation_dtype)
        self.start = np.zeros(slots.count, bool)
        self.policy_of = np.arange(slots.count) // self.width
        self.episode_of = np.full(slots.count, -1)  # -1: idle
        self.upcoming = [0] * count

    def play(self, should_stop: Callable[[], bool] | None) -> Rollout:
        began = time.perf_counter()
        self._assign(range(self.slots.count))
        stopped = False
        while (active := np.flatnonzero(self.episode_of >= 0)).size:
            if should_stop is not None and should_stop():
                stopped = True
                break
            self._step(active)
        kept = self.episodes if not stopped else int(np.argmin(np.append(self.finished.all(0), False)))
        known = (self.successes[:, :kept] >= 0).any()
        return Rollout(
            returns=self.returns[:, :kept],
            discounted_returns=self.discounted[:, :kept],
            lengths=self.lengths[:, :kept],
            terminals=self.terminals[:, :kept],
            successes=self.successes[:, :kept] == 1 if known else None,
            seconds=time.perf_counter() - began,
            complete=not stopped,
            tasks=self.slots.tasks,
        )

    def _assign(self, ended: Sequence[int] | range | np.ndarray) -> None:
        """Give each slot its policy's next episode; a slot left without one is idle and keeps its last observation."""
        indices, seeds = [], []
        for i in (int(i) for i in ended):
            s = int(self.policy_of[i])
            k = self.upcoming[s]
            if k >= self.episodes:
                self.episode_of[i] = -1
                continue
            self.upcoming[s] += 1
            self.episode_of[i] = k
            indices.append(i)
            seeds.append(episode_seed(self.seed, self.policies[s], k))
        if indices:
            self.observations[indices] = self.slots.reset(indices, seeds, self.episode_of[indices].tolist())
            self.start[indices] = True

    def _step(self, active: np.ndarray) -> None:
        grid = (len(self.policies), self.width)
        actions = np.asarray(self.act(self.observations.reshape(*grid, *self.observations.shape[1:]), self.start.reshape(grid)))
        if actions.shape[:2] != grid:
            raise ConfigError(f"the policy returned actions of shape {actions.shape}; expected [{grid[0]}, {grid[1]}, …] for [S, N]")
        chosen = actions.reshape(-1, *actions.shape[2:])[active]
        if chosen.dtype.kind == "f" and not np.isfinite(chosen).all():
            raise ConfigError(
                f"the policy returned an action that is not finite at step {int(self.lengths.max())}; was its training stable?"
            )
        self.start = np.zeros_like(self.start)  # not in place: a policy may keep what it was given
        self.observations = self.observations.copy()
        result = self.slots.step(active.tolist(), chosen)
        s, k = self.policy_of[active], self.episode_of[active]
        if self.earned is not None:
            rewards = np.zeros(self.slots.count)
            rewards[active] = result.rewards
            self.earned(rewards.reshape(grid))
        self.returns[s, k] += result.rewards
        self.discounted[s, k] += result.rewards * self.discount ** self.lengths[s, k]
        self.lengths[s, k] += 1
        self.successes[s, k] = np.maximum(self.successes[s, k], result.successes)
        self.observations[active] = result.observations
        ended = result.terminals | result.timeouts
        if self.max_steps is not None:
            ended = ended | (self.lengths[s, k] >= self.max_steps)
        elif (~ended & (self.lengths[s, k] >= self.slots.longest_episode)).any():
            raise endless(self.slots.name)
        if ended.any():
            self.terminals[s[ended], k[ended]] = result.terminals[ended]
            self.finished[s[ended], k[ended]] = True
            self._assign(active[ended])
