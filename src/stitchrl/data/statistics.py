"""The description of a log: returns, lengths, actions, coverage, and a quality score whose parts are shown: `stitchrl data report`.

TQ, the quality of trajectories: Schweighofer et al., 2021, "A Dataset Perspective on Offline Reinforcement Learning" (arXiv:2111.04714).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.spec import Box, Discrete, bounds_of
from stitchrl.data.coverage import (
    action_variety,
    entropy,
    flat_rows,
    nearest_neighbour_entropy,
    normalised_entropy,
    occupancy,
    sample_rows,
    standardised,
    state_action_coverage,
)
from stitchrl.data.dataset import Dataset
from stitchrl.data.doctor import examine
from stitchrl.data.findings import Finding
from stitchrl.data.quality import advise, score

Array = np.ndarray[Any, np.dtype[Any]]

BINS = 40
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ACTION_DIMENSIONS = 12  # whose histograms are kept
ACTION_BINS = 20
MAP_BINS = 32


@final
@dataclass(frozen=True)
class DatasetReport:
    """What `describe` measured, in plain JSON values; what could not be measured is None."""

    name: str
    environment: str | None
    size: dict[str, Any]
    returns: dict[str, Any]
    discounted_returns: dict[str, Any]
    lengths: dict[str, Any]
    endings: dict[str, Any]
    rewards: dict[str, Any]
    actions: dict[str, Any]
    coverage: dict[str, Any]
    reference: dict[str, Any]
    quality: dict[str, Any]
    advice: list[dict[str, str]]
    metadata: dict[str, Any]
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values, all numbers finite."""
        return dict(_finite(asdict(self)))


