"""Support: does the log show what the policy would do? Shares of its decisions the behaviour (almost) never made, and the worst of them.

Discrete actions: by the behaviour's probability of the policy's actions. Continuous: by the distance of (observation, action) to logged
pairs of other episodes, measured against the same distance of the logged pairs themselves. Gottesman et al., 2019, "Guidelines for
reinforcement learning in healthcare" (doi:10.1038/s41591-018-0310-5) ask for precedents of what a policy does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behaviour_policy import Behaviour
from stitchrl.evaluation.evidence import Target
from stitchrl.evaluation.nearest_steps import features, folds_of, neighbours, sample, units_of

Array = np.ndarray[Any, np.dtype[Any]]

JUDGED = 100_000  # steps at which a policy of discrete actions is asked; twice as many where states are discrete, too
QUERIES, REFERENCES = 20_000, 50_000  # of continuous actions: steps judged, and steps among which neighbours are sought
NEAREST = 5  # neighbours whose mean distance counts
LEAST = 20  # decisions shown
PRECEDENTS = 3  # logged steps shown with each
LIKELY = 0.1  # a stochastic policy's actions count as decisions to show from this probability on
SEARCHED = 200_000  # steps among which precedents are sought where states are real numbers
ASKED = 8_192  # observations in one call of the policy


@final
@dataclass(frozen=True)
class Precedent:
    """A logged step like a decision: where it is, what was done, and how far its observation (continuous: with the action) is."""

    episode: int
    step: int
    action: int | list[float]
    distance: float


@final
@dataclass(frozen=True)
class Decision:
    """A decision of the policy at a logged step.

    probability: the behaviour's of the policy's action, None where continuous. distance: to logged pairs, over the 99 % quantile of the
    log's own, None where discrete. count: judged steps of this state and action (1 where states are real numbers). precedents: the
    nearest steps of other episodes in which this was done; empty where it never was. neighbours: the nearest ones, whatever was done.
    """

    episode: int
    step: int
    observation: int | list[float]
    logged_action: int | list[float]
    policy_action: int | list[float]
    policy_probability: float | None
    probability: float | None
    distance: float | None
    count: int
    precedents: tuple[Precedent, ...]
    neighbours: tuple[Precedent, ...]


@final
@dataclass(frozen=True)
class Support:
    """How much of what the policy does the log holds. Shares of its decisions at logged states; None where they do not apply.

    below_1, below_5: with behaviour probability below 1 % and 5 %; logged_below_1, logged_below_5: the same of actions drawn from the
    behaviour itself, to compare. never: in a discrete state where the log has no such action. beyond_95, beyond_99: continuous, further
    from the logged pairs of other episodes than 95 % and 99 % of the logged pairs are (so 0.05 and 0.01 for the log itself).
    """

    measure: str
    judged: int
    steps: int
    below_1: float | None
    below_5: float | None
    logged_below_1: float | None
    logged_below_5: float | None
    never: float | None
    beyond_95: float | None
    beyond_99: float | None
    least: tuple[Decision, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def support(dataset: Dataset, target: Target, behaviour: Behaviour, *, seed: int) -> Support:
    """Returns the support of the policy's decisions at the logged states; the same for the same seed.

    Long logs are judged on a sample: 100,000 steps (200,000 in discrete states) for discrete actions, 20,000 against 50,000 for
    continuous ones. Raises DataError where the policy's spaces are not the log's, or its actions not finite.
    """
    sizes = [
        [space.n if isinstance(space, Discrete) else space.shape for space in (spec.observation, spec.action)]
        for spec in (target.spec, dataset.spec)
    ]
    if sizes[0] != sizes[1]:
        raise DataError(f"{target.name}: its spaces are {target.spec}; expected those of the log, {dataset.spec}")
    if isinstance(dataset.spec.action, Discrete):
        return _of_probabilities(dataset, target, behaviour, seed)
    return _of_distances(dataset, target, seed)


def policy_probabilities(dataset: Dataset, target: Target, rows: Array) -> Array:
    """Returns float64 `[M, n]`: the policy's probabilities at logged steps; each discrete state is asked once."""
    if isinstance(dataset.spec.observation, Discrete):
        states, position = np.unique(np.asarray(dataset.observations)[rows], return_inverse=True)
        return _finite(target.probabilities(states), target)[position]
    parts = [target.probabilities(np.asarray(dataset.observations[rows[i : i + ASKED]])) for i in range(0, len(rows), ASKED)]
    return _finite(np.concatenate(parts), target)


