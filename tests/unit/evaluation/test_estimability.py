"""Effective sizes, the tail of weights, and the gates: by hand, against known tails, and by the coverage of what they admit."""

import math

import numpy as np
import pytest
from scipy import stats

from stitchrl.core.errors import DataError
from stitchrl.evaluation.confidence import draws_together, interval_of_draws
from stitchrl.evaluation.estimability import (
    effective_sizes,
    kish,
    largest_share,
    marginal_gate,
    pareto_k,
    trajectory_gate,
    trajectory_log_weights,
)
from stitchrl.evaluation.evidence import Array, Episodes, Mean, Ratio


def log_of(
    log_ratios: list[Array] | Array | None,
    *,
    lengths: Array | None = None,
    ends: bool = True,
    discount: float = 0.99,
    groups: Array | None = None,
) -> Episodes:
    """Episodes of these log-ratios, one array each; without rewards."""
    if log_ratios is not None:
        lengths = np.array([len(r) for r in log_ratios])
    assert lengths is not None
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    terminals = np.zeros(offsets[-1], bool)
    terminals[offsets[1:] - 1] = ends
    ratios = None if log_ratios is None else np.concatenate(log_ratios)
    return Episodes(offsets, np.zeros(offsets[-1]), terminals, discount, ratios, groups)


def one_step(weights: Array, **more: Array) -> Episodes:
    with np.errstate(divide="ignore"):
        return log_of(np.log(np.asarray(weights, np.float64))[:, None], **more)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------- effective sizes


def test_kish_by_hand() -> None:
    assert kish(np.full(7, 3.0)) == 7
    assert kish(np.log([3.0, 1.0])) == pytest.approx(16 / 10)
    one_hot = np.full(100, -np.inf)
    assert kish(one_hot) == 0
    one_hot[3] = 2.0
    assert kish(one_hot) == 1  # trust row 4 says 99
    assert kish(np.log([3.0, 1.0]) - 5000) == pytest.approx(1.6) == kish(np.log([3.0, 1.0]) + 5000)  # never leaves log-space


def test_largest_share_by_hand() -> None:
    assert largest_share(np.log([3.0, 1.0])) == pytest.approx(0.75)
    assert largest_share(np.zeros(8)) == pytest.approx(0.125)
    assert math.isnan(largest_share([-np.inf, -np.inf]))


@pytest.mark.parametrize("bad", [[], [np.nan], [np.inf, 0.0], [[0.0]]])
def test_bad_log_weights_are_refused(bad: list[float]) -> None:
    for function in (kish, largest_share, pareto_k):
        with pytest.raises(DataError, match="log-weights"):
            function(bad)


def test_effective_sizes_carry_ended_episodes() -> None:
    two, three = math.log(2), math.log(3)
    episodes = log_of([np.array([two]), np.array([three, -three, two]), np.array([0.0, 0.0])])
    # t = 0: 2, 3, 1; t = 1: 2, 1, 1; t = 2: 2, 2, 1
    assert effective_sizes(episodes) == pytest.approx([36 / 14, 16 / 6, 25 / 9])
    assert trajectory_log_weights(episodes) == pytest.approx([two, two, 0])


def test_effective_sizes_are_kish_of_the_padded_sums() -> None:
    generator = np.random.default_rng(0)
    ratios = [np.where(generator.random(n) < 0.01, -np.inf, generator.normal(0, 0.3, n)) for n in generator.integers(1, 40, 200)]
    episodes = log_of(ratios)
    assert episodes.log_ratios is not None
    table = np.cumsum(episodes.padded(episodes.log_ratios), 1)
    assert effective_sizes(episodes) == pytest.approx([kish(column) for column in table.T])
    nothing = log_of([np.array([0.0, -np.inf]), np.array([-np.inf])])
    assert effective_sizes(nothing).tolist() == [1.0, 0.0]


