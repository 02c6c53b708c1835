"""Learning online: what is gathered, in whose units, when it is learned from; and that it does learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stitchrl import agent, algorithms
from stitchrl.core.errors import ConfigError
from stitchrl.data.replay import Replay
from stitchrl.online import Online, OnlineLearner, learn_online
from stitchrl.training.learner import Training

CPU = torch.device("cpu")


def learner(name: str, environment: str, steps: int, online: Online, batch_size: int = 32, **settings: Any) -> OnlineLearner:
    config = algorithms.find(name)[1](**{"hidden": (32,), **settings})
    return OnlineLearner(
        name, config, environment, 0, Training(steps=steps, batch_size=batch_size, device="cpu", compile="off"), online, CPU
    )


def test_a_replay_overwrites_its_oldest_rows() -> None:
    replay = Replay(3, 2, CPU)
    sizes = []
    for i in range(5):
        replay.add(np.array([i, -i], np.float32))
        sizes.append(replay.size)
    assert sizes == [1, 2, 3, 3, 3]
    assert replay.table.tolist() == [[3, -3], [4, -4], [2, -2]]
    table, index = replay.gather(torch.tensor([0, 2]))
    assert table[index].tolist() == [[3, -3], [2, -2]]


def test_the_share_of_random_actions_falls_linearly_to_its_end() -> None:
    """From 1 at step 0 to 0.2 at step 100: at step 50 a share of 0.6 is random, of which one in two is the greedy action by chance."""
    learning = learner("q_learning", "CartPole-v1", 1_000, Online(random_steps=1, epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=100))
    with torch.no_grad():
        for value in learning.learner.update.parameters.values():
            value.zero_()  # equal values: the greedy action is 0
    for step, share in ((50, 0.6), (100, 0.2), (10_000, 0.2)):
        learning.steps = step
        ones = np.mean([int(learning._choose()) for _ in range(2_000)])
        assert ones == pytest.approx(share / 2, abs=0.045)  # 4 standard errors of 2,000 draws
    learning.online = Online(random_steps=1, epsilon_start=0.0, epsilon_end=0.2, epsilon_steps=100)  # and rises to it, and no further
    ones = np.mean([int(learning._choose()) for _ in range(2_000)])
    assert ones == pytest.approx(0.1, abs=0.03)


def test_no_policy_acts_in_the_first_steps() -> None:
    learning = learner("q_learning", "CartPole-v1", 1_000, Online(random_steps=50, epsilon_start=0.0, epsilon_end=0.0))
    before = {name: value.clone() for name, value in learning.learner.update.parameters.items()}
    learning.run(49, lambda step, total: None)
    assert learning.learner.step == 0 and all(torch.equal(before[k], v) for k, v in learning.learner.update.parameters.items())
    assert 0.2 < learning.replay.table[:49, 4].mean() < 0.8  # both actions, though the greedy one is one and epsilon 0
    learning.run(60, lambda step, total: None)
    assert learning.learner.step == 11 and learning.replay.size == 60


def test_actions_are_remembered_between_minus_1_and_1_and_taken_in_the_units_of_the_task() -> None:
    learning = learner("sac", "Pendulum-v1", 300, Online(random_steps=200))
    taken: list[np.ndarray] = []
    step = learning.environment.step
    learning.environment.step = lambda action: (taken.append(np.asarray(action)), step(action))[1]  # type: ignore[method-assign]
    learning.run(210, lambda step, total: None)
    remembered = learning.replay.table[:210, 3].numpy()
    assert np.abs(remembered).max() <= 1 and np.abs(remembered).max() > 0.9
    assert np.concatenate(taken) == pytest.approx(2 * remembered, abs=1e-6)  # torque in [-2, 2]
    observation, action, reward, terminal, following = np.split(learning.replay.table[:210].numpy(), [3, 4, 5, 6], axis=1)
    assert (terminal == 0).all() and (reward <= 0).all()
    assert following[:198] == pytest.approx(observation[1:199])  # within the first episode, of 200 steps
    assert following[199] != pytest.approx(observation[200])  # and not across its end


def test_returns_of_episodes_are_whole_also_across_calls() -> None:
    """CartPole pays 1 a step: the return is the length, wherever a call of `run` ended."""
    ends: list[tuple[int, float]] = []
    learning = learner("q_learning", "CartPole-v1", 1_000, Online(random_steps=1_000))
    for step in range(7, 210, 7):
        learning.run(step, lambda step, total: ends.append((step, total)))
    lengths = np.diff([0, *(step for step, _ in ends)])
    assert len(ends) > 3 and [total for _, total in ends] == lengths.tolist()


def test_it_is_the_same_again() -> None:
    def once() -> tuple[list[float], torch.Tensor]:
        returns: list[float] = []
        learning = learner("q_learning", "CartPole-v1", 300, Online(random_steps=50, epsilon_steps=200))
        learning.run(200, lambda step, total: returns.append(total))
        return returns, next(iter(learning.learner.update.parameters.values())).clone()

    (one, weights), (two, same) = once(), once()
    assert one == two and torch.equal(weights, same)


def test_it_learns_to_balance(tmp_path: Path) -> None:
    """Random actions keep the pole up for 22 steps on average; after 3,000 steps of Q-learning it stands for over 60, and the policy is saved."""
    online = Online(random_steps=500, epsilon_steps=1_500)
    training = Training(steps=3_000, batch_size=64, device="cpu", compile="off")
    config = algorithms.find("q_learning")[1](hidden=(64,), learning_rate=1e-3)
    reached = learn_online(
        "q_learning",
        "CartPole-v1",
        tmp_path,
        settings=config,
        training=training,
        online=online,
        seed=0,
        levels={"good": 60.0},
        device=CPU,
        check_every=500,
    )
    assert reached["good"] >= 60
    loaded = agent.load(tmp_path / "good")
    assert loaded.seeds == (0,) and loaded.predict(np.zeros((2, 4))).shape == (2,)


def test_a_level_that_is_not_reached_is_told(tmp_path: Path) -> None:
    config = algorithms.find("q_learning")[1](hidden=(4,))
    with pytest.raises(ConfigError, match=r"CartPole-v1: q_learning did not reach good \(400\) in 1,000 steps"):
        learn_online(
            "q_learning", "CartPole-v1", tmp_path, settings=config, training=Training(steps=1_000, device="cpu"),
            online=Online(random_steps=1_000), seed=0, levels={"good": 400.0}, device=CPU,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "environment", "words"), [("bc", "CartPole-v1", "does not learn online; choose from"), ("sac", "CartPol-v1", "CartPole-v1")]
)
def test_what_cannot_learn_online_is_told(name: str, environment: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        learner(name, environment, 10, Online())


@pytest.mark.parametrize(("name", "environment"), [("sac", "CartPole-v1"), ("q_learning", "Pendulum-v1")])
def test_actions_of_another_kind_are_refused(name: str, environment: str) -> None:
    with pytest.raises(ConfigError, match="actions"):
        learner(name, environment, 10, Online())


@pytest.mark.parametrize("setting", [{"random_steps": 0}, {"epsilon_end": 1.5}, {"capacity": 0}])
def test_settings_out_of_range_are_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        learner("sac", "Pendulum-v1", 10, Online(**setting))
