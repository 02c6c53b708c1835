"""Collected logs: the same for the same seed, aligned step by step, and worth what the exact solution says."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.core.algorithm import build
from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.environments.behaviours import (
    MixtureBehaviour,
    NoisyBehaviour,
    PolicyBehaviour,
    RandomBehaviour,
    ScriptedBehaviour,
    TabularBehaviour,
    draw_actions,
)
from stitchrl.environments.collect import collect
from stitchrl.environments.make import GRIDWORLD, ICU_SEPSIS, make, spec_of
from stitchrl.environments.tasks.gridworld import gridworld
from stitchrl.environments.tasks.icu_sepsis import icu_sepsis
from stitchrl.environments.tasks.tabular import policy_value, uniform_policy
from stitchrl.evaluation.judge import check_task

Array = np.ndarray[Any, np.dtype[Any]]
GRID = Spec(Discrete(54), Discrete(4))


class Counter(gymnasium.Env[Array, Array]):
    """Observes the step's number; the reward is the action; ends after `length` steps, and by its own clock after 4."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length: int = 3) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.time += 1
        ended = self.time == self.length
        return np.full(1, self.time, np.float64), float(action[0]), ended, self.time == 4, {"success": ended}


gymnasium.register("test/Counter-v0", entry_point=Counter)


def in_tenths(observations: Array) -> Array:
    return observations / 10


def test_each_step_is_aligned_and_the_last_observation_kept() -> None:
    log = collect("test/Counter-v0", ScriptedBehaviour(in_tenths, "tenths"), episodes=3, parallel=2)
    np.testing.assert_array_equal(log.observations[:, 0], [0, 1, 2] * 3)
    np.testing.assert_allclose(log.actions[:, 0], np.array([0, 0.1, 0.2] * 3), rtol=1e-6)
    np.testing.assert_array_equal(log.rewards, log.actions[:, 0])
    np.testing.assert_array_equal(log.final_observations, [[3.0]] * 3)
    np.testing.assert_array_equal(log.terminals, [False, False, True] * 3)
    assert not log.timeouts.any()
    np.testing.assert_array_equal(log.columns["infos/success"], log.terminals)
    assert "behaviour_log_probabilities" not in log.columns
    assert log.spec == Spec(Box((1,), (0.0,), (100.0,)), Box((1,), (-1.0,), (1.0,)))


def test_a_clock_is_a_timeout_and_an_end_wins_over_it() -> None:
    clock = collect("test/Counter-v0", ScriptedBehaviour(in_tenths, "tenths"), episodes=1, options={"length": 9})
    assert clock.lengths.tolist() == [4]
    assert (clock.terminals[-1], clock.timeouts[-1]) == (False, True)
    both = collect("test/Counter-v0", ScriptedBehaviour(in_tenths, "tenths"), episodes=1, options={"length": 4})
    assert (both.terminals[-1], both.timeouts[-1]) == (True, False)


def test_a_number_of_steps_is_met_exactly_and_the_cut_is_a_timeout() -> None:
    log = collect("test/Counter-v0", ScriptedBehaviour(in_tenths, "tenths"), steps=8, parallel=2)
    assert log.lengths.tolist() == [3, 3, 2]
    assert (log.terminals[-1], log.timeouts[-1]) == (False, True)
    assert log.final_observations[-1] == 2
    whole = collect("test/Counter-v0", ScriptedBehaviour(in_tenths, "tenths"), steps=9, parallel=2)
    assert (whole.terminals[-1], whole.timeouts[-1]) == (True, False)


@pytest.mark.parametrize("policy", ["uniform", "clinicians"])
def test_the_log_is_worth_what_its_policy_is(policy: str) -> None:
    task = icu_sepsis()
    table = uniform_policy(task.mdp) if policy == "uniform" else task.clinicians
    log = collect(ICU_SEPSIS, TabularBehaviour(table, policy), episodes=20_000, seed=5)
    returns = log.returns()
    error = returns.std() / np.sqrt(len(returns))
    assert abs(returns.mean() - policy_value(task.mdp, table)) < 3 * error
    assert error < 0.003


@given(st.integers(0, 1000), st.floats(0, 0.3))
@settings(max_examples=8)
def test_grid_logs_agree_with_the_exact_discounted_value_under_the_clock(seed: int, slip: float) -> None:
    world = gridworld(slip=slip)
    table = np.random.default_rng(seed).dirichlet(np.ones(4), 54)
    log = collect(GRIDWORLD, TabularBehaviour(table), episodes=4000, seed=seed, options={"slip": slip})
    returns = log.returns(world.mdp.discount)
    error = returns.std() / np.sqrt(len(returns))
    assert abs(returns.mean() - policy_value(world.mdp, table, steps=100)) < 4.5 * error + 1e-6  # 8 examples: 1 in 20,000 by chance
    assert log.lengths.max() <= 100