def test_a_policy_without_density_has_no_weights() -> None:
    with pytest.raises(DataError, match="no density"):
        effective_sizes(log_of(None, lengths=np.array([2, 3])))


# ------------------------------------------------------------------------------------------------------------------ tails


@pytest.mark.parametrize("k", [-0.4, 0.0, 0.3, 0.5, 0.7, 1.0, 1.5])
def test_pareto_k_of_known_tails(k: float) -> None:
    """Above a high threshold a generalised Pareto's tail is one with the same k. M = 300 of 10,000: error about (1 + k) / sqrt(300) each."""
    found = [pareto_k(np.log(stats.genpareto.rvs(k, size=10_000, random_state=i))) for i in range(30)]
    expected = (300 * k + 5) / 310  # drawn towards 0.5
    assert np.mean(found) == pytest.approx(expected, abs=0.06)
    assert np.std(found) < 2 * (1 + abs(k)) / math.sqrt(300)


def test_pareto_k_ignores_scale_and_order() -> None:
    x = np.log(stats.genpareto.rvs(0.6, size=500, random_state=0))
    assert pareto_k(x + 3000) == pytest.approx(pareto_k(x)) == pytest.approx(pareto_k(x[::-1]))


def test_pareto_k_of_no_tail() -> None:
    assert pareto_k(np.full(100, 1.7)) == -math.inf
    assert pareto_k(np.repeat([0.0, 1.0], 100)) == -math.inf  # half of the weights share the maximum
    assert math.isnan(pareto_k(np.full(50, -np.inf)))
    assert math.isnan(pareto_k(np.log(np.arange(1.0, 21.0))))  # 20 weights: a tail of 4
    assert math.isfinite(pareto_k(np.log(np.arange(1.0, 22.0))))
    assert math.isnan(pareto_k(np.r_[np.zeros(97), 1.0, 2.0, 3.0]))  # three lie above the rest


# ------------------------------------------------------------------------------------------------------------------ gates


def spread(weights: Array) -> Array:
    """Weights scaled to the mean 1."""
    return np.asarray(weights / weights.mean())


def test_the_policy_that_logged_passes() -> None:
    for n in (30, 50, 2000):
        assert trajectory_gate(one_step(np.ones(n))) is None
        assert marginal_gate(np.ones(n), one_step(np.ones(n))) is None


def test_trajectory_gate_names_what_it_found_and_needs() -> None:
    half = np.r_[np.full(50, 0.5), np.full(50, 1.5)]
    assert trajectory_gate(one_step(half)) is None
    assert trajectory_gate(log_of(None, lengths=np.array([1]))) == (
        "not estimable: a deterministic or implicit policy of continuous actions has no density to weight episodes by; "
        "needs a stochastic policy, or an estimator of values"
    )
    assert trajectory_gate(one_step(np.ones(29))) == "not estimable: 29 episodes; needs at least 30"
    assert "are 0 in all 100 episodes" in str(trajectory_gate(one_step(np.zeros(100))))
    few = np.r_[np.full(25, 4.0), np.zeros(75)]
    assert (
        trajectory_gate(one_step(few))
        == "not estimable: the whole-episode weights of 100 episodes are worth 25.0 equal ones; needs at least 30"
    )
    assert "worth 40.0 equal ones; needs at least 50" in str(trajectory_gate(one_step(np.r_[np.full(40, 25.0), np.zeros(960)])))
    big = spread(np.r_[10.0, np.ones(99)])  # 10 / 109 = 9.2 % in one, effective 109² / 199 = 59.7
    assert "one of 100 episodes has 9.2% of the whole-episode weights; needs at most 7%" in str(trajectory_gate(one_step(big)))


