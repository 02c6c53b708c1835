"""Diffusion Q-learning, IDQL and the diffusion policy: losses worked out by hand, how they choose, and how chunks are done."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from stitchrl.algorithms.diffusion_policy import ChunkPolicy, DiffusionPolicy, DiffusionPolicyConfig
from stitchrl.algorithms.diffusion_ql import DiffusionQL, DiffusionQLConfig
from stitchrl.algorithms.idql import IDQL, IDQLConfig, log_weights, value_losses
from stitchrl.core.algorithm import build
from stitchrl.core.errors import ConfigError
from stitchrl.core.policy import Memory
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.core.windows import WindowBatch
from stitchrl.nn.candidate_actions import chosen
from tests.algorithms.test_losses import ONE, TWO, batch, linear, losses, made

# one step of the variance-preserving schedule: x = SIGNAL a + DEVIATION noise
SIGNAL = math.exp(-(0.1 + 9.9 / 2) / 2)
DEVIATION = math.sqrt(1 - SIGNAL**2)
SLOPE = -SIGNAL / DEVIATION
STEPS = batch([0.5, -0.25], [[0.25], [-0.5]], [1.0, 2.0], [0.1, 0.0], [0, 1])


def diffusion_ql(**settings: Any) -> Any:
    """Its network says SLOPE s, so that its action is clip(s + z / SIGNAL); Q1 = s + a, Q2 = 3 a, target critics 2 a and 1 - a."""
    config = DiffusionQLConfig(hidden=(), discount=0.5, diffusion_steps=1, value_weight=3.0, **settings)
    algorithm = made(DiffusionQL, config, ONE)
    for actor in (algorithm.actor, algorithm.average_actor):
        linear(actor.network, [SLOPE] + [0.0] * 17, [0.0])
    linear(algorithm.critic, [[1.0, 1.0], [0.0, 3.0]], [0.0, 0.0])
    linear(algorithm.target_critic, [[0.0, 2.0], [0.0, -1.0]], [0.0, 1.0])
    return algorithm


def drawn(next_actions: list[list[list[float]]], turn: float = 0.7) -> dict[str, Tensor]:
    """Returns noise whose next actions are s' plus these `[K, B, 1]`; actions are s + 0.1 and s - 2, clipped."""
    noise = {
        "next_action": [next_actions], "action": [[[0.1], [-2.0]]], "noise": [[1.0], [-2.0]], "time": [0.5, 0.9], "turn": [turn],
    }  # fmt: skip
    found = {name: torch.tensor(value, dtype=torch.float64) for name, value in noise.items()}
    return found | {name: SIGNAL * found[name] for name in ("next_action", "action")}


@pytest.mark.parametrize(
    ("settings", "next_actions", "v_next"),
    [
        # a' = 0.1 + 0.2 = 0.3: target values 0.6 and 0.7
        ({}, [[[0.2], [0.0]]], 0.6),
        # a' = 0.3 and 0.7: the first critic's best is 1.4, the second's 0.7; not the best of both actions' minima, 0.6
        ({"max_target_backup": True, "backup_actions": 2}, [[[0.2], [0.0]], [[0.6], [0.0]]], 0.7),
    ],
)
def test_the_critics_target_takes_the_averaged_policys_actions(settings: dict[str, Any], next_actions: Any, v_next: float) -> None:
    found, metrics = losses(diffusion_ql(**settings), STEPS, drawn(next_actions))
    y = (1 + 0.5 * v_next, 2.0)
    expected = sum(((q[0] - y[0]) ** 2 + (q[1] - y[1]) ** 2) / 2 for q in ((0.75, -0.75), (0.75, -1.5)))
    assert found["critic"].item() == pytest.approx(expected, rel=1e-6)
    assert metrics["q"] == pytest.approx((0.75 - 0.75 + 0.75 - 1.5) / 4)


