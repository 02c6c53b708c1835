"""Planners by diffusion on logs whose best plan is known: what a guide, a return asked for and constraints bring about."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stitchrl import algorithms
from stitchrl.core.plans import Planned
from stitchrl.core.spec import Box, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.training.learner import Learner
from stitchrl.training.seeds import holding
from tests.known_answers.learning import learn_windows

HORIZON, PROBES = 8, 64
SMALL: dict[str, Any] = {
    "horizon": HORIZON, "width": 16, "multipliers": (1, 2), "diffusion_steps": 20, "discount": 1.0, "target_every": 1, "target_rate": 0.02,
    "learning_rate": 2e-3,
}  # fmt: skip


def walks(ends: np.ndarray, rewards: np.ndarray, seed: int = 0) -> Dataset:
    """Straight walks from about 0 to `ends [E, D]` in 7 steps, each of which earns `rewards [E]`; the clock ends them."""
    rng = np.random.default_rng(seed)
    steps, size = HORIZON - 1, ends.shape[1]
    first = 0.02 * rng.standard_normal(ends.shape)
    episodes = []
    for start, end, reward in zip(first, ends, rewards, strict=True):
        path = start + (end - start) * np.linspace(0, 1, HORIZON)[:, None]
        moves = np.diff(path, axis=0) * 5
        episodes.append({"observations": path, "actions": moves, "rewards": np.full(steps, reward), "terminals": False})
    made = [{name: np.asarray(value, np.float32) if name != "terminals" else value for name, value in e.items()} for e in episodes]
    return Dataset.from_episodes(made, Spec(Box((size,)), Box((size,), (-1.0,), (1.0,))))


def learned(name: str, log: Dataset, steps: int, **settings: Any) -> Learner:
    return learn_windows(name, algorithms.find(name)[1](**{**SMALL, **settings}), log, steps, 64)


def planned(learner: Learner, size: int, **settings: Any) -> Planned:
    """Returns plans from 0, with other settings of planning than those learned with."""
    learner.template.config = dataclasses.replace(learner.template.config, **settings)
    with holding(learner.template, learner.parameters_of(0)):
        policy: Any = learner.template.policy()
        noise = policy.noise(PROBES).draw(1, torch.Generator().manual_seed(0))[0]
        return policy.planned(torch.zeros(PROBES, size), noise)  # type: ignore[no-any-return]


def ends_of(plans: Planned) -> Tensor:
    """`[PROBES, D]`, where the best plan of each probe ends."""
    return plans.states[torch.arange(PROBES), plans.scores.argmax(1), -1]


def two_ways() -> Dataset:
    """Walks to about -0.9, 3 of 5, and to about 0.9, which earn where they end."""
    rng = np.random.default_rng(1)
    ends = np.where(rng.random(400) < 0.4, 1.0, -1.0)[:, None] * rng.uniform(0.8, 1.0, (400, 1))
    return walks(ends, ends[:, 0])


@pytest.mark.slow
def test_the_guide_and_the_choice_among_plans_take_the_better_of_two_ways() -> None:
    learner = learned("diffuser", two_ways(), 400, candidates=1)
    plain = ends_of(planned(learner, 1, guide_scale=0.0, candidates=1))
    assert (plain.abs() > 0.6).float().mean() > 0.95, "plans are those of the log"
    assert 0.1 < (plain > 0).float().mean() < 0.7, "of both kinds"
    guided, chosen = (planned(learner, 1, guide_scale=scale, candidates=k) for scale, k in ((5.0, 1), (0.0, 8)))
    assert (ends_of(guided) > 0.6).float().mean() > 0.95
    assert (ends_of(chosen) > 0.6).float().mean() > 0.9
    assert guided.scores.mean().item() == pytest.approx(7 * 0.9, abs=1.5), "what 7 steps of about 0.9 earn"


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"network": "dit", "depth": 2, "heads": 2, "multipliers": (1, 4, 8)}], ids=["unet", "dit"])
def test_the_return_asked_for_decides_between_two_ways(settings: dict[str, Any]) -> None:
    learner = learned("decision_diffuser", two_ways(), 400, **settings)
    high, low, untold = (
        planned(learner, 1, guidance=guidance, target=target).states[:, -1, -1] for guidance, target in ((1.2, 1.0), (1.2, 0.0), (0.0, 1.0))
    )
    assert (high > 0.6).float().mean() > 0.95 and (low < -0.6).float().mean() > 0.95
    assert 0.1 < (untold > 0).float().mean() < 0.9


@pytest.mark.slow
def test_constraints_that_were_only_ever_met_alone_are_met_together() -> None:
    rng = np.random.default_rng(1)
    kind, far, ends = rng.integers(3, size=600), rng.uniform(0.4, 1.0, 600), rng.uniform(-0.2, 0.2, (600, 2))
    ends[kind == 0, 0], ends[kind == 1, 1] = far[kind == 0], far[kind == 1]  # a third goes east, a third north, a third stays
    assert not (ends > 0.3).all(1).any()
    settings = {"return_condition": False, "constraints": ((0, 0.3, 2.0), (1, 0.3, 2.0)), "constrained": "finally"}
    learner = learned("decision_diffuser", walks(ends, ends[:, 0]), 500, **settings)

    def met(guidance: float, *asked: int) -> list[float]:
        reached = planned(learner, 2, guidance=guidance, asked=asked).states[:, -1, -1] > 0.3
        return [float(x.float().mean()) for x in (reached[:, 0], reached[:, 1], reached.all(1))]

    assert met(0.0, 1, 1)[2] == 0
    east, north, both = met(2.0, 1, 0), met(2.0, 0, 1), met(2.0, 1, 1)
    assert east[0] > 0.95 and east[1] < 0.05 and north[1] > 0.95 and north[0] < 0.05
    assert both[2] > 0.9

    learner.template.config = dataclasses.replace(learner.template.config, guidance=2.0, asked=(1, 1), replan_every=HORIZON - 1)
    with holding(learner.template, learner.parameters_of(0)):
        policy: Any = learner.template.policy()
        noise = policy.noise(PROBES).draw(1, torch.Generator().manual_seed(0))[0]
        x, memory = torch.zeros(PROBES, 2), policy.memory(PROBES)
        for _ in range(HORIZON - 1):
            actions, memory = policy.step(x, torch.zeros(PROBES), memory, noise)
            x = x + actions / 5
    assert (x > 0.3).all(1).float().mean() > 0.75, "and not only in plans: it is walked to, by actions that add up their errors"


@pytest.mark.slow
@pytest.mark.parametrize("planning", ["likelihood", "none"])
def test_a_goal_beyond_the_window_is_walked_to(planning: str) -> None:
    rng = np.random.default_rng(1)
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * 0.9
    ends = corners[rng.integers(4, size=400)] + rng.uniform(-0.05, 0.05, (400, 2))
    plain = walks(ends, ends[:, 0])
    told = (rng.uniform(-1, 1, (x.shape[0], 2)).astype(np.float32) for x in (plain.observations, plain.final_observations))  # of no goal
    seen, last = (np.concatenate([x, y], 1) for x, y in zip((plain.observations, plain.final_observations), told, strict=True))
    log = Dataset(Spec(Box((4,)), plain.spec.action), {**plain.columns, "observations": seen}, plain.offsets, last, {})
    settings = {
        "sequence": 3, "context": 3, "bins": 20, "discretization": "uniform", "width": 32, "layers": 2, "heads": 2, "dropout": 0.0,
        "learning_rate": 3e-3, "warmup_steps": 20, "goal": ((0, 2), (1, 3)), "planning": planning, "beam_width": 4, "horizon": 2,
    }  # fmt: skip
    learner = learn_windows("trajectory_transformer", algorithms.find("trajectory_transformer")[1](**settings), log, 400, 64)
    with holding(learner.template, learner.parameters_of(0)):
        policy: Any = learner.template.policy()
        x = torch.zeros(4, 4)
        x[:, 2:] = torch.from_numpy(corners)
        memory = policy.memory(4)
        for _ in range(HORIZON - 1):
            actions, memory = policy.step(x, torch.zeros(4), memory)
            x = torch.cat([x[:, :2] + actions / 5, x[:, 2:]], 1)
    assert (x[:, :2] - x[:, 2:]).norm(dim=1).max() < 0.5, "each to its own corner"
