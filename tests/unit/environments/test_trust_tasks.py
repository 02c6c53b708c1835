"""The cliff walk, the chain and the LQG: their exact values by closed forms, by other solvers, and by simulation."""

import numpy as np
import pytest
from scipy.integrate import quad

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.environments.make import CHAIN, CLIFF, LQG, make, mdp_of, spec_of
from stitchrl.environments.tabular_logs import sample_log
from stitchrl.environments.tasks import lqg
from stitchrl.environments.tasks.chain import chain
from stitchrl.environments.tasks.cliff import cliff
from stitchrl.environments.tasks.tabular import epsilon_policy, greedy_policy, policy_value, solve, state_values

NEAR = lqg.LinearGaussian((-0.8, -0.9), 0.4, 0.1)


# --------------------------------------------------------------------------------------------------------------------- cliff


def test_the_cliff_without_slips_is_walked_along_its_edge() -> None:
    values, q = solve(cliff(slip=0.0).mdp)
    g = 0.97  # ten moves: up, eight to the right, down; each costs 0.01, the last earns 1
    assert values[45] == pytest.approx(g**9 - 0.01 * (1 - g**10) / (1 - g))
    assert greedy_policy(q)[36:44, 1].min() == 1  # the row above the cliff goes right


def test_a_slippery_cliff_is_kept_away_from() -> None:
    world = cliff(slip=0.1)
    values, q = solve(world.mdp)
    best = greedy_policy(q)
    assert world.shape == (6, 9)
    assert best[36 + 4, 0] == 1  # above the cliff: away from it
    simulated = sample_log(world.mdp, np.ones(1), best[None], 20_000, np.random.default_rng(0)).returns(0.97)
    assert abs(simulated.mean() - values[45]) < 4 * simulated.std() / np.sqrt(len(simulated))
    assert policy_value(world.mdp, epsilon_policy(best, 0.4)) < values[45] - 0.3


# --------------------------------------------------------------------------------------------------------------------- chain


@pytest.mark.parametrize("right", [0.2, 0.5, 0.8])
def test_the_chain_is_the_gamblers_ruin(right: float) -> None:
    q = 0.9 * right + 0.1 * (1 - right)  # a step to the right: meant and not slipped, or not meant and slipped
    policy = np.tile([1 - right, right], (7, 1))
    at = np.arange(7)
    ratio = (1 - q) / q
    ruin = at / 6 if q == 0.5 else (1 - ratio**at) / (1 - ratio**6)
    np.testing.assert_allclose(state_values(chain(discount=1.0), policy)[1:6], ruin[1:6])
    # with discount g, V(i) = q g V(i + 1) + (1 − q) g V(i − 1): the roots of q g z² − z + (1 − q) g;
    # the prize comes with the step into the end, as if that were worth 1 / g
    g = 0.97
    high, low = np.roots([q * g, -1, (1 - q) * g])
    powers = (high**at - low**at) / (high**6 - low**6) / g
    np.testing.assert_allclose(state_values(chain(discount=g), policy)[1:6], powers[1:6])


def test_a_chain_of_one_state_by_hand() -> None:
    # right: earns 1 with probability 0.75, costs 0.1 whatever happens
    values, q = solve(chain(length=1, slip=0.25, step_cost=0.1))
    np.testing.assert_allclose(q[1], [0.25 - 0.1, 0.75 - 0.1])
    assert values[1] == pytest.approx(0.65)
    with pytest.raises(ConfigError, match="chain with length 0"):
        chain(length=0)


# ----------------------------------------------------------------------------------------------------------------------- LQG


def test_one_step_of_the_lqg_by_hand() -> None:
    task = lqg.LQG()
    policy = lqg.LinearGaussian((0.5, 0.0), 0.2, 0.3)
    # E x'Qx = (1 + 0.05) + 0.1 · 0.05; E u² = Var(0.5 x₀) + 0.2² + (0.5 · 1 + 0.3)²
    expected = -(1.055 + 0.1 * (0.25 * 0.05 + 0.04 + 0.64))
    assert lqg.value(task, policy, horizon=1) == pytest.approx(expected)
    assert lqg.value(task, policy, horizon=0) == 0


def test_the_lqg_without_a_clock_is_the_limit_and_obeys_its_own_equation() -> None:
    task = lqg.LQG()
    w = lqg.quadratic_values(task, NEAR)
    np.testing.assert_allclose(lqg.quadratic_values(task, NEAR, horizon=400), w, atol=1e-10)
    assert lqg.value(task, NEAR) < lqg.value(task, NEAR, horizon=10) < 0

    # V(x) = E[−cost + survival · V(x')], the expectation over the action by integration
    def ahead(u: float, x: np.ndarray) -> float:
        mean = np.append(task.dynamics @ x + task.control[:, 0] * u, 1.0)
        following = -(mean @ w @ mean) - np.trace(w[:2, :2] @ task.noise)
        density = np.exp(NEAR.log_probabilities(x[None], np.array([u])))[0]
        return float(density * (-(x @ task.state_cost @ x) - task.action_cost * u * u + task.survival * following))

    for x in (np.array([1.0, -0.5]), np.array([0.0, 0.3])):
        z = np.append(x, 1.0)
        assert quad(ahead, -8, 8, args=(x,), points=[0.0])[0] == pytest.approx(-(z @ w @ z), rel=1e-7)


