"""A learned policy that acts with other settings: the same weights, what the settings decide, and what they cannot."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.core.errors import ConfigError
from stitchrl.evaluation.acting_settings import acting_with
from tests.algorithms.synthetic_log import Case

OBSERVATIONS = np.random.default_rng(0).standard_normal((2, 6, 5)).astype(np.float32)


def learned(*seeds: int) -> Agent:
    learner = Case("trajectory_transformer", "discrete").learner(seeds, steps=3)
    for _ in range(3):
        learner.advance()
    parameters = {name: value.detach() for name, value in learner.update.parameters.items()}
    return Agent("trajectory_transformer", learner.template, parameters, learner.template.spec, [], seeds)


@pytest.mark.parametrize("seeds", [(0, 3), (2,)])
def test_the_weights_stay_and_the_settings_change(seeds: tuple[int, ...]) -> None:
    agent = learned(*seeds)
    other = acting_with(agent, {"planning": "none", "context": 3})
    assert (other.config.planning, other.config.context, other.config.bins) == ("none", 3, agent.config.bins)
    assert agent.config.planning == "value" and other.seeds == agent.seeds
    assert all(torch.equal(other.parameters[name], value) for name, value in agent.parameters.items())
    x = OBSERVATIONS[: len(seeds)]
    again = acting_with(other, {"planning": "value", "context": 2})
    assert np.array_equal(again.act(x), agent.act(x))
    # without planning, what is drawn is the action alone
    assert agent.policy.noise(1) != other.policy.noise(1)
    assert other.act(x).shape == (len(seeds), 6)


def test_what_learning_decided_cannot_be_changed() -> None:
    agent = learned(0)
    for changes, words in (
        ({"width": 16}, "width: in what was learned.* that act are action_choices, beam_width"),
        ({"horizon": 2, "learning_rate": 1e-3}, "learning_rate: in what was learned"),
        ({"planing": "none"}, "unknown setting 'planing'. Did you mean 'planning'"),
        ({"horizon": 0}, "horizon is 0"),
        ({"context": 9}, "context is 9"),
    ):
        with pytest.raises(ConfigError, match=words):
            acting_with(agent, changes)


def test_settings_that_act_are_settings() -> None:
    for name in algorithms.names():
        kind, config = algorithms.find(name)
        assert kind.acting_settings <= {field.name for field in dataclasses.fields(config)}, name
