"""Policies that remember: each environment and seed by itself, from its own start, told what it earned; and constants of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stitchrl.agent import Agent
from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, build
from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.policy import Memory, Policy
from stitchrl.core.randomness import Noise
from stitchrl.core.spec import Box, Spec
from stitchrl.core.windows import WindowBatch, Windows
from stitchrl.data.dataset import Dataset
from stitchrl.data.sampling import rows_of
from stitchrl.data.transforms import Affine
from stitchrl.environments.make import make
from stitchrl.evaluation.evidence import AgentTarget
from stitchrl.evaluation.playing import play
from stitchrl.training import seeds
from stitchrl.training.learner import Learner, Training

SPEC = Spec(Box((1,)), Box((1,), (-1.0,), (1.0,)))


@dataclass(frozen=True)
class CountingConfig:
    rate: float = 0.1


@final
class CountingPolicy(Policy):
    """Does a hundredth of: the sum of what it has seen, plus what it has earned, times its weight."""

    reads_rewards = True

    def __init__(self, network: nn.Module, longest: nn.Parameter) -> None:
        super().__init__()
        self.network, self.longest = network, longest

    def noise(self, size: int) -> Noise | None:
        return None

    def memory(self, count: int) -> Memory:
        return {"sum": self.longest.new_zeros(count)}

    def step(self, observations: Tensor, rewards: Tensor, memory: Memory, noise: Tensor | None = None) -> tuple[Tensor, Memory]:
        total = memory["sum"] + observations[:, 0] + rewards
        return (total.unsqueeze(-1) * self.network.weight / 100).clamp(-1, 1), {"sum": total}

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.step(observations, observations.new_zeros(len(observations)), self.memory(len(observations)))[0]


@final
class One(nn.Module):
    """One number that learns, and one measured from the log."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.largest = nn.Parameter(torch.zeros(1), requires_grad=False)


