"""Gathering: each seed's policy acts in an environment of its own, and its steps become rows of its replay, as a log's would."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from stitchrl.agent import Agent
from stitchrl.core.batch import BatchKind
from stitchrl.core.errors import DataError
from stitchrl.core.randomness import stream_seed
from stitchrl.core.spec import Discrete, Space
from stitchrl.data.dataset import Dataset
from stitchrl.data.replay import Replay
from stitchrl.data.sampling import rows_of
from stitchrl.data.transforms import apply, changed_rewards, undo
from stitchrl.environments.make import make
from stitchrl.evaluation.playing import partly_random

SINGLE = frozenset({"observations", "actions", "rewards", "terminals", "next_observations"})  # known as soon as a step is taken


@final
@dataclass
class Stage:
    """One seed's environment and its episode in flight: what was seen, done and paid, in the task's units."""

    environment: Any
    seed: int
    episode: int = 0
    observations: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def begin(self, observation: Space) -> None:
        """Starts the episode of the present number, decided by it and the seed alone."""
        number = np.random.SeedSequence((stream_seed(self.seed, "environment"), self.episode)).generate_state(1)[0]
        first, _ = self.environment.reset(seed=int(number) % 2**31)
        self.observations, self.actions, self.rewards = [as_logged(first, observation)], [], []

    def step(self, action: np.ndarray, observation: Space) -> tuple[bool, bool]:
        """Takes a step; returns whether the task ended and whether the clock did."""
        seen, reward, terminated, truncated, _ = self.environment.step(int(action) if action.ndim == 0 else action)
        self.observations.append(as_logged(seen, observation))
        self.actions.append(action)
        self.rewards.append(float(np.float32(reward)))
        where = f"in episode {self.episode}, step {len(self.rewards) - 1}"
        if not np.isfinite(self.rewards[-1]):
            raise DataError(f"the environment paid {reward} {where}; rewards must be finite numbers")
        if not np.isfinite(self.observations[-1]).all():  # of an episode's end too, on which nobody acts
            raise DataError(f"the environment showed {self.observations[-1].reshape(-1)[:8]} {where}; observations must be finite numbers")
        return bool(terminated), bool(truncated)


@final
class Gathering:
    """S stages, one a seed, and the replays that they fill. Timeouts are no terminals."""

    def __init__(
        self,
        agent: Agent,
        environment: str,
        options: Mapping[str, Any],
        kind: BatchKind,
        replays: Sequence[Replay],
        *,
        exploration_noise: float,
        epsilon: float,
        reward_bound: float | None = None,
        terminal_reward: float | None = None,
    ) -> None:
        """exploration_noise, epsilon: of deterministic policies, as OnlinePhase has them; stochastic ones are sampled.

        reward_bound, terminal_reward: of what replays hold, as the log does; returns told are the task's own.
        """
        self.agent, self.kind, self.replays = agent, kind, tuple(replays)
        self.exploration_noise, self.epsilon = exploration_noise, epsilon
        self.reward_bound, self.terminal_reward = reward_bound, terminal_reward
        self.name = environment
        self.stages: list[Stage] = []
        # a kind that needs what follows a step (the next action, the return to go) is given whole episodes
        columns = set(kind.columns(agent.spec))
        self.whole_episodes, self.needs_next = not columns <= SINGLE, "next_actions" in columns
        self.finished: list[list[tuple[float, int]]] = [[] for _ in agent.seeds]  # return and length, since they were last told
        try:
            for seed in agent.seeds:
                self.stages.append(Stage(make(environment, **options), seed))
                self.stages[-1].begin(agent.spec.observation)
        except BaseException:
            self.close()
            raise

    def step(self) -> None:
        """Every seed's policy takes one step; those whose episode ends begin the next."""
        actions = self.choose()
        for i, stage in enumerate(self.stages):
            terminal, timeout = stage.step(actions[i], self.agent.spec.observation)
            if not self.whole_episodes:
                self.replays[i].extend(self.rows(stage, len(stage.actions) - 1, terminal))
            if terminal or timeout:
                if self.whole_episodes and (terminal or len(stage.actions) > 1 or not self.needs_next):  # else nothing follows its step
                    self.replays[i].extend(self.rows(stage, 0, terminal))
                self.finished[i].append((sum(stage.rewards), len(stage.rewards)))
                stage.episode += 1
                stage.begin(self.agent.spec.observation)

    def choose(self) -> np.ndarray:
        """Returns the next actions `[S, *A]` in the task's units: sampled, or with noise where the policy is deterministic."""
        agent, space = self.agent, self.agent.spec.action
        seen = np.stack([stage.observations[-1] for stage in self.stages])[:, None]  # [S, 1, *O]
        if agent.stochastic:
            return agent.act(seen, sampled=True)[:, 0]
        actions = agent.act(seen)[:, 0]
        if isinstance(space, Discrete):
            return partly_random(agent, actions[:, None], self.epsilon)[:, 0]
        noise = torch.stack([torch.randn(space.shape, generator=g) for g in agent.generators]).numpy()
        changed = np.clip(apply(agent.transforms, "actions", actions) + self.exploration_noise * noise, -1, 1)
        return undo(agent.transforms, "actions", changed)

    def rows(self, stage: Stage, start: int, terminal: bool) -> Tensor:
        """Returns the packed rows of a stage's steps from `start` to its last, exactly as a log of them is packed."""
        spec, count = self.agent.spec, len(stage.actions) - start
        ends = np.zeros((2, count), bool)
        ends[0 if terminal else 1, -1] = True
        kind = np.int64 if isinstance(spec.action, Discrete) else np.float32
        columns = {
            "observations": np.stack(stage.observations[start:-1]),
            "actions": np.stack(stage.actions[start:]).astype(kind),
            "rewards": np.array(stage.rewards[start:], np.float32),
            "terminals": ends[0],
            "timeouts": ends[1],
        }
        episode = Dataset(spec, columns, np.array([0, count]), stage.observations[-1][None], {"name": self.name})
        episode = changed_rewards(episode, self.reward_bound, self.terminal_reward)
        rows = rows_of(episode, self.kind, self.agent.transforms, torch.device("cpu"), 1 << 62)
        table, position = rows.gather(torch.arange(rows.size))
        return table[position]

    def read(self) -> dict[str, list[float]]:
        """Returns means of return and length of each seed's episodes that ended since the last call, and the count of all that ended."""
        metrics = {"online/episodes": [float(stage.episode) for stage in self.stages]}
        if all(self.finished):
            metrics["online/return"] = [float(np.mean([r for r, _ in episodes])) for episodes in self.finished]
            metrics["online/length"] = [float(np.mean([n for _, n in episodes])) for episodes in self.finished]
            for episodes in self.finished:
                episodes.clear()
        return metrics

    def tensors(self) -> dict[str, Tensor]:
        """Returns replays, random states and episodes in flight by name. An episode is kept as its number and its actions: they bring it back."""
        found: dict[str, Tensor] = {}
        for i, stage in enumerate(self.stages):
            found |= {f"replay/{i}/{name}": value for name, value in self.replays[i].tensors().items()}
            found[f"acting/{i}"] = self.agent.generators[i].get_state()
            found[f"stage/{i}/episode"] = torch.tensor(stage.episode)
            found[f"stage/{i}/observation"] = torch.from_numpy(np.array(stage.observations[-1]))
            found[f"stage/{i}/actions"] = torch.from_numpy(np.array(stage.actions))
            found[f"stage/{i}/rewards"] = torch.tensor(stage.rewards, dtype=torch.float64)
            found[f"stage/{i}/finished"] = torch.tensor(self.finished[i], dtype=torch.float64).reshape(-1, 2)
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from saved tensors: each episode in flight is begun again and its actions repeated.

        An environment that then is not where it was cannot be continued exactly: its episode is left as the clock would, with a warning.
        """
        for i, stage in enumerate(self.stages):
            self.replays[i].restore({name: tensors[f"replay/{i}/{name}"] for name in ("rows", "next")})
            self.agent.generators[i].set_state(tensors[f"acting/{i}"])
            stage.episode = int(tensors[f"stage/{i}/episode"])
            self.finished[i] = [(float(r), int(n)) for r, n in tensors[f"stage/{i}/finished"].tolist()]
            if not self._repeat(stage, {name: tensors[f"stage/{i}/{name}"].numpy() for name in ("observation", "actions", "rewards")}):
                warnings.warn(
                    f"{self.name}: the episode in flight of seed {stage.seed} could not be brought back by repeating its actions; a new one is "
                    "begun, so that this run is not exactly the uninterrupted one",
                    stacklevel=2,
                )
                stage.episode += 1
                stage.begin(self.agent.spec.observation)

    def _repeat(self, stage: Stage, saved: Mapping[str, np.ndarray]) -> bool:
        stage.begin(self.agent.spec.observation)
        for action in saved["actions"]:
            if any(stage.step(action, self.agent.spec.observation)):
                return False
        return np.array_equal(stage.observations[-1], saved["observation"]) and stage.rewards == saved["rewards"].tolist()

    def close(self) -> None:
        """Closes the environments."""
        for stage in self.stages:
            stage.environment.close()


def as_logged(observation: Any, space: Space) -> np.ndarray:
    """Returns an observation as a log of the space holds it: a copy, since an environment may write into what it gave."""
    return np.array(observation, dtype=np.int64 if isinstance(space, Discrete) else space.dtype)
