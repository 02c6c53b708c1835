"""AWAC's losses with linear networks, worked out by hand."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from stitchrl.algorithms.awac import AWAC, AWACConfig
from stitchrl.core.algorithm import build
from stitchrl.core.errors import ConfigError
from stitchrl.training.update import Update
from tests.algorithms.test_losses import ONE, batch, linear, losses, made

STEPS = batch([1.0, 2.0], [[0.5], [-0.5]], [1.0, 3.0], [0.0, 0.0], [0, 1])
NOISE = {"action": torch.tensor([[0.5], [-1.0]]).double(), "next_action": torch.tensor([[0.2], [0.7]]).double()}


def awac(**settings: Any) -> Any:
    algorithm = made(AWAC, AWACConfig(hidden=(), discount=0.9, **settings), ONE)
    linear(algorithm.critic, [[0.0, 2.0], [1.0, 1.0]], [0.0, 0.0])  # Q1 = 2a, Q2 = s + a
    linear(algorithm.target_critic, [[0.0, 1.0], [0.0, 3.0]], [0.0, 0.0])  # a and 3a
    linear(algorithm.actor, [0.0], [math.atanh(0.1)])
    with torch.no_grad():
        algorithm.actor.log_std.fill_(math.log(0.5))
    return algorithm


def test_the_critic_follows_the_policys_own_next_action() -> None:
    found, metrics = losses(awac(), STEPS, NOISE)
    # next action 0.1 + 0.5 · 0.2 = 0.2: the smaller of 0.2 and 0.6; the second step is terminal
    target = np.array([1 + 0.9 * 0.2, 3.0])
    q = np.array([[1.0, -1.0], [1.5, 1.5]])
    assert found["critic"].item() == pytest.approx(((q - target) ** 2).mean(1).sum())
    assert metrics["q"] == pytest.approx(q.mean())


# pi = 0.1 + 0.5 · (0.5, -1) = 0.35, -0.4: V = min(0.7, 1.35), min(-0.8, 1.6); Q = min(1, 1.5), min(-1, 1.5)
ADVANTAGE = np.array([1.0 - 0.7, -1.0 + 0.8])
LOG_LIKELIHOOD = norm.logpdf([0.5, -0.5], 0.1, 0.5)


def test_normalized_weights_are_a_softmax_over_the_batch() -> None:
    found, metrics = losses(awac(temperature=0.5), STEPS, NOISE)
    weight = np.exp(ADVANTAGE / 0.5)
    weight = 2 * weight / weight.sum()
    assert found["actor"].item() == pytest.approx(-(weight * LOG_LIKELIHOOD).mean())
    assert metrics["advantage"] == pytest.approx(ADVANTAGE.mean())
    assert metrics["effective_share"] == pytest.approx(weight.sum() ** 2 / (2 * (weight**2).sum()))


def test_clipped_weights_are_the_papers_exponentials() -> None:
    found, _ = losses(awac(temperature=0.1, weights="clipped", max_weight=15.0), STEPS, NOISE)
    weight = np.array([15.0, math.exp(-2.0)])  # exp(3) = 20.1 is clipped
    assert found["actor"].item() == pytest.approx(-(weight * LOG_LIKELIHOOD).mean())


@pytest.mark.parametrize("weights", ["normalized", "clipped"])
def test_a_high_temperature_is_behaviour_cloning(weights: str) -> None:
    found, metrics = losses(awac(temperature=1e9, weights=weights), STEPS, NOISE)
    assert found["actor"].item() == pytest.approx(-LOG_LIKELIHOOD.mean())
    assert metrics["effective_share"] == pytest.approx(1.0)


@pytest.mark.parametrize("weights", ["normalized", "clipped"])
def test_weights_that_overflow_are_finite(weights: str) -> None:
    algorithm = awac(temperature=1e-6, weights=weights)
    found, _ = losses(algorithm, STEPS, NOISE)
    assert math.isfinite(found["actor"].item())
    assert torch.isfinite(torch.autograd.grad(found["actor"], algorithm.actor.log_std)[0]).all()


def test_a_bound_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_weight"):
        build(AWAC, AWACConfig(max_weight=10.0), ONE, 0)


def test_the_actors_decay_is_adams_own() -> None:
    # all observations are 0, so that their weights' gradient is the decay alone: Adam moves them by its whole rate towards 0, whatever the decay
    built = build(AWAC, AWACConfig(hidden=(), learning_rate=0.01, actor_weight_decay=1e-2), ONE, 0)
    update = Update([built], steps=1, order="joint", device=torch.device("cpu"), dtype=torch.float64)
    weight, critic = update.parameters["actor.mlp.layers.0.weight"], update.parameters["critic.mlp.layers.0.weight"]
    with torch.no_grad():
        weight.fill_(0.8)
    before = critic[:, 0].clone()
    noise = {name: torch.zeros(2, 1, dtype=torch.float64) for name in ("action", "next_action")}
    rows = torch.tensor([[0.0, 0.5, 1.0, 0.0, 0.0], [0.0, -0.5, 3.0, 1.0, 0.0]], dtype=torch.float64)
    update(update.due(0), rows, torch.arange(2), noise, defaultdict(lambda: torch.zeros(())))
    assert weight.item() == pytest.approx(0.79, abs=1e-6)
    torch.testing.assert_close(critic[:, 0], before)  # the critics have none
