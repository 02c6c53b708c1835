"""Flow Q-learning: its losses worked out by hand, and what its policy is without noise."""

from __future__ import annotations

import pytest
import torch

from stitchrl.algorithms.fql import FQL, FQLConfig
from stitchrl.core.algorithm import build
from tests.algorithms.test_losses import ONE, TWO, batch, linear, losses, made


def fql(**settings: object) -> FQL:
    """One-step policy s + 2z, velocity s - x + 4t, Q1 = s + a, Q2 = 3a, target critics 2a and a + 1."""
    algorithm = made(FQL, FQLConfig(hidden=(), discount=0.5, distillation=3.0, flow_steps=2, **settings), ONE)  # type: ignore[arg-type]
    linear(algorithm.actor, [1.0, 2.0], [0.0])
    linear(algorithm.flow, [1.0, -1.0, 4.0], [0.0])
    linear(algorithm.critic, [[1.0, 1.0], [0.0, 3.0]], [0.0, 0.0])
    linear(algorithm.target_critic, [[0.0, 2.0], [0.0, 1.0]], [0.0, 1.0])
    return algorithm  # type: ignore[no-any-return]


STEPS = batch([0.5, -0.25], [[0.25], [-0.5]], [1.0, 2.0], [0.1, 0.0], [0, 1])
NOISE = {
    "next_latent": [[0.3], [0.0]],
    "start": [[-1.0], [0.5]],
    "latent": [[0.1], [-1.0]],
    "time": [0.5, 0.25],
}


def drawn() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value).double() for name, value in NOISE.items()}


@pytest.mark.parametrize(("target_value", "v_next"), [("mean", (1.4 + 1.7) / 2), ("minimum", 1.4)])
def test_the_critics_target_takes_the_one_step_policys_action(target_value: str, v_next: float) -> None:
    found, metrics = losses(fql(target_value=target_value), STEPS, drawn())
    # a' = 0.1 + 2 · 0.3 = 0.7: target values 1.4 and 1.7; the second step ended
    y = (1 + 0.5 * v_next, 2.0)
    q1, q2 = (0.75, -0.75), (0.75, -1.5)
    expected = sum(((q[0] - y[0]) ** 2 + (q[1] - y[1]) ** 2) / 2 for q in (q1, q2))
    assert found["critic"].item() == pytest.approx(expected, rel=1e-6)  # noise was born float32
    assert metrics["q"] == pytest.approx((0.75 - 0.75 + 0.75 - 1.5) / 4)


def test_the_flow_learns_the_velocity_of_straight_lines() -> None:
    found, _ = losses(fql(), STEPS, drawn())
    # first: x = (−1 + 0.25) / 2 = −0.375, velocity 1.25, the network's 0.5 + 0.375 + 2 = 2.875
    # second: x = 0.75 · 0.5 + 0.25 · −0.5 = 0.25, velocity −1, the network's −0.25 − 0.25 + 1 = 0.5
    assert found["flow"].item() == pytest.approx((1.625**2 + 1.5**2) / 2)


@pytest.mark.parametrize("normalize_value", [False, True])
def test_the_policy_is_distilled_and_climbs(normalize_value: bool) -> None:
    found, metrics = losses(fql(normalize_value=normalize_value), STEPS, drawn())
    # two Euler steps at times 0 and 1/2 of s − x + 4t: 0.1 + 0.4 / 2 = 0.3; 0.3 + (0.2 + 2) / 2 = 1.4, clipped to 1
    # and −1 + 0.75 / 2 = −0.625; −0.625 + (0.375 + 2) / 2 = 0.5625
    # the policy: 0.5 + 0.2 = 0.7; −0.25 − 2 = −2.25, distilled as it is, valued as −1
    distillation = ((0.7 - 1) ** 2 + (-2.25 - 0.5625) ** 2) / 2
    q = ((0.5 + 0.7 + 3 * 0.7) / 2, (-0.25 - 1 - 3) / 2)
    scale = 2 / (abs(q[0]) + abs(q[1])) if normalize_value else 1
    assert metrics["distillation_error"] == pytest.approx(distillation, rel=1e-6)
    assert found["actor"].item() == pytest.approx(3 * distillation - scale * sum(q) / 2, rel=1e-6)


def test_the_scale_of_the_value_is_a_constant_for_the_gradient() -> None:
    # a policy far from its clip: d/db of -(scale · mean Q) with Q = s / 2 + 2 a is -2 · scale, the distillation's is added
    algorithm = fql(normalize_value=True)
    steps, noise = batch([0.5], [[0.0]], [0.0], [0.0], [1]), {k: torch.zeros(1, 1).double() for k in ("next_latent", "start", "latent")}
    noise |= {"time": torch.zeros(1).double()}
    found, _ = losses(algorithm, steps, noise)
    slope = torch.autograd.grad(found["actor"], algorithm.actor.mlp.layers[0].bias)[0].item()  # type: ignore[arg-type]
    # policy 0.5, flow 0 + 0.25, then 0.25 + (0.25 + 2) / 2 = 1.375, clipped to 1; Q = (1 + 1.5) / 2
    assert slope == pytest.approx(3 * 2 * (0.5 - 1) - 2 / 1.25)


def test_without_noise_the_policy_takes_the_latents_mode() -> None:
    algorithm = build(FQL, FQLConfig(hidden=(8,)), TWO, 0)
    policy = algorithm.policy()
    s = torch.randn(6, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy(s), policy(s, torch.zeros(6, 2)))
    assert not torch.equal(policy(s), policy(s, torch.ones(6, 2)))
    with pytest.raises(TypeError, match="density"):
        policy.log_probabilities(s, torch.zeros(6, 2))


def test_the_networks_are_the_authors() -> None:
    algorithm = build(FQL, FQLConfig(), TWO, 0)
    assert [tuple(layer.weight.shape) for layer in algorithm.flow.mlp.layers] == [(4, 512), *[(512, 512)] * 3, (512, 2)]  # type: ignore[union-attr]
    assert [tuple(layer.weight.shape)[1:] for layer in algorithm.critic.mlp.layers] == [(3, 512), *[(512, 512)] * 3, (512, 1)]  # type: ignore[union-attr]
    for network in (algorithm.flow, algorithm.actor, algorithm.critic):
        assert network.mlp.activation == "gelu" and network.mlp.norm_after  # type: ignore[union-attr]
        assert (network.mlp.norms is None) == (network is not algorithm.critic)  # type: ignore[union-attr]
