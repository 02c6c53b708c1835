"""A share of random actions while policies are judged: who never serves is no longer waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.core.algorithm import build
from stitchrl.core.errors import ConfigError
from stitchrl.core.records import Logging
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.judge import Evaluation, Judge
from stitchrl.evaluation.playing import play
from stitchrl.experiment import make_learner, plan, prepare, run_experiment
from stitchrl.training import seeds
from stitchrl.training.learner import Training

CLOCK = 400


class Serve(gymnasium.Env[np.ndarray, np.int64]):
    """Nothing moves until action 1 of four ends the game with a point."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(4)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(1, np.float32), float(action == 1), bool(action == 1), self.steps == CLOCK, {}


def test_the_seed_of_an_evaluation_decides_what_is_drawn() -> None:
    """The game begins alike in every episode: what differs is drawn."""
    kind, config = algorithms.find("bc")
    spec = Spec(Box((1,)), Discrete(4))
    copies = [build(kind, config(hidden=(4,)), spec, seed) for seed in (0, 1)]
    agent = Agent("bc", copies[0], seeds.stack(copies, torch.device("cpu"), torch.float32), spec, [], (0, 1))
    for options in ({"sampled": True}, {"epsilon": 0.5}):
        lengths = [play(agent, Serve, episodes=12, parallel=3, seed=seed, **options).lengths for seed in (0, 1, 0)]
        assert (lengths[0] == lengths[2]).all() and (lengths[0] != lengths[1]).any(axis=1).all(), options
        assert (lengths[0][0] != lengths[0][1]).any()


def log(actions: Any, space: Box | Discrete) -> Dataset:
    count = len(actions)
    last = np.arange(count) % 10 == 9
    columns = {
        "observations": np.zeros((count, 1), np.float32), "actions": actions, "rewards": np.zeros(count, np.float32),
        "terminals": last & False, "timeouts": last,
    }  # fmt: skip
    return Dataset(Spec(Box((1,)), space), columns, np.arange(0, count + 1, 10), np.zeros((count // 10, 1), np.float32))


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """A clone of one who never served."""
    made = plan(
        "bc", settings={"hidden": (8,), "learning_rate": 1e-2}, training=Training(steps=200, batch_size=16, device="cpu", compile="off")
    )
    path = tmp_path_factory.mktemp("run") / "run"
    return run_experiment(
        made, log(np.zeros(40, np.int64), Discrete(4)), path=path, source="test", logging=Logging(tensorboard=False, quiet=True)
    ).agent


def test_who_never_serves_waits_for_the_clock_and_with_random_actions_does_not(waiting: Agent) -> None:
    still = play(waiting, Serve, episodes=5)
    assert still.returns.tolist() == [[0.0] * 5] and still.lengths.tolist() == [[CLOCK] * 5]
    some = play(waiting, Serve, epsilon=0.2, episodes=200)
    assert some.returns.mean() > 0.99 and some.lengths.mean() == pytest.approx(20, abs=4)  # one step in twenty serves
    again = play(waiting, Serve, epsilon=0.2, episodes=200)
    np.testing.assert_array_equal(some.lengths, again.lengths)
    assert play(waiting, Serve, epsilon=0.0, episodes=1).lengths.tolist() == [[CLOCK]]


def test_seeds_together_are_as_seeds_alone() -> None:
    data = log(np.zeros(40, np.int64), Discrete(4))
    made = plan("bc", settings={"hidden": (8,)}, seeds=[3, 5], training=Training(steps=1, batch_size=1, device="cpu", compile="off"))
    learner = make_learner(made, *prepare(data, made))
    both = Agent("bc", learner.template, learner.update.parameters, data.spec, [], made.seeds)
    together = play(both, Serve, epsilon=0.2, episodes=20).lengths
    for i, seed in enumerate(made.seeds):
        np.testing.assert_array_equal(play(both.of_seed(seed), Serve, epsilon=0.2, episodes=20).lengths[0], together[i])
    assert (together[0] != together[1]).any()


def test_the_exact_value_is_of_the_policy_that_was_played() -> None:
    from stitchrl.environments.tasks.tabular import policy_value

    made = plan("bc", settings={"hidden": (8,)}, training=Training(steps=1, batch_size=1, device="cpu", compile="off"))
    data = Dataset(
        Spec(Discrete(716), Discrete(25)),
        {
            "observations": np.zeros(1, np.int64), "actions": np.zeros(1, np.int64), "rewards": np.zeros(1, np.float32),
            "terminals": np.ones(1, bool), "timeouts": np.zeros(1, bool),
        },
        np.array([0, 1]),
        np.zeros(1, np.int64),
    )  # fmt: skip
    learner = make_learner(made, *prepare(data, made))
    agent = Agent("bc", learner.template, learner.update.parameters, data.spec, [], made.seeds)
    judge = Judge(Evaluation(epsilon=1.0), data, "stitchrl/ICU-Sepsis-v0", {}, made.settings, made.seeds)
    uniform = np.full((judge.mdp.states, 25), 1 / 25)
    assert judge.exact(agent) == pytest.approx([policy_value(judge.mdp, uniform, discount=judge.mdp.discount)])
    assert Judge(Evaluation(), data, "stitchrl/ICU-Sepsis-v0", {}, made.settings, made.seeds).exact(agent) != judge.exact(agent)


def test_refusals(waiting: Agent, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epsilon is 1.5; expected a share of the actions, from 0 to 1"):
        play(waiting, Serve, epsilon=1.5)
    real = log(np.zeros((40, 1), np.float32), Box((1,), (-1.0,), (1.0,)))
    with pytest.warns(UserWarning, match="is not used"), pytest.raises(ConfigError, match=r"epsilon is 0.1, and actions are real-valued"):
        run_experiment(plan("bc", evaluation=Evaluation(epsilon=0.1)), real, path=tmp_path / "run", source="test")
    assert not (tmp_path / "run").exists()
    plan("decision_transformer", evaluation=Evaluation(epsilon=0.0))
    with pytest.raises(ConfigError, match=r"epsilon is 0.1, and has no effect on 'decision_transformer', which acts on what it did before"):
        plan("decision_transformer", evaluation=Evaluation(epsilon=0.1))
