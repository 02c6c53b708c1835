"""Batch-constrained Q-learning: its losses worked out by hand, and how its policies choose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stitchrl.algorithms.bcq import BCQ, BCQConfig
from stitchrl.core.algorithm import build
from stitchrl.core.errors import ConfigError
from stitchrl.nn.candidate_actions import ROWS_AT_ONCE
from tests.algorithms.test_losses import CHOICE, ONE, TWO, batch, linear, losses, made

PHI, LAMBDA = 0.2, 0.75


def continuous(**settings: object) -> BCQ:
    """Decoder tanh(0.5 s + 0.3 z), perturbation tanh(s - a), its target tanh(a), Q1 = s + a, Q2 = 2a - s, targets the same plus 1."""
    config = BCQConfig(
        hidden=(), autoencoder_hidden=(), latent_size=1, discount=0.5, perturbation_bound=PHI, minimum_weight=LAMBDA, sampled_actions=3,
        **settings,  # type: ignore[arg-type]
    )  # fmt: skip
    algorithm = made(BCQ, config, ONE)
    with torch.no_grad():
        for mlp, weight, bias in (
            (algorithm.autoencoder.encoder, [[0.2, 0.0], [0.4, 0.0]], [0.1, math.log(2)]),
            (algorithm.autoencoder.decoder.mlp, [[0.5], [0.3]], [0.0]),
        ):
            mlp.layers[0].weight.copy_(torch.tensor(weight))
            mlp.layers[0].bias.copy_(torch.tensor(bias))
    linear(algorithm.perturbation, [1.0, -1.0], [0.0])
    linear(algorithm.target_perturbation, [0.0, 1.0], [0.0])
    linear(algorithm.critic, [[1.0, 1.0], [-1.0, 2.0]], [0.0, 0.0])
    linear(algorithm.target_critic, [[1.0, 1.0], [-1.0, 2.0]], [1.0, 1.0])
    return algorithm  # type: ignore[no-any-return]


def test_continuous_losses() -> None:
    s, a, r, s_next = 0.5, 0.25, 2.0, -0.4
    z_next, z, encoding = np.array([3.0, -0.2, -9.0]), -0.7, 0.8
    noise = {
        "next_latent": torch.tensor(z_next).reshape(3, 1, 1),
        "latent": torch.tensor([[z]]).double(),
        "encoding": torch.tensor([[encoding]]).double(),
    }
    found, metrics = losses(continuous(), batch([s], [[a]], [r], [s_next], [0]), noise)

    # reconstruction and divergence: the latent that is encoded is not clipped
    mean, std = 0.2 * s + 0.4 * a + 0.1, 2.0
    error = (math.tanh(0.5 * s + 0.3 * (mean + std * encoding)) - a) ** 2
    divergence = 0.5 * (mean**2 + std**2 - 1) - math.log(std)
    assert found["autoencoder"].item() == pytest.approx(error + 0.5 * divergence, rel=1e-6)  # weights were born float32
    assert metrics["divergence"] == pytest.approx(divergence, rel=1e-6)
    assert metrics["reconstruction_error"] == pytest.approx(error, rel=1e-6)

    # the target: latents clipped to ±0.5, perturbed by the target's network, the best by 3/4 min + 1/4 max
    decoded = np.tanh(0.5 * s_next + 0.3 * np.clip(z_next, -0.5, 0.5))
    chosen = decoded + PHI * np.tanh(decoded)
    q1, q2 = s_next + chosen + 1, 2 * chosen - s_next + 1
    target = r + 0.5 * (LAMBDA * np.minimum(q1, q2) + (1 - LAMBDA) * np.maximum(q1, q2)).max()
    assert found["critic"].item() == pytest.approx((s + a - target) ** 2 + (2 * a - s - target) ** 2, rel=1e-6)
    assert metrics["q"] == pytest.approx((s + a + 2 * a - s) / 2)

    ended, _ = losses(continuous(), batch([s], [[a]], [r], [s_next], [1]), noise)
    assert ended["critic"].item() == pytest.approx((s + a - r) ** 2 + (2 * a - s - r) ** 2, rel=1e-6)

    # the perturbation climbs the first critic alone
    proposed = math.tanh(0.5 * s + 0.3 * -0.5)
    assert found["perturbation"].item() == pytest.approx(-(s + proposed + PHI * math.tanh(s - proposed)), rel=1e-6)


def test_the_best_candidate_is_the_best_by_the_soft_minimum() -> None:
    # candidates whose values cross: Q1 = a, Q2 = -2a; soft minima 3/4 · (-2a) + 1/4 · a for a > 0, 3/4 a - 1/2 a for a < 0
    algorithm = continuous()
    linear(algorithm.target_critic, [[0.0, 1.0], [0.0, -2.0]], [0.0, 0.0])
    noise = {"next_latent": torch.tensor([0.4, -0.1, -0.5]).double().reshape(3, 1, 1)}
    noise |= {name: torch.zeros(1, 1).double() for name in ("latent", "encoding")}
    found, _ = losses(algorithm, batch([0.0], [[0.0]], [0.0], [0.0], [0]), noise)
    decoded = math.tanh(0.3 * -0.1)  # the least bad: 1/4 of the smallest negative action
    best = 0.25 * (decoded + PHI * math.tanh(decoded))
    assert found["critic"].item() == pytest.approx(2 * (0.5 * best) ** 2, rel=1e-6)


def test_a_perturbed_action_stays_within_its_bounds() -> None:
    algorithm = continuous()
    linear(algorithm.perturbation, [0.0, 0.0], [50.0])
    a = torch.tensor([[-0.9], [0.7], [0.95]]).double()
    torch.testing.assert_close(algorithm.perturbation(torch.zeros(3, 1).double(), a), torch.tensor([[-0.7], [0.9], [1.0]]).double())


def test_the_acting_policy_takes_the_first_critics_best_candidate() -> None:
    algorithm = build(BCQ, BCQConfig(hidden=(16,), autoencoder_hidden=(16,), acting_candidates=7), TWO, 0)
    policy = algorithm.policy()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(4)  # so that candidates differ by much
    size = 2 * ROWS_AT_ONCE + 3  # in three pieces
    s = torch.randn(size, 1, generator=torch.Generator().manual_seed(0))
    kind = policy.noise(size)
    assert kind is not None and kind.shape == (size, 7, 4)
    noise = kind.draw(1, torch.Generator().manual_seed(1))[0]
    for given in (noise, None):
        actions = policy(s, given)
        latents = policy.fixed.expand(size, 7, 4) if given is None else given  # type: ignore[operator]
        best = torch.full((size,), -torch.inf)
        for k in range(7):
            decoded = torch.tanh(policy.decoder.mlp(s, latents[:, k].clamp(-0.5, 0.5)))  # type: ignore[union-attr, operator]
            candidate = algorithm.perturbation(s, decoded)  # type: ignore[operator]
            best = torch.maximum(best, algorithm.critic(s, candidate)[0])  # type: ignore[operator]
        torch.testing.assert_close(algorithm.critic(s, actions)[0], best, rtol=1e-5, atol=1e-6)  # type: ignore[operator]
    assert torch.equal(policy(s), policy(s)), "without noise an observation has one action"


def test_a_policy_of_candidates_tells_that_it_has_no_density() -> None:
    algorithm = build(BCQ, BCQConfig(hidden=(4,), autoencoder_hidden=(4,)), TWO, 0)
    with pytest.raises(TypeError, match="best of drawn candidates"):
        algorithm.policy().log_probabilities(torch.zeros(1, 1), torch.zeros(1, 2))


def discrete(threshold: float) -> BCQ:
    """Imitation of probabilities 0.6, 0.3, 0.1; values 1, 2, 9; target values 7, 5, -3."""
    algorithm = made(BCQ, BCQConfig(hidden=(), discount=0.5, threshold=threshold, logit_penalty=0.25), CHOICE)
    linear(algorithm.imitation, [0.0] * 3, np.log([0.6, 0.3, 0.1]).tolist())
    linear(algorithm.critic, [0.0] * 3, [1.0, 2.0, 9.0])
    linear(algorithm.target_critic, [0.0] * 3, [7.0, 5.0, -3.0])
    return algorithm  # type: ignore[no-any-return]


@pytest.mark.parametrize(("threshold", "chosen", "allowed"), [(0.0, 2, 3), (0.3, 1, 2), (0.49, 1, 2), (0.51, 0, 1), (1.0, 0, 1)])
def test_discrete_choice_among_likely_actions(threshold: float, chosen: int, allowed: int) -> None:
    algorithm = discrete(threshold)
    steps = batch([0.0, 0.0], [0, 1], [-2.0, 1.0], [0.0, 0.0], [0, 1])
    found, metrics = losses(algorithm, steps)
    assert metrics["allowed_actions"] == allowed
    # Huber's loss of Q - y: y = r + 0.5 · target value of the chosen action, and r alone where the task ended (2 - 1)
    delta = 1 - (-2 + 0.5 * [7.0, 5.0, -3.0][chosen])
    assert found["critic"].item() == pytest.approx(((abs(delta) - 0.5 if abs(delta) > 1 else 0.5 * delta**2) + 0.5) / 2, rel=1e-6)
    logits = np.log([0.6, 0.3, 0.1])
    expected = -(math.log(0.6) + math.log(0.3)) / 2 + 0.25 * np.square(logits).mean()
    assert found["imitation"].item() == pytest.approx(expected, rel=1e-6)
    observations = torch.zeros(2, 1).double()
    assert algorithm.policy()(observations).tolist() == [chosen, chosen]
    assert algorithm.policy().action_probabilities(observations)[0].tolist() == [int(i == chosen) for i in range(3)]
    value = algorithm.believed_value(observations)
    assert value is not None and value.tolist() == [[1.0, 2.0, 9.0][chosen]] * 2


def test_settings_of_the_other_kind_of_actions_are_refused() -> None:
    for name, value in (("sampled_actions", 5), ("latent_bound", 1.0), ("autoencoder_hidden", (8,)), ("perturbation_bound", 0.1)):
        with pytest.raises(ConfigError, match=f"{name}.*discrete"):
            build(BCQ, BCQConfig(**{name: value}), CHOICE, 0)
    with pytest.raises(ConfigError, match="threshold.*continuous"):
        build(BCQ, BCQConfig(threshold=0.5), ONE, 0)


def test_defaults_follow_the_kind_of_actions() -> None:
    one, choice = build(BCQ, BCQConfig(), ONE, 0), build(BCQ, BCQConfig(), CHOICE, 0)
    assert one.optimizers["critic"].learning_rate == 1e-3 and choice.optimizers["critic"].learning_rate == 3e-4
    assert set(one.targets) == {"target_critic", "target_perturbation"} and set(choice.targets) == {"target_critic"}
    assert [tuple(layer.weight.shape) for layer in choice.critic.mlp.layers] == [(1, 1, 256), (1, 256, 256), (1, 256, 3)]  # type: ignore[union-attr]
    assert [tuple(layer.weight.shape) for layer in one.critic.mlp.layers] == [(2, 2, 400), (2, 400, 300), (2, 300, 1)]  # type: ignore[union-attr]
    assert one.autoencoder.decoder.latent == 2  # type: ignore[union-attr]