@pytest.mark.parametrize(("turn", "value"), [(0.7, -0.075 / 2.4), (0.3, -0.6 / 1.175)])
def test_the_actor_clones_and_climbs_one_critic_in_units_of_the_other(turn: float, value: float) -> None:
    # actions 0.6 and clip(-2.25) = -1: Q1 = 1.1, -1.25 and Q2 = 1.8, -3; their means -0.075 and -0.6, mean sizes 1.175 and 2.4
    algorithm = diffusion_ql()
    found, metrics = losses(algorithm, STEPS, drawn([[[0.2], [0.0]]], turn))
    cloning = ((0.5 * SLOPE - 1) ** 2 + (-0.25 * SLOPE + 2) ** 2) / 2
    assert metrics["cloning_error"] == pytest.approx(cloning, rel=1e-6)
    assert found["actor"].item() == pytest.approx(cloning - 3 * value, rel=1e-6)
    # the value's gradient comes through the chain: a falls by DEVIATION / SIGNAL where the network says 1 more, but where a is clipped
    slope = torch.autograd.grad(found["actor"], algorithm.actor.network.mlp.layers[0].bias)[0].item()
    per_action = 1 / 2.4 if turn > 0.5 else 3 / 1.175
    by_cloning = (0.5 * SLOPE - 1) + (-0.25 * SLOPE + 2)
    assert slope == pytest.approx(by_cloning + 3 * per_action / 2 * DEVIATION / SIGNAL, rel=1e-5)


def test_diffusion_ql_acts_by_the_best_candidate_or_draws_one_by_its_value() -> None:
    algorithm = diffusion_ql(acting_candidates=2, acting_sharpness=5.0)
    policy = algorithm.policy()
    s = torch.zeros(4000, 1, dtype=torch.float64)
    # candidates 0.1 and 0.3 by target values min(2 a, 1 - a) = 0.2 and 0.6: the second with odds exp(5 · 0.4)
    noise = torch.stack([torch.full((4000,), 0.1 * SIGNAL), torch.full((4000,), 0.3 * SIGNAL)], 1).double()
    choice = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = policy(s, torch.stack([noise, choice], -1))
    share = (found > 0.2).double().mean().item()
    expected = 1 / (1 + math.exp(-2))
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 4000))
    fixed = policy.fixed[:, 0].double() / SIGNAL
    best = max((min(2 * a, 1 - a), a) for a in fixed.clamp(-1, 1).tolist())[1]
    assert policy(s)[0].item() == pytest.approx(best, rel=1e-6)


def test_choices_fall_as_often_as_their_weights() -> None:
    actions = torch.arange(3.0).reshape(3, 1, 1).expand(3, 6000, 1)
    shares = torch.tensor([0.2, 0.5, 0.3])
    noise = torch.randn(6000, 3, 4, generator=torch.Generator().manual_seed(0))
    found = chosen(actions, shares.log().unsqueeze(1).expand(3, 6000), noise)
    counts = torch.bincount(found.flatten().long(), minlength=3) / 6000
    assert ((counts - shares).abs() < 4 * (shares * (1 - shares) / 6000).sqrt()).all()
    assert (chosen(actions, shares.log().unsqueeze(1).expand(3, 6000)) == 1).all()


U = torch.tensor([-1.0, 2.0, 0.5], dtype=torch.float64)


def test_idqls_value_losses() -> None:
    found = value_losses(U, IDQLConfig(level=0.7))
    torch.testing.assert_close(found, torch.tensor([0.3, 0.7 * 4, 0.7 * 0.25], dtype=torch.float64))
    found = value_losses(U, IDQLConfig(level=0.7, value_loss="quantile"))
    torch.testing.assert_close(found, torch.tensor([0.3, 1.4, 0.35], dtype=torch.float64))
    u = U.clone().requires_grad_()
    value_losses(u, IDQLConfig(risk=1.5, value_loss="exponential")).sum().backward()
    # 1.5 (exp(1.5 u) - 1), with exp(3) bounded by 6
    torch.testing.assert_close(u.grad, torch.tensor([1.5 * (math.exp(-1.5) - 1), 7.5, 1.5 * (math.exp(0.75) - 1)], dtype=torch.float64))


