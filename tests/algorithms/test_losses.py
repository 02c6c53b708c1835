"""Each algorithm's losses on one or two steps with linear networks, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from stitchrl.algorithms.bc import BC, BCConfig
from stitchrl.algorithms.cql import CQL, CQLConfig
from stitchrl.algorithms.iql import IQL, IQLConfig
from stitchrl.algorithms.q_learning import QLearning, QLearningConfig
from stitchrl.algorithms.sac import SAC, SACConfig
from stitchrl.algorithms.td3_bc import TD3BC, TD3BCConfig
from stitchrl.core.algorithm import Algorithm, build
from stitchrl.core.batch import TransitionBatch
from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Spec

ONE = Spec(Box((1,)), Box((1,), (-1.0,), (1.0,)))
TWO = Spec(Box((1,)), Box((2,), (-1.0,), (1.0,)))
CHOICE = Spec(Box((1,)), Discrete(3))


def made(algorithm: type[Algorithm], config: Any, spec: Spec) -> Any:
    return build(algorithm, config, spec, 0).double()


def linear(network: nn.Module, weight: Any, bias: Any) -> None:
    """Makes a network without hidden layers x @ weight + bias; for an ensemble both have a leading axis."""
    layer = network.mlp.layers[0]  # type: ignore[union-attr, index]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight).reshape(layer.weight.shape))  # type: ignore[union-attr, operator]
        layer.bias.copy_(torch.tensor(bias).reshape(layer.bias.shape))  # type: ignore[union-attr, operator]


def batch(s: Sequence[float], a: Any, r: Sequence[float], s_next: Sequence[float], terminal: Sequence[float]) -> TransitionBatch:
    def column(x: Any) -> Tensor:
        return torch.tensor(x, dtype=torch.float64)

    actions = torch.tensor(a)
    return TransitionBatch(
        column(s).unsqueeze(1),
        actions.double() if actions.is_floating_point() else actions,
        column(r),
        column(s_next).unsqueeze(1),
        column(terminal),
    )


def losses(algorithm: Any, steps: TransitionBatch, noise: dict[str, Tensor] | None = None) -> tuple[dict[str, Tensor], dict[str, float]]:
    found, metrics = algorithm.losses(steps, noise or {}, frozenset((*algorithm.networks, *algorithm.targets)))
    return found, {name: value.item() for name, value in metrics.items()}


def test_bc_is_squared_error_or_likelihood() -> None:
    steps = batch([0.0, 0.0], [[1.0], [-0.5]], [0, 0], [0, 0], [0, 0])
    bc = made(BC, BCConfig(hidden=()), ONE)
    linear(bc.actor, [0.0], [math.atanh(0.5)])
    assert losses(bc, steps)[0]["actor"].item() == pytest.approx((0.25 + 1.0) / 2)
    bc = made(BC, BCConfig(hidden=(), distribution="gaussian"), ONE)
    linear(bc.actor, [0.0], [math.atanh(0.5)])
    with torch.no_grad():
        bc.actor.log_std.fill_(math.log(2.0))
    expected = -(norm.logpdf(1.0, 0.5, 2.0) + norm.logpdf(-0.5, 0.5, 2.0)) / 2
    assert losses(bc, steps)[0]["actor"].item() == pytest.approx(expected)
    bc = made(BC, BCConfig(hidden=()), CHOICE)
    linear(bc.actor, [0.0, 0.0, 0.0], [0.0, math.log(2), math.log(3)])  # probabilities 1/6, 2/6, 3/6
    steps = batch([0.0, 0.0], [1, 2], [0, 0], [0, 0], [0, 0])
    assert losses(bc, steps)[0]["actor"].item() == pytest.approx(-(math.log(2 / 6) + math.log(3 / 6)) / 2)


def iql(**settings: Any) -> Any:
    algorithm = made(IQL, IQLConfig(hidden=(), discount=0.9, **settings), ONE)
    linear(algorithm.value, [0.0], [0.5])
    for critic in (algorithm.critic, algorithm.target_critic):
        linear(critic, [[0.0, 1.0], [0.0, 1.0]], [0.0, 1.0])  # Q1 = a, Q2 = a + 1
    linear(algorithm.actor, [0.0], [0.0])
    return algorithm


IQL_STEPS = batch([0.0, 0.0], [[1.0], [0.0]], [1.0, 2.0], [3.0, 3.0], [0, 1])


def test_iql_expectile_and_clipped_weights() -> None:
    found, metrics = losses(iql(expectile=0.7, max_weight=4.0, distribution="deterministic"), IQL_STEPS)
    # the smaller target value is a: advantages 1 - 0.5 and 0 - 0.5
    assert found["value"].item() == pytest.approx((0.7 * 0.25 + 0.3 * 0.25) / 2)
    assert metrics["advantage"] == pytest.approx(0.0)
    # weights exp(3 · 0.5) = 4.48, clipped to 4, and exp(-1.5); squared errors 1 and 0
    assert found["actor"].item() == pytest.approx(4.0 / 2)
    assert metrics["clipped_weights"] == pytest.approx(0.5)
    # targets 1 + 0.9 · 0.5 and, terminal, 2; Q1 = (1, 0), Q2 = (2, 1)
    assert found["critic"].item() == pytest.approx((0.45**2 + 2**2) / 2 + (0.55**2 + 1**2) / 2)
    assert metrics["q"] == pytest.approx(1.0)


def test_iql_weighs_likelihood_for_a_gaussian_policy() -> None:
    found, _ = losses(iql(inverse_temperature=2.0), IQL_STEPS)
    expected = -(math.exp(1.0) * norm.logpdf(1.0) + math.exp(-1.0) * norm.logpdf(0.0)) / 2
    assert found["actor"].item() == pytest.approx(expected)


def test_iql_weights_that_overflow_are_clipped() -> None:
    algorithm = iql(inverse_temperature=1e6)
    found, _ = losses(algorithm, IQL_STEPS)
    assert math.isfinite(found["actor"].item())
    gradient = torch.autograd.grad(found["actor"], algorithm.actor.log_std)[0]
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.9])
def test_iql_value_loss_is_least_at_the_expectile(expectile: float) -> None:
    q = np.array([0.0, 1.0, 5.0])
    v = np.linspace(-1, 6, 70_001)
    by_definition = v[np.argmin(sum(np.where(x > v, expectile, 1 - expectile) * (x - v) ** 2 for x in q))]
    algorithm = made(IQL, IQLConfig(hidden=(), expectile=expectile), ONE)
    linear(algorithm.target_critic, [[0.0, 1.0]] * 2, [0.0, 0.0])
    linear(algorithm.value, [0.0], [by_definition])
    found, _ = losses(algorithm, batch([0.0] * 3, q[:, None].tolist(), [0.0] * 3, [0.0] * 3, [0.0] * 3))
    slope = torch.autograd.grad(found["value"], algorithm.value.mlp.layers[0].bias)[0]
    assert abs(slope.item()) < 1e-3


def test_td3_bc_scales_the_value_by_its_mean_size() -> None:
    algorithm = made(TD3BC, TD3BCConfig(hidden=(), discount=0.5), ONE)
    linear(algorithm.actor, [0.0], [math.atanh(0.5)])
    linear(algorithm.target_actor, [0.0], [math.atanh(0.9)])
    linear(algorithm.critic, [[1.0, 2.0], [0.0, 0.0]], [0.0, 0.0])  # Q1 = s + 2a, Q2 = 0
    linear(algorithm.target_critic, [[0.0, 1.0], [0.0, 2.0]], [0.0, -0.9])
    steps = batch([1.0, -4.0], [[0.5], [-0.5]], [1.0, 0.0], [0.0, 0.0], [0, 0])
    found, metrics = losses(algorithm, steps, {"policy": torch.tensor([[10.0], [-0.5]]).double()})
    # Q1(s, 0.5) = 2, -3: mean size 2.5, so lambda = 2.5 / 2.5 = 1; cloning error (0 + 1) / 2
    assert found["actor"].item() == pytest.approx(-1.0 * (2 - 3) / 2 + 0.5)
    assert metrics["cloning_error"] == pytest.approx(0.5)
    # lambda is a constant: d/dpi is -(2 + 2) / 2 from the value and 2 (0 + 1) / 2 from cloning; dpi/dbias = 1 - 0.25
    slope = torch.autograd.grad(found["actor"], algorithm.actor.mlp.layers[0].bias, retain_graph=True)[0]
    assert slope.item() == pytest.approx((-2 + 1) * 0.75)
    # noise 2 clipped to 0.5 and -0.1: next actions 1 (clipped from 1.4) and 0.8; smaller values min(1, 1.1), min(0.8, 0.7)
    target = np.array([1 + 0.5 * 1.0, 0 + 0.5 * 0.7])
    q = np.array([[2.0, -5.0], [0.0, 0.0]])
    assert found["critic"].item() == pytest.approx(((q - target) ** 2).mean(1).sum())


@pytest.mark.parametrize(("double", "following"), [(True, 4.0), (False, 7.0)])
def test_q_learning_target(double: bool, following: float) -> None:
    algorithm = made(QLearning, QLearningConfig(hidden=(), double=double, discount=0.5), CHOICE)
    linear(algorithm.critic, [[0.0] * 3], [[0.0, 1.0, 2.0]])  # chooses action 2
    linear(algorithm.target_critic, [[0.0] * 3], [[7.0, 1.0, 4.0]])  # whose largest is action 0
    found, metrics = losses(algorithm, batch([0.0, 0.0], [1, 2], [1.0, 1.0], [0.0, 0.0], [0, 1]))
    assert found["critic"].item() == pytest.approx(((1 + 0.5 * following - 1) ** 2 + (1 - 2) ** 2) / 2)
    assert metrics["q_target"] == pytest.approx((1 + 0.5 * following + 1) / 2)


def discrete_cql(**settings: Any) -> Any:
    algorithm = made(CQL, CQLConfig(hidden=(), discount=0.5, **settings), CHOICE)
    linear(algorithm.critic, [[0.0] * 3], [[0.0, math.log(2), math.log(3)]])
    linear(algorithm.target_critic, [[0.0] * 3], [[7.0, 1.0, 4.0]])
    return algorithm


def test_discrete_cql_is_double_q_learning_and_the_exact_gap() -> None:
    # log-sum-exp = log 6; the logged action's value log 2: gap log 3
    found, metrics = losses(discrete_cql(conservatism=5.0), batch([0.0], [1], [1.0], [0.0], [0]))
    assert metrics["conservative_gap"] == pytest.approx(math.log(3))
    assert found["critic"].item() == pytest.approx((math.log(2) - (1 + 0.5 * 4.0)) ** 2 + 5 * math.log(3))
    found, _ = losses(discrete_cql(conservatism=0.0), batch([0.0], [1], [1.0], [0.0], [1]))
    assert found["critic"].item() == pytest.approx((math.log(2) - 1) ** 2)


@pytest.mark.parametrize("target", [1.0, 1.2])
def test_the_lagrange_multiplier_rises_while_the_gap_is_above_its_target(target: float) -> None:
    algorithm = discrete_cql(conservatism=5.0, lagrange_gap=target)
    found, _ = losses(algorithm, batch([0.0], [1], [math.log(2)], [0.0], [1]))
    assert found["critic"].item() == pytest.approx(5 * (math.log(3) - target))  # the Bellman error is 0
    slope = torch.autograd.grad(found["multiplier"], algorithm.multiplier.value)[0]
    assert slope.item() == pytest.approx(-5 * (math.log(3) - target))
    assert (slope < 0) == (math.log(3) > target)  # descent on a negative slope: up


def squashed(mean: np.ndarray, std: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns actions and log-densities by the change of variables, the textbook's way."""
    u = mean + std * noise
    a = np.tanh(u)
    return a, (norm.logpdf(u, mean, std) - np.log(1 - a**2)).sum(-1)