@final
class Counting(Algorithm):
    batch = Windows(length=3)
    targets = {"average": "actor"}
    target_rate = 0.5

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__(config, spec)
        self.actor = One()
        self.longest = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.optimizers = {"actor": Adam(0.1)}

    def measure(self, log: WindowBatch) -> None:
        self.longest.copy_(log.timesteps.amax().reshape(1))
        self.actor.largest.copy_(log.returns_to_go.amax().reshape(1))

    def losses(self, batch: WindowBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        return {"actor": ((self.actor.weight - batch.present.sum(1) / self.actor.largest) ** 2).mean()}, {}

    def policy(self) -> Policy:
        return CountingPolicy(self.actor, self.longest)


def agent_of(numbers: tuple[int, ...], transforms: list[Affine] | None = None, spec: Spec = SPEC) -> Agent:
    copies = [build(Counting, CountingConfig(), spec, number) for number in numbers]
    for i, copy in enumerate(copies):
        copy.get_parameter("actor.weight").data.fill_(i + 1)
    return Agent("counting", copies[0], seeds.stack(copies, torch.device("cpu"), torch.float32), spec, transforms or [], numbers)


def shown(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, -1, 1)


def test_what_was_seen_and_earned_is_remembered_for_each_environment_and_seed() -> None:
    agent = agent_of((0, 1))
    both = np.concatenate([shown(1, 2), shown(1, 2)])
    nothing = np.zeros((2, 2))
    assert agent.act(both)[..., 0] == pytest.approx(np.array([[0.01, 0.02], [0.02, 0.04]]))
    assert agent.act(both, nothing)[..., 0] == pytest.approx(np.array([[0.02, 0.04], [0.04, 0.08]]))
    assert agent.act(both, np.array([[1, 0], [0, 3]]))[..., 0] == pytest.approx(np.array([[0.04, 0.06], [0.06, 0.18]]))


def test_reset_begins_some_episodes_anew_and_their_last_reward_is_not_heard() -> None:
    agent = agent_of((0,), [Affine("rewards", np.array([2.0]), np.array([5.0]), "r")])
    agent.act(shown(1, 1))
    agent.reset(np.array([[True, False]]))
    assert agent.act(shown(1, 1), np.array([[7.0, 7.0]]))[0, :, 0] == pytest.approx([0.01, 0.21]), "1 + 1 + 2 · 7 + 5"
    agent.reset([[0, 1]])  # type: ignore[arg-type]  # numbers, as a list: the same mask
    assert agent.act(shown(1, 1), np.array([[7.0, 7.0]]))[0, :, 0] == pytest.approx([0.21, 0.01])
    agent.reset()
    assert agent.act(shown(3), None)[0, :, 0] == pytest.approx([0.03]), "all of them, and another number of environments"


def test_predict_is_the_first_step_and_leaves_the_memory_alone() -> None:
    agent = agent_of((0,))
    agent.act(shown(1, 1))
    assert agent.predict(shown(5, 6, 7)[0])[:, 0] == pytest.approx([0.05, 0.06, 0.07])
    with pytest.raises(DataError, match="not finite"):
        agent.predict(shown(np.nan)[0])
    assert agent.act(shown(1, 1), np.zeros((1, 2)))[0, :, 0] == pytest.approx([0.02, 0.02])


def test_other_environments_without_a_reset_and_rewards_untold_are_refused() -> None:
    agent = agent_of((0,))
    agent.act(shown(1, 1))
    with pytest.raises(DataError, match="must be told what its last actions earned"):
        agent.act(shown(1, 1))
    with pytest.raises(DataError, match="acts in 2 environments and is shown 3"):
        agent.act(shown(1, 1, 1), np.zeros((1, 3)))
    with pytest.raises(DataError, match="the mask has shape"):
        agent.reset(np.array([[True]]))


def test_a_policy_that_remembers_cannot_be_judged_by_single_steps() -> None:
    with pytest.raises(ConfigError, match="acts on what it remembers"):
        AgentTarget(agent_of((0,)))


def test_in_rollouts_every_episode_begins_anew_and_rewards_are_heard() -> None:
    spec = Spec(Box((3,)), Box((1,), (-2.0,), (2.0,)))
    agent = agent_of((0, 4), [Affine("actions", np.array([0.5]), np.array([0.0]), "a")], spec)
    together = play(agent, "Pendulum-v1", episodes=4, seed=3, parallel=4, processes=1, max_steps=20)
    apart = play(agent, "Pendulum-v1", episodes=4, seed=3, parallel=1, processes=1, max_steps=20)
    assert together.returns == pytest.approx(apart.returns, rel=1e-5)
    environment, alone = make("Pendulum-v1"), agent.of_seed(4)
    from stitchrl.evaluation.rollout import episode_seed

    seen, _ = environment.reset(seed=episode_seed(3, 4, 1))
    total, reward = 0.0, None
    for _ in range(20):
        action = alone.act(np.asarray(seen)[None, None], None if reward is None else np.array([[reward]]))[0, 0]
        seen, reward, *_ = environment.step(action)
        total += float(reward)
    assert together.returns[1, 1] == pytest.approx(total, rel=1e-5)


def test_a_rollout_leaves_the_agent_where_it_was() -> None:
    spec = Spec(Box((3,)), Box((1,), (-2.0,), (2.0,)))
    agent, seen, earned = agent_of((0,), spec=spec), np.ones((1, 2, 3), np.float32), np.zeros((1, 2))
    agent.act(seen)
    play(agent, "Pendulum-v1", episodes=3, processes=1, max_steps=4)
    assert agent.act(seen, earned)[0, :, 0] == pytest.approx([0.02, 0.02])


def test_rewards_that_cannot_be_are_told() -> None:
    agent = agent_of((4, 5))
    seen = np.zeros((2, 3, 1), np.float32)
    agent.act(seen)
    with pytest.raises(DataError, match=r"rewards have shape \[2\]; expected \[S, N\] = \[2, 3\]"):
        agent.act(seen, np.zeros(2))
    with pytest.raises(DataError, match="rewards hold a number that is not finite"):
        agent.act(seen, np.full((2, 3), np.nan))
    agent.reset()
    agent.act(seen, np.full((2, 3), np.nan))  # where episodes begin nothing was earned, and nothing is read


def test_constants_are_measured_once_never_learned_and_kept_by_the_averages() -> None:
    episodes = [
        {"observations": np.zeros((n + 1, 1)), "actions": np.zeros((n, 1)), "rewards": np.ones(n), "terminals": True} for n in (2, 6)
    ]
    dataset = Dataset.from_episodes(episodes, SPEC)
    rows = rows_of(dataset, Counting.batch, [], torch.device("cpu"), 1 << 20)
    learner = Learner(Counting, CountingConfig(), SPEC, rows, (0, 1), Training(steps=5, batch_size=4, compile="off"), torch.device("cpu"))
    for _ in range(5):
        learner.advance()
    found = learner.update.parameters
    assert found["longest"].tolist() == [[6], [6]] and found["actor.largest"].tolist() == found["average.largest"].tolist() == [[6], [6]]
    assert (found["actor.weight"] < 1).all() and (found["average.weight"] < 1).all(), "the weights do learn"
    assert set(learner.update.first) == {"actor.weight"}
    kept = learner.tensors()
    again = Learner(Counting, CountingConfig(), SPEC, rows, (0, 1), learner.training, torch.device("cpu"))
    again.restore(kept, 5)
    assert torch.equal(again.update.parameters["average.largest"], found["average.largest"])
