"""On a log of mixed quality the ways that look at rewards leave cloning behind: HalfCheetah, our own medium-replay log, one seed."""

from __future__ import annotations

import pytest

from stitchrl.agent import Agent
from stitchrl.evaluation.rollout import rollout
from stitchrl.experiment import make_learner, plan, prepare
from stitchrl.recipes import datasets, published
from stitchrl.training.learner import Training

pytest.importorskip("mujoco")

LOG = "halfcheetah/medium-replay"
# D4RL's scale; benchmarks/scores/standard has the curves: cloning stays at 2, these were at 27, 28 and 26 to 27
WAYS = {"filtered_bc": 2_000, "awac_locomotion": 5_000, "iql_locomotion": 8_000}


def score(recipe: str, steps: int) -> float:
    made = published.recipe(recipe)
    training = Training(steps=steps, threads=1, compile="off")
    agreed = plan(made.algorithm, settings=made.settings, preprocessing=made.preprocessing, training=training)
    log, transforms = prepare(datasets.load(LOG), agreed)
    learner = make_learner(agreed, log, transforms)
    for _ in range(steps):
        learner.advance()
    learner.check()
    agent = Agent(made.algorithm, learner.template, learner.update.parameters, log.spec, transforms, agreed.seeds)
    found = rollout(lambda x, _: agent.act(x), "HalfCheetah-v5", episodes=5, seed=10_000, parallel=5, processes=1)
    return 100 * (float(found.returns.mean()) + 280.178953) / (12135.0 + 280.178953)  # D4RL's references


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_looks_at_rewards_beats_cloning_on_mixed_data() -> None:
    cloned = score("bc_locomotion", 2_000)
    assert cloned < 10
    for recipe, steps in WAYS.items():
        assert score(recipe, steps) > cloned + 10, recipe
