"""Changes of scale between the log and the learner, each with its inverse, saved with the policy that needs them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Space, Spec, bounds_of, is_image
from stitchrl.data.dataset import Dataset

Column = Literal["observations", "actions", "rewards"]


@final
@dataclass(frozen=True)
class Affine:
    """x * scale + shift on one column, elementwise; `scale` and `shift` are flat float64 arrays or one number each."""

    column: Column
    scale: np.ndarray
    shift: np.ndarray
    description: str

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Returns the column as the learner sees it, float32."""
        flat: np.ndarray = x.reshape(len(x), math.prod(x.shape[1:])) * self.scale + self.shift
        return flat.astype(np.float32).reshape(x.shape)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Returns the column as the log has it, float32."""
        flat: np.ndarray = (x.reshape(len(x), math.prod(x.shape[1:])) - self.shift) / self.scale
        return flat.astype(np.float32).reshape(x.shape)


def return_scale(transforms: Sequence[Affine]) -> float | None:
    """Returns what a return is multiplied by before the learner hears of it; None where rewards were shifted, which leaves no way back."""
    rewards = [t for t in transforms if t.column == "rewards"]
    if any(np.any(t.shift != 0) for t in rewards):
        return None
    return float(np.prod([t.scale.item() for t in rewards]))


def standardize_observations(dataset: Dataset, epsilon: float = 1e-3) -> Affine:
    """Returns (x - mean) / (std + epsilon) for each observation dimension; a constant one becomes 0."""
    if isinstance(dataset.spec.observation, Discrete):
        raise DataError("observations are integers; only real-valued observations can be standardised: leave the setting out")
    if is_image(dataset.spec.observation):
        raise DataError("observations are images, which the network divides by 255; leave the setting out")
    observations = dataset.columns["observations"]
    chunks = [observations[i : i + 100_000].reshape(-1, dataset.spec.observation.size) for i in range(0, len(observations), 100_000)]
    mean = sum(chunk.sum(0, dtype=np.float64) for chunk in chunks) / len(observations)
    variance = sum(np.square(chunk - mean).sum(0) for chunk in chunks) / len(observations)
    scale = 1 / (np.sqrt(variance) + epsilon)
    return Affine("observations", scale, -mean * scale, f"standardize(epsilon={epsilon:g})")


def scale_actions(dataset: Dataset) -> list[Affine]:
    """Returns the map of the action bounds onto [-1, 1]; none where they are that already, or actions are integers.

    Where the task states no bounds those of the logged actions serve.
    """
    space = dataset.spec.action
    if isinstance(space, Discrete) or space.bounded:
        return scale_action_space(dataset.spec)
    actions = dataset.columns["actions"].reshape(len(dataset.columns["actions"]), -1)
    return _onto_unit(actions.min(0).astype(np.float64), actions.max(0).astype(np.float64))


def scale_action_space(spec: Spec) -> list[Affine]:
    """Returns the map of a task's action bounds onto [-1, 1]; raises DataError where it states none."""
    space = spec.action
    if isinstance(space, Discrete):
        return []
    if not space.bounded:
        raise DataError("the task states no bounds for its actions; give them, or learn from a log of actions")
    low, high = bounds_of(space)
    return _onto_unit(low.reshape(-1), high.reshape(-1))


def _onto_unit(low: np.ndarray, high: np.ndarray) -> list[Affine]:
    if np.all(low == -1) and np.all(high == 1):
        return []
    half = np.where(high > low, (high - low) / 2, 1.0)
    return [Affine("actions", 1 / half, -(low + high) / 2 / half, "actions to [-1, 1]")]


