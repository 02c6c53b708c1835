"""Fitted Q-evaluation (Le et al., 2019, arXiv:1903.08738; as FQE-L2 in Fu et al., 2021, arXiv:2103.16596), cross-fitted.

What the policy does at the next observations is computed once, before learning, so that a step asks no policy. Values are learned as
`baseline + scale · network`: the baseline is fitted by least squares (`linear_values.py`, not in the papers), the scale is the spread of
the logged returns to go around it, and the network starts at 0. Discrete states and actions need no network: see `counted_task.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.batch import PolicyBatch, PolicyTransitions
from stitchrl.core.errors import DataError
from stitchrl.core.policy import Policy
from stitchrl.core.settings import Fraction, Hidden, Positive, Rate
from stitchrl.core.spec import Box, Discrete, Space, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.sampling import ChosenRows
from stitchrl.data.transforms import apply, scale_actions, standardize_observations
from stitchrl.evaluation import counted_task
from stitchrl.evaluation.crossfit import CHUNK, Steps, check_target, folds_of, parts, policy_at, read_steps, returns_to_go
from stitchrl.evaluation.evidence import Clock, Mean, Model, Target
from stitchrl.evaluation.linear_values import LinearValues, linear_values
from stitchrl.evaluation.value_sanity import assumption, possible_returns
from stitchrl.nn.mlp import Critic
from stitchrl.training.learner import Learner, Training
from stitchrl.training.seeds import holding

Array = np.ndarray[Any, np.dtype[Any]]

READINGS = 20  # of the first states' value while learning
DRIFT = 0.1  # of the spread of the logged returns: a change from the middle of learning to its end that is told
HORIZONS = 2.0  # of target averages (steps · rate / effective horizon), below which values have not had the time to reach the first states
OUTSIDE = 0.01  # of the logged steps with values beyond what returns can be: more is an alarm, less a warning
SLACK = 0.05  # of the range of possible returns, beyond which a value is an alarm


@final
@dataclass(frozen=True)
class FQEConfig:
    discount: Fraction = 0.99
    target_rate: Rate = 0.01
    """step of the target critic's moving average (tau)"""
    learning_rate: Positive = 1e-3
    """falls to 0 over the run (cosine)"""
    hidden: Hidden = (128, 128)
    layer_norm: bool = True
    """holds back divergence where the policy's actions are far from the logged ones"""


