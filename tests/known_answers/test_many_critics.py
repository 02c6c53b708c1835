"""What many critics are for: doubt about actions that nobody tried; and what EDAC adds, the doubt of many from a few.

One step an episode, actions of four numbers near 0, and the reward is the first of them: what is best lies where the log says nothing.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from stitchrl.algorithms import find
from stitchrl.algorithms.edac import EDACConfig
from stitchrl.core.spec import Box, Spec
from stitchrl.data.sampling import DeviceRows
from stitchrl.training.learner import Learner, Training
from stitchrl.training.seeds import holding
from tests.known_answers.learning import learn_rows

SPEC = Spec(Box((1,)), Box((4,), (-1.0,), (1.0,)))
DEVIATION = 0.2  # of the logged actions
STATES = torch.linspace(-1, 1, 200).unsqueeze(1)


def log() -> DeviceRows:
    rng = np.random.default_rng(0)
    s, a = rng.uniform(-1, 1, (2000, 1)), DEVIATION * rng.standard_normal((2000, 4))
    return DeviceRows(torch.from_numpy(np.concatenate([s, a, a[:, :1], np.ones((2000, 1)), s], 1).astype(np.float32)))


def learned(critics: int, diversity: float) -> tuple[float, float]:
    """Returns how far the policy goes along the first number, and the mean cosine between two critics' slopes in a logged action."""
    rates = {"actor_learning_rate": 1e-3, "critic_learning_rate": 3e-3, "temperature_learning_rate": 1e-3}
    config = EDACConfig(hidden=(32, 32), ensemble=critics, diversity=diversity, **rates)
    learner = learn_rows("edac", config, SPEC, log(), 800, 128)
    with holding(learner.template, learner.parameters_of(0)):
        a = torch.zeros(len(STATES), 4, requires_grad=True)
        q = learner.template.get_submodule("critic")(STATES, a)
        slopes = torch.stack([torch.autograd.grad(one.sum(), a, retain_graph=True)[0] for one in q])  # [E, B, A]
        with torch.no_grad():
            first = learner.template.policy()(STATES)[:, 0].mean().item()
    unit = torch.nn.functional.normalize(slopes, dim=-1)
    cosine = (unit.sum(0).square().sum(-1) - critics) / (critics * (critics - 1))
    return first, cosine.mean().item()


def test_four_diverse_critics_hold_the_policy_nearer_the_log_than_sixteen_that_agree() -> None:
    far, agreed = learned(16, diversity=0.0)
    near, apart = learned(4, diversity=1.0)
    assert agreed > 0.95 and far > 3 * DEVIATION, "all have learned the same slope, which goes on for ever"
    assert apart == pytest.approx(-1 / 3, abs=0.05), "the least that the mean cosine of four directions can be"
    assert 0 < near < 0.7 * far


def test_a_hundred_critics_take_far_less_than_fifty_times_the_time_of_two() -> None:
    """benchmarks/speed/ENSEMBLES.md: 4 times, where networks are small: one product of all critics, no loop over them."""

    def seconds(critics: int) -> float:
        config = EDACConfig(hidden=(32, 32, 32), ensemble=critics)
        settings = Training(steps=100, batch_size=64, compile="off", threads=1)
        learner = Learner(find("edac")[0], config, SPEC, log(), (0,), settings, torch.device("cpu"))
        learner.advance()
        found = []
        for _ in range(8):
            before = time.process_time()
            learner.advance()
            found.append(time.process_time() - before)
        return min(found)

    two, hundred = seconds(2), seconds(100)
    assert hundred < 20 * two, f"{1000 * two:.1f} and {1000 * hundred:.1f} ms a step"
