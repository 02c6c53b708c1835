"""Importance sampling: the truth of a solved chain, textbook formulas in loops, what must not change, and numbers that overflow."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.environments.tasks.tabular import policy_value
from stitchrl.evaluation.evidence import Episodes, Mean
from stitchrl.evaluation.importance_sampling import (
    StepRatios,
    behaviour_value,
    log_weights,
    return_distribution,
    running_sums,
    trajectory_estimators,
)
from tests.unit.evaluation.chain_log import BEHAVIOUR, TARGET, chain, chosen, random_log, simulate

NAMES = ("is", "wis", "pdis", "wpdis")
SEEDS = range(60)


def points(episodes: Episodes) -> dict[str, float]:
    return {name: statistic.point for name, statistic in trajectory_estimators(episodes).items()}


def literal(episodes: Episodes) -> dict[str, float]:
    """The textbook formulas (Precup et al., 2000; Thomas, 2015), one number at a time."""
    count, horizon, discount = episodes.count, int(episodes.lengths.max()), episodes.discount
    weight = [[0.0] * horizon for _ in range(count)]
    reward = [[0.0] * horizon for _ in range(count)]
    for i in range(count):
        product = 1.0
        for t in range(horizon):
            row = episodes.offsets[i] + t
            if row < episodes.offsets[i + 1]:
                product *= math.exp(episodes.log_ratios[row])  # type: ignore[index]
                reward[i][t] = episodes.rewards[row]
            weight[i][t] = product
    returns = [sum(discount**t * reward[i][t] for t in range(horizon)) for i in range(count)]
    last = [weight[i][-1] for i in range(count)]
    pdis = sum(discount**t * weight[i][t] * reward[i][t] for i in range(count) for t in range(horizon)) / count
    wpdis = 0.0
    for t in range(horizon):
        total = sum(weight[i][t] for i in range(count))
        wpdis += discount**t * sum(weight[i][t] * reward[i][t] for i in range(count)) / total
    return {
        "is": sum(w * g for w, g in zip(last, returns)) / count,
        "wis": sum(w * g for w, g in zip(last, returns)) / sum(last),
        "pdis": pdis,
        "wpdis": wpdis,
    }


# ------------------------------------------------------------------------------------------------------------------------- truth


@pytest.mark.parametrize("steps", [8, 1000])
def test_the_mean_over_many_logs_is_the_truth(steps: int) -> None:
    mdp = chain()
    truth = policy_value(mdp, TARGET, steps=steps)
    found = {name: [] for name in NAMES}  # type: dict[str, list[float]]
    for seed in range(40):
        for name, value in points(simulate(mdp, 1000, seed, steps=steps).episodes).items():
            found[name].append(value)
    for name, values in found.items():
        error = np.std(values, ddof=1) / math.sqrt(len(values))
        assert abs(np.mean(values) - truth) < 3 * error, name
        assert error < 0.03, name  # not merely a wide error
    spread = {name: np.std(values) for name, values in found.items()}
    assert spread["pdis"] < spread["is"] and spread["wpdis"] < spread["pdis"] and spread["wis"] < spread["is"]


def test_is_and_pdis_are_unbiased_in_logs_of_three_episodes_and_the_weighted_are_not() -> None:
    mdp = chain()
    truth = policy_value(mdp, TARGET, steps=6)
    z = dict.fromkeys(NAMES, 0.0)
    values = {name: np.zeros((20, 500)) for name in NAMES}
    counts = np.kron(np.eye(500), np.ones(3))  # 500 logs of three episodes
    for seed in range(20):
        for name, statistic in trajectory_estimators(simulate(mdp, 1500, seed, steps=6).episodes).items():
            values[name][seed] = statistic.value(counts)
    for name in NAMES:
        z[name] = (values[name].mean() - truth) / (values[name].std() / 100)
    assert abs(z["is"]) < 3 and abs(z["pdis"]) < 3
    assert abs(z["wis"]) > 4 and abs(z["wpdis"]) > 4  # so small a bias would be seen


def test_behaviour_value_is_the_mean_discounted_return() -> None:
    mdp = chain()
    statistic = behaviour_value(simulate(mdp, 20_000, 3).episodes)
    assert isinstance(statistic, Mean)
    assert abs(statistic.point - policy_value(mdp, BEHAVIOUR)) < 3 * statistic.values.std() / math.sqrt(20_000)


# ----------------------------------------------------------------------------------------------------------------- transcription


@pytest.mark.parametrize("seed", SEEDS)
def test_against_the_literal_formulas(seed: int) -> None:
    episodes, _ = random_log(seed)
    expected = literal(episodes)
    for name, value in points(episodes).items():
        assert value == pytest.approx(expected[name], rel=1e-10, abs=1e-12), name


def test_two_episodes_by_hand() -> None:
    # Ratios 2 | 1/2, 3: weights 2 (then carried) | 0.5, 1.5. Rewards 1 | 4, 10; discount 0.5. Returns 1 | 9.
    episodes = Episodes(np.array([0, 1, 3]), np.array([1.0, 4.0, 10.0]), np.array([True, False, True]), 0.5, np.log([2.0, 0.5, 3.0]))
    got = points(episodes)
    assert got["is"] == pytest.approx((2 * 1 + 1.5 * 9) / 2)
    assert got["wis"] == pytest.approx((2 * 1 + 1.5 * 9) / 3.5)
    assert got["pdis"] == pytest.approx((2 * 1 + 0.5 * 4 + 0.5 * 1.5 * 10) / 2)
    assert got["wpdis"] == pytest.approx((2 * 1 + 0.5 * 4) / 2.5 + 0.5 * (1.5 * 10) / (2 + 1.5))


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_the_log_with_its_episodes_repeated(seed: int) -> None:
    episodes, _ = random_log(seed)
    generator = np.random.default_rng(seed)
    rows = np.append(generator.integers(episodes.count, size=episodes.count), 0)  # episode 0 has a weight above 0
    counts = np.bincount(rows, minlength=episodes.count)[None]
    again = chosen(episodes, rows)
    for name, statistic in trajectory_estimators(episodes).items():
        expected = trajectory_estimators(again)[name].point
        assert statistic.value(counts)[0] == pytest.approx(expected, rel=1e-9, abs=1e-12), name
    distribution, redrawn = return_distribution(episodes), return_distribution(again)
    for name, statistic in distribution.statistics(0.3).items():
        assert statistic.value(counts)[0] == pytest.approx(redrawn.statistics(0.3)[name].point, rel=1e-9, abs=1e-12), name
    assert distribution.below(0.1).value(counts)[0] == pytest.approx(redrawn.below(0.1).point)


@pytest.mark.parametrize("seed", range(20))
def test_running_sums_in_every_shape_of_log(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = np.concatenate([generator.integers(1, 4, size=seed * 5), generator.integers(1, 200, size=1 + seed % 3)])
    generator.shuffle(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = generator.normal(size=offsets[-1])
    episodes = Episodes(offsets, values, np.zeros(len(values), bool), 0.9)
    expected = np.concatenate([np.cumsum(values[a:b]) for a, b in zip(offsets[:-1], offsets[1:])])
    np.testing.assert_array_equal(running_sums(episodes, values), expected)


# ------------------------------------------------------------------------------------------------------------ what must not change


@pytest.mark.parametrize("seed", range(20))
def test_the_behaviour_itself_gives_the_sample_mean(seed: int) -> None:
    episodes, _ = random_log(seed)
    episodes = replace(episodes, log_ratios=np.zeros(len(episodes.rewards)))
    mean = behaviour_value(episodes).point
    got = points(episodes)
    assert got["is"] == mean and got["pdis"] == mean  # to the last bit
    assert got["wis"] == pytest.approx(mean, rel=1e-14, abs=1e-14) and got["wpdis"] == pytest.approx(mean, rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("seed", range(20))
def test_order_repeats_scale_and_padding(seed: int) -> None:
    episodes, _ = random_log(seed)
    got = points(episodes)
    every = np.arange(episodes.count)
    shuffled = points(chosen(episodes, np.random.default_rng(seed).permutation(every)))
    doubled = points(chosen(episodes, np.repeat(every, 2)))
    scaled = points(replace(episodes, rewards=-3 * episodes.rewards))
    padded = points(pad(episodes))
    for name in NAMES:
        for same in (shuffled, doubled, padded):
            assert same[name] == pytest.approx(got[name], rel=1e-10, abs=1e-12), name
        assert scaled[name] == pytest.approx(-3 * got[name], rel=1e-10, abs=1e-12), name


def pad(episodes: Episodes) -> Episodes:
    """Each episode to the length of the longest and two more, with steps of ratio 1 and reward 0."""
    width = int(episodes.lengths.max()) + 2
    table = {name: np.zeros((episodes.count, width)) for name in ("rewards", "log_ratios")}
    for i in range(episodes.count):
        rows = slice(episodes.offsets[i], episodes.offsets[i + 1])
        for name, values in table.items():
            values[i, : episodes.lengths[i]] = getattr(episodes, name)[rows]
    offsets = np.arange(episodes.count + 1) * width
    return replace(episodes, offsets=offsets, terminals=np.zeros(offsets[-1], bool), **{k: v.reshape(-1) for k, v in table.items()})


def test_shifted_rewards_shift_the_weighted_estimators_of_episodes_of_one_length() -> None:
    generator = np.random.default_rng(1)
    episodes = Episodes(np.arange(0, 51, 5), generator.normal(size=50), np.zeros(50, bool), 0.8, generator.normal(size=50))
    before, after = points(episodes), points(replace(episodes, rewards=episodes.rewards + 2.5))
    shift = 2.5 * sum(0.8**t for t in range(5))
    for name in ("wis", "wpdis"):
        assert after[name] - before[name] == pytest.approx(shift)
    for name in ("is", "pdis"):
        assert abs(after[name] - before[name] - shift) > 0.01  # the price of weights that do not sum to the number of episodes


@pytest.mark.parametrize("seed", range(10))
def test_discount_0_is_the_first_reward_by_the_first_ratio(seed: int) -> None:
    episodes, _ = random_log(seed)
    first = episodes.offsets[:-1]
    ratios = np.array(episodes.log_ratios)
    ratios[np.setdiff1d(np.arange(len(ratios)), first)] = -np.inf  # later weights are all 0: of no account
    ratios[first[0]] = 0.3
    episodes = replace(episodes, discount=0.0, log_ratios=ratios)
    got, weight = points(episodes), np.exp(ratios[first])
    assert got["pdis"] == pytest.approx((weight * episodes.rewards[first]).mean())
    assert got["wpdis"] == pytest.approx((weight * episodes.rewards[first]).sum() / weight.sum())


# --------------------------------------------------------------------------------------------------------------------- log space


def test_ratios_of_e_to_the_400_overflow_the_plain_estimators_alone() -> None:
    ratios = np.array([400.0, 400, 400, 399, 400, 401, -400, -400, 5])
    episodes = Episodes(np.array([0, 3, 6, 9]), np.arange(9.0), np.zeros(9, bool), 0.9, ratios)
    got = points(episodes)
    assert got["is"] == math.inf and got["pdis"] == math.inf
    np.testing.assert_allclose(got["wis"], (episodes.discounted(episodes.rewards)[:2]).mean(), rtol=1e-12)
    low, high = 1 / (1 + math.e), math.e / (1 + math.e)  # shares of weights one apart in the exponent
    wpdis = (high * 0 + low * 3) + 0.9 * (high * 1 + low * 4) + 0.81 * (2 + 5) / 2
    np.testing.assert_allclose(got["wpdis"], wpdis, rtol=1e-12)


def test_a_large_weight_that_dies_leaves_the_small_ones_their_shares() -> None:
    # The first is e^900 beside 1 and e until it dies; ended episodes carry 1 and e. At time 1 only the second and third count.
    episodes = Episodes(np.array([0, 2, 3, 5]), np.array([5.0, 7, 1, 2, 3]), np.zeros(5, bool), 1.0, np.array([900.0, -np.inf, 0, 1, 0]))
    assert points(episodes)["wpdis"] == pytest.approx(5 + 3 * math.e / (1 + math.e))
    counts = np.array([[0, 1, 2], [1, 0, 0]])
    wpdis = trajectory_estimators(episodes)["wpdis"].value(counts)
    assert math.isnan(wpdis[1])  # nothing is left at time 1


def test_an_ended_episode_of_large_weight_holds_it_and_no_reward_costs_nothing() -> None:
    episodes = Episodes(np.array([0, 1, 3]), np.array([0.0, 2, 3]), np.zeros(3, bool), 1.0, np.array([900.0, 0, 1]))
    got = points(episodes)
    assert got["wpdis"] == pytest.approx(0, abs=1e-300)  # at both times the first has all the weight, and earns nothing
    assert got["is"] == pytest.approx(math.e * 5 / 2)  # infinite weight, nothing earned: 0, not NaN
    assert got["pdis"] == pytest.approx((2 + math.e * 3) / 2)


def test_weights_that_are_all_zero_are_nan_and_no_warning() -> None:
    episodes = Episodes(np.array([0, 2, 3]), np.ones(3), np.zeros(3, bool), 1.0, np.full(3, -np.inf))
    got = points(episodes)
    assert got["is"] == 0 and got["pdis"] == 0 and math.isnan(got["wis"]) and math.isnan(got["wpdis"])
    distribution = return_distribution(episodes)
    assert all(math.isnan(s.point) for s in [*distribution.statistics().values(), distribution.below(2)])
    assert np.isnan(distribution.cumulative()).all()


@pytest.mark.parametrize("ratio", [np.nan, np.inf])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    episodes = Episodes(np.array([0, 2]), np.ones(2), np.zeros(2, bool), 1.0, np.array([0.0, ratio]))
    with pytest.raises(DataError, match="row 1; expected finite numbers or -inf"):
        trajectory_estimators(episodes)
    with pytest.raises(DataError, match="no density"):
        trajectory_estimators(replace(episodes, log_ratios=None))


def test_large_logs_take_little_time_and_memory() -> None:
    """One-step logs, even lengths, and one very long episode beside many short ones: 300,000 steps each."""
    generator = np.random.default_rng(0)
    shapes = [np.ones(300_000, int), generator.integers(1, 600, size=1000), np.append(np.full(20_000, 5), 200_000)]
    for lengths in shapes:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        size = int(offsets[-1])
        episodes = Episodes(offsets, generator.random(size), np.zeros(size, bool), 0.999, 0.1 * generator.normal(size=size))
        start = time.process_time()
        estimators = trajectory_estimators(episodes)
        counts = generator.integers(0, 3, size=(10, episodes.count))
        assert all(np.isfinite(statistic.value(counts)).all() for statistic in estimators.values())
        wpdis = estimators["wpdis"]
        assert isinstance(wpdis, StepRatios)
        held = sum(block.weights.nbytes + block.gains.nbytes for block in wpdis._blocks)
        assert held == 2 * 8 * size
        assert time.process_time() - start < 10


# -------------------------------------------------------------------------------------------------------- distribution of returns


@pytest.mark.parametrize("seed", range(20))
def test_quantiles_and_tails_of_the_behaviour_are_numpys(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 60))
    returns = generator.integers(-5, 6, size=count).astype(float)  # ties
    episodes = Episodes(np.arange(count + 1), returns, np.ones(count, bool), 0.9, np.zeros(count))
    distribution = return_distribution(episodes)
    for name, level in (("lower_quartile", 0.25), ("median", 0.5), ("upper_quartile", 0.75)):
        assert distribution.statistics()[name].point == np.quantile(returns, level, method="inverted_cdf")
    worst = int(generator.integers(1, count + 1))
    assert distribution.tail(worst / count).point == pytest.approx(np.sort(returns)[:worst].mean())
    assert distribution.below(1.0).point == pytest.approx((returns < 1.0).mean())
    np.testing.assert_allclose(distribution.cumulative(), np.arange(1, count + 1) / count)


def test_weighted_quantiles_and_tails_by_hand() -> None:
    # Returns 3, 1, 2 with weights 1/2, 1/4, 1/4: cumulative 1/4 (at 1), 1/2 (at 2), 1 (at 3).
    episodes = Episodes(np.arange(4), np.array([3.0, 1, 2]), np.ones(3, bool), 1.0, 500 + np.log([2.0, 1, 1]))
    distribution = return_distribution(episodes)
    assert [distribution.quantile(level).point for level in (0.2, 0.25, 0.3, 0.5, 0.6, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert distribution.tail(0.3).point == pytest.approx((0.25 * 1 + 0.05 * 2) / 0.3)
    assert distribution.below(2.0).point == pytest.approx(0.25) and distribution.below(2.5).point == pytest.approx(0.5)
    assert distribution.tail(1.0).point == pytest.approx(points(episodes)["wis"])
    with pytest.raises(ConfigError, match="level is 0"):
        distribution.quantile(0)
    with pytest.raises(ConfigError, match="share is 1.2"):
        distribution.tail(1.2)


def test_the_target_s_distribution_is_that_of_its_own_episodes() -> None:
    mdp = chain()
    estimated = return_distribution(simulate(mdp, 60_000, 1, steps=8).episodes)
    own = np.sort(behaviour_value(simulate(mdp, 60_000, 2, steps=8, behaviour=TARGET).episodes).values)
    effective = estimated.weights.sum() ** 2 / (estimated.weights**2).sum()
    for threshold in np.quantile(own, [0.1, 0.3, 0.5, 0.8]) + 1e-9:
        share = (own < threshold).mean()
        assert estimated.below(threshold).point == pytest.approx(
            share, abs=3 * math.sqrt(share * (1 - share) * (1 / effective + 1 / 60_000))
        )
    assert estimated.tail(0.2).point == pytest.approx(own[:12_000].mean(), abs=3 * own[:12_000].std() / math.sqrt(0.2 * effective))


def test_log_weights_keep_zeros() -> None:
    episodes = Episodes(np.array([0, 3, 4]), np.ones(4), np.zeros(4, bool), 1.0, np.array([0.5, -np.inf, 2.0, 0.25]))
    np.testing.assert_array_equal(log_weights(episodes), [0.5, -np.inf, -np.inf, 0.25])
