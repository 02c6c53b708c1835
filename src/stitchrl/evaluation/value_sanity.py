"""Whether a critic's values are possible at all: against what rewards allow, what the log earned, and what its own model of the task supports.

The bounds need no estimator and no support: a believed value above them is wrong whatever the policy does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.agent import load as load_policy
from stitchrl.core.algorithm import Algorithm, build
from stitchrl.core.batch import SINGLE_STEPS, TransitionBatch, Transitions
from stitchrl.core.errors import CheckpointError
from stitchrl.core.files import read_json
from stitchrl.core.spec import Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.sampling import batch_rows
from stitchrl.data.transforms import Affine, apply, changed_rewards, learner_spec, return_scale
from stitchrl.nn.mlp import Critic, Scalar
from stitchrl.training import checkpoint, seeds
from stitchrl.training.learner import Learner
from stitchrl.training.run_doctor import TOLERANCE, Limits, action_freedom

Array = np.ndarray[Any, np.dtype[Any]]
MARGIN = 0.1  # of the range of the logged returns, above the best of them
PROBED = 512  # logged steps, and first states, at which a critic is read


def possible_returns(dataset: Dataset, discount: float, transforms: Iterable[Affine] = ()) -> tuple[float, float]:
    """Returns the least and the most that any policy's value can be from any state, by the log's rewards (after `transforms` of them).

    A step pays between the least and the most that a logged step paid, an episode's last step likewise what logged last steps paid: a task that
    pays only at its end is worth at most its best end. With a discount below 1 that is all that is assumed: an episode may go on for ever. With a
    discount of 1 no episode is taken to last longer than the longest logged one (`assumption` says so).
    """
    rewards = np.asarray(apply(transforms, "rewards", dataset.rewards), np.float64)
    ends = np.asarray(dataset.columns["terminals"], bool)
    lengths, on_the_way = np.diff(dataset.offsets), rewards[~ends]
    bounds = []
    for choose in (np.min, np.max):
        step = float(choose(on_the_way)) if len(on_the_way) else 0.0
        last = float(choose(rewards[ends])) if ends.any() else 0.0
        if not len(on_the_way):
            reachable = [last]
        elif discount < 1:  # of l steps: a mean of the two, weighted by discount^(l - 1)
            reachable = [step / (1 - discount)] + ([last] if ends.any() else [])
        else:
            longest = int(lengths.max())
            reachable = [step * (longest - 1) + last, last] if ends.any() else [step * longest]
        bounds.append(float(choose(reachable)))
    return bounds[0], bounds[1]


def assumption(dataset: Dataset, discount: float) -> str:
    """Returns what `possible_returns` takes for granted, in words."""
    if discount < 1:
        return "no step pays more, and none less, than a logged one did"
    longest = int(np.diff(dataset.offsets).max())
    return f"no step pays more, and none less, than a logged one did, and no episode lasts longer than the longest logged one ({longest:,} steps)"


def discounted_returns(dataset: Dataset, discount: float, transforms: Iterable[Affine] = ()) -> Array:
    """Returns float64 `[E]`: what each logged episode earned, discounted, after `transforms` of the rewards."""
    rewards = np.asarray(apply(transforms, "rewards", dataset.rewards), np.float64)
    step = np.arange(len(rewards)) - np.repeat(dataset.offsets[:-1], np.diff(dataset.offsets))
    return np.asarray(np.add.reduceat(np.power(discount, step) * rewards, dataset.offsets[:-1]))


def best_logged(dataset: Dataset, discount: float, transforms: Sequence[Affine] = ()) -> float:
    """Returns the best discounted return of a logged episode, plus a tenth of their range; one that the clock cut off may yet earn all it can."""
    earned, high = discounted_returns(dataset, discount, transforms), possible_returns(dataset, discount, transforms)[1]
    cut = ~np.asarray(dataset.columns["terminals"], bool)[dataset.offsets[1:] - 1]
    reachable = earned + np.where(cut, np.power(discount, np.diff(dataset.offsets)) * max(high, 0.0), 0.0)
    spread = float(earned.max() - earned.min()) or abs(float(earned.max()))
    return float(reachable.max()) + MARGIN * spread


def supported_optimum(dataset: Dataset, discount: float, least: int = 10) -> float | None:
    """Returns the value, from the logged first states, of the best policy of logged choices in the log's own model of a finite task.

    A choice counts if it was logged `least` times in its state, or where no choice was, as the state's most frequent one. Where the clock ended an
    episode nothing follows, unless the state was left elsewhere. None where states or actions are not discrete. Being the best of noisy
    estimates it is rather too high than too low.
    """
    if not isinstance(dataset.spec.observation, Discrete) or not isinstance(dataset.spec.action, Discrete):
        return None
    from scipy.sparse import csr_matrix

    states, actions = dataset.spec.observation.n, dataset.spec.action.n
    s, a = (np.asarray(dataset.columns[name], np.int64) for name in ("observations", "actions"))
    pair = s * actions + a
    count = np.bincount(pair, minlength=states * actions).astype(np.float64)
    going = ~np.asarray(dataset.columns["terminals"], bool)
    after = np.asarray(dataset.next_observations(slice(0, len(dataset))), np.int64)
    shape, per_pair = (states * actions, states), np.maximum(count, 1)
    follow = csr_matrix((going.astype(np.float64) / per_pair[pair], (pair, after)), shape=shape)
    reward = np.bincount(pair, np.asarray(dataset.rewards, np.float64), minlength=states * actions) / per_pair
    by_state = count.reshape(states, actions)
    counted = (by_state >= least) | (
        (by_state == by_state.max(1, keepdims=True)) & (by_state.max(1, keepdims=True) < least) & (by_state > 0)
    )
    values = np.zeros(states)
    for _ in range(100_000):
        q = (reward + discount * (follow @ values)).reshape(states, actions)
        new = np.where(counted.any(1), np.where(counted, q, -np.inf).max(1), 0.0)
        change, values = np.abs(new - values).max(), new
        if change < 1e-9 * max(1.0, np.abs(new).max()):
            return float(values[s[dataset.offsets[:-1]]].mean())
    return None  # an undiscounted loop that pays for ever


def limits_of(dataset: Dataset, settings: Any, transforms: Sequence[Affine], *, to_goals: bool = False) -> Limits:
    """Returns what the run doctor measures values against, in the learner's units; `settings` are the algorithm's.

    `to_goals`: rewards are -1 until a goal is reached, whatever the log's are.
    """
    discount = float(getattr(settings, "discount", 1.0))
    low, high = possible_returns(dataset, discount, transforms)
    horizon = 1 / (1 - discount) if discount < 1 else float(np.diff(dataset.offsets).max())
    entropy, gap = action_freedom(dataset.spec, int(getattr(settings, "sampled_actions", 10)))
    free = entropy if getattr(settings, "entropy_backup", False) else 0.0
    if to_goals:
        return Limits(-horizon, 0.0, 0.0, horizon, free, gap)
    return Limits(low, high, best_logged(dataset, discount, transforms), horizon, free, gap)


@final
class Probe:
    """Fixed logged steps and first states at which critics are read: between steps, at every line of metrics."""

    def __init__(self, dataset: Dataset, transforms: Sequence[Affine], spec: Spec, device: torch.device, dtype: torch.dtype) -> None:
        generator = np.random.default_rng(0)

        def batch(rows: Array) -> TransitionBatch:
            chosen = rows if len(rows) <= PROBED else np.sort(generator.choice(rows, PROBED, replace=False))
            return Transitions().unpack(batch_rows(dataset, Transitions(), transforms, chosen, device, dtype), spec)

        self.logged = batch(np.arange(len(dataset)))
        self.starts = batch(np.asarray(dataset.offsets[:-1])).observations

    @torch.no_grad()
    def read(self, template: Algorithm, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        """Returns one seed's mean values of logged and of chosen actions, the spread of its critics at the chosen ones, its value where
        episodes start, and a Lagrange multiplier: what of these the algorithm has."""
        found: dict[str, Tensor] = {}
        with seeds.holding(template, parameters):
            critic, multiplier = getattr(template, "critic", None), getattr(template, "multiplier", None)
            if isinstance(critic, Critic):
                s, a = self.logged.observations, self.logged.actions
                at_chosen = critic(s, template.policy()(s, None))  # [E, B]
                found |= {"logged_value": critic(s, a).mean(), "chosen_value": at_chosen.mean()}
                if len(at_chosen) > 1:
                    found["critic_spread"] = at_chosen.std(0).mean()
            start = template.believed_value(self.starts)
            if start is not None:
                found["start_value"] = start.mean()
            if isinstance(multiplier, Scalar):
                found["multiplier"] = multiplier().exp()
        return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True)) if found else {}

    def read_all(self, learner: Learner) -> dict[str, list[float]]:
        """Returns `read` of each seed of a learner, as metrics `probe/…`."""
        each = [self.read(learner.template, learner.parameters_of(i)) for i in range(len(learner.seeds))]
        return {f"probe/{name}": [values[name] for values in each] for name in each[0]}


def probe_of(learner: Learner, dataset: Dataset, transforms: Sequence[Affine]) -> Probe | None:
    """Returns the probe of a run, or None where the algorithm has nothing to be read or learns from more than single steps."""
    template = learner.template
    if not isinstance(template.batch, SINGLE_STEPS) or type(template).believed_value is Algorithm.believed_value:
        return None
    return Probe(dataset, transforms, template.spec, learner.device, learner.update.dtype)


def believed(run: Path) -> list[float] | None:
    """Returns what each seed's learner believed its policy is worth from the start, in the log's units: the run's last evaluation that says so.

    None where no evaluation was made, or the algorithm has no value. Raises CheckpointError for a damaged file.
    """
    file = run / "evaluations.jsonl"
    found = None
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if file.is_file() else ():
        try:
            values = json.loads(text).get("believed_value")
            found = [float(v) for v in values] if values else found
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} line {number}: cannot be read: {error}; remove the line to go on without it") from None
    return found


def critic_readings(run: Path, dataset: Dataset) -> dict[str, list[float]] | None:
    """Returns `Probe.read` of each seed of a run's newest checkpoint, on a log, in the learner's units of reward.

    None where there is no checkpoint, or the algorithm has no value. Raises CheckpointError for damaged files.
    """
    if not checkpoint.steps(run / "checkpoints"):
        return None
    agent = load_policy(run)
    algorithm, _ = algorithms.find(agent.name)
    spec = learner_spec(agent.spec, agent.transforms)
    template = build(algorithm, agent.config, spec, 0)
    if not isinstance(template.batch, SINGLE_STEPS) or type(template).believed_value is Algorithm.believed_value:
        return None
    tensors, _ = checkpoint.load_newest(run / "checkpoints")
    own = {name.removeprefix("parameters/"): t for name, t in tensors.items() if name.startswith("parameters/")}
    if set(own) != {name for name, _ in template.named_parameters()}:
        raise CheckpointError(f"{run}: the newest checkpoint and policy/ are not of one algorithm with the same settings")
    dtype = next(iter(own.values())).dtype
    probe = Probe(dataset, agent.transforms, spec, torch.device("cpu"), dtype)
    template = template.to(dtype)
    each = [probe.read(template, seeds.unstack(own, i, len(agent.seeds))) for i in range(len(agent.seeds))]
    return {name: [values[name] for values in each] for name in each[0]}


@final
@dataclass(frozen=True)
class ValueProblem:
    """What is wrong with values: `fail` where they are impossible, `warn` where the log does not bear them out."""

    level: Literal["fail", "warn"]
    sentence: str


@final
@dataclass(frozen=True)
class ValueSanity:
    """A run's values beside what they can be, in the log's units of reward (in the learner's where rewards were shifted: `units`).

    Lists hold one number a seed; None where unknown. `reason`: why nothing could be judged.
    """

    discount: float
    low: float
    high: float
    best_logged: float
    deviation: float  # of the logged discounted returns
    supported_optimum: float | None
    believed: list[float] | None
    logged: list[float] | None = None
    chosen: list[float] | None = None
    spread: list[float] | None = None
    units: str = "the log's"
    assumption: str = ""
    reason: str | None = None

    @property
    def problems(self) -> list[ValueProblem]:
        """What is wrong, worst first; empty where nothing is, or nothing could be judged."""
        found = self._problems()
        return found if self.units == "the log's" else [ValueProblem(x.level, f"{x.sentence} (units are {self.units})") for x in found]

    def _problems(self) -> list[ValueProblem]:
        found = []
        slack = TOLERANCE * (self.high - self.low)
        most = max(self.believed, default=math.nan) if self.believed else math.nan
        if most > self.high + slack:
            text = f"its critic believes {most:.4g}, and no policy can be worth more than {self.high:.4g} ({self.assumption})"
            found.append(ValueProblem("fail", text))
        if self.supported_optimum is not None and most > self.supported_optimum + slack:
            text = f"its critic believes {most:.4g}; in the log's own model the best policy of logged choices is worth {self.supported_optimum:.4g}"
            found.append(ValueProblem("warn", text))
        if self.high + slack >= most > self.best_logged + slack:
            text = f"its critic believes {most:.4g} on average; the best logged episode, with a margin, earned {self.best_logged:.4g}"
            found.append(ValueProblem("warn", text))
        if self.logged and self.chosen:
            gap = max(c - v for c, v in zip(self.chosen, self.logged, strict=True))
            if gap > self.deviation + slack:
                text = f"its own actions are valued {gap:.4g} above logged ones on average, more than logged episodes differ ({self.deviation:.4g})"
                found.append(ValueProblem("warn", text))
        if self.spread and max(self.spread) > self.deviation + slack:
            text = f"its critics differ by {max(self.spread):.4g} at its own actions, more than logged episodes do ({self.deviation:.4g})"
            found.append(ValueProblem("warn", text))
        return found


def value_sanity(run: Path, dataset: Dataset) -> ValueSanity:
    """Returns the values that a run's learner believes in, beside what values can be by a log; raises CheckpointError for damaged files."""
    agent = load_policy(run)
    if not hasattr(agent.config, "discount"):
        nothing = f"{agent.name} has no critic: it believes nothing of its policy's value"
        return ValueSanity(math.nan, math.nan, math.nan, math.nan, math.nan, None, None, reason=nothing)
    discount = float(agent.config.discount)
    paid = paid_in(run, dataset)
    (scale, units), dataset = _reward_scale(agent, changed=paid is not dataset), paid
    transforms = agent.transforms if scale is None else []
    low, high = possible_returns(dataset, discount, transforms)
    found = critic_readings(run, dataset) or {}
    read = {name: [v / (scale or 1.0) for v in values] for name, values in found.items()}
    own = (believed(run) if scale is not None else None) or read.get("start_value")
    return ValueSanity(
        discount=discount,
        low=low,
        high=high,
        best_logged=best_logged(dataset, discount, transforms),
        deviation=float(discounted_returns(dataset, discount, transforms).std()),
        supported_optimum=supported_optimum(dataset, discount) if scale is not None else None,
        believed=own,
        logged=read.get("logged_value"),
        chosen=read.get("chosen_value"),
        spread=None if "critic_spread" not in read else [abs(v) for v in read["critic_spread"]],
        units=units,
        assumption=assumption(dataset, discount),
        reason=None if own else "neither an evaluation nor a checkpoint of the run holds a value of its policy",
    )


def paid_in(run: Path, dataset: Dataset) -> Dataset:
    """Returns the log with the rewards that a run learned from, before their scale; where these are its own, the log itself."""
    told = read_json(run / "config.json").get("preprocessing") or {} if (run / "config.json").is_file() else {}
    return changed_rewards(dataset, told.get("reward_bound"), told.get("terminal_reward"))


def _reward_scale(agent: Agent, *, changed: bool) -> tuple[float | None, str]:
    """What rewards were multiplied by; None where they were shifted too, which leaves no way back to the log's units."""
    scale = return_scale(agent.transforms)
    if scale is None:
        return None, "the learner's, whose rewards are shifted"
    return scale, "the log's, with the rewards that were learned from" if changed else "the log's"
