"""Logs of two modes, -0.6 and 0.6: a diffusion clones both, holds on to one within a chunk, and with a critic takes the better one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stitchrl import algorithms
from stitchrl.data.dataset import Dataset
from stitchrl.training.learner import Learner
from stitchrl.training.seeds import holding
from tests.known_answers.learning import learn_windows
from tests.known_answers.test_two_modes import PROBES, SPEC, STATES, actions, learned


def noise_of(learner: Learner) -> Tensor:
    kind = learner.template.policy().noise(PROBES)
    assert kind is not None
    return kind.draw(1, torch.Generator().manual_seed(1))[0]


def modes(found: Tensor, share: float, tolerance: float) -> None:
    """Asserts that this share of actions lies at the upper mode, and hardly one between the two."""
    assert (found > 0).float().mean().item() == pytest.approx(share, abs=tolerance)
    assert ((found.abs() - 0.6).abs() < 0.2).float().mean() > 0.9


def two_steps(share: float, episodes: int = 1000) -> Dataset:
    """Returns episodes of two steps whose actions have one sign: the mode is chosen once, and nothing that is seen tells it."""
    rng = np.random.default_rng(0)
    sign = np.repeat(np.where(rng.random(episodes) < share, 0.6, -0.6), 2)
    s = rng.uniform(-1, 1, (2 * episodes, 1)).astype(np.float32)
    a = (sign + 0.05 * rng.standard_normal(2 * episodes)).astype(np.float32)[:, None]
    ends = np.tile([False, True], episodes)
    return Dataset.from_flat(s, a, np.zeros(2 * episodes, np.float32), ends, spec=SPEC, final_observations=s[1::2])


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", [{"width": 16, "multipliers": (1, 2)}, {"network": "dit", "width": 32, "depth": 2, "heads": 2}], ids=["unet", "dit"]
)
def test_chunks_keep_both_modes_and_hold_on_to_one(network: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"horizon": 2, "observed": 1, "acted": 2, "diffusion_steps": 20} | network
    config = algorithms.find("diffusion_policy")[1](**settings, learning_rate=4e-3, warmup_steps=0, target_rate=0.05)
    learner = learn_windows("diffusion_policy", config, two_steps(0.3), 400, 128)
    noise = noise_of(learner)
    with torch.no_grad(), holding(learner.template, learner.parameters_of(0)):
        policy = learner.template.policy()
        memory = policy.memory(PROBES)
        assert memory is not None
        first, memory = policy.step(STATES, torch.zeros(PROBES), memory, noise)
        second, _ = policy.step(STATES.flip(0), torch.zeros(PROBES), memory, noise)
    for found in (first, second):
        modes(found[:, 0], 0.3, 0.1)
    assert (first.sign() == second.sign()).float().mean() > 0.97, "both actions of a chunk are of one mode"


CLONING: dict[str, Any] = {
    "width": 32, "blocks": 2, "dropout": 0.0, "critic_every": 1, "average_every": 1, "target_rate": 0.05, "hidden": (32, 32),
    "learning_rate": 4e-3,
}  # fmt: skip


def test_idql_takes_the_better_mode_and_goes_no_further() -> None:
    learner = learned("idql", 0.3, 300, **CLONING, diffusion_steps=10, schedule="cosine", acting_candidates=16)
    for found in (actions(learner), actions(learner, noise_of(learner))):
        # of one or two per cent of the states all sixteen candidates lie in the lower mode, or the chain ends between the two
        assert (found > 0.45).float().mean() > 0.95
        assert found.median() < 0.75, "the log's better mode, not the best action of all"


@pytest.mark.slow
def test_idql_with_one_candidate_clones() -> None:
    learner = learned("idql", 0.3, 600, **CLONING, diffusion_steps=20, schedule="cosine", acting_candidates=1)
    modes(actions(learner, noise_of(learner)), 0.3, 0.1)


@pytest.mark.slow
def test_idql_with_weights_shifts_the_share_of_the_modes_by_the_expectile() -> None:
    # V is the same at all states, and between the modes: the upper one weighs tau, the lower one 1 - tau
    learner = learned("idql", 0.3, 400, **CLONING, acting="weighted", acting_candidates=32, level=0.8)
    found = actions(learner, noise_of(learner))
    assert (found > 0).float().mean().item() == pytest.approx(0.3 * 0.8 / (0.3 * 0.8 + 0.7 * 0.2), abs=0.1)  # 0.63


@pytest.mark.slow
def test_diffusion_q_learning_clones_without_a_value_and_climbs_with_one_or_with_many_candidates() -> None:
    """Five steps of its schedule leave noise of half the modes' distance before the last one: what it draws is near a mode, not at it."""
    settings: dict[str, Any] = {"hidden": (64, 64), "actor_learning_rate": 4e-3, "critic_learning_rate": 4e-3}
    shares = {}
    for name, weight, candidates in (("cloned", 0.0, 1), ("chosen", 0.0, 16), ("climbed", 1.0, 1)):
        learner = learned("diffusion_ql", 0.3, 400, **settings, value_weight=weight, acting_candidates=candidates, acting_sharpness=50.0)
        found = actions(learner, noise_of(learner))
        shares[name] = (found > 0).float().mean().item()
    assert shares["cloned"] == pytest.approx(0.3, abs=0.12)
    assert shares["chosen"] > 0.9 and shares["climbed"] > 0.9
