"""Cal-QL's losses with linear critics, worked out by hand: which proposals are calibrated, and what CQL it is without."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from stitchrl.algorithms.cal_ql import CalQL, CalQLConfig
from stitchrl.algorithms.cql import CQL, CQLConfig
from stitchrl.core.algorithm import build
from stitchrl.core.batch import ReturnBatch, ReturnTransitions
from stitchrl.core.errors import ConfigError
from tests.algorithms.test_losses import CQL_NOISE, MEAN, STD, TWO, batch, continuous, losses, q_values, squashed

S, S_NEXT, A, R = 0.7, -0.3, np.array([0.5, -0.5]), 2.0
NOISE = {name: torch.tensor(value) for name, value in CQL_NOISE.items()}


def steps(returns: float, terminal: int = 0) -> ReturnBatch:
    return ReturnBatch(*batch([S], [A.tolist()], [R], [S_NEXT], [terminal]), torch.tensor([returns]).double())


def cal_ql(**settings: Any) -> Any:
    config = CalQLConfig(hidden=(), discount=0.5, sampled_actions=2, **{"conservatism": 3.0, **settings})
    algorithm = continuous(CalQL, config)
    with torch.no_grad():
        algorithm.temperature.value.fill_(math.log(0.4))
    return algorithm


@pytest.mark.parametrize("returns", [-100.0, 0.3, 100.0])
def test_only_the_policys_proposals_are_held_above_the_return(returns: float) -> None:
    found, metrics = losses(cal_ql(), steps(returns), NOISE)
    uniform = 2 * CQL_NOISE["random"][:, 0] - 1
    (at_s, log_pi), (at_next, log_next) = (squashed(MEAN, STD, CQL_NOISE[name][:, 0]) for name in ("at_s", "at_s_next"))
    policy = np.concatenate([q_values(S, at_s), q_values(S, at_next)], 1)
    terms = np.concatenate([np.exp(q_values(S, uniform)) / 0.25, np.exp(np.maximum(policy, returns)) / np.exp([*log_pi, *log_next])], 1)
    gap = np.log(terms.sum(1)) - q_values(S, A)
    following = (q_values(S_NEXT, at_next) + 1).min(0).max()  # the best of the next proposals
    assert metrics["conservative_gap"] == pytest.approx(gap.mean())
    assert metrics["below_return"] == pytest.approx((policy < returns).mean())
    assert found["critic"].item() == pytest.approx(((q_values(S, A) - (R + 0.5 * following)) ** 2 + 3 * gap).sum())


def test_a_value_below_the_return_is_not_pushed_further_down() -> None:
    def slope(returns: float) -> torch.Tensor:
        algorithm = cal_ql(conservatism=1e3)
        found, _ = losses(algorithm, steps(returns, terminal=1), NOISE)
        return torch.autograd.grad(found["critic"], algorithm.critic.mlp.layers[0].bias)[0].flatten()

    # with a return above all values the weight of the uniform actions vanishes beside exp(return): only the logged action's rise is left
    assert slope(100.0).tolist() == pytest.approx([-1e3, -1e3], rel=0.02)
    # below all values it is CQL: the log-sum-exp's slopes sum to 1 and cancel the logged action's; the Bellman error is left
    bellman = 2 * (q_values(S, A) - R)
    assert slope(-100.0).tolist() == pytest.approx(bellman.tolist(), abs=1e-6)


@pytest.mark.parametrize("lagrange_gap", [None, 1.0])
def test_uncalibrated_it_is_cql(lagrange_gap: float | None) -> None:
    found, metrics = losses(cal_ql(calibrated=False, lagrange_gap=lagrange_gap), steps(100.0), NOISE)
    config = CQLConfig(hidden=(), discount=0.5, sampled_actions=2, conservatism=3.0, lagrange_gap=lagrange_gap, max_target_backup=True)
    cql = continuous(CQL, config)
    with torch.no_grad():
        cql.temperature.value.fill_(math.log(0.4))
    expected, known = losses(cql, batch([S], [A.tolist()], [R], [S_NEXT], [0]), NOISE)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].item() == pytest.approx(expected[name].item()), name
    assert metrics["conservative_gap"] == pytest.approx(known["conservative_gap"])


def test_its_rows_follow_the_settings() -> None:
    assert CalQL.batch_of(CalQLConfig(discount=0.9, beyond_timeout="nothing")) == ReturnTransitions(0.9, "nothing")


def test_settings_that_cannot_hold_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="without lagrange_gap"):
        build(CalQL, CalQLConfig(lagrange_learning_rate=0.1), TWO, 0)
    with pytest.raises(ConfigError, match="at most one"):
        build(CalQL, CalQLConfig(entropy_backup=True), TWO, 0)
