"""Actions that are no vectors: learned from as such, and given back in their shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.core.spec import Box, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.evidence import AgentTarget
from stitchrl.evaluation.fqe import cross_fitted
from stitchrl.experiment import as_acting, make_learner, plan, prepare
from stitchrl.training.learner import Training
from tests.algorithms.synthetic_log import Case

SPEC = Spec(Box((3,)), Box((2, 2), (-1.0,), (1.0,)))
NAMES = [name for name in algorithms.names() if algorithms.find(name)[0].action_space in ("any", "box")]


def log() -> Dataset:
    rng = np.random.default_rng(0)
    episodes: list[dict[str, Any]] = [
        {
            "observations": rng.normal(size=(13, 3)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (12, 2, 2)).astype(np.float32),
            "rewards": rng.normal(size=12),
            "terminals": True,
        }
        for _ in range(6)
    ]
    return Dataset.from_episodes(episodes, SPEC)


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_is_learned_and_done(name: str) -> None:
    from stitchrl.core.goals import GoalDrawing, Goals

    goals = GoalDrawing(hindsight=True, terminals="as_timeouts") if isinstance(algorithms.find(name)[0].batch, Goals) else None
    made = plan(
        name, settings=Case(name, "box").config(), goals=goals, training=Training(steps=2, batch_size=4, compile="off", device="cpu")
    )
    data, transforms = prepare(log(), made)
    learner = make_learner(made, data, transforms)
    for _ in range(2):
        learner.advance()
    learner.check()
    spec, seen = as_acting(made, data, transforms)
    agent = Agent(name, learner.template, learner.update.parameters, spec, seen, made.seeds)
    shape = spec.observation.shape if isinstance(spec.observation, Box) else ()
    assert agent.predict(np.zeros((5, *shape), np.float32)).shape == (5, 2, 2)
    if agent.stochastic and not agent.policy.drawn:
        assert agent.predict(np.zeros((5, *shape), np.float32), sampled=True).shape == (5, 2, 2)


def judged(flat: bool) -> tuple[Dataset, Agent]:
    """The log, with its matrices or with their numbers in a row, and a small policy that was shown it."""
    shaped = log()
    if flat:
        row = Box((4,), (-1.0,), (1.0,))
        columns = {**shaped.columns, "actions": shaped.columns["actions"].reshape(-1, 4)}
        shaped = Dataset(Spec(SPEC.observation, row), columns, shaped.offsets, shaped.final_observations)
    training = Training(steps=1, batch_size=4, compile="off", device="cpu")
    made = plan("bc", settings={"hidden": (4,), "distribution": "gaussian"}, training=training)
    data, transforms = prepare(shaped, made)
    learner = make_learner(made, data, transforms)
    learner.advance()
    spec, seen = as_acting(made, data, transforms)
    return shaped, Agent("bc", learner.template, learner.update.parameters, spec, seen, made.seeds)


def test_the_density_of_a_matrix_is_that_of_its_numbers() -> None:
    found = []
    for flat in (False, True):
        data, agent = judged(flat)
        found.append(agent.log_probabilities(data.columns["observations"][:5], data.columns["actions"][:5]))
    assert found[0].shape == (1, 5) and np.allclose(found[0], found[1])


def test_a_policy_of_matrices_is_judged_as_one_of_their_numbers() -> None:
    found = [
        cross_fitted(data, AgentTarget(agent, sampled=True), discount=0.9, clock="ends", seeds=(0,), steps=20, batch_size=16)
        for data, agent in map(judged, (False, True))
    ]
    assert len(found[0].direct) == 1 and np.allclose(found[0].direct, found[1].direct) and abs(found[0].direct[0]) > 1e-3
