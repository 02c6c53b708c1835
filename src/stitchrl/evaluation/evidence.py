"""What off-policy estimators read and return: the numbers of a log, the policy to judge, statistics of episodes, estimates.

The value that is estimated is J = E[sum over an episode of discount^t · reward], from the log's own first states. An episode ends in
a terminal; what the clock cuts off goes on (`clock="continues"`: estimators without a model count it as worth nothing and are held
back where that matters), unless the clock is part of the task (`clock="ends"`: a timeout is an end like any other).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, final

import numpy as np

from stitchrl.agent import Agent
from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.intervals import Interval
from stitchrl.core.spec import Discrete, Spec
from stitchrl.data.dataset import Dataset

Array = np.ndarray[Any, np.dtype[Any]]
Clock = Literal["continues", "ends"]


class Target(ABC):
    """The policy to judge, in the log's own units of observation and action."""

    spec: Spec
    name: str
    deterministic: bool  # one action for each observation

    @abstractmethod
    def probabilities(self, observations: Array) -> Array:
        """Returns float64 `[N, n]` of discrete actions; raises DataError where actions are continuous."""

    @abstractmethod
    def log_probabilities(self, observations: Array, actions: Array) -> Array:
        """Returns float64 `[N]` log-probability (log-density where continuous) of these actions, -inf where the policy never takes them.

        Raises DataError for a policy of continuous actions without a known density: a deterministic one, or noise sent through a network.
        """

    @abstractmethod
    def draw(self, observations: Array, count: int, seed: int) -> Array:
        """Returns `[count, N, *A]` actions drawn at each observation; the same for the same seed. All equal where deterministic."""


@final
class AgentTarget(Target):
    """A trained policy of one seed, as it is used: its mode or mean, or with `sampled` drawn from it."""

    def __init__(self, agent: Agent, seed: int | None = None, *, sampled: bool = False) -> None:
        if agent.remembers:
            raise ConfigError(
                f"a policy of '{agent.name}' acts on what it remembers of an episode, and a log's single steps do not tell what it would do; "
                "it can only be judged in an environment, by `stitchrl evaluate`"
            )
        self.agent = agent.of_seed(agent.seeds[0] if seed is None else seed)
        self.sampled = sampled and self.agent.stochastic
        self.spec = agent.spec
        self.name = f"{agent.name}, seed {self.agent.seeds[0]}"
        self.deterministic = not self.sampled

    def probabilities(self, observations: Array) -> Array:
        if not isinstance(self.spec.action, Discrete):
            raise DataError(f"{self.name}: actions are continuous; their probabilities cannot be listed")
        table = self.agent.action_probabilities(observations, sampled=self.sampled)[0].astype(np.float64)
        return np.asarray(table / table.sum(-1, keepdims=True))

    def log_probabilities(self, observations: Array, actions: Array) -> Array:
        if isinstance(self.spec.action, Discrete):
            chosen = np.take_along_axis(self.probabilities(observations), np.asarray(actions)[:, None], 1)[:, 0]
            with np.errstate(divide="ignore"):
                return np.asarray(np.log(chosen))
        if self.deterministic:
            raise DataError(f"{self.name}: a deterministic policy of continuous actions has no density")
        try:
            return np.asarray(self.agent.log_probabilities(observations, actions)[0], np.float64)
        except TypeError as error:  # a policy that draws, and whose law is not known
            raise DataError(f"{self.name}: {error}") from None

    def draw(self, observations: Array, count: int, seed: int) -> Array:
        if self.deterministic:
            return np.repeat(self.agent.act(np.asarray(observations)[None]), count, 0)
        self.agent.seed_acting(seed)
        return np.concatenate([self.agent.act(np.asarray(observations)[None], sampled=True) for _ in range(count)])


@final
class TableTarget(Target):
    """A table of probabilities `[S, n]` over discrete actions in discrete states."""

    def __init__(self, table: Array, spec: Spec, name: str = "table") -> None:
        if not isinstance(spec.observation, Discrete) or not isinstance(spec.action, Discrete):
            raise DataError(f"{name}: a table is a policy of discrete states and actions only")
        if table.shape != (spec.observation.n, spec.action.n):
            raise DataError(f"{name}: the table has shape {list(table.shape)}; expected [{spec.observation.n}, {spec.action.n}]")
        self.table, self.spec, self.name = np.asarray(table, np.float64), spec, name
        self.deterministic = bool((self.table.max(1) == 1).all())

    def probabilities(self, observations: Array) -> Array:
        return np.asarray(self.table[np.asarray(observations, np.int64)])

    def log_probabilities(self, observations: Array, actions: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.table[np.asarray(observations, np.int64), np.asarray(actions, np.int64)]))

    def draw(self, observations: Array, count: int, seed: int) -> Array:
        cumulative = np.cumsum(self.probabilities(observations), 1)[None]
        u = np.random.default_rng(seed).random((count, len(observations), 1))
        return np.asarray(np.minimum((u > cumulative).sum(-1), self.table.shape[1] - 1))


def in_spaces_of(spec: Spec, dataset: Dataset) -> Dataset:
    """Returns the log with a policy's numbers of states and actions where its own are smaller: a file tells only of those that it holds."""
    spaces = []
    for own, wanted in ((dataset.spec.observation, spec.observation), (dataset.spec.action, spec.action)):
        fewer = isinstance(own, Discrete) and isinstance(wanted, Discrete) and own.n < wanted.n
        spaces.append(wanted if fewer else own)
    made = Spec(*spaces)
    if made == dataset.spec:
        return dataset
    return Dataset(made, dataset.columns, dataset.offsets, dataset.final_observations, dataset.metadata)


