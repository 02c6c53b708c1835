"""Learning as a run does it, without its directory: a plan and a log, the learner and its policies."""

from __future__ import annotations

from stitchrl.agent import Agent
from stitchrl.data.dataset import Dataset
from stitchrl.experiment import Plan, as_acting, make_learner, prepare
from stitchrl.training.learner import Learner


def learn(made: Plan, log: Dataset) -> tuple[Learner, Agent]:
    """Returns the learner after all of its steps, checked, and the agent that acts with what it learned."""
    rows, transforms = prepare(log, made)
    learner = make_learner(made, rows, transforms)
    for _ in range(made.training.steps):
        learner.advance()
    learner.check()
    spec, seen = as_acting(made, rows, transforms)
    return learner, Agent(made.algorithm, learner.template, learner.update.parameters, spec, seen, made.seeds)
