"""What a run's own critic says of its policy: the value it believes, and its temporal-difference error on a log.

Both are scores to compare selectors with. The belief is the naive choice: it is highest for the critic that overestimates most.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.core.algorithm import Algorithm, build
from stitchrl.core.errors import CheckpointError
from stitchrl.data.dataset import Dataset
from stitchrl.data.transforms import apply, learner_spec, return_scale
from stitchrl.evaluation.value_sanity import paid_in
from stitchrl.training import checkpoint, seeds

_ROWS = 20_000


@final
@dataclass(frozen=True)
class CriticScores:
    """Of each seed `[S]`, in the task's units; None where the algorithm has no critic, or rewards were shifted, cut or replaced: no way back."""

    believed: list[float] | None
    td_error: list[float] | None
    """minus the mean squared temporal-difference error, so that higher is better"""


@torch.no_grad()
def critic_scores(run: Path, agent: Agent, dataset: Dataset) -> CriticScores:
    """Returns what the critics in the run's newest checkpoint say; raises CheckpointError where there is none or it is another algorithm's."""
    if (scale := return_scale(agent.transforms)) is None or paid_in(run, dataset) is not dataset:
        return CriticScores(None, None)
    tensors, _ = checkpoint.load_newest(run / "checkpoints")
    template = build(algorithms.find(agent.name)[0], agent.config, learner_spec(agent.spec, agent.transforms), agent.seeds[0])
    stacked = _parameters(template, tensors, len(agent.seeds), run)
    starts = _ready(agent, np.asarray(dataset.observations[dataset.offsets[:-1][:2_000]]))
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:_ROWS])
    believed: list[float] = []
    errors: list[float] = []
    for i, seed in enumerate(agent.seeds):
        own = seeds.unstack(stacked, i, len(agent.seeds))
        value = seeds.believed_value(template, own, starts)
        if value is None or not hasattr(template, "critic"):
            return CriticScores(None, None)
        believed.append(value / scale)
        errors.append(-_td_error(template, own, agent.of_seed(seed), dataset, rows) / scale**2)
    return CriticScores(believed, errors)


def _parameters(template: Algorithm, tensors: dict[str, Tensor], count: int, run: Path) -> dict[str, Tensor]:
    found = {}
    for name, parameter in template.named_parameters():
        saved = tensors.get(f"parameters/{name}")
        shape = parameter.shape if count == 1 else (count, *parameter.shape)
        if saved is None or saved.shape != shape:
            raise CheckpointError(
                f"{run}/checkpoints: has no '{name}' of shape {list(shape)}; it was made by another algorithm or other settings"
            )
        found[name] = saved
    return found


def _ready(agent: Agent, observations: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(apply(agent.transforms, "observations", observations)))


def _td_error(template: Any, parameters: dict[str, Tensor], agent: Agent, dataset: Dataset, rows: np.ndarray) -> float:
    """Mean squared r + discount · Q(s', pi(s')) - Q(s, a) in the learner's units, the critics' mean on both sides."""
    following = dataset.next_observations(rows)
    chosen = agent.act(following[None])[0]
    s, s_next = _ready(agent, np.asarray(dataset.observations[rows])), _ready(agent, following)
    a, a_next = (torch.as_tensor(apply(agent.transforms, "actions", np.asarray(x))) for x in (dataset.actions[rows], chosen))
    r = torch.as_tensor(apply(agent.transforms, "rewards", np.asarray(dataset.rewards[rows], np.float32)))
    goes_on = 1.0 - torch.as_tensor(np.asarray(dataset.terminals[rows], np.float32))
    with seeds.holding(template, parameters):
        target = r + template.config.discount * goes_on * template.critic(s_next, a_next).mean(0)
        return float((template.critic(s, a).mean(0) - target).square().mean())
