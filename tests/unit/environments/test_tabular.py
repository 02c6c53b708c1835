"""Exact values against numbers worked out by hand, against each other, and against simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchrl.core.errors import ConfigError
from stitchrl.environments.tasks.gridworld import gridworld
from stitchrl.environments.tasks.tabular import (
    TabularMDP,
    epsilon_policy,
    greedy_policy,
    occupancy,
    policy_q,
    policy_value,
    soft_policy,
    solve,
    state_values,
    uniform_policy,
)


def chain(discount: float) -> TabularMDP:
    """0 → 1 → end. Action 0 goes on (reward 0, then 1), action 1 ends at once with reward 0.3."""
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 1] = transition[1, 0, 2] = transition[:, 1, 2] = transition[2, 0, 2] = 1
    reward = np.array([[0.0, 0.3], [1.0, 0.3], [9.0, 9.0]])  # a terminal state's rewards are never earned
    return TabularMDP.from_dense(transition, reward, [1.0, 0, 0], [False, False, True], discount)


def random_mdp(seed: int, states: int = 6, actions: int = 3, discount: float = 0.9) -> TabularMDP:
    generator = np.random.default_rng(seed)
    transition = generator.dirichlet(np.full(states, 0.5), (states, actions))
    reward = generator.normal(size=(states, actions, states))
    terminal = np.arange(states) == states - 1
    return TabularMDP.from_dense(transition, reward, generator.dirichlet(np.ones(states)), terminal, discount)


def test_chain_optimum_by_hand() -> None:
    values, q = solve(chain(0.5))
    # V1 = 1; going on from 0 is worth 0.5 · 1 = 0.5 > 0.3
    np.testing.assert_allclose(values, [0.5, 1, 0])
    np.testing.assert_allclose(q, [[0.5, 0.3], [1, 0.3], [0, 0]])


def test_chain_optimum_changes_with_the_discount() -> None:
    np.testing.assert_allclose(solve(chain(0.2))[0], [0.3, 1, 0])  # 0.2 · 1 < 0.3


def test_chain_policy_by_hand() -> None:
    mdp, policy = chain(0.5), np.array([[0.5, 0.5], [0.25, 0.75], [1, 0]])
    # V1 = 0.25 · 1 + 0.75 · 0.3 = 0.475; V0 = 0.5 · 0.5 · 0.475 + 0.5 · 0.3 = 0.26875
    np.testing.assert_allclose(state_values(mdp, policy), [0.26875, 0.475, 0])
    assert policy_value(mdp, policy) == pytest.approx(0.26875)
    np.testing.assert_allclose(policy_q(mdp, policy), [[0.2375, 0.3], [1, 0.3], [0, 0]])
    np.testing.assert_allclose(occupancy(mdp, policy), [[0.5, 0.5], [0.25 * 0.25, 0.25 * 0.75], [0, 0]])  # state 1: 0.5 · 0.5 visits
    # undiscounted: 0.5 · 0.475 + 0.15 = 0.3875; stopped after one step only 0.15 is earned
    assert policy_value(mdp, policy, discount=1) == pytest.approx(0.3875)
    assert policy_value(mdp, policy, discount=1, steps=1) == pytest.approx(0.15)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_optimum_satisfies_bellman_and_beats_every_policy(seed: int) -> None:
    mdp = random_mdp(seed)
    values, q = solve(mdp)
    np.testing.assert_allclose(mdp.action_values(values), q, atol=1e-10)
    np.testing.assert_allclose(q.max(1), values, atol=1e-10)
    np.testing.assert_allclose(state_values(mdp, greedy_policy(q)), values, atol=1e-9)
    assert (state_values(mdp, uniform_policy(mdp)) <= values + 1e-9).all()


@given(st.integers(0, 10_000), st.floats(0.0, 0.95))
@settings(max_examples=40, deadline=None)
def test_linear_solve_equals_repeated_backups_and_occupancy(seed: int, discount: float) -> None:
    mdp = random_mdp(seed, discount=discount)
    policy = np.random.default_rng(seed + 1).dirichlet(np.ones(3), 6)
    exact = state_values(mdp, policy)
    np.testing.assert_allclose(state_values(mdp, policy, steps=600), exact, atol=1e-9)
    assert (occupancy(mdp, policy) * mdp.reward).sum() == pytest.approx(policy_value(mdp, policy), abs=1e-9)


def test_gridworld_value_iteration_agrees_with_solve() -> None:
    mdp = gridworld().mdp
    values = np.zeros(mdp.states)
    for _ in range(2000):
        values = mdp.action_values(values).max(1)
    np.testing.assert_allclose(solve(mdp)[0], values, atol=1e-10)


def test_a_stay_without_end_or_earnings_is_worth_zero_and_with_earnings_refused() -> None:
    transition = np.zeros((2, 2, 2))
    transition[0, 0, 0] = transition[0, 1, 1] = transition[1, :, 1] = 1  # action 0 stays
    still = TabularMDP.from_dense(transition, [[0.0, 1], [0, 0]], [1, 0], [False, True])
    stay = np.array([[1.0, 0], [1, 0]])
    assert policy_value(still, stay) == 0
    assert solve(still)[0][0] == 1
    with pytest.raises(ConfigError, match="never ends"):
        occupancy(still, stay)
    paid = TabularMDP.from_dense(transition, [[0.1, 1], [0, 0]], [1, 0], [False, True])
    with pytest.raises(ConfigError, match="state 0: this policy never ends"):
        policy_value(paid, stay)


def test_policies_from_action_values() -> None:
    q = np.array([[1.0, 1 + 1e-12, 0], [0, 2, 1]])
    np.testing.assert_allclose(greedy_policy(q), [[0.5, 0.5, 0], [0, 1, 0]])
    np.testing.assert_allclose(soft_policy([[0.0, np.log(3)]], 1.0), [[0.25, 0.75]])
    np.testing.assert_allclose(epsilon_policy([[1.0, 0]], 0.2), [[0.9, 0.1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transition": np.full((2, 1, 2), 0.4)}, "state 0, action 0 sums to 0.8"),
        ({"initial": [0.5, 0.6]}, "initial: row 0 sums to 1.1"),
        ({"discount": 1.5}, "discount is 1.5"),
        ({"reward": [[np.nan], [0]]}, "NaN"),
        ({"reward": [0.0]}, r"reward \[1\]"),
    ],
)
def test_a_wrong_table_is_refused(change: dict, message: str) -> None:
    right = {"transition": np.full((2, 1, 2), 0.5), "reward": [[1.0], [0]], "initial": [1, 0], "terminal": [False, True], "discount": 0.9}
    TabularMDP.from_dense(**right)
    with pytest.raises(ConfigError, match=message):
        TabularMDP.from_dense(**(right | change))


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="row 1 sums to 0.9"):
        policy_value(chain(0.5), [[1, 0], [0.4, 0.5], [1, 0]])
    with pytest.raises(ConfigError, match=r"shape \[2, 2\]"):
        policy_value(chain(0.5), [[1, 0], [1, 0]])
