"""The run doctor: rules over the lines of metrics that say when learning goes wrong, with what was seen and what to try.

It reads only numbers that were already read for a line of metrics, and changes nothing of what is learned. Its state follows from those lines
alone, so that a resumed run that reads its metrics.jsonl again tells no alarm twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from stitchrl.core.alarms import AlarmChange
from stitchrl.core.spec import Box, Discrete, Spec

Line = Mapping[str, Sequence[float | None]]  # metric -> one number a seed, None or NaN where it was not finite

# A critic of a bounded value scatters around it: the bound is passed by this share of the width of what is possible before it counts.
TOLERANCE = 0.02
CLIPPED = tuple(f"metric/{level}clipped_weights" for level in ("", "high_", "low_"))
CLIPPED_SHARE = 0.1  # healthy runs of IQL stay below 0.03
GROWTH = 1_000.0  # of a loss, against its smallest: healthy critics, whose values start near 0, grow up to 30-fold
GAP_GROWTH = 10.0
TEMPERATURE_RATIO = 1e4  # of SAC's temperature to its first
MULTIPLIER_CLAMP, MULTIPLIER_GONE = 0.99e6, 1e-3

# Values of logged, chosen and target actions, over the log and where episodes start.
VALUES = {
    "metric/q": "logged actions",
    "metric/q_target": "the critic's targets",
    "probe/logged_value": "logged actions",
    "probe/chosen_value": "the policy's actions",
    "probe/start_value": "the policy where episodes start",
}


@final
@dataclass(frozen=True)
class Limits:
    """What values can be, in the learner's units of reward. `horizon`: the sum of discount^t over an episode, at most."""

    low: float
    high: float
    best_logged: float  # the largest discounted return of a logged episode, plus a margin
    horizon: float
    free_entropy: float = (
        0.0  # by which a step's entropy may raise a soft value, for a temperature of 1; 0 where entropy counts for nothing
    )
    free_gap: float = 0.0  # the log-sum-exp of equal values above them

    @property
    def width(self) -> float:
        """The range of possible values, never 0."""
        return max(self.high - self.low, 1e-6 * max(abs(self.high), abs(self.low)), 1e-12)


def action_freedom(spec: Spec, sampled: int = 10) -> tuple[float, float]:
    """Returns the largest entropy of a step in nats, and the log-sum-exp over its (or `sampled` times 3) actions of equal values above them."""
    if isinstance(spec.action, Discrete):
        return math.log(spec.action.n), math.log(spec.action.n)
    assert isinstance(spec.action, Box)
    volume = spec.action.size * math.log(2)  # of [-1, 1]^A
    return volume, volume + math.log(3 * sampled)


