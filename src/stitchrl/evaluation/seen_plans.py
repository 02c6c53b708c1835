"""The plans of a policy that plans, in the task's units: what it would do where episodes begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch.func import functional_call

from stitchrl.agent import Agent
from stitchrl.core.errors import ConfigError
from stitchrl.core.observation_checks import check_observations
from stitchrl.core.plans import Planned, Planner
from stitchrl.core.policy_calls import Plans
from stitchrl.core.spec import Discrete, is_image
from stitchrl.data.transforms import apply, undo

Array = np.ndarray[Any, np.dtype[Any]]


@final
@dataclass(frozen=True)
class SeenPlans:
    """From N observations `[N, *O]`: states `[N, K, T, *O]` with scores `[N, K]`, and stages of the best `[N, J, T, *O]`, as `Planned` has them."""

    observations: Array
    states: Array
    scores: Array
    stages: Array
    score: str  # what the scores are


def seen_plans(agent: Agent, observations: Array, *, sampled: bool = False) -> SeenPlans:
    """Returns the plans of the agent's first seed from observations `[N, *O]`; raises ConfigError for a policy that does not plan, DataError
    for other observations than the log's."""
    policy = agent.policy
    if not isinstance(policy, Planner):
        raise ConfigError(f"a policy of '{agent.name}' makes no plans; those of diffuser, decision_diffuser and trajectory_transformer do")
    alone = agent.of_seed(agent.seeds[0])
    parameters = {f"policy.{name}": value for name, value in alone.parameters.items()}
    like = next(iter(parameters.values()))
    space = agent.spec.observation
    if is_image(space):
        raise ConfigError("the plans are of images, which are not drawn as lines")
    check_observations(observations[None], space, 1)
    seen = observations if isinstance(space, Discrete) else apply(agent.transforms, "observations", observations.astype(np.float32))
    x = torch.as_tensor(np.array(seen), device=like.device).to(torch.int64 if isinstance(space, Discrete) else like.dtype)
    kind = policy.noise(len(x)) if sampled else None
    noise = None if kind is None else kind.draw(1, alone.generators[0])[0].to(like.device, like.dtype)
    found: Planned = functional_call(Plans(policy), parameters, (x, noise))
    states, stages = (_in_units(agent, part.cpu().numpy()) for part in (found.states, found.stages))
    return SeenPlans(observations, states, found.scores.cpu().double().numpy(), stages, policy.score)


def _in_units(agent: Agent, states: Array) -> Array:
    """States in the task's units."""
    space = agent.spec.observation
    if isinstance(space, Discrete):
        return states
    return undo(agent.transforms, "observations", states.reshape(-1, *space.shape)).reshape(states.shape)
