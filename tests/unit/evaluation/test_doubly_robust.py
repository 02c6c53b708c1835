"""DR, WDR, MAGIC and DRL: the truth of a solved chain, textbook formulas in loops, what must not change, and the end of the log."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from stitchrl.core.errors import DataError
from stitchrl.environments.tasks.tabular import occupancy, policy_value
from stitchrl.evaluation.doubly_robust import _least_on_simplex, _spread, doubly_robust_estimators, drl
from stitchrl.evaluation.evidence import Episodes, Mean, Model
from stitchrl.evaluation.importance_sampling import StepRatios, trajectory_estimators
from tests.unit.evaluation.chain_log import BEHAVIOUR, TARGET, Array, chain, chosen, chosen_model, model_of, random_log, simulate

NAMES = ("dr", "wdr", "magic")
WRONG = np.array([[0.6, 0.3], [0.9, 0.4], [-0.8, -0.3], [0.5, 0.7], [0.0, 0.0]])  # a bad model's errors in q: 0.43 at the start


def points(episodes: Episodes, model: Model) -> dict[str, float]:
    return {name: statistic.point for name, statistic in doubly_robust_estimators(episodes, model, draws=40).items()}


def literal_weights(episodes: Episodes) -> tuple[list[list[float]], int]:
    """Products of ratios by episode and time, the last carried on."""
    horizon = int(episodes.lengths.max())
    table = []
    for i in range(episodes.count):
        product, row = 1.0, []
        for t in range(horizon):
            if t < episodes.lengths[i]:
                product *= math.exp(episodes.log_ratios[episodes.offsets[i] + t])  # type: ignore[index]
            row.append(product)
        table.append(row)
    return table, horizon


def literal_dr(episodes: Episodes, model: Model) -> float:
    """Jiang & Li's recursion, backwards: DR_t = v(s_t) + ratio_t (r_t + discount DR_{t+1} - q_t), v_next beyond the log's end."""
    total = 0.0
    for i in range(episodes.count):
        value = model.v_next[episodes.offsets[i + 1] - 1]
        for row in reversed(range(episodes.offsets[i], episodes.offsets[i + 1])):
            ratio = math.exp(episodes.log_ratios[row])  # type: ignore[index]
            value = model.v[row] + ratio * (episodes.rewards[row] + episodes.discount * value - model.q[row])
        total += value
    return total / episodes.count


def literal_returns(episodes: Episodes, model: Model) -> tuple[list[float], Array]:
    """Thomas & Brunskill's g^(j), j = -1 .. H - 1, and each episode's part of them: for j steps the log, weighted, then the model.

    Where an episode was cut off or ended, its model value there stands at the following time, and 0 from then on.
    """
    weight, horizon = literal_weights(episodes)
    count, discount = episodes.count, episodes.discount
    share = [[weight[i][t] / sum(weight[k][t] for k in range(count)) for t in range(horizon)] for i in range(count)]
    parts = np.zeros((count, horizon + 1))
    for i in range(count):
        start, length = episodes.offsets[i], episodes.lengths[i]
        for j in range(-1, horizon):
            part = model.v_start[i] / count if j == -1 else 0.0
            for t in range(min(j + 1, length)):
                before = share[i][t - 1] if t else 1 / count
                part += discount**t * (share[i][t] * (episodes.rewards[start + t] - model.q[start + t]) + before * model.v[start + t])
            if j >= 0:
                reached = min(j + 1, length)  # the steps of the log in use; then v of what follows, with the weight up to it
                part += discount**reached * share[i][reached - 1] * model.v_next[start + reached - 1]
            parts[i, j + 1] = part
    return list(parts.sum(0)), parts


# ------------------------------------------------------------------------------------------------------------------------- truth


def many(steps: int, error: Array | float, logs: int = 40, size: int = 500) -> tuple[dict[str, Array], float]:
    mdp = chain()
    found: dict[str, list[float]] = {name: [] for name in (*NAMES, "pdis", "wpdis")}
    for seed in range(logs):
        log = simulate(mdp, size, seed, steps=steps)
        got = points(log.episodes, model_of(mdp, log, error=error))
        got |= {name: s.point for name, s in trajectory_estimators(log.episodes).items()}
        for name, values in found.items():
            values.append(got[name])
    return {name: np.array(values) for name, values in found.items()}, policy_value(mdp, TARGET)


def test_the_exact_model_leaves_little_noise_and_estimates_the_endless_value_at_any_clock() -> None:
    for steps in (4, 1000):
        found, truth = many(steps, 0.0)
        for name in NAMES:
            error = found[name].std(ddof=1) / math.sqrt(len(found[name]))
            assert abs(found[name].mean() - truth) < 3 * error and error < 0.01, name
        assert found["dr"].var() < 0.2 * found["pdis"].var() and found["wdr"].var() < 0.2 * found["wpdis"].var()
    clocked, _ = many(4, 0.0, logs=10)
    assert abs(clocked["pdis"].mean() - truth) > 0.2  # importance sampling stops at the clock


def test_a_wrong_model_is_corrected_where_the_log_has_no_clock() -> None:
    found, truth = many(1000, WRONG)
    model_alone = abs(float(chain().initial @ (TARGET * WRONG).sum(1)))
    for name in NAMES:
        error = found[name].std(ddof=1) / math.sqrt(len(found[name]))
        bias = abs(found[name].mean() - truth)
        assert bias < (3 * error if name != "magic" else 0.1 * model_alone), name  # magic pays bias for noise, less in larger logs
    assert model_alone > 0.2


def test_dr_is_unbiased_in_logs_of_three_episodes() -> None:
    mdp, values = chain(), []
    for seed in range(20):
        log = simulate(mdp, 1500, seed)
        dr = doubly_robust_estimators(log.episodes, model_of(mdp, log, error=WRONG), draws=2)["dr"]
        assert isinstance(dr, Mean)
        values.append(dr.value(np.kron(np.eye(500), np.ones(3))))
    every = np.concatenate(values)
    assert abs(every.mean() - policy_value(mdp, TARGET)) < 3 * every.std() / math.sqrt(len(every))


def test_magic_takes_the_better_side() -> None:
    exact, truth = many(1000, 0.0, logs=30, size=40)
    assert np.mean((exact["magic"] - truth) ** 2) < 0.8 * np.mean((exact["wdr"] - truth) ** 2)  # the model is right: lean on it
    wrong, _ = many(1000, 8 * WRONG, logs=15, size=2000)
    model_alone = 8 * float(chain().initial @ (TARGET * WRONG).sum(1))
    assert np.mean((wrong["magic"] - truth) ** 2) < 0.01 * model_alone**2  # the model is far off: follow the log


def test_drl_is_right_with_right_ratios_or_with_the_right_model() -> None:
    mdp = chain()
    truth = policy_value(mdp, TARGET)
    ratios = occupancy(mdp, TARGET)[:4] / occupancy(mdp, BEHAVIOUR)[:4]
    for error, scale in ((WRONG, 1.0), (0.0, 1.7), (0.0, 1.0)):
        log = simulate(mdp, 20_000, 11)
        statistic = drl(log.episodes, model_of(mdp, log, error=error), scale * ratios[log.states, log.actions])
        assert isinstance(statistic, Mean)
        assert abs(statistic.point - truth) < 3 * statistic.values.std() / math.sqrt(20_000)
    both_wrong = drl(log.episodes, model_of(mdp, log, error=WRONG), 1.7 * ratios[log.states, log.actions])
    assert abs(both_wrong.point - truth) > 0.1
    marginal = log.episodes.discounted(ratios[log.states, log.actions] * log.episodes.rewards)
    assert abs(marginal.mean() - truth) < 3 * marginal.std() / math.sqrt(20_000)  # the definition in its docstring
    product, model = trajectory_estimators(log.episodes)["pdis"], model_of(mdp, log, error=WRONG)
    assert isinstance(product, Mean)
    assert marginal.std() < 0.8 * product.values.std()  # what marginal ratios are for
    dr = doubly_robust_estimators(log.episodes, model, draws=2)["dr"]
    assert isinstance(dr, Mean) and statistic.values.std() < dr.values.std()


# ----------------------------------------------------------------------------------------------------------------- transcription


@pytest.mark.parametrize("seed", range(60))
def test_against_the_literal_formulas(seed: int) -> None:
    episodes, model = random_log(seed)
    estimators = doubly_robust_estimators(episodes, model, draws=40)
    returns, parts = literal_returns(episodes, model)
    assert estimators["dr"].point == pytest.approx(literal_dr(episodes, model), rel=1e-9, abs=1e-10)
    wdr, magic = estimators["wdr"], estimators["magic"]
    assert isinstance(wdr, StepRatios) and isinstance(magic, StepRatios)
    assert wdr.point == pytest.approx(returns[-1], rel=1e-9, abs=1e-10)
    ours = wdr.contributions(np.arange(len(returns) - 1)) + model.v_start[:, None] / episodes.count
    np.testing.assert_allclose(ours, parts[:, 1:], rtol=1e-9, atol=1e-10)
    if episodes.count == 1:
        assert math.isnan(magic.point)
        return
    blend = -np.diff(magic.shares, prepend=1.0, append=0.0)
    assert (blend > -1e-12).all() and blend.sum() == pytest.approx(1)
    assert magic.point == pytest.approx(blend @ returns, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("seed", [seed for seed in range(100, 116) if random_log(seed, zeros=False)[0].count > 1])
def test_magic_s_blend_is_the_least_of_the_literal_objective(seed: int) -> None:
    episodes, model = random_log(seed, zeros=False)
    estimators = doubly_robust_estimators(episodes, model, draws=300, seed=4)
    returns, parts = literal_returns(episodes, model)
    generator = np.random.default_rng(4)  # the bootstrap in a loop, from WDR's own counts
    drawn = []
    for _ in range(300):
        counts = np.bincount(generator.integers(episodes.count, size=episodes.count), minlength=episodes.count)
        rows = np.repeat(np.arange(episodes.count), counts)
        drawn.append(literal_returns(chosen(episodes, rows), chosen_model(episodes, model, rows))[0][-1])
    low, high = np.quantile(drawn, [0.25, 0.75])
    size, count = len(returns), episodes.count
    matrix = np.zeros((size, size))
    for j in range(size):
        for k in range(size):
            matrix[j, k] = sum((parts[i, j] - returns[j] / count) * (parts[i, k] - returns[k] / count) for i in range(count))
            matrix[j, k] *= count / (count - 1)
            bias = [g - high if g > high else g - low if g < low else 0.0 for g in (returns[j], returns[k])]
            matrix[j, k] += bias[0] * bias[1]
    magic = estimators["magic"]
    assert isinstance(magic, StepRatios)
    blend = -np.diff(magic.shares, prepend=1.0, append=0.0)
    rivals = [*np.eye(size), *np.random.default_rng(seed).dirichlet(np.ones(size), 500), *(0.99 * blend + 0.01 * np.eye(size))]
    assert all(blend @ matrix @ blend <= x @ matrix @ x + 1e-6 * np.trace(matrix) for x in rivals)


@pytest.mark.parametrize("seed", range(10))
def test_the_quadratic_programme_against_scipy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    size = int(generator.integers(2, 12))
    root = generator.normal(size=(size, size)) + 1.5
    matrix = root @ root.T
    ours = _least_on_simplex(matrix)
    start = np.full(size, 1 / size)
    constraint = {"type": "eq", "fun": lambda x: x.sum() - 1}
    theirs = minimize(lambda x: x @ matrix @ x, start, jac=lambda x: 2 * matrix @ x, bounds=[(0, 1)] * size, constraints=constraint)
    assert ours.min() >= 0 and ours.sum() == pytest.approx(1)
    assert ours @ matrix @ ours <= theirs.fun + 1e-6 * np.trace(matrix)


def test_the_quadratic_programme_at_its_edges() -> None:
    np.testing.assert_allclose(_least_on_simplex(np.diag([1.0, 3.0])), [0.75, 0.25], rtol=1e-6)  # inverse variances
    np.testing.assert_allclose(_least_on_simplex(np.array([[1.0, 2.0], [2.0, 5.0]])), [1, 0], atol=1e-9)
    np.testing.assert_allclose(_least_on_simplex(np.ones((4, 4))), np.full(4, 0.25), rtol=1e-6)  # all alike
    np.testing.assert_array_equal(_least_on_simplex(np.zeros((3, 3))), [0, 0, 1])
    np.testing.assert_allclose(_least_on_simplex(np.diag([0.0, 1.0])), [1, 0], atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_the_log_with_its_episodes_repeated(seed: int) -> None:
    episodes, model = random_log(seed)
    rows = np.append(np.random.default_rng(seed).integers(episodes.count, size=episodes.count), 0)
    counts = np.bincount(rows, minlength=episodes.count)[None]
    first = doubly_robust_estimators(episodes, model, draws=10)
    again = doubly_robust_estimators(chosen(episodes, rows), chosen_model(episodes, model, rows), draws=10)
    for name in ("dr", "wdr"):
        assert first[name].value(counts)[0] == pytest.approx(again[name].point, rel=1e-9, abs=1e-10), name


# ------------------------------------------------------------------------------------------------------------ what must not change


@pytest.mark.parametrize("seed", range(20))
def test_order_repeats_and_scale(seed: int) -> None:
    episodes, model = random_log(seed)
    every = np.arange(episodes.count)
    shuffled = np.random.default_rng(seed).permutation(every)
    got = points(episodes, model)
    for rows in (shuffled, np.repeat(every, 2)):
        same = points(chosen(episodes, rows), chosen_model(episodes, model, rows))
        for name in ("dr", "wdr"):  # magic's blend is chosen by what it draws
            assert same[name] == pytest.approx(got[name], rel=1e-9, abs=1e-10), name
    larger = Model(*(4 * getattr(model, name) for name in ("q", "v", "v_next", "v_start")))
    scaled = points(replace(episodes, rewards=4 * episodes.rewards), larger)
    for name in NAMES:
        assert scaled[name] == pytest.approx(4 * got[name], rel=1e-6, abs=1e-8, nan_ok=True), name
    assert points(episodes, model) == pytest.approx(got, rel=0, abs=0, nan_ok=True)  # the same seed, to the last bit


@pytest.mark.parametrize("seed", range(10))
def test_a_model_of_zeros_is_importance_sampling(seed: int) -> None:
    episodes, model = random_log(seed)
    nothing = Model(*(np.zeros_like(getattr(model, name)) for name in ("q", "v", "v_next", "v_start")))
    got, plain = points(episodes, nothing), trajectory_estimators(episodes)
    assert got["dr"] == pytest.approx(plain["pdis"].point, rel=1e-12)
    assert got["wdr"] == pytest.approx(plain["wpdis"].point, rel=1e-12)


def test_the_behaviour_with_the_exact_model_gives_no_more_than_its_noise() -> None:
    mdp = chain()
    log = simulate(mdp, 300, 2, target=BEHAVIOUR)
    got = points(log.episodes, model_of(mdp, log, target=BEHAVIOUR))
    assert got["dr"] == pytest.approx(got["wdr"], rel=1e-12)  # all weights are 1
    assert got["dr"] == pytest.approx(policy_value(mdp, BEHAVIOUR), abs=0.2)


def test_discount_0_and_large_ratios() -> None:
    ratios = np.array([400.0, 800, -400, -np.inf])
    episodes = Episodes(np.array([0, 2, 4]), np.arange(4.0), np.zeros(4, bool), 0.0, ratios)
    model = Model(np.ones(4), np.ones(4), np.ones(4), np.array([3.0, 5.0]))
    estimators = doubly_robust_estimators(episodes, model)
    assert estimators["wdr"].point == pytest.approx(4 + (0 - 1))  # the first episode has all the weight of time 0
    still = doubly_robust_estimators(replace(episodes, discount=0.9), model)
    assert not math.isfinite(still["dr"].point) and math.isfinite(still["wdr"].point) and math.isfinite(still["magic"].point)


def test_weights_that_are_all_zero_are_nan_and_no_warning() -> None:
    episodes = Episodes(np.array([0, 2, 4]), np.ones(4), np.zeros(4, bool), 1.0, np.full(4, -np.inf))
    got = points(episodes, Model(np.ones(4), np.ones(4), np.ones(4), np.array([3.0, 5.0])))
    assert got["dr"] == 4 and math.isnan(got["wdr"]) and math.isnan(got["magic"])


def test_groups_are_drawn_whole() -> None:
    mdp = chain()
    log = simulate(mdp, 60, 5)
    model = model_of(mdp, log, error=WRONG)
    grouped = replace(log.episodes, groups=np.repeat([7, 3, 9], 20))
    alone, whole = (doubly_robust_estimators(e, model)["magic"] for e in (log.episodes, grouped))
    assert isinstance(alone, StepRatios) and isinstance(whole, StepRatios)
    assert not np.array_equal(alone.shares, whole.shares)
    same = doubly_robust_estimators(replace(log.episodes, groups=np.arange(60)), model)["magic"]
    assert isinstance(same, StepRatios) and np.array_equal(alone.shares, same.shares)


def test_step_counts_of_long_logs() -> None:
    np.testing.assert_array_equal(_spread(5), np.arange(5))
    for horizon in (25, 26, 100, 5000):
        times = _spread(horizon)
        assert times[0] == 0 and times[-1] == horizon - 1 and len(times) < 26 and (np.diff(times) > 0).all()
    generator = np.random.default_rng(0)
    episodes = Episodes(np.array([0, 3, 40, 9000]), generator.normal(size=9000), np.zeros(9000, bool), 0.99, np.zeros(9000))
    model = Model(*(generator.normal(size=9000) for _ in range(3)), generator.normal(size=3))
    wdr = doubly_robust_estimators(episodes, model, draws=10)["wdr"]
    assert isinstance(wdr, StepRatios)
    times = np.array([0, 2, 3, 39, 40, 4095, 4096, 8000, 8959])
    cut = np.power(0.99, episodes.step) * (episodes.rewards + 0.99 * model.v_next - model.q) / 3
    expected = [sum(cut[a : min(b, a + t + 1)].sum() for a, b in ((0, 3), (3, 40), (40, 9000))) for t in times]
    np.testing.assert_allclose(wdr.contributions(times).sum(0), expected, rtol=1e-10)


def test_wrong_shapes_are_refused() -> None:
    episodes, model = random_log(3)
    with pytest.raises(DataError, match="model: v_start has shape"):
        doubly_robust_estimators(episodes, replace(model, v_start=model.v))
    with pytest.raises(DataError, match="marginal_ratios has shape"):
        drl(episodes, model, np.ones(2))
