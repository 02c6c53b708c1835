"""Learning from an environment: the same learner and step, its batches from a replay that its own policy fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.core import randomness
from stitchrl.core.errors import ConfigError
from stitchrl.core.randomness import stream_seed
from stitchrl.core.settings import Count, Fraction, check_settings
from stitchrl.core.spec import Discrete, Spec
from stitchrl.data import transforms as scales
from stitchrl.data.replay import Replay
from stitchrl.data.sampling import row_width
from stitchrl.environments.make import make, spec_of
from stitchrl.training import seeds
from stitchrl.training.learner import Learner, Training


@final
@dataclass(frozen=True)
class Online:
    """How an agent gathers its own steps. `Training.steps` counts environment steps."""

    random_steps: Count = 1_000
    """uniformly random actions before the policy acts and learning begins"""
    updates_per_step: Count = 1
    capacity: Count = 1_000_000
    epsilon_start: Fraction = 1.0
    """share of random actions, for discrete actions, going linearly to …"""
    epsilon_end: Fraction = 0.05
    epsilon_steps: Count = 10_000
    """… this one, over so many steps"""


@final
class OnlineLearner:
    """One seed of an algorithm that acts, remembers and learns."""

    def __init__(
        self, algorithm: str, settings: Any, environment: str, seed: int, training: Training, online: Online, device: torch.device,
        options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """options: of the environment."""
        kind, _ = algorithms.find(algorithm)
        check_settings(online, "online")
        if not kind.online:
            able = [name for name in algorithms.names() if algorithms.find(name)[0].online]
            raise ConfigError(f"'{algorithm}' does not learn online; choose from {', '.join(able)}")
        self.algorithm = algorithm
        self.environment = make(environment, **(options or {}))
        self.spec: Spec = spec_of(self.environment)
        if kind.action_space not in ("any", "discrete" if isinstance(self.spec.action, Discrete) else "box"):
            raise ConfigError(f"'{algorithm}' does not learn actions such as those of {environment}: it needs {kind.action_space} ones")
        self.transforms = scales.scale_action_space(self.spec)
        self.online, self.seed = online, seed
        inner = scales.learner_spec(self.spec, self.transforms)
        self.replay = Replay(min(online.capacity, training.steps), row_width(kind.batch, inner), device)
        self.learner = Learner(kind, settings, inner, self.replay, [seed], training, device)
        self.policy = self.learner.template.policy()
        self.random = np.random.default_rng(stream_seed(seed, "acting"))
        self.generator = randomness.generator(seed, "acting")
        self.steps, self.total = 0, 0.0
        self.observation, _ = self.environment.reset(seed=stream_seed(seed, "environment") % 2**31)

    def agent(self) -> Agent:
        """Returns the policy as it is now."""
        learner = self.learner
        return Agent(self.algorithm, learner.template, learner.update.parameters, self.spec, self.transforms, [self.seed])

    def evaluate(self, environment: str, episodes: int) -> float:
        """Returns the mean return of episodes without exploration, the same ones each time."""
        agent, total = self.agent(), 0.0
        with closing(make(environment)) as world:
            for episode in range(episodes):
                observation, _ = world.reset(seed=episode)
                over = False
                while not over:
                    observation, reward, terminated, truncated, _ = world.step(agent.predict(np.asarray(observation)[None])[0])
                    total += float(reward)
                    over = terminated or truncated
        return total / episodes

    def run(self, steps: int, watch: Callable[[int, float], None] | None = None) -> None:
        """Goes on to this many environment steps, learning after each; `watch(step, return)` is told of every finished episode."""
        while self.steps < steps:
            action, seen = self._choose(), np.array(self.observation)  # a copy: the environment may write into what it gave
            self.observation, reward, terminated, truncated, _ = self.environment.step(self._outside(action))
            self.replay.add(self._row(seen, action, float(reward), bool(terminated), self.observation))
            self.total += float(reward)
            self.steps += 1
            if self.steps >= self.online.random_steps:
                for _ in range(self.online.updates_per_step):
                    self.learner.advance()
            if terminated or truncated:
                if watch is not None:
                    watch(self.steps, self.total)
                self.observation, _ = self.environment.reset()
                self.total = 0.0
        self.learner.check()

    def _choose(self) -> np.ndarray:
        """The next action as the learner sees it: in [-1, 1], or an integer."""
        space = self.spec.action
        if isinstance(space, Discrete):
            o = self.online
            share = o.epsilon_start + (o.epsilon_end - o.epsilon_start) * min(1.0, self.steps / o.epsilon_steps)
            if self.steps < o.random_steps or self.random.random() < share:
                return np.asarray(self.random.integers(space.n))
        elif self.steps < self.online.random_steps:
            return self.random.uniform(-1, 1, space.shape).astype(np.float32)
        x = torch.as_tensor(np.asarray(self.observation)[None])
        weight = next(iter(self.learner.update.parameters.values()))
        x = x.to(weight.device) if isinstance(self.spec.observation, Discrete) else x.to(weight)
        kind = self.policy.noise(1)
        noise = None if kind is None else kind.draw(1, self.generator)[0].to(weight)
        return seeds.act(self.policy, self.learner.template, self.learner.parameters_of(0), x, noise)[0].cpu().numpy()

    def _outside(self, action: np.ndarray) -> Any:
        if isinstance(self.spec.action, Discrete):
            return int(action)
        return scales.undo(self.transforms, "actions", action[None])[0]

    def _row(self, observation: Any, action: np.ndarray, reward: float, terminated: bool, next_observation: Any) -> np.ndarray:
        parts = [observation, action, reward, terminated, next_observation]
        return np.concatenate([np.asarray(part, dtype=np.float32).reshape(-1) for part in parts])


def learn_online(
    algorithm: str,
    environment: str,
    directory: Path,
    *,
    settings: Any,
    training: Training,
    online: Online,
    seed: int,
    levels: Mapping[str, float],
    device: torch.device,
    check_every: int = 1_000,
    episodes: int = 10,
    show: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """Returns the mean return at which each named policy was saved under `directory/NAME`.

    `levels` maps names to the mean return, over `episodes` without exploration, at which to save a policy; it is looked at every
    `check_every` steps. Learning ends when all are reached. Raises ConfigError if one is not within `training.steps`.
    """
    learning = OnlineLearner(algorithm, settings, environment, seed, training, online, device)
    reached: dict[str, float] = {}
    with closing(learning.environment):
        for step in range(check_every, training.steps + 1, check_every):
            learning.run(step)
            if step < online.random_steps:
                continue
            mean = learning.evaluate(environment, episodes)
            if show is not None:
                show(step, mean)
            for name, level in levels.items():
                if name not in reached and mean >= level:
                    learning.agent().save(directory / name)
                    reached[name] = mean
            if len(reached) == len(levels):
                break
    if missing := [name for name in levels if name not in reached]:
        raise ConfigError(f"{environment}: {algorithm} did not reach {missing[0]} ({levels[missing[0]]:g}) in {training.steps:,} steps")
    return reached