@pytest.mark.parametrize(
    "config",
    [
        IDQLConfig(level=0.8),
        IDQLConfig(level=0.6, value_loss="quantile"),
        IDQLConfig(risk=0.7, value_loss="exponential", max_weight=1e9),
    ],
    ids=lambda c: c.value_loss,
)
def test_the_value_is_the_mean_value_under_the_implicit_policy(config: IDQLConfig) -> None:
    """What the weights are for: the minimiser V of the mean of f(Q - V) is the mean of Q where actions are weighed by |f'(u)| / |u|."""
    q = torch.from_numpy(np.random.default_rng(0).normal(size=4000))

    def mean_loss(v: float) -> float:
        u = q - v
        if config.value_loss == "exponential":  # whose loss in learning has the right gradient and not the value
            return (torch.exp(config.risk * u) - config.risk * u).mean().item()
        return value_losses(u, config).mean().item()

    v = minimize_scalar(mean_loss, bounds=(-2, 2), method="bounded", options={"xatol": 1e-10}).x
    weights = log_weights(q - v, config).softmax(0)
    assert (weights * q).sum().item() == pytest.approx(v, abs=2e-3)
    assert v != pytest.approx(q.mean().item(), abs=0.05)


def test_idqls_critic_is_iqls_and_its_actor_denoises() -> None:
    algorithm = made(IDQL, IDQLConfig(hidden=(), discount=0.5, level=0.9, diffusion_steps=1, width=4, blocks=1, dropout=0.0), ONE)
    linear(algorithm.value, [2.0], [0.5])  # V = 2 s + 0.5
    linear(algorithm.critic, [[1.0, 1.0], [0.0, 3.0]], [0.0, 0.0])
    linear(algorithm.target_critic, [[0.0, 2.0], [0.0, 1.0]], [0.0, 1.0])  # 2 a and a + 1
    with torch.no_grad():  # the network says 0.25
        algorithm.actor.network.last.weight.zero_()
        algorithm.actor.network.last.bias.fill_(0.25)
    noise = {"noise": [[1.0], [-2.0]], "time": [0.1, 0.2], "dropout": [0.5]}
    found, metrics = losses(algorithm, STEPS, {k: torch.tensor(v, dtype=torch.float64) for k, v in noise.items()})
    # min(0.5, 1.25) - 1.5 = -1 and min(-1, 0.5) - 0 = -1
    assert metrics["advantage"] == pytest.approx(-1)
    assert found["value"].item() == pytest.approx(0.1)
    y = (1 + 0.5 * 0.7, 2.0)
    expected = sum(((q[0] - y[0]) ** 2 + (q[1] - y[1]) ** 2) / 2 for q in ((0.75, -0.75), (0.75, -1.5)))
    assert found["critic"].item() == pytest.approx(expected)
    assert found["actor"].item() == pytest.approx((0.75**2 + 2.25**2) / 2)


def test_idql_sums_the_error_over_an_actions_dimensions_and_drops_units_in_learning_alone() -> None:
    algorithm = made(IDQL, IDQLConfig(hidden=(), width=8, blocks=2, dropout=0.5), TWO)
    steps = batch([0.5], [[0.25, 0.5]], [1.0], [0.1], [0])
    noise = {"noise": torch.ones(1, 2).double(), "time": torch.tensor([0.5]).double()}
    keys = [torch.tensor([key], dtype=torch.float64) for key in (0.1, 0.1, 0.6)]
    first, again, other = (losses(algorithm, steps, noise | {"dropout": key})[0]["actor"].item() for key in keys)
    assert first == again != other
    whole = algorithm.actor.errors(steps.actions, noise["noise"], noise["time"], steps.observations)
    algorithm.config = IDQLConfig(hidden=(), width=8, blocks=2, dropout=0.0)
    assert losses(algorithm, steps, noise | {"dropout": keys[0]})[0]["actor"].item() == pytest.approx(whole.sum().item())


