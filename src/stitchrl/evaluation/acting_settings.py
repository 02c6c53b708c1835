"""A learned policy acting with other settings: what a planner or a sampler does with the same weights is decided when it acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from stitchrl import algorithms
from stitchrl.agent import Agent, parameter_names
from stitchrl.core.algorithm import build
from stitchrl.core.errors import ConfigError
from stitchrl.core.settings import read_settings, to_json
from stitchrl.data.transforms import learner_spec


def in_words(settings: Sequence[str]) -> str:
    """Returns how a command says that a policy acted with `name=value` settings; nothing where there are none."""
    return f" with {', '.join(settings)}" if settings else ""


def acting_with(agent: Agent, changes: Mapping[str, Any]) -> Agent:
    """Returns the agent with some of its algorithm's `acting_settings` changed, its weights as they are.

    Raises ConfigError for an unknown setting or value, for settings that are in what was learned, and for those of a policy with other weights.
    """
    kind, settings = algorithms.find(agent.name)
    config = read_settings(settings, to_json(agent.config) | dict(changes), agent.name)
    learned = [name for name in changes if name not in kind.acting_settings]
    if learned:
        others = (
            f"those of {agent.name} that act are {', '.join(sorted(kind.acting_settings))}"
            if kind.acting_settings
            else (f"{agent.name} has none that act")
        )
        raise ConfigError(f"{', '.join(learned)}: in what was learned, and not to be changed after it; {others}. Train with it instead")
    with torch.device("meta"):  # no memory for weights: they are the agent's own
        template = build(kind, config, learner_spec(agent.spec, agent.transforms), 0)
        policy = template.policy()
    needed = dict(policy.named_parameters())
    seeds = (len(agent.seeds),) if len(agent.seeds) > 1 else ()
    shapes = {name: tuple(value.shape) for name, value in agent.parameters.items()}
    if shapes != {name: (*seeds, *parameter.shape) for name, parameter in needed.items()}:
        raise ConfigError(f"{', '.join(changes)}: a policy with these settings has other weights than were learned; train one with them")
    weights = {name: agent.parameters[own] for own, name in parameter_names(policy, template).items()}
    return Agent(agent.name, template, weights, agent.spec, agent.transforms, agent.seeds, agent.categories)
