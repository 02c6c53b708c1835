"""Grid worlds solved exactly, and what each algorithm must find on a log of them: tables as networks, so that nothing else can be blamed.

The worlds are deterministic and the logs hold each step once (or as often as said), so that the answers are numbers and not estimates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stitchrl import algorithms
from stitchrl.core.spec import Discrete, Spec
from stitchrl.data.sampling import DeviceRows
from stitchrl.environments.tasks.gridworld import gridworld
from stitchrl.environments.tasks.tabular import TabularMDP, policy_q, policy_value, state_values
from stitchrl.training.learner import Learner
from tests.known_answers.learning import learn_rows

Array = np.ndarray[Any, np.dtype[Any]]
SEEDS = (0, 1, 2, 3)
DISCOUNT = 0.9
UP, RIGHT, DOWN, LEFT = range(4)


# Two trips cross in the middle of the first row: S → g, and from beside g → G. Nobody went from S to G.
CROSSING = (
    "g......G",
    "CCC.CCCC",
    "CCC.CCCC",
    "CCCSCCCC",
)
START = 27


def world() -> TabularMDP:
    return gridworld(CROSSING, slip=0.0, discount=DISCOUNT).mdp


def following(mdp: TabularMDP) -> Array:
    """Returns int64 `[S, A]`: the state that each action leads to."""
    return np.asarray(mdp.transition.toarray().argmax(1).reshape(mdp.states, mdp.actions))


def log(mdp: TabularMDP, times: Array) -> torch.Tensor:
    """Returns packed rows with `times [S, A]` copies of each step."""
    after, rows = following(mdp), []
    for s, a in np.argwhere(times > 0):
        row = [s, a, mdp.reward[s, a], mdp.terminal[after[s, a]], after[s, a]]
        rows += [row] * int(times[s, a])
    return torch.tensor(np.array(rows, np.float32))


def stitched(mdp: TabularMDP) -> Array:
    """Returns `times [S, A]` of two trips that cross: from S to the small prize, and from beside the small prize to the goal."""
    after, times = following(mdp), np.zeros((mdp.states, mdp.actions))
    for start, actions in ((START, [UP] * 3 + [LEFT] * 3), (1, [RIGHT] * 6)):
        state = start
        for action in actions:
            times[state, action] = 1
            state = after[state, action]
        assert mdp.terminal[state]
    return times


def everything(mdp: TabularMDP) -> Array:
    """Returns `times [S, A]` of a log that tried each action once in each state that can be reached from the start."""
    after, reached = following(mdp), set(np.flatnonzero(mdp.initial).tolist())
    while True:
        more = {int(n) for s in reached if not mdp.terminal[s] for n in after[s]} | reached
        if more == reached:
            break
        reached = more
    times = np.zeros((mdp.states, mdp.actions))
    times[[s for s in sorted(reached) if not mdp.terminal[s]]] = 1
    return times


def best_in_support(mdp: TabularMDP, times: Array) -> Array:
    """Returns `Q [S, A]` of the best policy that takes logged actions alone; -inf where there is no log."""
    values = np.zeros(mdp.states)
    for _ in range(1000):
        q = np.where(times > 0, mdp.action_values(values), -np.inf)
        values = np.where((times > 0).any(1), q.max(1), 0.0)
    return np.asarray(q)


def learned(name: str, mdp: TabularMDP, times: Array, steps: int, **settings: Any) -> tuple[Learner, list[dict[str, Any]]]:
    """Returns the learner after its steps, and for each seed: `q [S, A]`, greedy or modal policy `[S, A]`, `probabilities`, `value`."""
    config = algorithms.find(name)[1]
    spec = Spec(Discrete(mdp.states), Discrete(mdp.actions))
    known = config.__dataclass_fields__
    settings = {k: v for k, v in {"hidden": (), "discount": mdp.discount, "target_rate": 0.05, **settings}.items() if k in known}
    learner = learn_rows(name, config(**settings), spec, DeviceRows(log(mdp, times)), steps, 64, SEEDS)
    found = []
    states = torch.arange(mdp.states)
    for seed in range(len(SEEDS)):
        one = learner.template
        one.load_state_dict(learner.parameters_of(seed))
        policy = one.policy()
        with torch.no_grad():
            answer = {"policy": policy.action_probabilities(states).double().numpy()}
            if hasattr(one, "critic"):
                answer["q"] = one.critic(states).double().mean(0).numpy()
            if hasattr(one, "value"):
                answer["value"] = one.value(states).double().numpy()
            if hasattr(policy, "all_log_probabilities"):
                answer["probabilities"] = policy.all_log_probabilities(states).exp().double().numpy()
        found.append(answer)
    return learner, found


def test_the_worlds_are_as_the_tests_suppose() -> None:
    mdp = world()
    times = stitched(mdp)
    best = best_in_support(mdp, times)
    # three steps up, then four to the goal: seven steps of cost 0.01, the last of which earns 1
    assert best[START, UP] == pytest.approx(DISCOUNT**6 - 0.01 * (1 - DISCOUNT**7) / (1 - DISCOUNT))
    # nobody who logged it went there: the trip from S earned 0.2 after six steps
    trip = 0.2 * DISCOUNT**5 - 0.01 * (1 - DISCOUNT**6) / (1 - DISCOUNT)
    assert trip < 0.1 < 0.4 < best[START, UP]


def test_behaviour_cloning_finds_the_behaviours_probabilities() -> None:
    mdp = world()
    times = everything(mdp) * np.array([1, 2, 3, 4])
    _, found = learned("bc", mdp, times, 2000, learning_rate=0.01)
    there = times.sum(1) > 0
    for answer in found:
        expected = (times / np.maximum(times.sum(1, keepdims=True), 1))[there]
        assert np.abs(answer["probabilities"][there] - expected).mean() < 0.03
        assert (answer["policy"][there].argmax(1) == LEFT).all()


def test_naive_q_learning_believes_in_actions_that_nobody_tried() -> None:
    mdp = world()
    times = stitched(mdp)
    best = best_in_support(mdp, times)
    _, found = learned("q_learning", mdp, times, 2000, learning_rate=0.01)
    believed = np.array([answer["q"][START].max() for answer in found])
    worth = np.array([policy_value(mdp, answer["policy"]) for answer in found])
    assert (worth < best[START, UP] - 0.3).sum() >= 3, f"its policies are worth {worth}, {best[START, UP]:.3f} was in the log"
    assert (believed - worth).mean() > 0.3, f"it believes {believed} of policies worth {worth}"


def test_q_learning_is_right_where_everything_was_tried() -> None:
    mdp = world()
    times = everything(mdp)
    best = best_in_support(mdp, times)
    there = times.sum(1) > 0
    _, found = learned("q_learning", mdp, times, 2500, learning_rate=0.01)
    for answer in found:
        assert np.abs(answer["q"][there] - best[there]).max() < 0.03
        assert policy_value(mdp, answer["policy"]) == pytest.approx(best[START].max(), abs=1e-9)


@pytest.mark.parametrize("name", ["cql", "iql", "bcq"])
def test_conservative_methods_stitch_the_best_trip_from_two_logs(name: str) -> None:
    mdp = world()
    times = stitched(mdp)
    best = best_in_support(mdp, times)
    settings = {
        "cql": {"critic_learning_rate": 0.01, "conservatism": 1.0},
        "iql": {"learning_rate": 0.01, "expectile": 0.95, "inverse_temperature": 20.0},
        "bcq": {"learning_rate": 0.01},
    }
    _, found = learned(name, mdp, times, 2500, **settings[name])
    for answer in found:
        assert policy_value(mdp, answer["policy"]) == pytest.approx(best[START, UP], abs=1e-9)


@pytest.mark.parametrize(("threshold", "allowed"), [(0.6, (UP, LEFT)), (0.1, (UP, RIGHT, DOWN, LEFT))])
def test_bcq_finds_the_best_of_the_actions_that_are_likely_enough(threshold: float, allowed: tuple[int, ...]) -> None:
    mdp = world()
    times = everything(mdp) * np.array([4, 1, 2, 3])  # shares of the likeliest: up 1, right 1/4, down 1/2, left 3/4
    best = best_in_support(mdp, np.where(np.isin(np.arange(4), allowed), times, 0))
    _, found = learned("bcq", mdp, times, 2500, learning_rate=0.01, threshold=threshold)
    for answer in found:
        assert policy_value(mdp, answer["policy"]) == pytest.approx(best[START].max(), abs=1e-9)
        assert answer["q"][START, UP] == pytest.approx(best[START, UP], abs=0.03)


def expectile_values(mdp: TabularMDP, times: Array, expectile: float) -> Array:
    """Returns `V [S]`, the fixed point of IQL's equations: the expectile of the values of the logged actions, by bisection."""
    values = np.zeros(mdp.states)
    for _ in range(200):
        q = mdp.action_values(values)
        low, high = q.min(1), q.max(1)
        for _ in range(40):
            middle = (low + high) / 2
            above = q > middle[:, None]
            slope = (times * np.where(above, expectile, 1 - expectile) * (q - middle[:, None])).sum(1)
            low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
        values = np.where(times.sum(1) > 0, middle, 0.0)
    return values