def test_stepping_and_sampling_at_once_have_one_distribution() -> None:
    table = np.random.default_rng(0).dirichlet(np.ones(4), 54)
    stepped = collect(GRIDWORLD, PolicyBehaviour(lambda s, generator: draw_actions(table[s], generator), "table"), episodes=1500)
    sampled = collect(GRIDWORLD, TabularBehaviour(table), episodes=1500)
    for mine, other in ((stepped.returns(), sampled.returns()), (stepped.lengths, sampled.lengths)):
        error = np.sqrt(mine.var() / 1500 + other.var() / 1500)
        assert abs(mine.mean() - other.mean()) < 3 * error


@pytest.mark.parametrize("environment", [GRIDWORLD, "Pendulum-v1", "CartPole-v1"])
def test_the_same_seed_gives_the_same_log_and_another_another(environment: str) -> None:
    spec = spec_of(make(environment))
    logs = [collect(environment, RandomBehaviour(spec), episodes=5, seed=seed) for seed in (3, 3, 4)]
    assert logs[0].fingerprint() == logs[1].fingerprint() != logs[2].fingerprint()
    if environment != GRIDWORLD:  # there, all episodes are drawn together
        longer = collect(environment, RandomBehaviour(spec), episodes=10, seed=3, parallel=5).select(range(5))
        assert longer.fingerprint() == collect(environment, RandomBehaviour(spec), episodes=5, seed=3, parallel=5).fingerprint()


def test_every_transition_is_possible_and_every_action_has_its_probability() -> None:
    task = icu_sepsis()
    log = collect(ICU_SEPSIS, TabularBehaviour(task.clinicians), episodes=500, seed=2)
    rows = log.observations * 25 + log.actions
    following = log.next_observations()
    assert (task.mdp.transition[rows, following] > 0).all()
    np.testing.assert_array_equal(log.terminals, task.mdp.terminal[following])
    np.testing.assert_array_equal(log.rewards, following == 714)
    expected = np.log(task.clinicians[log.observations, log.actions])
    np.testing.assert_allclose(log.columns["behaviour_log_probabilities"], expected, rtol=1e-6)


def test_a_mixture_chooses_once_for_each_episode() -> None:
    up, right = (np.tile(np.eye(4)[action], (54, 1)) for action in (0, 1))
    mixture = MixtureBehaviour([(3, TabularBehaviour(up, "up")), (1, TabularBehaviour(right, "right"))])
    assert mixture.description == "75% up; 25% right"
    script = MixtureBehaviour(
        [(3, ScriptedBehaviour(lambda s: np.zeros(len(s)), "up")), (1, ScriptedBehaviour(lambda s: np.ones(len(s)), "right"))]
    )
    for behaviour in (mixture, script):
        log = collect(GRIDWORLD, behaviour, episodes=400, seed=1)
        np.testing.assert_array_equal(log.columns["infos/policy_id"], log.actions)
        ids = log.columns["infos/policy_id"][log.offsets[:-1]]
        assert abs(ids.mean() - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 400)


def test_noise_knows_its_probabilities_by_hand() -> None:
    noisy = NoisyBehaviour(TabularBehaviour(np.tile([1.0, 0, 0, 0], (54, 1))), GRID, epsilon=0.4)
    actions, logs = noisy.act(np.zeros(20_000, np.int64), np.random.default_rng(0))
    assert logs is not None
    # 0.6 + 0.4 / 4 = 0.7 for action 0, 0.1 for each other
    np.testing.assert_allclose(np.exp(logs), np.where(actions == 0, 0.7, 0.1))
    assert abs((actions == 0).mean() - 0.7) < 3 * np.sqrt(0.21 / 20_000)