def _finite(values: Array, target: Target) -> Array:
    if not np.isfinite(values).all():
        raise DataError(f"{target.name}: the policy's output is not finite at {int((~np.isfinite(values)).any(-1).sum()):,} observations")
    return values


def _of_probabilities(dataset: Dataset, target: Target, behaviour: Behaviour, seed: int) -> Support:
    if behaviour.probabilities is None:
        raise DataError("support of discrete actions needs the behaviour's probabilities of all actions; use behaviour_of(dataset, seed)")
    tabular, everything = isinstance(dataset.spec.observation, Discrete), np.arange(len(dataset))
    rows = sample(everything, 2 * JUDGED if tabular else JUDGED, np.random.default_rng(seed))
    chosen, logged = policy_probabilities(dataset, target, rows), behaviour.probabilities[rows]
    shares = [float((p * (logged < limit)).sum() / p.sum()) for p in (chosen, logged.astype(np.float64)) for limit in (0.01, 0.05)]
    never, states = None, None
    if isinstance(dataset.spec.observation, Discrete):
        states = np.asarray(dataset.observations)
        taken = np.zeros((dataset.spec.observation.n, chosen.shape[1]), np.int64)
        np.add.at(taken, (states, np.asarray(dataset.actions)), 1)
        never = float((chosen * (taken[states[rows]] == 0)).sum() / chosen.sum())
    # of the actions that the policy likely takes at a step, the one that the behaviour took least
    likely = chosen >= np.minimum(LIKELY, chosen.max(axis=1, keepdims=True))
    action = np.where(likely, logged, np.inf).argmin(axis=1)
    probability, here = logged[np.arange(len(rows)), action].astype(np.float64), np.arange(len(rows))
    order = np.lexsort((here, -chosen[here, action], probability))
    groups = None if states is None else states[rows] * chosen.shape[1] + action
    search = _Search(dataset, seed)
    decisions = tuple(
        search.decision(int(rows[i]), int(action[i]), float(chosen[i, action[i]]), float(probability[i]), None, count)
        for i, count in _distinct(order, groups, np.asarray(dataset.episode_of(rows)))
    )
    one, five, logged_one, logged_five = shares
    return Support("behaviour probability", len(rows), len(dataset), one, five, logged_one, logged_five, never, None, None, decisions)


def _distinct(order: Array, groups: Array | None, episodes: Array) -> list[tuple[int, int]]:
    """Returns the first LEAST positions of `order` with counts: one of each group, else one of each episode while there are enough."""
    key = episodes if groups is None else groups
    first = np.sort(np.unique(key[order], return_index=True)[1])[:LEAST]
    chosen = order[first]
    if groups is not None:
        return [(int(i), int((groups == groups[i]).sum())) for i in chosen]
    if len(chosen) < LEAST:
        rest = np.setdiff1d(np.arange(len(order)), first)[: LEAST - len(chosen)]
        chosen = order[np.sort(np.concatenate([first, rest]))]
    return [(int(i), 1) for i in chosen]


