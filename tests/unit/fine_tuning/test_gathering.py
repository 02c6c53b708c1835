"""What a policy's own steps become: rows as a log of them would be packed; how it explores; how an episode in flight is brought back."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.core.algorithm import build
from stitchrl.core.batch import ReturnTransitions, Transitions
from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.replay import Replay
from stitchrl.data.sampling import pack_rows, row_width
from stitchrl.data.transforms import Affine, affine_rewards
from stitchrl.environments.make import make
from stitchrl.fine_tuning.gathering import Gathering
from stitchrl.training import seeds
from tests.unit.fine_tuning.scripted_task import CLOCKED, ENDING, FORGETFUL, Walk, register_tasks

register_tasks()
CPU = torch.device("cpu")
SPEC = Spec(Box((2,)), Box((1,), (-2.0,), (2.0,)))
SCALES = [
    Affine("actions", np.array([0.5]), np.zeros(1), "actions to [-1, 1]"),
    Affine("observations", np.array([2.0, 1.0]), np.array([1.0, 0.0]), "for the test"),
    affine_rewards(10.0, -1.0),
]


def agent(
    algorithm: str = "td3_bc", spec: Spec = SPEC, transforms: Any = SCALES, numbers: tuple[int, ...] = (0, 1), bias: float = 0.0
) -> Agent:
    kind, config = algorithms.find(algorithm)
    copies = [build(kind, config(hidden=(4,)), spec, seed) for seed in numbers]
    return Agent(algorithm, copies[0], seeds.stack(copies, CPU, torch.float32), spec, transforms, numbers)


def gathering(acting: Agent, environment: str, kind: Any = None, noise: float = 0.0, epsilon: float = 0.0, **options: Any) -> Gathering:
    kind = kind or Transitions()
    replays = [Replay(50, row_width(kind, acting.spec), CPU) for _ in acting.seeds]
    return Gathering(acting, environment, options, kind, replays, exploration_noise=noise, epsilon=epsilon)


class OneBuffer(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives the same array at each step, changed."""

    def reset(self, **options: Any) -> Any:
        first, info = self.env.reset(**options)
        self.buffer = np.array(first, np.float32)
        return self.buffer, info

    def step(self, action: Any) -> Any:
        seen, *rest = self.env.step(action)
        self.buffer[:] = seen
        return self.buffer, *rest


@pytest.mark.parametrize(("environment", "length", "terminal"), [(CLOCKED, 4, 0.0), (ENDING, 3, 1.0)])
def test_rows_are_hand_packed_transitions(environment: str, length: int, terminal: float) -> None:
    """s = (2x + 1, t), a half of the action, r = 10 action - 1; the clock's end is no terminal, and s' is what was seen last, not a new start."""
    acting = agent()
    made = gathering(acting, environment)
    starts = [stage.observations[0].copy() for stage in made.stages]
    for _ in range(length):
        made.step()
    for seed, replay in enumerate(made.replays):
        assert replay.size == length and made.stages[seed].episode == 1 and made.stages[seed].observations[0][1] == 0
        x = starts[seed][0]
        for t, row in enumerate(replay.table[:length].tolist()):
            action = acting.of_seed(seed).predict(np.array([[x, t]], np.float32))[0, 0]
            expected = [2 * x + 1, t, action / 2, 10 * action - 1, terminal if t == length - 1 else 0.0, 2 * (x + action) + 1, t + 1]
            assert row == pytest.approx(expected, abs=1e-5)
            x = np.float32(x + action)


def test_whole_episodes_are_packed_where_a_row_needs_what_follows() -> None:
    """Returns to go of an episode that ended by itself: 10 a - 1 discounted by 0.9, summed from its end."""
    kind = ReturnTransitions(0.9)
    made = gathering(agent(), ENDING, kind)
    made.step()
    made.step()
    assert [replay.size for replay in made.replays] == [0, 0]
    made.step()
    for replay in made.replays:
        rows = replay.table[:3]
        r, g = rows[:, 3], rows[:, -1]
        assert replay.size == 3
        expected = [r[0] + 0.9 * r[1] + 0.81 * r[2], r[1] + 0.9 * r[2], r[2]]
        assert g.tolist() == pytest.approx([float(x) for x in expected], rel=1e-5)


def test_a_log_of_the_same_steps_is_packed_alike() -> None:
    made = gathering(agent(numbers=(3,)), CLOCKED, noise=0.3)
    for _ in range(3):
        made.step()
    stage = made.stages[0]
    columns = {
        "observations": np.stack(stage.observations[:-1]),
        "actions": np.stack(stage.actions),
        "rewards": np.array(stage.rewards, np.float32),
        "terminals": np.zeros(3, bool),
        "timeouts": np.arange(3) == 2,
    }
    log = Dataset(SPEC, columns, np.array([0, 3]), stage.observations[-1][None], {})
    assert np.array_equal(pack_rows(log, Transitions(), SCALES), made.replays[0].table[:3].numpy())


