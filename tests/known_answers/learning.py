"""Learning as a run does it, without its directory: by a plan, or in small from rows or windows made for a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.core.spec import Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.sampling import Rows
from stitchrl.data.window_rows import window_rows_of
from stitchrl.experiment import Plan, as_acting, make_learner, prepare
from stitchrl.training.learner import Learner, Training

CPU = torch.device("cpu")


def learn(made: Plan, log: Dataset) -> tuple[Learner, Agent]:
    """Returns the learner after all of its steps, checked, and the agent that acts with what it learned."""
    rows, transforms = prepare(log, made)
    learner = _advanced(make_learner(made, rows, transforms))
    spec, seen = as_acting(made, rows, transforms)
    return learner, Agent(made.algorithm, learner.template, learner.update.parameters, spec, seen, made.seeds)


def learn_rows(name: str, config: Any, spec: Spec, rows: Rows, steps: int, batch_size: int, seeds: Sequence[int] = (0,)) -> Learner:
    """Returns a method's learner after `steps` of them, checked."""
    training = Training(steps=steps, batch_size=batch_size, compile="off")
    return _advanced(Learner(algorithms.find(name)[0], config, spec, rows, seeds, training, CPU))


def learn_windows(name: str, config: Any, log: Dataset, steps: int, batch_size: int) -> Learner:
    """The same of a method that learns from windows, of a log as it is."""
    rows = window_rows_of(log, algorithms.find(name)[0].batch_of(config), [], CPU, 1 << 30)
    return learn_rows(name, config, log.spec, rows, steps, batch_size)


def _advanced(learner: Learner) -> Learner:
    for _ in range(learner.training.steps):
        learner.advance()
    learner.check()
    return learner