@final
class FQE(Algorithm):
    """Learns Q of a fixed policy from packed rows that hold what it does at the next observations."""

    batch = PolicyTransitions()
    targets = {"target_critic": "critic"}

    target_critic: Critic

    def __init__(self, config: FQEConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.critic = Critic(spec, config.hidden, ensemble=1, layer_norm=config.layer_norm)
        for parameter in self.critic.mlp.layers[-1].parameters():
            nn.init.zeros_(parameter)  # the values begin at their baseline
        self.optimizers = {"critic": Adam(config.learning_rate, schedule="cosine")}
        self.target_rate = config.target_rate

    def losses(self, batch: PolicyBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        s, a, r, s_next, terminal, policy = batch
        with torch.no_grad():
            q_target = r + self.config.discount * (1 - terminal) * expected_value(self.target_critic, s_next, policy)  # [B]
        q = self.critic(s, a)[0]  # [B]
        return {"critic": (q - q_target).square().mean()}, {"q": q.mean()}

    def policy(self) -> Policy:
        raise TypeError("fitted Q-evaluation judges a policy that is given to it; it has none of its own")


def expected_value(critic: Critic, s: Tensor, policy: Tensor) -> Tensor:
    """Returns `[B]`, the mean of Q(s, ·) under probabilities `[B, n]`, or over drawn actions `[B, K, A]`."""
    if critic.discrete:
        q: Tensor = critic(s)[0]  # [B, n]
        return (policy * q).sum(-1)
    k = policy.shape[1]
    repeated = s.unsqueeze(1).expand(s.shape[0], k, *s.shape[1:])  # [B, K, *O]
    return critic(repeated, policy)[0].mean(-1)  # type: ignore[no-any-return]


@final
@dataclass(frozen=True)
class Fitted:
    """Cross-fitted values of a policy over all logged steps.

    method: "tabular" (exact) or "neural". model: of all seeds' mean. direct: float64 `[S]`, each seed's mean V of the first states; one number
    where the fit is exact. history: `[C, S]`, the same while learning, after `history_steps [C]` (empty where exact). alarms: what makes the
    values unbelievable. warnings: what weakens them. diagnostics: numbers by name (`_diagnosed` names them).
    """

    method: Literal["tabular", "neural"]
    model: Model
    direct: Array
    history_steps: Array
    history: Array
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    diagnostics: dict[str, float] = field(default_factory=dict)

    @property
    def statistic(self) -> Mean:
        """The direct estimate: the mean over episodes of V at their first states. A bootstrap of it does not refit, so it misses the fit's error."""
        return Mean(self.model.v_start)

    @property
    def seed_spread(self) -> float:
        """The standard deviation of the direct estimate over seeds; 0 where the fit is exact, NaN of one seed alone."""
        if self.method == "tabular":
            return 0.0
        return float(self.direct.std(ddof=1)) if len(self.direct) > 1 else float("nan")


def cross_fitted(
    dataset: Dataset,
    target: Target,
    *,
    discount: float,
    clock: Clock,
    folds: int = 2,
    seeds: Sequence[int] = (0, 1),
    steps: int = 5_000,
    batch_size: int = 256,
    config: FQEConfig | None = None,
    draws: int = 2,
    method: Literal["auto", "tabular", "neural"] = "auto",
) -> Fitted:
    """Returns the policy's values at all logged steps, each fitted on the other folds' episodes (groups stay whole); folds=1 holds nothing out.

    The folds are drawn from the first seed. `config.discount` and, unless a config is given, the target rate are set here: five
    effective horizons of target averages in a run. draws: actions of a continuous stochastic policy at each state. Discrete states and
    actions are solved exactly unless method="neural". Raises DataError, with "not estimable: …" where there is no finite value;
    DivergenceError where learning diverged.
    """
    check_target(dataset, target)
    log = read_steps(dataset, discount, clock)
    fold = folds_of(dataset, folds, seeds[0])
    finite = isinstance(dataset.spec.observation, Discrete) and isinstance(dataset.spec.action, Discrete)
    if method == "tabular" and not finite:
        raise DataError("method is 'tabular'; states and actions must both be discrete for it")
    if finite and method != "neural":
        fitted = _tabular(dataset, target, discount, log, fold)
    else:
        rate = float(np.clip(5 * _effective_horizon(discount, log) / steps, 0.005, 0.1))
        config = FQEConfig(discount, rate) if config is None else replace(config, discount=discount)
        fitted = _neural(dataset, target, config, log, fold, seeds, Training(steps, batch_size, compile="off"), draws)
        fitted.diagnostics["horizons"] = steps * config.target_rate / _effective_horizon(discount, log)
    return _diagnosed(fitted, dataset, log, discount, folds)


def _effective_horizon(discount: float, log: Steps) -> float:
    return 1 / max(1 - discount * (1 - float(log.ends.mean())), 1e-3)


def _assumptions(log: Steps, folds: int) -> tuple[str, ...]:
    made = [
        "the policy's values can be told from the logged states and actions",
        "nothing that drives actions and rewards is left unobserved",
    ]
    if log.limit is not None:
        made.append(f"the clock ends every episode at step {log.limit:,}, so the time is part of the state")
    return (*made, *(("fitted and read on the same episodes, not cross-fitted",) if folds == 1 else ()))


def _tabular(dataset: Dataset, target: Target, discount: float, log: Steps, fold: Array) -> Fitted:
    assert isinstance(dataset.spec.observation, Discrete)
    policy = target.probabilities(np.arange(dataset.spec.observation.n))
    s, a = np.asarray(dataset.observations), np.asarray(dataset.actions)
    ends = log.ends if log.limit is None else np.asarray(dataset.terminals)
    q, v, v_next = np.zeros((3, len(dataset)))
    shares, stuck = [], 0
    for fit, judged in parts(fold, dataset.lengths):
        task = counted_task.count_task(dataset.spec, s, a, log.rewards, log.following, ends, fit.astype(np.float64))
        solution = counted_task.solve(task, policy, s[log.first[fit[log.first]]], discount, log.limit)
        left = None if log.limit is None else log.limit - log.time[judged]
        q[judged], v[judged] = solution.q(s[judged], a[judged], left), solution.v(s[judged], left)
        after = solution.v(log.following[judged], None if left is None else left - 1)
        v_next[judged] = np.where(log.ends[judged], 0.0, after)
        shares.append(solution.unlogged)
        stuck += solution.stuck
    start = v[log.first]
    made = (*_assumptions(log, int(fold.max()) + 1), counted_task.ASSUMED)
    numbers = {"unlogged_share": float(np.mean(shares)), "stuck_states": float(stuck)}
    none = np.empty(0)
    return Fitted("tabular", Model(q, v, v_next, start), np.array([start.mean()]), none, np.empty((0, 1)), made, diagnostics=numbers)


@final
@dataclass(frozen=True)
class _Packed:
    """Rows `[N, width]` as FQE learns from them, their rewards set for each fold; what the policy does at first states `[E, …]`."""

    table: Tensor
    start_policy: Tensor
    spec: Spec
    policies: tuple[Array, Array]  # at first and next observations, in the task's units


def _pack(dataset: Dataset, target: Target, log: Steps, draws: int, seed: int) -> _Packed:
    spec, actions = dataset.spec, np.asarray(dataset.actions)
    onto_unit = scale_actions(dataset)
    both = policy_at(target, dataset.observations[log.first], draws, seed), policy_at(target, log.following, draws, seed + 1)
    start, following = both
    action: Space = spec.action
    if isinstance(spec.action, Box):
        size = spec.action.size
        start, following, actions = (apply(onto_unit, "actions", x.reshape(-1, size)) for x in (start, following, actions))
        action = Box((size,), (-1.0,), (1.0,))
    now, after, observation = _observations(dataset, log)
    columns = (now, actions, np.zeros(len(dataset)), log.ends, after, following)
    table = np.concatenate([np.asarray(c, np.float32).reshape(len(dataset), -1) for c in columns], 1)
    start = start.reshape(dataset.episodes, -1).astype(np.float32)
    return _Packed(torch.from_numpy(table), torch.from_numpy(start), Spec(observation, action), both)


def _observations(dataset: Dataset, log: Steps) -> tuple[Array, Array, Space]:
    """Observations and next ones, standardised and flat, with the time beside them where the clock is a horizon; and their space."""
    space = dataset.spec.observation
    if isinstance(space, Discrete):
        return np.asarray(dataset.observations), log.following, space
    standard = standardize_observations(dataset)
    now, after = (standard.forward(np.asarray(x)).reshape(len(x), -1) for x in (dataset.observations, log.following))
    if log.limit is not None:
        now, after = (np.column_stack([x, 2 * (log.time + i) / log.limit - 1]) for i, x in enumerate((now, after)))
    return now, after, Box((now.shape[1],))


@final
@dataclass(frozen=True)
class _Fold:
    """A learner on one fold's rows, and what its outputs mean: baseline + scale · network."""

    learner: Learner
    packed: _Packed
    baseline: LinearValues
    scale: float

    def at_starts(self, log: Steps, episodes: Array) -> Array:
        """Returns `[S, len(episodes)]`: V at first states."""

        def read(algorithm: FQE, rows: slice) -> Tensor:
            own = episodes[rows]
            policy = self.packed.start_policy[torch.from_numpy(own)]
            if isinstance(self.packed.spec.action, Box):
                policy = policy.unflatten(-1, (-1, *self.packed.spec.action.shape))
            batch = algorithm.batch.unpack(self.packed.table[torch.from_numpy(log.first[own])], self.packed.spec)
            return expected_value(algorithm.critic, batch.observations, policy)

        return self.baseline.start[episodes] + self._read(len(episodes), read)

    def at_rows(self, rows: Array) -> tuple[Array, Array]:
        """Returns Q at logged steps and V after them, each `[S, len(rows)]`; also after an end."""

        def read(algorithm: FQE, chunk: slice) -> Tensor:
            batch = algorithm.batch.unpack(self.packed.table[torch.from_numpy(rows[chunk])], self.packed.spec)
            after = expected_value(algorithm.critic, batch.next_observations, batch.next_policy)
            return torch.stack([algorithm.critic(batch.observations, batch.actions)[0], after])

        values = self._read(len(rows), read)  # [S, 2, len(rows)]
        return self.baseline.q[rows] + values[:, 0], self.baseline.after[rows] + values[:, 1]

    def _read(self, count: int, read: Callable[[FQE, slice], Tensor]) -> Array:
        template, results = self.learner.template, []
        assert isinstance(template, FQE)
        for i in range(len(self.learner.seeds)):
            with torch.no_grad(), holding(template, self.learner.parameters_of(i)):
                values = torch.cat([read(template, slice(k, min(k + CHUNK, count))) for k in range(0, count, CHUNK)], -1)
            results.append(self.scale * values.double().numpy())
        return np.stack(results)


@contextmanager
def one_thread() -> Iterator[None]:
    """Holds PyTorch to one thread for a while: a step is too short to hand out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _neural(
    dataset: Dataset, target: Target, config: FQEConfig, log: Steps, fold: Array, seeds: Sequence[int], training: Training, draws: int
) -> Fitted:
    packed = _pack(dataset, target, log, draws, seeds[0])
    count, split = len(seeds), parts(fold, dataset.lengths)
    q, v_next = np.empty((2, count, len(dataset)))
    v_start = np.empty((count, dataset.episodes))
    at = np.unique(np.linspace(0, training.steps, READINGS + 1).round().astype(np.int64))[1:]
    history = np.zeros((len(at), count))
    fits = [fit for fit, _ in split]
    bounds = _bounds(dataset, log, config.discount)
    baselines = linear_values(dataset, target, config.discount, log, packed.policies, fits, bounds, seeds[0])
    to_go = returns_to_go(log, config.discount)
    column = sum(list(PolicyTransitions().columns(packed.spec).values())[:2])  # of the rewards
    with one_thread():
        for (fit, judged), baseline in zip(split, baselines, strict=True):
            own = np.flatnonzero(judged[log.first])  # episodes
            watched = own[:: max(1, len(own) // 1024)]
            scale = float((to_go - baseline.q)[fit].std()) or float(np.abs(log.rewards).max()) or 1.0
            left = log.rewards + config.discount * ~log.ends * baseline.after - baseline.q
            packed.table[:, column] = torch.from_numpy((left / scale).astype(np.float32))
            rows = ChosenRows(packed.table, torch.from_numpy(np.flatnonzero(fit)))
            learner = Learner(FQE, config, packed.spec, rows, seeds, training, torch.device("cpu"))
            this = _Fold(learner, packed, baseline, scale)
            for i, step in enumerate(at):
                while learner.step < step:
                    learner.advance()
                learner.check()
                history[i] += this.at_starts(log, watched).mean(1) * len(own) / dataset.episodes
            v_start[:, own] = this.at_starts(log, own)
            q[:, judged], v_next[:, judged] = this.at_rows(np.flatnonzero(judged))
    v = np.empty((count, len(dataset)))
    v[:, 1:] = v_next[:, :-1]
    v[:, log.first] = v_start
    v_next[:, log.ends] = 0.0
    model = Model(q.mean(0), v.mean(0), v_next.mean(0), v_start.mean(0))
    numbers = {"linear": float(all(b.linear for b in baselines))}
    return Fitted("neural", model, v_start.mean(1), at, history, _assumptions(log, int(fold.max()) + 1), diagnostics=numbers)


def _bounds(dataset: Dataset, log: Steps, discount: float) -> tuple[float, float]:
    """What a value can be, a little slack added."""
    low, high = possible_returns(_ended(dataset, log), discount)
    slack = SLACK * max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-12)
    return low - slack, high + slack


def _ended(dataset: Dataset, log: Steps) -> Dataset:
    return Dataset(dataset.spec, {**dataset.columns, "terminals": log.ends}, dataset.offsets, dataset.final_observations)


def _diagnosed(fitted: Fitted, dataset: Dataset, log: Steps, discount: float, folds: int) -> Fitted:
    """Adds diagnostics.

    possible_low, possible_high, outside_share (of q), horizons, linear (1 where the baseline is), drift, td_error (mean
    over the log), seed_spread.
    """
    q, values = fitted.model.q, fitted.direct
    if not np.isfinite(q).all() or not np.isfinite(values).all():
        raise DataError("not estimable: fitted Q-evaluation ended with values that are not finite")
    ended = _ended(dataset, log)
    low, high = possible_returns(ended, discount)
    least, most = _bounds(dataset, log, discount)
    outside = float(((q < least) | (q > most)).mean())
    alarms: list[str] = []
    warnings: list[str] = []
    if outside:
        (alarms if outside > OUTSIDE else warnings).append(
            f"fitted values leave the possible range of returns, {low:.4g} to {high:.4g}, at {outside:.2%} of the logged steps "
            f"(from {q.min():.4g} to {q.max():.4g}), where {assumption(ended, discount)}"
        )
    spread = float(dataset.returns(discount).std())
    numbers = dict(fitted.diagnostics) | {"possible_low": low, "possible_high": high, "outside_share": outside}
    numbers["td_error"] = float((log.rewards + discount * fitted.model.v_next - q).mean())
    if fitted.method == "neural":
        middle, last = (fitted.history[np.asarray(window)].mean() for window in _windows(len(fitted.history)))
        numbers |= {"drift": float(last - middle)} | ({"seed_spread": fitted.seed_spread} if len(values) > 1 else {})
        if numbers["horizons"] < HORIZONS:
            warnings.append(f"learning was short: {numbers['horizons']:.1f} effective horizons of target averages; take more steps")
        if abs(last - middle) > DRIFT * max(spread, 0.1 * abs(last)):
            warnings.append(
                f"not converged: the first states' value still went from {middle:.4g} to {last:.4g} in the second half of learning"
            )
        if fitted.seed_spread > DRIFT * max(spread, 0.1 * abs(last)):
            warnings.append(f"the seeds disagree: direct estimates from {values.min():.4g} to {values.max():.4g}")
    elif numbers["unlogged_share"] > 0.05:
        warnings.append(f"{numbers['unlogged_share']:.0%} of the policy's expected visits are state-action pairs that were never logged")
    if numbers.get("stuck_states"):
        warnings.append("in some states no logged step of the policy leads to an end; one more step, the log's average, is assumed there")
    return replace(fitted, alarms=tuple(alarms), warnings=tuple(warnings), diagnostics=numbers)


def _windows(count: int) -> tuple[range, range]:
    """The readings of the middle fifth of learning and of its last fifth."""
    return range(count * 2 // 5, max(count * 3 // 5, count * 2 // 5 + 1)), range(count * 4 // 5, count)