def test_noise_has_its_size_in_half_action_ranges_and_stays_inside() -> None:
    """Of 4,000 draws of standard deviation 0.1 around one action; with 5, all but few stand at a bound of ±2."""
    acting = agent(numbers=(0,))
    made = gathering(acting, CLOCKED, noise=0.1)
    centre = acting.act(made.stages[0].observations[-1][None, None])[0, 0, 0]
    drawn = np.array([made.choose()[0, 0] for _ in range(4_000)])
    assert drawn.std() == pytest.approx(0.2, rel=0.06) and drawn.mean() == pytest.approx(centre, abs=0.015)
    wide = gathering(acting, CLOCKED, noise=5.0)
    drawn = np.array([wide.choose()[0, 0] for _ in range(200)])
    assert np.abs(drawn).max() == 2.0 and (np.abs(drawn) == 2.0).mean() > 0.7


def test_stochastic_policies_are_sampled_each_seed_by_itself() -> None:
    both, alone = gathering(agent("sac"), CLOCKED), gathering(agent("sac", numbers=(1,)), CLOCKED)
    drawn = [(both.choose(), alone.choose()) for _ in range(5)]
    assert len({float(a[0, 0]) for a, _ in drawn}) == 5
    assert all(a[1, 0] == pytest.approx(b[0, 0], abs=1e-6) for a, b in drawn)


def test_greedy_policies_take_random_actions_with_probability_epsilon() -> None:
    """Of two actions one in two random ones is the greedy one: 0.4 random are 0.2 others, of 2,000 draws (standard error 0.009)."""
    acting = agent("q_learning", Spec(Box((4,)), Discrete(2)), [], (0,))
    made = gathering(acting, "CartPole-v1", epsilon=0.4)
    greedy = int(acting.act(made.stages[0].observations[-1][None, None])[0, 0])
    other = np.mean([int(made.choose()[0]) != greedy for _ in range(2_000)])
    assert other == pytest.approx(0.2, abs=0.04)


def test_an_episode_in_flight_is_brought_back_by_its_actions() -> None:
    ours, theirs = (gathering(agent("iql"), CLOCKED) for _ in range(2))
    for _ in range(6):
        ours.step()
    saved = {name: value.clone() for name, value in ours.tensors().items()}
    theirs.restore(saved)
    for _ in range(5):
        ours.step()
        theirs.step()
    assert all(torch.equal(value, theirs.tensors()[name]) for name, value in ours.tensors().items())
    assert ours.read() == theirs.read() == {
        "online/episodes": [2.0, 2.0],
        "online/return": [pytest.approx(np.mean([r for r, _ in seen])) for seen in saved_returns(saved, theirs)],
        "online/length": [4.0, 4.0],
    }  # fmt: skip


def saved_returns(saved: dict[str, torch.Tensor], made: Gathering) -> list[list[tuple[float, int]]]:
    """What the two episodes of each seed earned, from the replay's rows: r = 10 a - 1."""
    rewards = [(replay.table[:8, 3].double().numpy() + 1) / 10 for replay in made.replays]
    return [[(r[:4].sum(), 4), (r[4:8].sum(), 4)] for r in rewards]


def test_an_environment_that_cannot_be_brought_back_begins_anew_and_says_so() -> None:
    ours, theirs = (gathering(agent(numbers=(0,)), FORGETFUL) for _ in range(2))
    for _ in range(6):
        ours.step()
    with pytest.warns(UserWarning, match="not exactly the uninterrupted one"):
        theirs.restore(ours.tensors())
    assert theirs.stages[0].actions == [] and theirs.stages[0].episode == 2 and theirs.replays[0].size == 6


def test_an_episodes_last_observation_that_is_not_finite_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody acts on it, but its row would be learned from."""
    made = gathering(agent(), ENDING)
    made.step()
    made.step()
    monkeypatch.setattr(Walk, "_seen", lambda self: np.array([np.nan, self.t]))
    with pytest.raises(DataError, match=r"showed \[nan  3\.\] in episode 0, step 2; observations must be finite"):
        made.step()
    assert [replay.size for replay in made.replays] == [2, 2]


def test_a_reward_that_is_not_finite_is_told() -> None:
    made = gathering(agent(numbers=(0,)), CLOCKED)
    made.stages[0].environment.unwrapped.step = lambda action: (np.zeros(2), np.nan, False, False, {})
    with pytest.raises(DataError, match="episode 0, step 0; rewards must be finite"):
        made.step()


def test_an_environment_that_writes_into_what_it_gave_is_remembered_as_it_was() -> None:
    acting = agent()
    plain, same = gathering(acting, CLOCKED), gathering(agent(), CLOCKED)
    for stage in same.stages:
        stage.environment = OneBuffer(stage.environment)
        stage.begin(acting.spec.observation)
    for _ in range(4):
        plain.step()
        same.step()
    for one, other in zip(plain.replays, same.replays, strict=True):
        torch.testing.assert_close(one.table[:4], other.table[:4], rtol=0, atol=0)


def test_environments_are_closed_where_one_of_them_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    class Failing(gymnasium.Wrapper[Any, Any, Any, Any]):
        def reset(self, **options: Any) -> Any:
            raise OSError("no")

        def close(self) -> None:
            closed.append(1)

    monkeypatch.setattr("stitchrl.fine_tuning.gathering.make", lambda id, **options: Failing(make(id, **options)))
    with pytest.raises(OSError, match="no"):
        gathering(agent(), CLOCKED)
    assert closed == [1]