@final
@dataclass
class Seen:
    """What the rules remember of earlier lines, one number a seed."""

    first: dict[str, list[float]] = field(default_factory=dict)
    least: dict[str, list[float]] = field(default_factory=dict)  # smallest sizes
    most: dict[str, list[float]] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Remembers one more line."""
        for name, numbers in line.items():
            values = [math.nan if v is None else float(v) for v in numbers]
            sizes = [abs(v) for v in values]
            self.first.setdefault(name, values)
            self.least[name] = [_other(min, a, b) for a, b in zip(self.least.get(name, sizes), sizes, strict=True)]
            self.most[name] = [_other(max, a, b) for a, b in zip(self.most.get(name, values), values, strict=True)]


def _other(choose: Callable[[float, float], float], a: float, b: float) -> float:
    """Returns the chosen of two numbers, or the one that is a number."""
    return b if math.isnan(a) else a if math.isnan(b) else choose(a, b)


@final
@dataclass(frozen=True)
class Finding:
    """One rule that one line breaks: in which seeds (their places), what was seen, what to try."""

    name: str
    seeds: tuple[int, ...]
    seen: str
    advice: str


Rule = Callable[[Line, Seen, Limits], Finding | None]


def overestimation(line: Line, seen: Seen, limits: Limits) -> Finding | None:
    """Returns the alarm of a mean value above the highest possible return; of a soft value after what its entropy may add."""
    temperature = seen.most.get("metric/temperature")
    for name, whose in VALUES.items():
        highest = [limits.high + limits.free_entropy * limits.horizon * (t if t > 0 else 0.0) for t in temperature or []]
        bound = highest or [limits.high] * len(line.get(name, ()))
        places = _where(line, name, lambda i, v, b=bound: v > b[i] + TOLERANCE * limits.width)  # type: ignore[misc]
        if places:
            worst = max(places, key=lambda i: _value(line, name, i))
            return Finding(
                "overestimation",
                places,
                f"the critic's mean value of {whose} is {_value(line, name, worst):.4g}, and no return can exceed {bound[worst]:.4g}",
                "do not use this policy's values; learn more conservatively (cql with more conservatism, iql, or td3_bc with a smaller alpha), "
                "or use a smaller learning rate or target rate",
            )
    return None


def beyond_the_log(line: Line, seen: Seen, limits: Limits) -> Finding | None:
    """Returns the alarm of a policy believed to be worth more than the best logged episode earned: possible, and rarely true."""
    name = "probe/start_value"
    soft = limits.free_entropy * limits.horizon * max(0.0, *seen.most.get("metric/temperature", [0.0]))
    bound, slack = limits.best_logged + soft, TOLERANCE * limits.width
    places = _where(line, name, lambda i, v: bound + slack < v <= limits.high + soft + slack)  # above that it is overestimation
    if not places:
        return None
    worst = max(places, key=lambda i: _value(line, name, i))
    return Finding(
        "beyond_the_log",
        places,
        f"the critic believes its policy is worth {_value(line, name, worst):.4g} where episodes start; the best logged episode, with a margin, "
        f"earned {bound:.4g}",
        "hold it for overestimation until an off-policy estimate says otherwise (stitchrl trust); learn more conservatively",
    )


def exploding_gap(line: Line, seen: Seen, limits: Limits) -> Finding | None:
    """Returns the alarm of CQL's gap of log-sum-exp to logged values wider than values can differ, or grown tenfold."""
    name = "metric/conservative_gap"
    first = seen.first.get(name, [])

    def wide(i: int, v: float) -> bool:
        start = max(abs(first[i]) if first and not math.isnan(first[i]) else 0.0, limits.free_gap, 1.0)
        return v > limits.width + limits.free_gap or v > GAP_GROWTH * start

    places = _where(line, name, wide)
    if not places:
        return None
    worst = max(places, key=lambda i: _value(line, name, i))
    began = f" (first {first[worst]:.4g})" if first else ""
    return Finding(
        "exploding_gap",
        places,
        f"the conservative gap is {_value(line, name, worst):.4g}{began}: actions outside the log are valued above logged ones "
        "by more than values can differ or ten times as much as at first",
        "raise conservatism, lower the critic's learning rate, or scale the rewards (--preprocessing.reward-scale)",
    )


def saturated_weights(line: Line, seen: Seen, limits: Limits) -> Finding | None:
    """Returns the alarm of advantage weights that mostly stand at their bound."""
    shares = [(_value(line, name, i), i) for name in CLIPPED for i in _where(line, name, lambda i, v: v > CLIPPED_SHARE)]
    if not shares:
        return None
    return Finding(
        "saturated_weights",
        tuple(sorted({i for _, i in shares})),
        f"{100 * max(shares)[0]:.0f} % of the advantage weights stand at their bound: these actions are cloned alike, however good they are",
        "lower inverse_temperature (HIQL: of either level), or, without hindsight goals, scale the rewards down "
        "(--preprocessing.return-range, --preprocessing.reward-scale)",
    )


def lagrange_multiplier(line: Line, seen: Seen, limits: Limits) -> Finding | None:
    """Returns the alarm of a multiplier at its clamp, or so small that the conservative term is switched off."""
    name = "probe/multiplier"
    high, gone = (_where(line, name, rule) for rule in (lambda i, v: v >= MULTIPLIER_CLAMP, lambda i, v: v < MULTIPLIER_GONE))
    if high:
        text = "the Lagrange multiplier is at its clamp of 1e6: the gap cannot be held at lagrange_gap, and nothing else counts any more"
        return Finding("lagrange_multiplier", high, text, "raise lagrange_gap, or give a fixed conservatism in its place")
    if gone:
        text = f"the Lagrange multiplier fell to {_value(line, name, gone[0]):.2g}: the gap stays below lagrange_gap by itself"
        return Finding("lagrange_multiplier", gone, text, "lower lagrange_gap, or give a fixed conservatism in its place")
    return None