def describe(
    dataset: Dataset, reference: dict[str, Any] | None = None, seed: int = 0, findings: Sequence[Finding] | None = None
) -> DatasetReport:
    """Returns the description of a log; the same log and seed give the same.

    reference: {"random": mean return of a random policy, "expert": of the best known, "coverage": of `coverage_reference`}, each may be
        missing; by default metadata["reference"]. Undiscounted returns.
    findings: those of `examine`, computed here if not given.
    """
    known = reference if reference is not None else dataset.metadata.get("reference") or {}
    findings = examine(dataset) if findings is None else findings
    discount = float(dataset.metadata.get("discount") or 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        returns = distribution(dataset.returns())
        facts: dict[str, Any] = {
            "size": _size(dataset),
            "returns": returns,
            "discounted_returns": {"discount": discount, **distribution(dataset.returns(discount))},
            "lengths": distribution(dataset.lengths),
            "endings": _endings(dataset),
            "rewards": _rewards(dataset),
            "actions": describe_actions(dataset, seed),
            "coverage": {
                **occupancy(dataset, seed),
                "action_variety": action_variety(dataset, seed),
                "state_action_coverage": state_action_coverage(dataset, known.get("coverage")),
                "map": _density(dataset, seed),
            },
            "reference": _reference(returns, known),
        }
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    facts["quality"] = score(facts, errors, warnings)
    advice = advise(facts, errors)
    name, environment = str(dataset.metadata.get("name") or "unnamed"), dataset.metadata.get("environment")
    return DatasetReport(name=name, environment=environment, **facts, advice=advice, metadata=dict(dataset.metadata), seed=seed)


def trajectory_quality(mean: float, random: float | None, best: float | None) -> float | None:
    """Returns TQ = (mean return - random) / (best known - random); None where a reference is missing or both are equal."""
    if random is None or best is None or random == best or not math.isfinite(mean):
        return None
    return (mean - random) / (best - random)


def distribution(values: Array) -> dict[str, Any]:
    """Returns count, mean, std (population), min, max, quantiles, mean of the best tenth, histogram; None where nothing is finite."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return {"count": 0, **dict.fromkeys(("mean", "std", "min", "max", "quantiles", "best_tenth", "histogram"))}
    ordered = np.sort(finite)
    low, high = float(ordered[0]), float(ordered[-1])
    bins = int(min(BINS, max(8, 2 * math.sqrt(len(finite)))))
    edges = np.linspace(low, high, bins + 1) if high > low else np.asarray([low - 0.5, low + 0.5])
    if high > low and (finite == np.round(finite)).all() and high - low < BINS:  # whole numbers: a bar to each
        edges = np.arange(low - 0.5, high + 1)
    counts, _ = np.histogram(finite, np.unique(edges)) if len(np.unique(edges)) > 1 else (np.asarray([len(finite)]), edges)
    return {
        "count": len(finite),
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        "min": low,
        "max": high,
        "quantiles": {f"{q:g}": float(np.quantile(ordered, q)) for q in QUANTILES},
        "best_tenth": float(ordered[-max(1, len(ordered) // 10) :].mean()),
        "histogram": {"edges": np.unique(edges).tolist(), "counts": counts.tolist()},
    }


def _size(dataset: Dataset) -> dict[str, Any]:
    groups = dataset.columns.get("groups")
    return {
        "steps": len(dataset),
        "episodes": dataset.episodes,
        "bytes": int(sum(column.nbytes for column in dataset.columns.values()) + dataset.final_observations.nbytes),
        "groups": None if groups is None else len(np.unique(np.asarray(groups))),
        "columns": {name: f"{column.dtype} {list(column.shape[1:]) or ''}".strip() for name, column in dataset.columns.items()},
        "spec": dataset.spec.to_json(),
    }


def _endings(dataset: Dataset) -> dict[str, Any]:
    last = np.asarray(dataset.offsets[1:]) - 1
    terminal, timeout = np.asarray(dataset.terminals[last]), np.asarray(dataset.timeouts[last])
    return {
        "terminals": int((terminal & ~timeout).sum()),
        "timeouts": int((timeout & ~terminal).sum()),
        "both": int((terminal & timeout).sum()),
        "neither": int((~terminal & ~timeout).sum()),
    }


def _rewards(dataset: Dataset) -> dict[str, Any]:
    rewards = np.asarray(dataset.rewards, dtype=np.float64)
    finite = rewards[np.isfinite(rewards)]
    values, counts = np.unique(finite, return_counts=True)
    common = int(counts.max(initial=0))
    return {
        **{key: value for key, value in distribution(rewards).items() if key not in ("count", "best_tenth")},
        "distinct": len(values),
        "most_common": float(values[counts.argmax()]) if len(values) else None,
        "rare_share": 1 - common / len(finite) if len(finite) else None,  # steps whose reward is not the most common one
    }


def describe_actions(dataset: Dataset, seed: int) -> dict[str, Any]:
    """Returns the marginals of the actions and their entropy.

    Discrete: counts, entropy in nats and divided by log n. Real-valued: for each dimension a histogram over its bounds (or its range);
    the mean normalised entropy of these; the joint differential entropy by nearest neighbours, and less the log volume of the bounds.
    """
    space = dataset.spec.action
    if isinstance(space, Discrete):
        actions = np.asarray(dataset.actions)
        counts = np.bincount(actions[(actions >= 0) & (actions < space.n)], minlength=space.n)
        return {
            "kind": "discrete",
            "n": space.n,
            "counts": counts.tolist(),
            "entropy_nats": entropy(counts),
            "entropy": normalised_entropy(counts),
        }
    return _continuous_actions(dataset, space, seed)


def _continuous_actions(dataset: Dataset, space: Box, seed: int) -> dict[str, Any]:
    values = np.asarray(dataset.actions[sample_rows(dataset, seed, 100_000)], dtype=np.float64).reshape(-1, space.size)
    values = values[np.isfinite(values).all(axis=1)]
    low, high = (bound.reshape(-1) for bound in bounds_of(space))
    histograms, entropies, outside = [], [], 0
    for k in range(space.size if len(values) else 0):
        column = values[:, k]
        ends = (low[k], high[k]) if math.isfinite(low[k] + high[k]) else (float(column.min()), float(column.max()))
        inside = np.clip(column, ends[0], ends[1])
        outside += int((inside != column).sum())
        edges = np.linspace(ends[0], ends[1], ACTION_BINS + 1) if ends[1] > ends[0] else np.asarray([ends[0] - 0.5, ends[0] + 0.5])
        counts, _ = np.histogram(inside, edges)
        entropies.append(normalised_entropy(counts))
        if k < ACTION_DIMENSIONS:
            histograms.append({"edges": edges.tolist(), "counts": counts.tolist()})
    # in units of each dimension's spread, put back below: distances should not be ruled by the widest dimension
    scale = values.std(axis=0) if len(values) else np.ones(space.size)
    few = standardised(values[:: max(1, len(values) // 5_000)][:5_000])
    joint = nearest_neighbour_entropy(few) if (scale > 0).all() and len(values) else None
    nats = None if joint is None else joint + float(np.log(scale).sum())
    volume = float(np.log(high - low).sum()) if space.bounded and (high > low).all() else None
    return {
        "kind": "continuous",
        "dimensions": space.size,
        "bounded": space.bounded,
        "histograms": histograms,
        "clipped_share": outside / max(1, values.size),
        "mean": values.mean(axis=0).tolist()[:ACTION_DIMENSIONS] if len(values) else None,
        "std": scale.tolist()[:ACTION_DIMENSIONS],
        "entropy_nats": nats,
        "entropy_below_uniform_nats": None if nats is None or volume is None else volume - nats,
        "entropy": float(np.mean(entropies)) if entropies else None,
    }


def _density(dataset: Dataset, seed: int) -> dict[str, Any] | None:
    """Returns a 2-D histogram of sampled states on their two principal directions, with the share of variance that these hold."""
    if isinstance(dataset.spec.observation, Discrete):
        return None
    points = standardised(np.nan_to_num(flat_rows(dataset.observations, sample_rows(dataset, seed), seed), posinf=0, neginf=0))
    if points.shape[1] < 2 or len(points) < 3:
        return None
    variance, directions = np.linalg.eigh(points.T @ points / len(points))
    if variance.sum() <= 0:
        return None
    axes = directions[:, [-1, -2]]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)  # one sign, whatever LAPACK gives
    placed = points @ axes
    low, high = np.quantile(placed, [0.001, 0.999], axis=0)
    placed = np.clip(placed, low, high)
    edges = [np.linspace(low[k], high[k] if high[k] > low[k] else low[k] + 1.0, MAP_BINS + 1) for k in (0, 1)]
    counts, x, y = np.histogram2d(placed[:, 0], placed[:, 1], bins=edges)
    share = float(variance[-2:].sum() / variance.sum())
    return {"x": x.tolist(), "y": y.tolist(), "counts": counts.astype(int).tolist(), "variance_share": share}


def _reference(returns: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    random, expert = known.get("random"), known.get("expert")
    mean, high = returns["mean"], (returns["quantiles"] or {}).get("0.95")
    return {
        "random": random,
        "expert": expert,
        "trajectory_quality": None if mean is None else trajectory_quality(mean, random, expert),
        "best_twentieth_quality": None if high is None else trajectory_quality(high, random, expert),  # of the 95 % quantile
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
