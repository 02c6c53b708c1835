"""Bounds under hidden confounding, against a linear program and by their meaning."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from stitchrl.core.errors import DataError
from stitchrl.evaluation.sensitivity import extremes, sensitivity


@pytest.mark.parametrize("seed", range(10))
def test_extremes_solve_the_linear_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, values, gamma = rng.exponential(size=15), rng.normal(size=15), float(rng.uniform(1, 4))
    found = extremes(weights, values, gamma)
    bounds = [(w / gamma, w * gamma) for w in weights]
    for sign, value in zip((1, -1), found, strict=True):
        solved = linprog(sign * values, A_eq=np.ones((1, 15)), b_eq=[weights.sum()], bounds=bounds)
        assert value == pytest.approx(sign * solved.fun / weights.sum(), abs=1e-9)


def test_gamma_one_is_the_estimate_and_larger_ones_are_wider() -> None:
    rng = np.random.default_rng(0)
    weights, values = rng.exponential(size=50), rng.normal(size=50)
    curve = sensitivity(weights, values, baseline=-10.0).curve
    mean = weights @ values / weights.sum()
    assert curve[0][1:] == pytest.approx((mean, mean))
    assert all(a[1] > b[1] and a[2] < b[2] for a, b in zip(curve[:-1], curve[1:], strict=True))


def test_the_flip_is_where_the_bound_meets_the_baseline() -> None:
    rng = np.random.default_rng(1)
    weights, values = np.ones(200), rng.normal(1.0, 1.0, 200)
    found = sensitivity(weights, values, baseline=0.5)
    assert found.flips is not None and 1 < found.flips < 5
    assert extremes(weights, values, found.flips)[0] == pytest.approx(0.5, abs=1e-6)


def test_a_conclusion_that_never_flips_says_so_and_an_equal_one_flips_at_once() -> None:
    assert sensitivity(np.ones(5), np.full(5, 2.0), baseline=1.0).flips is None
    assert sensitivity(np.ones(5), np.full(5, 2.0), baseline=2.0).flips == 1.0


def test_wrong_input() -> None:
    with pytest.raises(DataError, match="gamma"):
        extremes(np.ones(2), np.ones(2), 0.5)
    with pytest.raises(DataError, match="weights"):
        extremes(np.zeros(2), np.ones(2), 2.0)
