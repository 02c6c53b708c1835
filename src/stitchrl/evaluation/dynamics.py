"""Models of a real-valued task fitted on its log: an ensemble of networks run by the engine, or of ridge regressions.

Both predict the change of the observation, the reward and whether the step ends. The ridge is linear in observation and action for the
change and quadratic for the reward: exact for a linear-quadratic task. What is left over, drawn from the logged errors, is its noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.settings import Hidden, Positive
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.sampling import ChosenRows
from stitchrl.evaluation.crossfit import CHUNK, Steps
from stitchrl.nn.mlp import MLP
from stitchrl.training.learner import Learner, Training
from stitchrl.training.seeds import holding

Array = np.ndarray[Any, np.dtype[Any]]

RIDGE = 1e-6  # beside standardised coordinates
QUADRATIC = 40  # most coordinates whose products the reward's ridge reads


@final
@dataclass(frozen=True)
class DynamicsConfig:
    learning_rate: Positive = 1e-3
    hidden: Hidden = (128, 128)


@final
class Dynamics(Algorithm):
    """A network from (s, a) to the standardised change of s (packed as `next_observations`), the reward and the logit of an end."""

    batch = Transitions()

    def __init__(self, config: DynamicsConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        assert isinstance(spec.observation, Box) and isinstance(spec.action, Box)
        self.model = MLP(spec.observation, spec.observation.size + 2, config.hidden, actions=spec.action.size)
        self.optimizers = {"model": Adam(config.learning_rate, schedule="cosine")}

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, change, terminal = batch
        out = self.model(s, a)  # [B, O + 2]
        error = (out[:, :-1] - torch.cat([change, r.unsqueeze(-1)], -1)).square().sum(-1).mean()
        ending = functional.binary_cross_entropy_with_logits(out[:, -1], terminal)
        return {"model": error + ending}, {"error": error, "ending": ending}

    def policy(self) -> Policy:
        raise TypeError("a model of a task has no policy")


@final
@dataclass(frozen=True)
class Standard:
    """The coordinates models work in. inputs, outputs: (mean, scale) of [s, a] and of [change of s, reward]. actions: n of discrete ones, or 0."""

    inputs: tuple[Array, Array]
    outputs: tuple[Array, Array]
    actions: int

    def pairs(self, observations: Array, actions: Array) -> Array:
        """Returns standardised `[M, O + A]`; discrete actions as one-hot vectors."""
        act = np.eye(self.actions)[actions] if self.actions else np.asarray(actions, np.float64).reshape(len(observations), -1)
        x = np.concatenate([np.asarray(observations, np.float64).reshape(len(observations), -1), act], 1)
        return np.asarray((x - self.inputs[0]) / self.inputs[1])


@final
@dataclass(frozen=True)
class Ensemble:
    """M models. kind: "network" or "ridge". errors: `[R, O + 1]` standardised, of held-out episodes, drawn as noise; held_out: their mean square."""

    kind: str
    standard: Standard
    members: tuple[Any, ...]
    errors: Array
    held_out: float

    def predict(self, member: int, pairs: Array) -> tuple[Array, Array]:
        """Returns standardised means `[M, O + 1]` and the probability of an end `[M]`."""
        model = self.members[member]
        if self.kind == "ridge":
            return _ridge_predict(model, pairs), np.zeros(len(pairs))
        learner, number = model
        return _network_predict(learner, number, pairs)


def fit_ensemble(dataset: Dataset, log: Steps, held_out: Array, seed: int, *, members: int, steps: int) -> Ensemble:
    """Returns the ensemble that predicts the held-out rows (bool `[N]`) best: the ridge unless the network's mean square error is 2 % less.

    A log in which steps end always has networks, since a ridge does not tell where. Each ridge is of other drawn episodes.
    """
    standard, outputs = _standardised(dataset, log)
    pairs = standard.pairs(dataset.observations, dataset.actions)
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    ends = np.asarray(dataset.terminals)
    ridges = _fit_ridges(pairs, outputs, dataset, held_out, seed, members)
    mean = np.mean([_ridge_predict(r, pairs[test]) for r in ridges], 0)
    ridge_error = float(np.square(mean - outputs[test]).mean())
    ridge = Ensemble("ridge", standard, tuple(ridges), _centred(outputs[test] - mean), ridge_error)
    learner = _fit_networks(pairs, outputs, ends, train, dataset.spec, seed, members, steps)
    predicted = np.mean([_network_predict(learner, i, pairs[test])[0] for i in range(members)], 0)
    network_error = float(np.square(predicted - outputs[test]).mean())
    if not ends.any() and network_error > 0.98 * ridge_error:
        return ridge
    return Ensemble("network", standard, tuple((learner, i) for i in range(members)), _centred(outputs[test] - predicted), network_error)


def _standardised(dataset: Dataset, log: Steps) -> tuple[Standard, Array]:
    spec, size = dataset.spec, len(dataset)
    actions = spec.action.n if isinstance(spec.action, Discrete) else 0
    s = np.asarray(dataset.observations, np.float64).reshape(size, -1)
    act = np.zeros((1, actions)) if actions else np.asarray(dataset.actions, np.float64).reshape(size, -1)
    mean = np.concatenate([s.mean(0), act.mean(0)])
    scale = np.concatenate([s.std(0), np.ones(actions) if actions else act.std(0)])
    change = np.column_stack([np.asarray(log.following, np.float64).reshape(size, -1) - s, log.rewards])
    after = change.mean(0), _positive(change.std(0))
    return Standard((mean, _positive(scale)), after, actions), np.asarray((change - after[0]) / after[1])


def _centred(errors: Array) -> Array:
    """Errors without their mean, which a rollout would add up."""
    return np.asarray(errors - errors.mean(0))


def _positive(scale: Array) -> Array:
    return np.asarray(np.where(scale > 1e-8, scale, 1.0))


def _design(pairs: Array) -> tuple[Array, Array]:
    """Linear coordinates with a 1, and the same with products of two (squares alone where there are many)."""
    linear = np.column_stack([np.ones(len(pairs)), pairs])
    size = pairs.shape[1]
    first, second = np.triu_indices(size) if size <= QUADRATIC else (np.arange(size), np.arange(size))
    return linear, np.concatenate([linear, pairs[:, first] * pairs[:, second]], 1)


def _fit_ridges(pairs: Array, outputs: Array, dataset: Dataset, held_out: Array, seed: int, members: int) -> list[tuple[Array, Array]]:
    own = np.flatnonzero(~held_out[dataset.offsets[:-1]])
    generator = np.random.default_rng([seed, 19])
    fitted = []
    for _ in range(members):
        weights = np.bincount(generator.choice(own, len(own)), minlength=dataset.episodes)
        rows = np.repeat(weights, dataset.lengths).astype(np.float64)
        grams: list[Array] = [np.zeros(()), np.zeros(())]
        sides: list[Array] = [np.zeros(()), np.zeros(())]
        for start in range(0, len(pairs), CHUNK):
            part = slice(start, start + CHUNK)
            for i, x in enumerate(_design(pairs[part])):
                y = outputs[part, :-1] if i == 0 else outputs[part, -1:]
                grams[i], sides[i] = grams[i] + x.T @ (x * rows[part, None]), sides[i] + x.T @ (y * rows[part, None])
        total = rows.sum()
        linear, quadratic = (np.linalg.solve(g + RIDGE * total * np.eye(len(g)), b) for g, b in zip(grams, sides, strict=True))
        fitted.append((linear, quadratic))
    return fitted


def _ridge_predict(model: tuple[Array, Array], pairs: Array) -> Array:
    linear, quadratic = _design(pairs)
    return np.concatenate([linear @ model[0], quadratic @ model[1]], 1)


def _fit_networks(pairs: Array, outputs: Array, ends: Array, train: Array, spec: Spec, seed: int, members: int, steps: int) -> Learner:
    size = outputs.shape[1] - 1
    columns: Sequence[Array] = (pairs[:, :size], pairs[:, size:], outputs[:, -1:], ends[:, None], outputs[:, :-1])
    table = torch.from_numpy(np.concatenate([np.asarray(c, np.float32) for c in columns], 1))
    inner = Spec(Box((size,)), Box((pairs.shape[1] - size,)))
    training = Training(steps, 256, compile="off")
    numbers = tuple(range(seed, seed + members))
    learner = Learner(Dynamics, DynamicsConfig(), inner, ChosenRows(table, torch.from_numpy(train)), numbers, training, torch.device("cpu"))
    while learner.step < steps:
        learner.advance()
    learner.check()
    return learner


def _network_predict(learner: Learner, number: int, pairs: Array) -> tuple[Array, Array]:
    template = learner.template
    assert isinstance(template, Dynamics) and isinstance(template.spec.observation, Box)
    size = template.spec.observation.size
    parts = []
    with torch.no_grad(), holding(template, learner.parameters_of(number)):
        for start in range(0, len(pairs), CHUNK):
            x = torch.from_numpy(pairs[start : start + CHUNK].astype(np.float32))
            parts.append(template.model(x[:, :size], x[:, size:]).double())
    out = torch.cat(parts)
    return out[:, :-1].numpy(), torch.sigmoid(out[:, -1]).numpy()
