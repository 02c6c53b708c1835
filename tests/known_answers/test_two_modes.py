"""A log whose actions have two modes, -0.6 and 0.6, and nothing between: what an average, a flow and chosen candidates make of it.

One step an episode, and the reward is the action itself: best within the log is the upper mode, best of all would be 1, which nobody tried.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stitchrl import algorithms
from stitchrl.core.spec import Box, Spec
from stitchrl.data.sampling import DeviceRows
from stitchrl.nn.flow import integrate
from stitchrl.training.learner import Learner
from stitchrl.training.seeds import holding
from tests.known_answers.learning import learn_rows

SPEC = Spec(Box((1,)), Box((1,), (-1.0,), (1.0,)))
PROBES = 400
STATES = torch.linspace(-1, 1, PROBES).unsqueeze(1)
LATENTS = torch.randn(PROBES, 1, generator=torch.Generator().manual_seed(1))


def log(share: float, size: int = 2000) -> Tensor:
    """Returns packed rows: s, a, r = a, terminal, s'; this share of the actions lies at the upper mode."""
    rng = np.random.default_rng(0)
    s = rng.uniform(-1, 1, size)
    a = np.where(rng.random(size) < share, 0.6, -0.6) + 0.05 * rng.standard_normal(size)
    return torch.from_numpy(np.stack([s, a, a, np.ones(size), s], 1).astype(np.float32))


def learned(name: str, share: float, steps: int, **settings: Any) -> Learner:
    return learn_rows(name, algorithms.find(name)[1](**settings), SPEC, DeviceRows(log(share)), steps, 128)


@torch.no_grad()
def actions(learner: Learner, noise: Tensor | None = None) -> Tensor:
    with holding(learner.template, learner.parameters_of(0)):
        found: Tensor = learner.template.policy()(STATES, noise)[:, 0]
    return found


def test_squared_error_takes_what_nobody_took() -> None:
    found = actions(learned("bc", 0.3, 200, hidden=(32, 32), learning_rate=3e-3))
    assert (found.abs() < 0.4).all() and found.mean().item() == pytest.approx(0.3 * 0.6 - 0.7 * 0.6, abs=0.06)


def test_bcq_takes_the_better_mode_and_goes_no_further() -> None:
    learner = learned("bcq", 0.5, 500, hidden=(32, 32), autoencoder_hidden=(64, 64), autoencoder_learning_rate=4e-3)
    kind = learner.template.policy().noise(PROBES)
    assert kind is not None
    for noise in (None, kind.draw(1, torch.Generator().manual_seed(1))[0]):
        found = actions(learner, noise)
        # the mode, its deviation of 0.05 and the perturbation's 0.05
        assert (found > 0.5).all() and (found < 0.75).all()


@pytest.mark.slow
def test_candidates_near_the_middle_of_the_log_miss_a_mode_that_few_steps_have() -> None:
    """Docs of `bcq`, "When": of a better mode with 30 % of the steps."""
    sizes = {"hidden": (32, 32), "autoencoder_hidden": (64, 64), "autoencoder_learning_rate": 4e-3}
    near, wide = (actions(learned("bcq", 0.3, 500, latent_bound=bound, **sizes)) for bound in (0.5, 2.0))
    assert near.mean() < 0.2 and (near < 0.5).all(), "none of the better mode"
    assert (wide > 0.5).float().mean() > 0.95 and (wide < 0.8).all()


@pytest.mark.parametrize("distillation", [pytest.param(1000.0, marks=pytest.mark.slow), 5.0])
def test_a_flow_has_both_modes_and_the_policy_stands_off_it_by_the_values_slope(distillation: float) -> None:
    learner = learned("fql", 0.3, 500, hidden=(64, 64), learning_rate=4e-3, distillation=distillation)
    found = actions(learner, LATENTS)
    with torch.no_grad(), holding(learner.template, learner.parameters_of(0)):
        flow: Any = learner.template.flow
        cloned = integrate(lambda x, t: flow(STATES, x, t), LATENTS, 10)[:, 0].clamp(-1, 1)
    assert (cloned > 0).float().mean().item() == pytest.approx(0.3, abs=0.08)
    for made in (cloned, found):
        assert ((made.abs() - 0.6).abs() < 0.2).float().mean() > 0.65, "most actions lie near a mode"
    # alpha (pi - mu)² - Q is least where pi - mu = Q' / (2 alpha), and here Q = a
    assert (found - cloned).mean().item() == pytest.approx(1 / (2 * distillation), abs=0.04)


def test_calibration_keeps_a_conservative_value_above_the_behaviours() -> None:
    """Both methods go to the better mode, worth 0.6, of a behaviour worth 0; a value below that would be left as soon as others are tried."""
    rows = log(0.5)
    rows = DeviceRows(torch.cat([rows, rows[:, 2:3]], 1))  # the return is the reward
    rates = dict.fromkeys(("actor_learning_rate", "critic_learning_rate", "temperature_learning_rate"), 3e-3)
    believed = {}
    for calibrated in (True, False):
        settings = {"hidden": (32, 32), "conservatism": 20.0, "sampled_actions": 4, "calibrated": calibrated, **rates}
        learner = learn_rows("cal_ql", algorithms.find("cal_ql")[1](**settings), SPEC, rows, 400, 128)
        assert (actions(learner) - 0.6).abs().mean() < 0.15
        with torch.no_grad(), holding(learner.template, learner.parameters_of(0)):
            value = learner.template.believed_value(STATES)
        assert value is not None
        believed[calibrated] = float(value.mean())
    assert believed[True] > 0.3 and believed[False] < -0.5, believed