@final
class _Search:
    """The logged steps among which precedents are sought: all in discrete states, else at most SEARCHED."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.tabular = dataset, isinstance(dataset.spec.observation, Discrete)
        everything = np.arange(len(dataset))
        self.rows = everything if self.tabular else sample(everything, SEARCHED, np.random.default_rng(seed))
        self.episode = np.asarray(dataset.episode_of(self.rows))
        self.actions = np.asarray(dataset.actions[self.rows])
        if self.tabular:
            self.states = np.asarray(dataset.observations)
        else:
            values = features(dataset, self.rows)
            self.width = _spread(values) * np.sqrt(values.shape[1])
            self.points = values / self.width
        if not isinstance(dataset.spec.action, Discrete):
            self.actions = self.actions.reshape(len(self.rows), -1).astype(np.float64)
            self.reach = _spread(self.actions) * np.sqrt(self.actions.shape[1])

    def decision(
        self, row: int, action: Any, mass: float | None, probability: float | None, distance: float | None, count: int
    ) -> Decision:
        """Returns the decision at a logged row with its precedents."""
        dataset = self.dataset
        episode = int(dataset.episode_of(row))
        seen, logged = np.asarray(dataset.observations[row]), np.asarray(dataset.actions[row])
        precedents, near = self._precedents(row, episode, action)
        step = row - int(dataset.offsets[episode])
        own = plain_value(action)
        return Decision(episode, step, plain_value(seen), plain_value(logged), own, mass, probability, distance, count, precedents, near)

    def _precedents(self, row: int, episode: int, action: Any) -> tuple[tuple[Precedent, ...], tuple[Precedent, ...]]:
        # of other episodes; in a log of one episode, of other steps
        apart = self.rows != row if self.dataset.episodes == 1 else self.episode != episode
        if self.tabular:
            where = np.flatnonzero(apart & (self.states == self.states[row]))
            distance = np.zeros(len(where))
        else:
            where = np.flatnonzero(apart)
            point = features(self.dataset, np.array([row]))[0] / self.width
            distance = np.sqrt(((self.points[where] - point) ** 2).sum(axis=1))
        if isinstance(self.dataset.spec.action, Discrete):
            same = np.flatnonzero(self.actions[where] == action)
            return self._nearest(where[same], distance[same]), self._nearest(where, distance)
        off = (self.actions[where] - np.asarray(action, np.float64).reshape(-1)) / self.reach
        return self._nearest(where, np.sqrt(distance**2 + (off**2).sum(axis=1))), self._nearest(where, distance)

    def _nearest(self, where: Array, distance: Array) -> tuple[Precedent, ...]:
        found = []
        for i in np.argsort(distance, kind="stable")[:PRECEDENTS]:
            row, episode = int(self.rows[where[i]]), int(self.episode[where[i]])
            action = plain_value(np.asarray(self.dataset.actions[row]))
            found.append(Precedent(episode, row - int(self.dataset.offsets[episode]), action, float(distance[i])))
        return tuple(found)


def plain_value(value: Any) -> Any:
    """Returns an observation or action as a plain number, or as a list of its first 64 numbers."""
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else [float(x) for x in array.reshape(-1)[:64]]


def _spread(values: Array) -> Array:
    deviation = values.std(axis=0)
    return np.asarray(np.where(deviation > 0, deviation, 1.0))


def _scaled(dataset: Dataset, rows: Array) -> Array:
    # standardised, and divided by the square root of their number, so that observations and actions weigh the same in a pair
    values = features(dataset, rows).astype(np.float64)
    return np.asarray((values / _spread(values)) / np.sqrt(values.shape[1]))


def _of_distances(dataset: Dataset, target: Target, seed: int) -> Support:
    generator = np.random.default_rng(seed)
    side = folds_of(units_of(dataset), 2, seed)
    halves = [np.flatnonzero(side == k) for k in (0, 1)]
    queries, references = ([sample(rows, size // 2, generator) for rows in halves] for size in (QUERIES, REFERENCES))
    judged = np.concatenate(queries)
    chosen = chosen_actions(dataset, target, judged, seed)
    seen = _scaled(dataset, np.concatenate([judged, *references]))
    acted = [np.asarray(dataset.actions[rows], np.float64).reshape(len(rows), -1) for rows in (judged, *references)]
    scale = _spread(np.concatenate(acted)) * np.sqrt(chosen.shape[1])
    own, drawn = np.concatenate([seen[: len(judged)], acted[0] / scale], 1), np.concatenate([seen[: len(judged)], chosen / scale], 1)
    logs, policies = np.empty(len(judged)), np.empty(len(judged))
    end = len(queries[0])
    for here, low, size, there in (
        (slice(0, end), len(judged) + len(references[0]), len(references[1]), 2),
        (slice(end, None), len(judged), len(references[0]), 1),
    ):
        points = np.concatenate([seen[low : low + size], acted[there] / scale], 1)
        logs[here] = neighbours(points, own[here], NEAREST)[0].mean(axis=1)
        policies[here] = neighbours(points, drawn[here], NEAREST)[0].mean(axis=1)
    limits = np.quantile(logs, (0.95, 0.99))
    beyond = [float((policies > limit).mean()) for limit in limits]
    relative = policies / limits[1] if limits[1] > 0 else np.where(policies > 0, np.finfo(np.float64).max, 0.0)
    order = np.lexsort((judged, -relative))
    search, shape = _Search(dataset, seed), dataset.actions.shape[1:]
    decisions = tuple(
        search.decision(int(judged[i]), chosen[i].reshape(shape), None, None, float(relative[i]), count)
        for i, count in _distinct(order, None, np.asarray(dataset.episode_of(judged)))
    )
    name = f"distance to the {NEAREST} nearest logged pairs of other episodes"
    return Support(name, len(judged), len(dataset), None, None, None, None, None, beyond[0], beyond[1], decisions)


def chosen_actions(dataset: Dataset, target: Target, rows: Array, seed: int) -> Array:
    """Returns float64 [M, A]: the policy's action at each step, one drawn where it is stochastic."""
    parts = [target.draw(np.asarray(dataset.observations[rows[i : i + ASKED]]), 1, seed + i)[0] for i in range(0, len(rows), ASKED)]
    return _finite(np.concatenate(parts).reshape(len(rows), -1).astype(np.float64), target)