def temperature(line: Line, seen: Seen, limits: Limits) -> Finding | None:
    """Returns the alarm of a temperature that left its start by four orders of magnitude, either way."""
    name = "metric/temperature"
    first = seen.first.get(name, [])
    if not first:
        return None
    places = _where(line, name, lambda i, v: v > TEMPERATURE_RATIO * first[i] or v * TEMPERATURE_RATIO < first[i])
    if not places:
        return None
    i = places[0]
    value = _value(line, name, i)
    word, effect = (
        ("exploded", "entropy outweighs reward and the policy is noise")
        if value > first[i]
        else ("collapsed", "the policy no longer explores")
    )
    return Finding(
        "temperature",
        places,
        f"the entropy temperature {word} from {first[i]:.2g} to {value:.2g}: {effect}",
        "look at target_entropy (minus the number of action dimensions is usual), lower temperature_learning_rate, or scale the rewards",
    )


def growing_loss(line: Line, seen: Seen, limits: Limits) -> Finding | None:
    """Returns the alarm of a loss a thousand times as large as its smallest, of those losses that are bounded in a healthy run."""
    floors = dict(_floors(line, limits))
    grown = {}
    for name, floor in floors.items():
        least = seen.least.get(name)
        if least:
            places = _where(line, name, lambda i, v, low=least, f=floor: abs(v) > GROWTH * max(_other(max, low[i], f), f))  # type: ignore[misc]
            if places:
                grown[name] = places
    if not grown:
        return None
    words = []
    for name, places in grown.items():
        worst = max(places, key=lambda i: abs(_value(line, name, i)))
        words.append(f"{name} is {_value(line, name, worst):.3g}, and was {seen.least[name][worst]:.3g} at its smallest")
    advice = "lower the learning rate, scale the rewards, and look at the data (stitchrl data validate); go on from an earlier checkpoint"
    return Finding("growing_loss", tuple(sorted({i for places in grown.values() for i in places})), "; ".join(words), advice)


def _floors(line: Line, limits: Limits) -> Iterator[tuple[str, float]]:
    """Each loss with the size below which it never counts as small: errors of values are squares of rewards, an actor's are values themselves."""
    valued = "loss/critic" in line
    for name in line:
        if name in ("loss/critic", "loss/value"):
            yield name, max(1e-4 * limits.width**2, 1e-12)
        elif name == "loss/actor" and valued:
            yield name, max(limits.width, 0.01)
        elif name.startswith("loss/") and name not in ("loss/temperature", "loss/multiplier"):
            yield name, 0.01


RULES: tuple[Rule, ...] = (
    overestimation, beyond_the_log, exploding_gap, saturated_weights, lagrange_multiplier, temperature, growing_loss,
)  # fmt: skip


def _value(line: Line, name: str, i: int) -> float:
    value = line[name][i]
    return math.nan if value is None else float(value)


def _where(line: Line, name: str, broken: Callable[[int, float], bool]) -> tuple[int, ...]:
    """The seeds' places where a metric is a number that breaks a rule."""
    return tuple(i for i, v in enumerate(line.get(name, ())) if v is not None and not math.isnan(v) and broken(i, float(v)))


@final
class RunDoctor:
    """Judges a run's lines of metrics one after another."""

    def __init__(self, limits: Limits, seeds: Sequence[int]) -> None:
        self.limits, self.seeds = limits, tuple(seeds)
        self.seen = Seen()
        self.standing: dict[str, set[int]] = {}

    def judge(self, step: int, line: Line) -> list[AlarmChange]:
        """Returns the alarms that rise, or rise in one more seed, and those that clear, at a line of metrics."""
        self.seen.add(line)
        found = {f.name: f for rule in RULES if (f := rule(line, self.seen, self.limits)) is not None}
        changes = [AlarmChange(step, "cleared", name, (), "", "") for name in self.standing if name not in found]
        for name, finding in found.items():
            known = self.standing.get(name, set())
            if not set(finding.seeds) <= known:
                numbers = tuple(self.seeds[i] for i in finding.seeds)
                changes.append(AlarmChange(step, "rose", name, numbers, finding.seen, finding.advice))
        self.standing = {name: self.standing.get(name, set()) | set(f.seeds) for name, f in found.items()}
        return changes

    def replay(self, lines: Sequence[Mapping[str, Any]]) -> list[AlarmChange]:
        """Returns what `judge` said of the lines of metrics.jsonl that a run has behind it."""
        told = []
        for line in lines:
            values = {k: v for k, v in line.items() if isinstance(v, list) and len(v) == len(self.seeds)}
            told += self.judge(int(line["step"]), values)
        return told