def test_iql_nears_the_best_in_support_as_its_expectile_nears_1() -> None:
    mdp = world()
    times = stitched(mdp)
    there = times.sum(1) > 0
    best = best_in_support(mdp, times)[there].max(1)
    behaviour = np.where(there[:, None], times / np.maximum(times.sum(1, keepdims=True), 1), 0.25)
    error = []
    for expectile in (0.5, 0.8, 0.95):
        exact = expectile_values(mdp, times, expectile)[there]
        if expectile == 0.5:  # the value of the behaviour itself
            assert exact == pytest.approx(state_values(mdp, behaviour)[there], abs=1e-6)
        _, found = learned("iql", mdp, times, 2500, learning_rate=0.01, expectile=expectile)
        values = np.array([answer["value"][there] for answer in found])
        assert np.abs(values - exact).max() < 0.1 and np.abs(values - exact).mean() < 0.03
        error.append(np.abs(values - best).max())
    assert error[0] > 0.2 > error[1] > error[2] and error[2] < 0.1


def test_cql_values_are_below_its_policys_where_every_action_was_logged_as_often() -> None:
    # Where each of n actions is logged as often, the table's fixed point is Q = TQ - (alpha / 2) (n softmax(Q) - 1):
    # below TQ for the greedy action, whose softmax is at least 1 / n. So its values are lower bounds, in every state.
    mdp, alpha = world(), 0.2
    times = everything(mdp)
    there = times.sum(1) > 0
    _, found = learned("cql", mdp, times, 4000, critic_learning_rate=0.002, conservatism=alpha)
    for answer in found:
        q = answer["q"]
        target = mdp.action_values(np.where(there, q.max(1), 0.0))
        softmax = np.exp(q) / np.exp(q).sum(1, keepdims=True)
        assert np.abs(q - (target - alpha / 2 * (4 * softmax - 1)))[there].mean() < 0.03
        worth = policy_q(mdp, answer["policy"]).max(1)
        assert (q.max(1) <= worth + 0.02)[there].all()
        assert q[START].max() < worth[START] - 0.02
        assert policy_value(mdp, answer["policy"]) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(32, 32)])
def test_with_networks_the_picture_is_the_same(hidden: tuple[int, ...]) -> None:
    mdp = world()
    times = stitched(mdp)
    best = best_in_support(mdp, times)[START, UP]
    worth = {}
    for name, settings in {
        "q_learning": {"learning_rate": 1e-3},
        "cql": {"critic_learning_rate": 1e-3, "conservatism": 1.0},
        "iql": {"learning_rate": 1e-3, "expectile": 0.95, "inverse_temperature": 20.0},
    }.items():
        _, found = learned(name, mdp, times, 5000, hidden=hidden, **settings)
        worth[name] = np.array([policy_value(mdp, answer["policy"]) for answer in found])
    assert worth["cql"] == pytest.approx(best) and worth["iql"] == pytest.approx(best)
    assert worth["q_learning"].mean() < best - 0.2
