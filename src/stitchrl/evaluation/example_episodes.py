"""A policy's behaviour explained by example: the logged episodes in which it would act most, and least, differently from what was done."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.spec import Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behaviour_policy import Behaviour
from stitchrl.evaluation.evidence import Array, Target
from stitchrl.evaluation.support import chosen_actions, plain_value, policy_probabilities

EPISODES = 3  # shown of each kind
STEPS = 8  # shown of an episode, those at which the policy differs most
JUDGED = 50_000  # steps at which the policy is asked, in whole episodes
DISCRETE = "probability that the policy does something else than was logged, the mean over the episode's steps"
CONTINUOUS = "distance of the policy's action to the logged one in standard deviations of logged actions, the mean over the episode's steps"


@final
@dataclass(frozen=True)
class Step:
    """One step of an example. difference: see `Examples.measure`, at this step. logged_probability: the behaviour's of the logged action, a
    density where continuous. policy_probability, probability: the policy's own and the behaviour's of the policy's (likeliest) action; None
    where continuous."""

    step: int
    observation: int | list[float]
    logged_action: int | list[float]
    policy_action: int | list[float]
    logged_probability: float
    policy_probability: float | None
    probability: float | None
    difference: float


@final
@dataclass(frozen=True)
class Example:
    """A logged episode; `steps` are those at which the policy differs most, in the order of time. total: its discounted return."""

    episode: int
    length: int
    total: float
    difference: float
    steps: tuple[Step, ...]


@final
@dataclass(frozen=True)
class Examples:
    """The episodes with the largest and with the smallest mean difference, those first; judged: how many were looked at."""

    measure: str
    judged: int
    most: tuple[Example, ...]
    least: tuple[Example, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as plain dictionaries and lists."""
        return asdict(self)


def example_episodes(dataset: Dataset, target: Target, behaviour: Behaviour, *, discount: float, seed: int) -> Examples:
    """Returns up to three episodes of each kind, no two alike, from whole episodes of about 50,000 steps drawn by `seed`.

    Where the policy draws its actions, discrete ones are told by the likeliest and continuous ones by one draw.
    Raises DataError where the policy's output is not finite.
    """
    episodes = _sampled(dataset, seed)
    rows = np.concatenate([np.arange(dataset.offsets[e], dataset.offsets[e + 1]) for e in episodes])
    discrete = isinstance(dataset.spec.action, Discrete)
    asked: Array  # [M, n] probabilities, or [M, A] actions
    if discrete:
        asked = policy_probabilities(dataset, target, rows)
        difference = 1 - asked[np.arange(len(rows)), np.asarray(dataset.actions)[rows]]
    else:
        asked = chosen_actions(dataset, target, rows, seed)
        logged = np.asarray(dataset.actions[rows], np.float64).reshape(asked.shape)
        spread = logged.std(axis=0)
        difference = np.sqrt((((asked - logged) / np.where(spread > 0, spread, 1.0)) ** 2).mean(axis=1))
    starts = np.concatenate([[0], np.cumsum(dataset.lengths[episodes])])
    mean = np.add.reduceat(difference, starts[:-1]) / dataset.lengths[episodes]
    order = _unlike(dataset, episodes, np.argsort(-mean, kind="stable"))
    shown = min(EPISODES, (len(order) + 1) // 2)
    totals = dataset.returns(discount)

    def example(i: int) -> Example:
        here = slice(int(starts[i]), int(starts[i + 1]))
        most = np.sort(np.argsort(-difference[here], kind="stable")[:STEPS]) + here.start
        steps = tuple(_step(dataset, behaviour, int(rows[k]), asked[k], float(difference[k])) for k in most)
        episode = int(episodes[i])
        return Example(episode, int(dataset.lengths[episode]), float(totals[episode]) + 0.0, float(mean[i]), steps)

    rest = order[max(shown, len(order) - EPISODES) :][::-1]
    measure = DISCRETE if discrete else CONTINUOUS
    return Examples(measure, len(episodes), tuple(map(example, order[:shown])), tuple(map(example, rest)))


def _sampled(dataset: Dataset, seed: int) -> Array:
    """The episodes looked at, in the order of the log: all, or as many drawn ones as hold JUDGED steps, at least one."""
    order = np.random.default_rng(seed).permutation(dataset.episodes)
    count = int(np.searchsorted(np.cumsum(dataset.lengths[order]), JUDGED, side="right"))
    return np.sort(order[: max(count, 1)])


def _unlike(dataset: Dataset, episodes: Array, order: Array) -> Array:
    """The positions of `order` without those whose observations and actions repeat one before."""
    seen, kept = set[bytes](), []
    for i in order:
        rows = slice(int(dataset.offsets[episodes[i]]), int(dataset.offsets[episodes[i] + 1]))
        digest = hashlib.blake2b(np.asarray(dataset.observations[rows]).tobytes(), digest_size=16)
        digest.update(np.asarray(dataset.actions[rows]).tobytes())
        if digest.digest() not in seen:
            seen.add(digest.digest())
            kept.append(int(i))
    return np.array(kept)


def _step(dataset: Dataset, behaviour: Behaviour, row: int, asked: Array, difference: float) -> Step:
    observation, logged = plain_value(dataset.observations[row]), plain_value(dataset.actions[row])
    probability = float(np.exp(behaviour.log_probabilities[row]))
    step = row - int(dataset.offsets[int(dataset.episode_of(row))])
    if not isinstance(dataset.spec.action, Discrete):
        return Step(step, observation, logged, plain_value(asked), probability, None, None, difference)
    action = int(asked.argmax())
    theirs = None if behaviour.probabilities is None else float(behaviour.probabilities[row, action])
    return Step(step, observation, logged, action, probability, float(asked[action]), theirs, difference)