MEAN, STD = np.array([0.3, -0.2]), np.array([0.5, 0.8])


def continuous(algorithm: type[Algorithm], config: Any) -> Any:
    """Returns an algorithm whose actor is the Gaussian above in every state, Q1 = s + a0, Q2 = 2 a1 - 1; targets the same plus 1."""
    made_one = made(algorithm, config, TWO)
    linear(made_one.actor, [0.0] * 4, [*MEAN, *np.log(STD)])
    linear(made_one.critic, [[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]], [0.0, -1.0])
    linear(made_one.target_critic, [[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]], [1.0, 0.0])
    return made_one


def q_values(s: float, a: np.ndarray) -> np.ndarray:
    return np.stack([s + a[..., 0], 2 * a[..., 1] - 1])


CQL_NOISE = {
    "action": np.array([[0.1, -0.4]]),
    "next_action": np.array([[-0.6, 0.9]]),
    "random": np.array([[[0.1, 0.7]], [[0.9, 0.25]]]),
    "at_s": np.array([[[0.5, 0.5]], [[-1.0, 2.0]]]),
    "at_s_next": np.array([[[1.5, 0.0]], [[0.2, -0.3]]]),
}


@pytest.mark.parametrize("backup", ["value", "entropy", "max", "mean"])
def test_continuous_cql_by_importance_sampling(backup: str) -> None:
    chosen = {"entropy": {"entropy_backup": True}, "max": {"max_target_backup": True}, "mean": {"mean_backup": True}}.get(backup, {})
    config = CQLConfig(hidden=(), discount=0.5, sampled_actions=2, conservatism=3.0, **chosen)
    algorithm = continuous(CQL, config)
    with torch.no_grad():
        algorithm.temperature.value.fill_(math.log(0.4))
    s, s_next, a, r = 0.7, -0.3, np.array([0.5, -0.5]), 2.0
    found, metrics = losses(algorithm, batch([s], [a.tolist()], [r], [s_next], [0]), {k: torch.tensor(v) for k, v in CQL_NOISE.items()})

    uniform = 2 * CQL_NOISE["random"][:, 0] - 1
    (at_s, log_pi), (at_next, log_next) = (squashed(MEAN, STD, CQL_NOISE[name][:, 0]) for name in ("at_s", "at_s_next"))
    # each sample counts exp(Q) / its density; the uniform one's on [-1, 1]^2 is (1/2)^2
    terms = np.concatenate(
        [np.exp(q_values(s, uniform)) / 0.25, np.exp(q_values(s, at_s)) / np.exp(log_pi), np.exp(q_values(s, at_next)) / np.exp(log_next)],
        axis=1,
    )
    gap = np.log(terms.sum(1)) - q_values(s, a)
    next_action, log_next_action = squashed(MEAN, STD, CQL_NOISE["next_action"])
    following = {
        "value": (q_values(s_next, next_action) + 1).min(0)[0],
        "entropy": (q_values(s_next, next_action) + 1).min(0)[0] - 0.4 * log_next_action[0],
        "mean": (q_values(s_next, squashed(MEAN, STD, np.zeros((1, 2)))[0]) + 1).min(0)[0],
        "max": (q_values(s_next, at_next) + 1).min(0).max(),
    }[backup]
    assert metrics["conservative_gap"] == pytest.approx(gap.mean())
    assert found["critic"].item() == pytest.approx(((q_values(s, a) - (r + 0.5 * following)) ** 2 + 3 * gap).sum())
    pi, log = squashed(MEAN, STD, CQL_NOISE["action"])
    assert found["actor"].item() == pytest.approx((0.4 * log - q_values(s, pi).min(0))[0])
    assert metrics["entropy"] == pytest.approx(-log[0])


