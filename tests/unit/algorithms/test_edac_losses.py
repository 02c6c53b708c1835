"""EDAC's losses with linear critics, worked out by hand, and its diversity term against the paper's double sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stitchrl.algorithms.edac import EDAC, EDACConfig, similarity
from stitchrl.core.algorithm import build
from stitchrl.core.errors import ConfigError
from tests.algorithms.test_losses import MEAN, STD, TWO, batch, linear, losses, made, squashed

NOISE = {"action": np.array([[0.1, -0.4]]), "next_action": np.array([[-0.6, 0.9]])}


def test_similarity_is_the_sum_over_pairs_of_cosines() -> None:
    slope = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope[2, 4] = 0  # a critic that does not see the action there has no direction
    pairs = 0.0
    for b in range(7):
        for i in range(5):
            for j in range(5):
                norms = slope[i, b].norm() * slope[j, b].norm()
                pairs += 0.0 if i == j or norms == 0 else (slope[i, b] @ slope[j, b] / norms).item()
    assert similarity(slope).item() == pytest.approx(pairs / 7)


def test_similarity_of_a_flat_critic_has_a_finite_gradient() -> None:
    slope = torch.zeros(3, 2, 2, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(similarity(slope), slope)[0]).all()


@pytest.mark.parametrize("entropy_backup", [True, False])
def test_edac_losses(entropy_backup: bool) -> None:
    config = EDACConfig(hidden=(), discount=0.5, ensemble=3, diversity=2.0, entropy_backup=entropy_backup)
    algorithm = made(EDAC, config, TWO)
    linear(algorithm.actor, [0.0] * 4, [*MEAN, *np.log(STD)])
    # Q1 = s + a0, Q2 = 2 a1 - 1, Q3 = a0 + a1: directions (1, 0), (0, 1), (1, 1) / sqrt 2; targets the same plus 1
    weights = [[1.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 1.0, 1.0]]
    linear(algorithm.critic, weights, [0.0, -1.0, 0.0])
    linear(algorithm.target_critic, weights, [1.0, 0.0, 1.0])
    with torch.no_grad():
        algorithm.temperature.value.fill_(math.log(0.4))

    def q(s: float, a: np.ndarray) -> np.ndarray:
        return np.array([s + a[0], 2 * a[1] - 1, a[0] + a[1]])

    s, s_next, a, r = 0.7, -0.3, np.array([0.5, -0.5]), 2.0
    found, metrics = losses(algorithm, batch([s], [a.tolist()], [r], [s_next], [0]), {k: torch.tensor(v) for k, v in NOISE.items()})
    next_action, log_next = squashed(MEAN, STD, NOISE["next_action"])
    target = r + 0.5 * ((q(s_next, next_action[0]) + 1).min() - (0.4 * log_next[0] if entropy_backup else 0))
    # cosines: 0, sqrt ½ and sqrt ½, each twice; divided by N - 1 = 2
    diversity = 2 * (0 + math.sqrt(0.5) + math.sqrt(0.5)) / 2
    assert found["critic"].item() == pytest.approx(((q(s, a) - target) ** 2).sum() + 2.0 * diversity)
    assert metrics["similarity"] == pytest.approx(2 * math.sqrt(0.5) / 3)
    pi, log_pi = squashed(MEAN, STD, NOISE["action"])
    assert found["actor"].item() == pytest.approx(0.4 * log_pi[0] - q(s, pi[0]).min())
    assert metrics["pessimism"] == pytest.approx(q(s, pi[0]).mean() - q(s, pi[0]).min())
    assert found["temperature"].item() == pytest.approx(-math.log(0.4) * (log_pi[0] - 2))


def test_without_diversity_it_is_sac_n() -> None:
    steps = batch([0.7], [[0.5, -0.5]], [2.0], [-0.3], [0])
    noise = {k: torch.tensor(v) for k, v in NOISE.items()}
    with_term, without = (made(EDAC, EDACConfig(hidden=(8,), ensemble=4, diversity=eta), TWO) for eta in (1.0, 0.0))
    (one, metrics), (two, fewer) = losses(with_term, steps, noise), losses(without, steps, noise)
    assert one["critic"].item() - two["critic"].item() == pytest.approx(metrics["similarity"] * 4)  # N (N - 1) / (N - 1)
    assert "similarity" not in fewer


def test_descent_on_the_term_turns_the_critics_apart() -> None:
    algorithm = made(EDAC, EDACConfig(hidden=(16,), ensemble=4, diversity=1.0), TWO)
    s, a = (torch.randn(32, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (1, 2))
    optimizer = torch.optim.Adam(algorithm.critic.parameters(), 1e-2)
    values = []
    for _ in range(100):
        value = similarity(algorithm.critic.with_action_gradient(s, a.tanh())[1]) / 12
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    # four unit vectors are furthest apart where they sum to 0: the mean cosine of pairs is then -1 / 3
    assert values[0] > -0.2 and -1 / 3 - 1e-9 <= values[-1] < -0.3


def test_one_critic_cannot_be_diverse() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        build(EDAC, EDACConfig(ensemble=1), TWO, 0)
    build(EDAC, EDACConfig(ensemble=1, diversity=0.0, hidden=(4,)), TWO, 0)