def test_noise_on_continuous_actions_stays_in_bounds_and_has_the_scale_said() -> None:
    spec = Spec(Box((1,)), Box((2,), (-2.0, 0.0), (2.0, 1.0)))
    still = ScriptedBehaviour(lambda s: np.tile([0.0, 0.5], (len(s), 1)), "still")
    actions, logs = NoisyBehaviour(still, spec, sigma=0.1).act(np.zeros((50_000, 1)), np.random.default_rng(0))
    assert logs is None
    np.testing.assert_allclose(actions.std(0), [0.2, 0.05], rtol=0.02)
    random, logs = RandomBehaviour(spec).act(np.zeros((50_000, 1)), np.random.default_rng(0))
    np.testing.assert_allclose(logs, -np.log(4))
    assert (random.min(0) >= [-2, 0]).all()
    assert (random.max(0) <= [2, 1]).all()
    np.testing.assert_allclose(random.mean(0), [0, 0.5], atol=0.02)
    wild, _ = NoisyBehaviour(still, spec, sigma=5.0).act(np.zeros((1000, 1)), np.random.default_rng(0))
    assert (np.abs(wild[:, 0]) <= 2).all()


def test_an_action_of_probability_zero_is_never_drawn() -> None:
    rows = np.tile([0.0, 0.5, 0.0, 0.5, 0.0], (100_000, 1))
    assert set(draw_actions(rows, np.random.default_rng(0)).tolist()) == {1, 3}


def test_an_episode_that_nothing_ends_is_told_of_unless_steps_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Counter):
        def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
            return (*super().step(action)[:2], False, False, {})

    monkeypatch.setattr("stitchrl.environments.clock._ENDLESS", 40)
    gymnasium.register("test/Endless-v0", entry_point=Endless)
    with pytest.raises(ConfigError, match=r"Endless-v0: an episode did not end within 40 steps.*max_episode_steps"):
        collect("test/Endless-v0", ScriptedBehaviour(in_tenths, "tenths"), episodes=1)
    assert collect("test/Endless-v0", ScriptedBehaviour(in_tenths, "tenths"), steps=60, parallel=1).lengths.tolist() == [60]


def test_environments_are_closed_where_not_all_can_be_opened_or_the_policy_does_not_fit() -> None:
    opened: list[gymnasium.Env[Any, Any]] = []

    class Counted(Counter):
        def __init__(self) -> None:
            super().__init__()
            if len(opened) == 3:
                raise ValueError("no more of them")
            opened.append(self)

        def close(self) -> None:
            opened.remove(self)

    gymnasium.register("test/Counted-v0", entry_point=Counted)
    with pytest.raises(ConfigError, match="no more of them"):
        collect("test/Counted-v0", ScriptedBehaviour(in_tenths, "tenths"), episodes=4, parallel=4)
    assert opened == []
    kind, config = algorithms.find("bc")
    template = build(kind, config(), GRID, 0)
    with pytest.raises(ConfigError, match="has observations"):
        check_task(Agent("bc", template, template.state_dict(), GRID, [], [0]), "test/Counted-v0", {})
    assert opened == []


def test_provenance_is_kept() -> None:
    log = collect(
        GRIDWORLD, RandomBehaviour(GRID), episodes=2, seed=9, options={"slip": 0.2}, name="mine", reference={"random": 0, "expert": 1}
    )
    assert log.metadata["environment"] == GRIDWORLD
    assert log.metadata["environment_options"] == {"slip": 0.2}
    assert (log.metadata["name"], log.metadata["discount"]) == ("mine", 0.97)
    provenance = log.metadata["provenance"]
    assert (provenance["seed"], provenance["behaviour"], provenance["amount"]) == (9, "uniformly random", "episodes=2")
    assert provenance["versions"]["gymnasium"] == gymnasium.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of the two"),
        ({"episodes": 1, "steps": 1}, "exactly one of the two"),
        ({"episodes": 0}, "at least 1"),
        ({"episodes": 1, "seed": -1}, "seed is -1"),
        ({"episodes": 1, "options": {"slp": 1}}, "Did you mean 'slip'"),
    ],
)
def test_a_wrong_request_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        collect(GRIDWORLD, RandomBehaviour(GRID), **arguments)


def test_a_wrong_behaviour_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 5 states; the task has 54"):
        collect(GRIDWORLD, TabularBehaviour(np.full((5, 4), 0.25)), episodes=1)
    with pytest.raises(ConfigError, match=r"shape \[54, 5\]; the task needs \[54, 4\]"):
        collect(GRIDWORLD, TabularBehaviour(np.full((54, 5), 0.2)), episodes=1)
    with pytest.raises(ConfigError, match="rows of probabilities"):
        TabularBehaviour([[0.5, 0.6]])
    with pytest.raises(ConfigError, match="weights"):
        MixtureBehaviour([])
    with pytest.raises(ConfigError, match="bounded actions"):
        RandomBehaviour(Spec(Box((1,)), Box((1,))))
    with pytest.raises(ConfigError, match="needs continuous actions"):
        NoisyBehaviour(RandomBehaviour(GRID), GRID, sigma=0.1)