def test_idql_with_weights_needs_its_value_and_without_does_not() -> None:
    best, weighted = (build(IDQL, IDQLConfig(acting=acting), ONE, 0).policy() for acting in ("best", "weighted"))  # type: ignore[arg-type]
    assert not any(name.startswith("value") for name, _ in best.named_parameters())
    assert any(name.startswith("value") for name, _ in weighted.named_parameters())


def test_settings_without_an_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="risk is 2.0, and has no effect with value_loss expectile"):
        build(IDQL, IDQLConfig(risk=2.0), ONE, 0)
    with pytest.raises(ConfigError, match="level is 0.9, and has no effect with value_loss exponential"):
        build(IDQL, IDQLConfig(level=0.9, value_loss="exponential"), ONE, 0)
    with pytest.raises(ConfigError, match="backup_actions is 3, and has no effect without max_target_backup"):
        build(DiffusionQL, DiffusionQLConfig(backup_actions=3), ONE, 0)
    with pytest.raises(ConfigError, match="acted is 8 and observed 10"):
        build(DiffusionPolicy, DiffusionPolicyConfig(observed=10), ONE, 0)
    with pytest.raises(ConfigError, match="kernel is 4; expected an odd number"):
        build(DiffusionPolicy, DiffusionPolicyConfig(kernel=4), ONE, 0)


SMALL = {"horizon": 6, "observed": 2, "acted": 3, "diffusion_steps": 4, "width": 8, "multipliers": (1, 2)}


def windows(taken: list[int]) -> WindowBatch:
    """Returns windows of six steps of which so many were taken, of one observation and two action dimensions."""
    generator = torch.Generator().manual_seed(0)
    there = (torch.arange(6) < torch.tensor(taken).unsqueeze(1)).double()
    s, a = (torch.randn(len(taken), 6, n, generator=generator).double().clamp(-1, 1) * there.unsqueeze(-1) for n in (1, 2))
    zeros = torch.zeros_like(there)
    return WindowBatch(s, a, zeros, zeros, zeros, zeros.long(), there, there)


def test_a_chunk_is_judged_where_actions_were_taken() -> None:
    algorithm = made(DiffusionPolicy, DiffusionPolicyConfig(**SMALL), TWO)  # type: ignore[arg-type]
    noise = {"noise": torch.arange(24.0).reshape(2, 6, 2).double() / 10, "time": torch.tensor([0.0, 0.9]).double()}
    with torch.no_grad():
        for parameter in algorithm.denoiser.diffusion.network.out.parameters():
            parameter.zero_()  # the network says 0
    found, metrics = losses(algorithm, windows([6, 2]), noise)  # type: ignore[arg-type]
    # mean of z² / 100 for z = 0 … 11, and 12 … 15: 506 and 230 + 500 = 730; eight steps of two numbers
    assert found["denoiser"].item() == pytest.approx((506 + 144 + 169 + 196 + 225) / 100 / 16)
    assert metrics["beyond_the_end"] == pytest.approx(4 / 12)


def test_beyond_the_end_the_network_sees_the_last_action() -> None:
    algorithm = made(DiffusionPolicy, DiffusionPolicyConfig(**SMALL), TWO)  # type: ignore[arg-type]
    short = windows([2])
    filled = short._replace(actions=torch.cat([short.actions[:, :2], short.actions[:, 1:2].expand(1, 4, 2)], 1))
    other = short._replace(actions=torch.cat([short.actions[:, :2], torch.ones(1, 4, 2).double()], 1))
    noise = {"noise": torch.ones(1, 6, 2).double(), "time": torch.tensor([0.5]).double()}
    first, second, third = (losses(algorithm, w, noise)[0]["denoiser"].item() for w in (short, filled, other))  # type: ignore[arg-type]
    assert first == second == third


