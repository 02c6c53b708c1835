"""ReBRAC's losses with linear networks, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from stitchrl.algorithms.rebrac import ReBRAC, ReBRACConfig
from stitchrl.core.batch import NextActionBatch
from tests.algorithms.test_losses import TWO, batch, linear, losses, made

STEPS = NextActionBatch(
    *batch([1.0, -4.0], [[0.5, 0.0], [-0.5, 1.0]], [1.0, 2.0], [0.5, 0.5], [0, 1]), torch.tensor([[0.4, -0.1], [0.9, 0.9]]).double()
)
NOISE = {"policy": torch.tensor([[10.0, -0.5], [0.0, 0.0]]).double()}


def rebrac(**settings: Any) -> Any:
    algorithm = made(ReBRAC, ReBRACConfig(hidden=(), discount=0.5, **settings), TWO)
    linear(algorithm.actor, [0.0, 0.0], [math.atanh(0.5), math.atanh(-0.5)])
    linear(algorithm.target_actor, [0.0, 0.0], [math.atanh(0.8), math.atanh(0.2)])
    linear(algorithm.critic, [[1.0, 2.0, 0.0], [0.0, 0.0, 4.0]], [0.0, 0.0])  # Q1 = s + 2 a0, Q2 = 4 a1
    linear(algorithm.target_critic, [[0.0, 1.0, 0.0], [0.0, 0.0, 5.0]], [0.0, 0.0])  # a0 and 5 a1
    return algorithm


def test_the_target_pays_for_the_distance_from_the_next_logged_action() -> None:
    found, metrics = losses(rebrac(critic_penalty=0.25), STEPS, NOISE)
    # next action: 0.8 + 0.5 (clipped from 2) clipped to 1, and 0.2 - 0.1; values 1 and 0.5
    distance = (1.0 - 0.4) ** 2 + (0.1 + 0.1) ** 2
    target = np.array([1 + 0.5 * (0.5 - 0.25 * distance), 2.0])  # terminal: neither value nor penalty
    q = np.array([[2.0, -5.0], [0.0, 4.0]])
    assert found["critic"].item() == pytest.approx(((q - target) ** 2).mean(1).sum())
    assert metrics["next_distance"] == pytest.approx(distance / 2)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_actor_weighs_the_smaller_value_against_the_summed_square(normalize: bool) -> None:
    algorithm = rebrac(actor_penalty=0.3, normalize_values=normalize)
    found, metrics = losses(algorithm, STEPS, NOISE)
    # pi = (0.5, -0.5): Q1 = 2, -3, Q2 = -2, -2; smaller -2, -3, of mean size 2.5
    scale = 1 / 2.5 if normalize else 1.0
    distance = np.array([0.0 + 0.25, 1.0 + 2.25])
    assert found["actor"].item() == pytest.approx((0.3 * distance - scale * np.array([-2.0, -3.0])).mean())
    assert metrics["distance"] == pytest.approx(distance.mean())
    # the scale is a constant: d/da0 is -(0 + 2 scale) / 2 from the value, 2 · 0.3 · (0 + 1) / 2 from the distance; da0/dbias = 1 - 0.25
    slope = torch.autograd.grad(found["actor"], algorithm.actor.mlp.layers[0].bias)[0]
    assert slope.flatten()[0].item() == pytest.approx((-scale + 0.3) * 0.75)


def test_without_penalties_it_is_td3_whose_actor_climbs_the_smaller_value() -> None:
    found, _ = losses(rebrac(actor_penalty=0.0, critic_penalty=0.0, normalize_values=False), STEPS, NOISE)
    assert found["actor"].item() == pytest.approx(2.5)
    target = np.array([1 + 0.5 * 0.5, 2.0])
    assert found["critic"].item() == pytest.approx(((np.array([[2.0, -5.0], [0.0, 4.0]]) - target) ** 2).mean(1).sum())


def test_layer_norm_follows_the_activation_in_the_critics_alone() -> None:
    algorithm = made(ReBRAC, ReBRACConfig(hidden=(8, 8)), TWO)
    assert algorithm.critic.mlp.norm_after and len(algorithm.critic.mlp.norms) == 2
    assert algorithm.actor.mlp.norms is None