def test_the_optimal_gain_is_the_best() -> None:
    task = lqg.LQG()
    best = lqg.optimal_gain(task)
    top = lqg.value(task, lqg.LinearGaussian(best, 0.0))
    for move in ((0.05, 0.0), (-0.05, 0.0), (0.0, 0.05), (0.0, -0.05)):
        assert lqg.value(task, lqg.LinearGaussian((best[0] + move[0], best[1] + move[1]), 0.0)) < top
    assert lqg.value(task, lqg.LinearGaussian(best, 0.0, offset=0.02)) < top
    assert lqg.value(task, lqg.LinearGaussian(best, 0.1)) < top


def test_simulated_lqg_earns_its_value() -> None:
    task = lqg.LQG()
    log = lqg.sample_lqg(task, NEAR, 20_000, np.random.default_rng(0))
    for horizon in (None, 5):
        cut = log if horizon is None else lqg.sample_lqg(task, NEAR, 20_000, np.random.default_rng(1), step_limit=horizon)
        returns = cut.returns(task.discount)
        assert abs(returns.mean() - lqg.value(task, NEAR, horizon)) < 4 * returns.std() / np.sqrt(len(returns))
        assert bool(cut.timeouts.any()) == (horizon is not None)
    assert log.lengths.mean() == pytest.approx(10, abs=0.3)  # 1 / stop
    logs = NEAR.log_probabilities(log.observations, log.actions)
    np.testing.assert_allclose(log.columns["behaviour_log_probabilities"], logs, rtol=1e-5, atol=1e-6)
    again = lqg.sample_lqg(task, NEAR, 20_000, np.random.default_rng(0))
    assert again.fingerprint() == log.fingerprint()
    other = lqg.LinearGaussian((-0.7, -0.9), 0.45)  # exp(log ratio) is 1 on average: the densities are densities
    ratios = np.exp(other.log_probabilities(log.observations, log.actions) - logs)
    assert ratios.mean() == pytest.approx(1, abs=0.01)


def test_the_lqg_follows_each_step_of_its_log() -> None:
    task = lqg.LQG(noise=np.zeros((2, 2)))
    log = lqg.sample_lqg(task, NEAR, 50, np.random.default_rng(2))
    moved = log.observations @ task.dynamics.T + log.actions @ task.control.T
    np.testing.assert_allclose(log.next_observations(), moved, atol=1e-5)
    cost = (log.observations**2 * [1, 0.1]).sum(1) + 0.1 * log.actions[:, 0] ** 2
    np.testing.assert_allclose(log.rewards, -cost, rtol=1e-4, atol=1e-5)


def test_values_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="no finite value"):
        lqg.value(lqg.LQG(), lqg.LinearGaussian((5.0, 0.0), 0.1))
    with pytest.raises(ConfigError, match="no density"):
        lqg.LinearGaussian((1.0, 1.0), 0.0).log_probabilities(np.zeros((1, 2)), np.zeros(1))
    with pytest.raises(ConfigError, match="stop is 2"):
        lqg.LQG(stop=2)


# -------------------------------------------------------------------------------------------------------------- environments


def test_the_tasks_are_environments() -> None:
    assert spec_of(make(CLIFF)) == Spec(Discrete(54), Discrete(4))
    assert spec_of(make(CHAIN, length=3)) == Spec(Discrete(5), Discrete(2))
    assert mdp_of(make(CHAIN)).states == 7
    assert spec_of(make(LQG)) == lqg.LQG().spec == Spec(Box((2,)), Box((1,), (-10.0,), (10.0,)))
    with pytest.raises(ConfigError, match="no option 'slp'. Did you mean 'slip'"):
        make(CLIFF, slp=0.1)
    with pytest.raises(ConfigError, match="no option 'stopp'. Did you mean 'stop'"):
        make(LQG, stopp=0.1)


def test_the_lqg_environment_earns_the_policys_value() -> None:
    environment, returns = make(LQG), []
    generator = np.random.default_rng(0)
    for episode in range(1500):
        seen, total, weight, ended = environment.reset(seed=episode)[0], 0.0, 1.0, False
        while not ended:
            action = NEAR.mean(seen[None]) + NEAR.deviation * generator.standard_normal(1)
            seen, reward, ended, *_ = environment.step(action.astype(np.float32))
            total, weight = total + weight * reward, weight * 0.97
        returns.append(total)
    assert abs(np.mean(returns) - lqg.value(lqg.LQG(), NEAR)) < 4 * np.std(returns) / np.sqrt(len(returns))
    with pytest.raises(ConfigError, match="call reset first"):
        environment.unwrapped.step(np.zeros(1))
    assert environment.reset(options={"state": [2.0, 0.0]})[0].tolist() == [2.0, 0.0]
    with pytest.raises(ConfigError, match="two finite numbers"):
        environment.reset(options={"state": [2.0]})