def played(policy: ChunkPolicy, observations: Tensor, noise: Tensor) -> Tensor:
    """Returns the actions `[T, N, A]` of episodes that begin together, at observations `[T, N, O]` with noise `[T, N, …]`."""
    memory: Memory = policy.memory(observations.shape[1])
    found = []
    for s, z in zip(observations, noise, strict=True):
        a, memory = policy.step(s, torch.zeros(len(s)), memory, z)
        found.append(a)
    return torch.stack(found)


@torch.no_grad()
def test_a_chunk_is_done_before_the_next_is_drawn() -> None:
    algorithm = build(DiffusionPolicy, DiffusionPolicyConfig(**SMALL), TWO, 0)  # type: ignore[arg-type]
    policy: Any = algorithm.policy()
    generator = torch.Generator().manual_seed(0)
    s, z = torch.randn(7, 2, 1, generator=generator), torch.randn(7, 2, *policy.shape, generator=generator)
    found = played(policy, s, z)
    for start in (0, 3, 6):
        seen = torch.stack([s[max(start - 1, 0)], s[start]], 1)  # where it begins, the first observation twice
        noise = z[start].transpose(0, 1)
        whole = policy.denoiser.diffusion.sample(noise[0], policy.steps, policy.denoiser(seen), noise=noise[1:])
        done = whole[:, 1:4].transpose(0, 1)[: 7 - start]  # the chunk begins at the older observation
        torch.testing.assert_close(found[start : start + 3], done)
    assert torch.equal(policy(s[0], z[0]), found[0])
    assert (found.abs() <= 1).all()


@torch.no_grad()
def test_environments_keep_phases_of_their_own() -> None:
    policy: Any = build(DiffusionPolicy, DiffusionPolicyConfig(**SMALL), TWO, 0).policy()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    s, z = torch.randn(6, 3, 1, generator=generator), torch.randn(6, 3, *policy.shape, generator=generator)
    alone = torch.cat([played(policy, s[:, i : i + 1], z[:, i : i + 1]) for i in (0, 1)], 1)
    again = played(policy, s[2:, 2:], z[2:, 2:])  # the third environment's episode ends after two steps
    memory, found = policy.memory(3), []
    for step in range(6):
        if step == 2:
            fresh = policy.memory(3)
            memory = {name: torch.cat([value[:2], fresh[name][2:]]) for name, value in memory.items()}
        a, memory = policy.step(s[step], torch.zeros(3), memory, z[step])
        found.append(a)
    together = torch.stack(found)
    torch.testing.assert_close(together[:, :2], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[2:, 2:], again, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", [Discrete(4), Box((2, 40, 40), (0.0,), (255.0,), "uint8")], ids=["discrete", "image"])
def test_a_chunk_may_be_given_states_by_number_or_images(space: Any) -> None:
    spec = Spec(space, TWO.action)
    algorithm = build(DiffusionPolicy, DiffusionPolicyConfig(**SMALL), spec, 0)  # type: ignore[arg-type]
    if isinstance(space, Discrete):
        s = torch.tensor([[0, 1], [3, 2], [3, 2]])
    else:
        s = torch.randint(0, 255, (3, 2, *space.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    condition = algorithm.denoiser(s)  # type: ignore[operator]
    assert condition.ndim == 2 and condition.is_floating_point()
    assert not torch.equal(condition[0], condition[1])
    policy = algorithm.policy()
    memory = policy.memory(3)
    assert memory is not None and memory["observations"].dtype == s.dtype
    a, memory = policy.step(s[:, 0], torch.zeros(3), memory)
    assert a.shape == (3, 2) and torch.equal(memory["observations"], torch.stack([s[:, 0]] * 2, 1))