def rounding(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns how far beyond its bounds an action may lie by rounding, in their shape."""
    slack: np.ndarray = 1e-5 * (1 + np.maximum(np.abs(low), np.abs(high)))
    return slack


def within(dataset: Dataset, task: Space) -> Dataset:
    """Returns the log with the bounds of the task's actions, where its own are wider or only inferred from the actions it holds."""
    own = dataset.spec.action
    if not isinstance(own, Box) or not isinstance(task, Box) or not task.bounded:
        return dataset
    (low, high), (least, most) = bounds_of(task), bounds_of(own)
    slack = rounding(low, high)
    if not dataset.metadata.get("action_bounds_inferred") and np.all(least >= low - slack) and np.all(most <= high + slack):
        return dataset
    return replace(dataset, spec=replace(dataset.spec, action=replace(own, low=task.low, high=task.high)))


def bounded_actions(dataset: Dataset, outside: Literal["refuse", "clip", "keep"]) -> Dataset:
    """Returns the log with its actions inside the task's bounds; raises DataError naming the first that is not, unless told to clip or keep."""
    space = dataset.spec.action
    if isinstance(space, Discrete) or not space.bounded or outside == "keep":
        return dataset
    low, high = (bound.astype(np.float32) for bound in bounds_of(space))
    slack = rounding(low, high)
    actions = dataset.columns["actions"]
    rows = np.flatnonzero(((actions < low - slack) | (actions > high + slack)).reshape(len(actions), -1).any(1))
    if len(rows) and outside == "refuse":
        episode = int(dataset.episode_of(rows[0]))
        raise DataError(
            f"{dataset.metadata.get('name', 'data')}: {len(rows):,} of {len(actions):,} actions are outside their bounds ({words_of_bounds(space)}), "
            f"first in episode {episode}, step {int(rows[0] - dataset.offsets[episode])}; clip them with --preprocessing.actions-outside clip "
            "if the environment did, or keep them"
        )
    if not len(rows):
        return dataset
    columns = {**dataset.columns, "actions": np.clip(actions, low, high)}
    return Dataset(dataset.spec, columns, dataset.offsets, dataset.final_observations, dataset.metadata)


def words_of_bounds(space: Box) -> str:
    """Returns the bounds of a Box in few words: `-1 to 1`, or the outermost ones where they differ by dimension."""
    low, high = (sorted({float(x) for x in np.asarray(bound).reshape(-1)}) for bound in (space.low, space.high))
    return f"{low[0]:g} to {high[-1]:g}" + ("" if len(low) == len(high) == 1 else " at most, by dimension")


def changed_rewards(dataset: Dataset, bound: float | None = None, terminal: float | None = None) -> Dataset:
    """Returns the log with rewards of at most `bound` in size, and with `terminal` on every step that ended the task; those that only the
    clock ended keep theirs. None: as they are; where that changes nothing, the log itself."""
    if bound is None and terminal is None:
        return dataset
    rewards = dataset.rewards if bound is None else np.clip(dataset.rewards, -bound, bound)
    if terminal is not None:
        with np.errstate(over="ignore"):  # what float32 does not hold is told by who asked for it
            rewards = np.where(dataset.terminals, np.array(terminal).astype(np.float32), rewards)
    if np.array_equal(rewards, dataset.rewards):
        return dataset
    return Dataset(dataset.spec, {**dataset.columns, "rewards": rewards}, dataset.offsets, dataset.final_observations, dataset.metadata)


def scale_returns(dataset: Dataset, to: float = 1000.0) -> Affine:
    """Returns the scale of rewards that makes the range of the logged returns `to`, as IQL does for locomotion; raises on a constant return."""
    returns = dataset.returns()
    spread = float(returns.max() - returns.min())
    if spread <= 0:
        raise DataError(
            f"all {len(returns)} returns are {returns[0]:g}; rewards cannot be scaled by the range of the returns: leave the setting out"
        )
    return Affine("rewards", np.array([to / spread]), np.zeros(1), f"returns to a range of {to:g}")


def affine_rewards(scale: float, shift: float) -> Affine:
    """Returns r * scale + shift."""
    return Affine("rewards", np.array([scale]), np.array([shift]), f"rewards * {scale:g} + {shift:g}")


def apply(transforms: Iterable[Affine], column: Column, x: np.ndarray) -> np.ndarray:
    """Returns a column after all transforms that concern it, in order."""
    for transform in transforms:
        if transform.column == column:
            x = transform.forward(x)
    return x


def undo(transforms: Sequence[Affine], column: Column, x: np.ndarray) -> np.ndarray:
    """Returns what `apply` was given, from what it returned."""
    for transform in reversed(transforms):
        if transform.column == column:
            x = transform.inverse(x)
    return x


def learner_spec(spec: Spec, transforms: Iterable[Affine]) -> Spec:
    """Returns the spaces as the learner sees them: actions in [-1, 1]."""
    if isinstance(spec.action, Discrete):
        return spec
    return Spec(spec.observation, Box(spec.action.shape, (-1.0,), (1.0,)))


def to_state(transforms: Iterable[Affine]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Returns transforms as JSON descriptions and as named float64 arrays."""
    described = [{"column": t.column, "description": t.description} for t in transforms]
    arrays = {f"{i}.{name}": np.ascontiguousarray(getattr(t, name)) for i, t in enumerate(transforms) for name in ("scale", "shift")}
    return described, arrays


def from_state(described: list[dict[str, Any]], arrays: dict[str, np.ndarray]) -> list[Affine]:
    """Returns what `to_state` was given."""
    return [Affine(d["column"], arrays[f"{i}.scale"], arrays[f"{i}.shift"], d["description"]) for i, d in enumerate(described)]