def test_importance_sampling_estimates_the_log_sum_exp() -> None:
    # the integral of exp(s + a0) over [-1, 1]^2 is e^s · 2 · 2 sinh 1; the sum over 3K samples is 3K times its estimate
    k = 4000
    algorithm = continuous(CQL, CQLConfig(hidden=(), sampled_actions=k, conservatism=1.0, ensemble=2))
    generator = torch.Generator().manual_seed(0)
    noise = {name: kind.draw(1, generator, torch.float64)[0] for name, kind in algorithm.noise(1).items()}
    linear(algorithm.critic, [[1.0, 1.0, 0.0]] * 2, [0.0, 0.0])
    _, metrics = losses(algorithm, batch([0.7], [[0.0, 0.0]], [0.0], [0.0], [1]), noise)
    integral = math.exp(0.7) * 2 * 2 * math.sinh(1)
    assert metrics["conservative_gap"] + 0.7 - math.log(3 * k) == pytest.approx(math.log(integral), abs=0.05)


def test_cql_refuses_settings_that_cannot_hold_together() -> None:
    with pytest.raises(ConfigError, match="at most one"):
        build(CQL, CQLConfig(max_target_backup=True, entropy_backup=True), TWO, 0)
    for settings in ({"max_target_backup": True}, {"entropy_backup": True}, {"mean_backup": True}, {"critic_hidden": (8,)}):
        with pytest.raises(ConfigError, match="discrete"):
            build(CQL, CQLConfig(**settings), CHOICE, 0)
    for spec in (TWO, CHOICE):
        with pytest.raises(ConfigError, match="lagrange_learning_rate is 0.1, and has no effect without lagrange_gap"):
            build(CQL, CQLConfig(lagrange_learning_rate=0.1), spec, 0)