@final
@dataclass(frozen=True)
class Episodes:
    """The numbers of N logged steps in E episodes that an estimator reads.

    offsets: int64 `[E + 1]`. rewards: float64 `[N]`, the task's units. terminals: bool `[N]`, worth nothing from there on (timeouts too where
    the clock ends the task). log_ratios: float64 `[N]`, log pi(a|s) - log b(a|s) of the logged action; -inf where the policy never takes it;
    None where the policy has no density. groups: int64 `[E]`, what is drawn again together (each episode alone unless told).
    """

    offsets: Array
    rewards: Array
    terminals: Array
    discount: float
    log_ratios: Array | None = None
    groups: Array | None = None

    @property
    def count(self) -> int:
        """The number of episodes E."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """int64 [E]"""
        return np.diff(self.offsets)

    @property
    def step(self) -> Array:
        """int64 [N]: the time of each row within its episode, from 0"""
        return np.asarray(np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], self.lengths))

    def sums(self, values: Array) -> Array:
        """Returns [E]: the sum of `values [N]` over each episode."""
        return np.asarray(np.add.reduceat(np.asarray(values, np.float64), self.offsets[:-1]))

    def discounted(self, values: Array) -> Array:
        """Returns [E]: the sum over each episode of discount^t · `values [N]`."""
        return self.sums(np.power(self.discount, self.step) * values)

    def padded(self, values: Array, fill: float = 0.0) -> Array:
        """Returns [E, H]: `values [N]` by episode and time, `fill` after an episode's end."""
        table = np.full((self.count, int(self.lengths.max())), fill)
        table[np.repeat(np.arange(self.count), self.lengths), self.step] = values
        return table

    def cut_off(self) -> float:
        """Returns the mean over episodes of discount^length where the clock ended them: how much of the value lies beyond the log, at most."""
        last = self.offsets[1:] - 1
        return float(np.mean(np.where(self.terminals[last], 0.0, np.power(self.discount, self.lengths))))


@final
@dataclass(frozen=True)
class Model:
    """An estimate of the policy's values at the logged steps, each made from episodes other than its own (cross-fitted).

    q: float64 `[N]` at the logged state and action. v: `[N]` at the logged state. v_next: `[N]` after the step, 0 after a terminal. v_start: `[E]`.
    """

    q: Array
    v: Array
    v_next: Array
    v_start: Array


class Statistic(ABC):
    """A number of the log as a function of how often each of its episodes counts: once for the log itself, more or never in a bootstrap draw."""

    episodes: int

    @abstractmethod
    def value(self, counts: Array) -> Array:
        """Returns float64 `[B]` for counts `[B, E]`; NaN where the number is undefined."""

    @final
    @property
    def point(self) -> float:
        """The log's own number; NaN where it is undefined."""
        return float(self.value(np.ones((1, self.episodes)))[0])


@final
class Mean(Statistic):
    """The mean over episodes of `values [E]`."""

    def __init__(self, values: Array) -> None:
        self.values = np.asarray(values, np.float64)
        self.episodes = len(self.values)

    def value(self, counts: Array) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):  # values that overflowed stay inf or NaN, for the caller to refuse
            return np.asarray(counts @ self.values / counts.sum(-1))


@final
class Ratio(Statistic):
    """The sum over C columns of (sum over episodes of `numerators [E, C]`) / (that of `denominators [E, C]`); a column of 0/0 makes it NaN."""

    def __init__(self, numerators: Array, denominators: Array) -> None:
        self.numerators, self.denominators = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
        self.episodes = len(self.numerators)

    def value(self, counts: Array) -> Array:
        below = counts @ self.denominators
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(below > 0, (counts @ self.numerators) / below, np.nan).sum(-1))


@final
class Difference(Statistic):
    """One statistic minus another of the same episodes: resampled together, so that what they share cancels."""

    def __init__(self, first: Statistic, second: Statistic) -> None:
        self.first, self.second, self.episodes = first, second, first.episodes

    def value(self, counts: Array) -> Array:
        return np.asarray(self.first.value(counts) - self.second.value(counts))


@final
@dataclass(frozen=True)
class Estimate:
    """What one estimator says of one policy: a value with its interval, or in words why there is none. Never a bare number.

    name: the estimator's short name (`wpdis`). value, interval: None where `reason` says why it is not estimable. interval_method: how the
    interval was made. assumptions: what must hold for it. statistic: to be resampled together with another's; None where it has none.
    seed_error: the standard deviation, by seeds of networks, that the interval holds beside the statistic's own.
    """

    name: str
    value: float | None
    interval: Interval | None
    interval_method: str = ""
    reason: str | None = None
    assumptions: tuple[str, ...] = ()
    diagnostics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    statistic: Statistic | None = None
    seed_error: float = 0.0

    def __post_init__(self) -> None:
        given = self.value is not None and self.interval is not None
        if given == (self.reason is not None):
            raise DataError(f"{self.name}: an estimate has a value with its interval, or the reason why it has none")

    @classmethod
    def refused(cls, name: str, reason: str, **more: Any) -> Estimate:
        """Returns the word "not estimable", with why."""
        return cls(name, None, None, reason=reason, **more)