def test_trajectory_gate_reads_the_tail() -> None:
    """k = 0.9 over 20,000 episodes: enough of them by Kish's number in some logs, and still no variance to make an interval from."""
    refused = [trajectory_gate(one_step(spread(stats.genpareto.rvs(0.9, size=20_000, random_state=i)))) for i in range(10)]
    assert all(refused)
    thin = [trajectory_gate(one_step(spread(stats.genpareto.rvs(0.2, size=20_000, random_state=i)))) for i in range(10)]
    assert not any(thin)
    # 400 weights whose sum is steadied by 4,000 more: only the tail can tell
    heavy = np.r_[np.full(4000, 30.0), 30 + stats.genpareto.rvs(0.9, size=400, random_state=0)]
    assert kish(np.log(heavy)) > 4000 * 0.05 and largest_share(np.log(heavy)) < 0.07
    assert "Pareto k" in str(trajectory_gate(one_step(spread(heavy))))


def test_trajectory_gate_misses_what_the_log_lacks() -> None:
    """A policy that takes an action never logged in 4 of 10 cases: the weights of what was logged are even, and their mean 0.6."""
    reason = trajectory_gate(one_step(np.full(200, 0.6)))
    assert reason is not None and "mean whole-episode weight is 0.6" in reason and "the log lacks episodes" in reason
    assert trajectory_gate(one_step(np.full(200, 0.97))) is None  # within 0.05, as estimated propensities are
    assert "came by chance, or the propensities are wrong" in str(trajectory_gate(one_step(np.full(200, 1.3))))
    assert "weight is inf" in str(trajectory_gate(log_of(np.full((50, 2), 500.0))))
    noisy = np.random.default_rng(0).lognormal(-0.5, 1.0, 200)
    assert "mean whole-episode" not in str(trajectory_gate(one_step(noisy)))


def test_trajectory_gate_reads_the_clock() -> None:
    zeros = np.zeros((50, 10))
    assert trajectory_gate(log_of(zeros, ends=False, discount=0.7)) is None  # 0.7^10 = 0.028
    reason = trajectory_gate(log_of(zeros, ends=False, discount=0.99))
    assert reason is not None and "90.4% of the discount left" in reason  # 0.99^10
    assert trajectory_gate(log_of(zeros, ends=True, discount=0.99)) is None
    assert marginal_gate(np.ones(500), log_of(zeros, ends=False, discount=0.99)) is None


def test_gates_count_groups() -> None:
    """200 episodes of 20 patients are 20 units; of 40 patients, two of whom have all the weight, 2."""
    assert trajectory_gate(one_step(np.ones(200), groups=np.arange(200) % 20)) == "not estimable: 20 groups of episodes; needs at least 30"
    groups = np.arange(200) % 40
    weights = np.where(groups < 2, 20.0, 0.0)
    for reason in (trajectory_gate(one_step(weights, groups=groups)), marginal_gate(weights, one_step(np.ones(200), groups=groups))):
        assert reason is not None and "of 40 groups of episodes are worth 2.0 equal ones" in reason
    assert trajectory_gate(one_step(np.ones(200), groups=groups)) is None


def test_marginal_gate() -> None:
    log = log_of(np.zeros((100, 2)), discount=0.5)
    few = np.zeros((100, 2))
    few[:10] = 10
    assert "marginal weights of 100 episodes are worth 10.0 equal ones; needs at least 30" in str(marginal_gate(few.ravel(), log))
    late = np.ones((100, 2))
    late[0, 1] = 20.0  # 1 + 0.5 · 20 = 11 against 1.5: 11 / 159.5 = 6.9 %; at discount 1, 21 / 219 = 9.6 %
    assert marginal_gate(late.ravel(), log) is None
    assert "9.6% of the marginal weights" in str(marginal_gate(late.ravel(), log_of(np.zeros((100, 2)), discount=1.0)))
    assert "are 0 in all" in str(marginal_gate(np.zeros(200), log))
    with pytest.raises(DataError, match="1 of 200 are negative or not finite"):
        marginal_gate(np.r_[-1.0, np.ones(199)], log)
    with pytest.raises(DataError, match="one for each of 200 steps"):
        marginal_gate(np.ones(3), log)