@pytest.mark.parametrize("entropy_backup", [True, False])
def test_sac_losses(entropy_backup: bool) -> None:
    algorithm = continuous(SAC, SACConfig(hidden=(), discount=0.5, initial_temperature=0.4, entropy_backup=entropy_backup))
    noise = {name: torch.tensor(CQL_NOISE[name]) for name in ("action", "next_action")}
    s, s_next, a, r = 0.7, -0.3, np.array([0.5, -0.5]), 2.0
    found, metrics = losses(algorithm, batch([s], [a.tolist()], [r], [s_next], [0]), noise)
    next_action, log_next = squashed(MEAN, STD, CQL_NOISE["next_action"])
    target = r + 0.5 * ((q_values(s_next, next_action) + 1).min(0)[0] - (0.4 * log_next[0] if entropy_backup else 0))
    pi, log_pi = squashed(MEAN, STD, CQL_NOISE["action"])
    assert found["critic"].item() == pytest.approx(((q_values(s, a) - target) ** 2).sum(), rel=1e-6)  # the temperature is born float32
    assert found["actor"].item() == pytest.approx((0.4 * log_pi - q_values(s, pi).min(0))[0], rel=1e-6)
    assert metrics["temperature"] == pytest.approx(0.4)
    assert found["temperature"].item() == pytest.approx(-math.log(0.4) * (log_pi[0] - 2), rel=1e-6)  # target entropy: minus 2 dimensions


@pytest.mark.parametrize("algorithm", [SAC, CQL])
@pytest.mark.parametrize("target_entropy", [-3.0, 3.0])
def test_the_temperature_rises_while_the_entropy_is_below_its_target(algorithm: type[Algorithm], target_entropy: float) -> None:
    config: Any = (SACConfig if algorithm is SAC else CQLConfig)(hidden=(), target_entropy=target_entropy)
    made_one = continuous(algorithm, config)
    noise = {name: kind.draw(1, torch.Generator().manual_seed(0), torch.float64)[0] for name, kind in made_one.noise(1).items()}
    found, metrics = losses(made_one, batch([0.0], [[0.0, 0.0]], [0.0], [0.0], [0]), noise)
    slope = torch.autograd.grad(found["temperature"], made_one.temperature.value)[0].item()
    assert slope == pytest.approx(metrics["entropy"] - target_entropy)
    assert (slope < 0) == (metrics["entropy"] < target_entropy)
