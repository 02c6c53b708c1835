"""Collecting: environment × behaviour → Dataset, the same one for the same seed, with its provenance."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, final

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Discrete, Space, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.frame_stacks import cut_observations, join_frames
from stitchrl.environments.atari import frame_stack
from stitchrl.environments.behaviours import Behaviour
from stitchrl.environments.clock import endless, longest_episode, name_of
from stitchrl.environments.make import make, mdp_of, spec_of

Array = np.ndarray[Any, np.dtype[Any]]

_ROBOTICS = ("PointMaze", "PointFork", "AntMaze", "Adroit", "Fetch")  # how environments of gymnasium-robotics begin


def collect(
    environment: str,
    behaviour: Behaviour,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    parallel: int = 8,
    discount: float = 0.99,
    name: str | None = None,
    reference: Mapping[str, float] | None = None,
) -> Dataset:
    """Returns a log of `behaviour` in `environment` (an id for `make`, with its `options`): this many episodes, or this many steps.

    An episode's last observation is kept. `terminals`: the task ended; `timeouts`: the environment's clock did and the task did not;
    with `steps`, the last episode may be cut there, as a timeout. Columns beside the required ones: `behaviour_log_probabilities`
    where the behaviour knows them, `infos/policy_id` for mixtures, `infos/success` where the environment tells.
    Reproducible: episode i is reset with a seed made of (seed, i), and `parallel` episodes share a generator made of (seed, block),
    so the log depends on the seed and `parallel`, not on the machine's speed. Exactly solvable tasks under tables of
    probabilities are sampled all at once, where `parallel` does not matter. discount: what the metadata say of the task; our own
    tasks know theirs. Raises ConfigError.
    """
    _check_request(episodes, steps, parallel, seed)
    options = dict(options or {})
    with closing(make(environment, **options)) as world:
        spec, mdp = spec_of(world), mdp_of(world)
        limit = world.spec.max_episode_steps if world.spec is not None else None
        if mdp is not None:
            discount = mdp.discount
        log = _sample(mdp, behaviour, episodes, steps, seed, limit)
        if log is None:
            log = _Walk(environment, options, world, spec, behaviour, seed, parallel).collect(episodes, steps)
    if steps is not None:
        log = _cut(log, steps)
    metadata = {
        "name": name or environment,
        "environment": environment,
        "environment_options": options,
        "discount": discount,
        "reference": None if reference is None else dict(reference),
        "provenance": _provenance(environment, behaviour, seed, episodes, steps, parallel),
    }
    return Dataset(log.spec, log.columns, log.offsets, log.final_observations, metadata)


def _check_request(episodes: int | None, steps: int | None, parallel: int, seed: int) -> None:
    if (episodes is None) == (steps is None):
        raise ConfigError(f"collect got episodes={episodes} and steps={steps}; expected exactly one of the two")
    if (episodes or steps or 0) < 1 or parallel < 1:
        raise ConfigError(f"collect got episodes={episodes}, steps={steps}, parallel={parallel}; expected at least 1")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; expected an integer of at least 0")


def _sample(mdp: Any, behaviour: Behaviour, episodes: int | None, steps: int | None, seed: int, limit: int | None) -> Dataset | None:
    """The fast way, where the task is a table and so is the behaviour; None elsewhere."""
    from stitchrl.data.dataset import concatenate
    from stitchrl.environments.tabular_logs import sample_log, tables_of

    found = None if mdp is None else tables_of(behaviour, mdp.states)
    if found is None:
        return None
    weights, tables = found
    if tables.shape[1:] != (mdp.states, mdp.actions):
        raise ConfigError(f"the behaviour's table has shape {list(tables.shape[1:])}; the task needs {[mdp.states, mdp.actions]}")
    generator = np.random.default_rng(np.random.SeedSequence([seed]))
    if episodes is not None:
        return sample_log(mdp, weights, tables, episodes, generator, limit)
    parts: list[Dataset] = []
    while sum(len(part) for part in parts) < (steps or 0):
        parts.append(sample_log(mdp, weights, tables, max(1, (steps or 0) // 50), generator, limit))
    return concatenate(parts)


@final
class _Walk:
    """Stepping copies of an environment, `parallel` episodes to a block, until there are enough."""

    def __init__(
        self, environment: str, options: dict[str, Any], first: Any, spec: Spec, behaviour: Behaviour, seed: int, parallel: int
    ) -> None:
        self.spec, self.behaviour, self.seed = spec, behaviour, seed
        self.depth = frame_stack(first)
        self.worlds, self.others = [first], [partial(make, environment, **options)] * (parallel - 1)

    def collect(self, episodes: int | None, steps: int | None) -> Dataset:
        """Returns the first `episodes`, or at least `steps` steps, in the order in which they were started."""
        found: list[dict[str, Array]] = []
        total, block = 0, 0
        with ExitStack() as stack:
            self.worlds += [stack.enter_context(closing(opens())) for opens in self.others]
            while len(found) < (episodes or 0) or total < (steps or 0):
                count = len(self.worlds) if episodes is None else min(len(self.worlds), episodes - len(found))
                # one step more than can be of use: where such an episode is cut is left to who asked for steps
                new = self._block(block, count, None if steps is None else steps - total + 1)
                found += new
                total += sum(len(episode["rewards"]) for episode in new)
                block += 1
        return Dataset.from_episodes(found, self.spec) if self.depth is None else join_frames(found, self.spec, self.depth)

    def _block(self, block: int, count: int, longest: int | None) -> list[dict[str, Array]]:
        """Returns `count` episodes, each to its end or its first `longest` steps."""
        endless_from = longest_episode(self.worlds[0])
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, 1, block]))
        first = block * len(self.worlds)
        seeds = [int(np.random.SeedSequence([self.seed, 0, first + i]).generate_state(1)[0]) for i in range(count)]
        worlds = self.worlds[:count]
        seen = _rows([world.reset(seed=s)[0] for world, s in zip(worlds, seeds, strict=True)], self.spec.observation)
        logs = [_Episode(row.copy(), self.depth is not None) for row in seen]  # `seen` is written over, step by step
        self.behaviour.reset(np.ones(count, np.bool_))
        running = np.ones(count, np.bool_)
        step = 0
        while running.any():
            if longest is None and step >= endless_from:
                raise endless(name_of(self.worlds[0]))
            step += 1
            actions, logs_p = self.behaviour.act(seen, generator)
            actions = _rows(actions, self.spec.action)
            if len(actions) != count:
                raise ConfigError(f"the behaviour ({self.behaviour.description}) returned {len(actions)} actions for {count} observations")
            ids = self.behaviour.policy_ids()
            for i in np.flatnonzero(running):
                result = worlds[i].step(int(actions[i]) if isinstance(self.spec.action, Discrete) else actions[i])
                row = _rows([result[0]], self.spec.observation)[0]
                logs[i].add(row, actions[i], result, None if logs_p is None else logs_p[i], None if ids is None else ids[i])
                seen[i] = row
                running[i] = not (result[2] or result[3]) and step != longest
        return [log.columns() for log in logs]


@final
class _Episode:
    """The steps of one episode, as they come."""

    def __init__(self, observation: Array, stacked: bool = False) -> None:
        self.stacked = stacked  # of each stack of frames only the newest is kept: the others were kept before it
        self.observations: list[Array] = [self._kept(observation)]
        self.steps: dict[str, list[Any]] = {}

    def add(self, following: Array, action: Array, result: tuple[Any, ...], log_probability: float | None, policy_id: int | None) -> None:
        _, reward, terminal, timeout, info = result
        self.observations.append(self._kept(following))
        values = {"actions": action, "rewards": reward, "terminals": bool(terminal), "timeouts": bool(timeout) and not terminal}
        if log_probability is not None:
            values["behaviour_log_probabilities"] = log_probability
        if policy_id is not None:
            values["infos/policy_id"] = policy_id
        success = info.get("success", info.get("is_success"))
        if success is not None:
            values["infos/success"] = bool(success)
        for name, value in values.items():
            self.steps.setdefault(name, []).append(value)

    def _kept(self, observation: Array) -> Array:
        return observation[-1].copy() if self.stacked else observation

    def columns(self) -> dict[str, Array]:
        dtypes = {"rewards": np.float32, "behaviour_log_probabilities": np.float32, "infos/policy_id": np.int64}
        columns = {name: np.asarray(values, dtypes.get(name)) for name, values in self.steps.items()}
        short = [name for name, column in columns.items() if len(column) != len(self.observations) - 1]
        if short:
            raise ConfigError(f"{short[0]!r} was told for {len(columns[short[0]])} of {len(self.observations) - 1} steps of an episode")
        return {"observations": np.stack(self.observations), **columns}


def _rows(values: Any, space: Space) -> Array:
    return np.array(values, np.int64 if isinstance(space, Discrete) else space.dtype)


def _cut(log: Dataset, steps: int) -> Dataset:
    """The first `steps` steps; the episode in which they end is closed by a timeout, unless it ends there by itself."""
    episode = int(log.episode_of(steps - 1))
    columns = {name: column[:steps].copy() for name, column in log.columns.items() if name != "observations"}
    columns["observations"], final = cut_observations(log, steps, episode)
    columns["timeouts"][-1] = not columns["terminals"][-1]
    offsets = np.append(log.offsets[: episode + 1], steps)
    return Dataset(log.spec, columns, offsets, final, log.metadata)


def _provenance(
    environment: str, behaviour: Behaviour, seed: int, episodes: int | None, steps: int | None, parallel: int
) -> dict[str, Any]:
    packages = {"gymnasium", "numpy"}
    packages |= {"gymnasium-robotics", "mujoco"} if environment.removeprefix("stitchrl/").startswith(_ROBOTICS) else set()
    packages |= {"ale-py", "opencv-python-headless"} if environment.startswith("ALE/") else set()
    packages |= {"highway-env"} if "ighway" in environment else set()
    packages |= {"icu-sepsis"} if "Sepsis" in environment else set()
    versions = {"python": sys.version.split()[0]}
    for package in sorted(packages | ({"mujoco"} if "mujoco" in sys.modules else set())):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    amount = f"episodes={episodes}" if episodes is not None else f"steps={steps}"
    return {
        "behaviour": behaviour.description,
        "seed": seed,
        "amount": amount,
        "parallel": parallel,
        "versions": versions,
        "command": " ".join(sys.argv)[:500],
    }