# --------------------------------------------------------------------------------- coverage of what the gate lets through

BEHAVIOUR, STEPS, DISCOUNT = 0.5, 6, 0.9


def logged(n: int, target: float, seed: list[int]) -> tuple[Episodes, Array, Array]:
    """A log of two actions, equally likely; action 1 moves a state in 0…3 up, action 0 sends it to 0; the state is the reward. [n, STEPS] each."""
    generator = np.random.default_rng(seed)
    actions = generator.random((n, STEPS)) < BEHAVIOUR
    rewards, state = np.empty((n, STEPS)), np.zeros(n)
    for t in range(STEPS):
        state = np.where(actions[:, t], np.minimum(state + 1, 3), 0)
        rewards[:, t] = state
    ratios = np.where(actions, math.log(target / BEHAVIOUR), math.log((1 - target) / (1 - BEHAVIOUR)))
    return log_of(ratios, discount=DISCOUNT), ratios, rewards


def true_value(target: float) -> float:
    """The exact value, by the distribution over states at each time."""
    states, value = np.array([1.0, 0, 0, 0]), 0.0
    for t in range(STEPS):
        states = np.array([1 - target, target * states[0], target * states[1], target * (states[2] + states[3])])
        value += DISCOUNT**t * float(states @ np.arange(4))
    return value


def rates(target: float, n: int, times: int) -> tuple[float, dict[str, float], dict[str, float]]:
    """How often the gate admits, and how often the intervals of what it admits, and of what it refuses, cover."""
    discounts, truth = DISCOUNT ** np.arange(STEPS), true_value(target)
    hits: dict[bool, list[list[bool]]] = {True: [], False: []}
    for i in range(times):
        episodes, ratios, rewards = logged(n, target, [11, i])
        w = np.exp(np.cumsum(ratios, 1))
        returns = rewards @ discounts
        statistics = [
            Ratio((w[:, -1] * returns)[:, None], w[:, -1:]),
            Mean((w * rewards) @ discounts),
            Ratio(w * rewards * discounts, w),
        ]
        drawn = draws_together(statistics, seed=i, resamples=300)
        made = [interval_of_draws(s, d, method="expanded") for s, d in zip(statistics, drawn)]
        hits[trajectory_gate(episodes) is None].append([m.low <= truth <= m.high for m in made])
    share = [dict(zip(("wis", "pdis", "wpdis"), np.mean(h, 0).tolist())) if h else {} for h in (hits[True], hits[False])]
    return len(hits[True]) / times, share[0], share[1]


def test_the_true_value_by_enumeration() -> None:
    """Every sequence of actions, with its probability."""
    total = 0.0
    for code in range(2**STEPS):
        actions = [(code >> t) & 1 for t in range(STEPS)]
        state, value = 0, 0.0
        for t, a in enumerate(actions):
            state = min(state + 1, 3) if a else 0
            value += DISCOUNT**t * state
        total += value * 0.7 ** sum(actions) * 0.3 ** (STEPS - sum(actions))
    assert true_value(0.7) == pytest.approx(total)


def test_intervals_cover_where_the_gate_admits() -> None:
    """Near the log: nearly all admitted, and 0.92–0.98 of nominal 95 % intervals cover. Of 600 the noise is 0.009: 90 % intervals would fail."""
    admitted, covered, _ = rates(0.65, 150, 600)
    assert admitted > 0.95
    assert all(0.92 < share < 0.98 for share in covered.values()), covered


def test_the_gate_refuses_where_intervals_do_not_cover() -> None:
    """Far from the log one episode in 64 is what the policy does: none admitted, and what is refused would have covered too rarely."""
    admitted, _, refused = rates(0.97, 100, 300)
    assert admitted < 0.01
    assert refused["wis"] < 0.8
