"""Rows for learning to reach goals: the log's states, one a row, and which of them belong to each drawn step.

The states of episode e, its final one included, stand at offsets[e] + e … offsets[e + 1] + e. Which goals a step gets is drawn with its
block from each seed's own generator of indices, on the device, so that a run resumes bit for bit and a step asks the host nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor

from stitchrl.core.batch import BatchKind, width
from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.frame_batch import Table
from stitchrl.core.goals import GoalDrawing, Goals, HindsightTransitions, Spacing
from stitchrl.core.spec import Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.following import in_no_order
from stitchrl.data.sampling import CHUNK, DeviceRows, Rows, StreamedRows, fits_packed, steps_of_states, uniform
from stitchrl.data.transforms import Affine, apply


@final
class GoalRows(Rows):
    """Steps of a log as positions `[…, R]` of states: its own, the next, the value's goal, the actor's goal, and two subgoals if asked."""

    def __init__(
        self, states: Rows, offsets: np.ndarray, kind: BatchKind, drawing: GoalDrawing, discount: float, device: torch.device
    ) -> None:
        self.states, self.kind, self.drawing, self.discount = states, kind, drawing, discount
        self.subgoals = isinstance(kind, Goals) and kind.subgoals
        self.ends = torch.as_tensor(np.asarray(offsets[1:], np.int64), device=device)
        self.size = int(offsets[-1])

    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return self.states_of(uniform(self.size, shape, generator), generator)

    def gather(self, index: Tensor) -> tuple[Table, Tensor]:
        return self.states.gather(index)

    def numbers(self, index: Tensor) -> Tensor:
        return steps_of_states(index, self.ends)

    def states_of(self, steps: Tensor, generator: torch.Generator) -> Tensor:
        """Returns int64 `[*steps, R]`, the states of each step's batch row, with goals drawn anew."""
        episode = torch.searchsorted(self.ends, steps, right=True)
        here, last = steps + episode, self.ends[episode] + episode
        d = self.drawing
        value_goal, _ = self._goals(here, last, (d.value_current, d.value_future), d.value_spacing, generator)
        actor_goal, ahead = self._goals(here, last, (d.actor_current, d.actor_future), d.actor_spacing, generator)
        found = [here, here + 1, value_goal, actor_goal]
        if self.subgoals:
            subgoal = torch.minimum(here + d.subgoal_steps, last)
            # a goal of another episode is on no known way: there the subgoal is the episode's own
            found += [subgoal, torch.where(ahead, torch.minimum(subgoal, actor_goal), subgoal)]
        return torch.stack(found, -1)

    def _goals(
        self, here: Tensor, last: Tensor, shares: tuple[float, float], spacing: Spacing, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Drawn goals, and where they are of the step's own episode, from its state on."""
        choice, where, any_state = torch.rand((3, *here.shape), generator=generator, device=here.device, dtype=torch.float64)
        if spacing == "geometric":  # P(steps > k) = discount^k
            steps = (torch.log1p(-where) / math.log(self.discount)).clamp_max(2.0**31).long() + 1
        else:
            steps = (where * (last - here)).long() + 1
        goal = torch.minimum(here + steps, last)
        current, future = shares[0], sum(shares)
        goal = torch.where(choice < current, here, goal)
        ahead = choice < future
        return torch.where(ahead, goal, (any_state * (self.size + len(self.ends))).long()), ahead


def pack_states(dataset: Dataset, transforms: Sequence[Affine], numbers: np.ndarray) -> np.ndarray:
    """Returns float32 `[M, O + A]`: states by number, transformed, and the actions taken there, 0 in an episode's final state."""
    first = dataset.offsets[:-1] + np.arange(dataset.episodes)  # each episode's first state
    observed = width(dataset.spec.observation)
    packed = np.zeros((len(numbers), observed + width(dataset.spec.action)), np.float32)
    for start in range(0, len(numbers), CHUNK):
        chosen = numbers[start : start + CHUNK]
        part = packed[start : start + CHUNK]
        episode = np.searchsorted(first, chosen, side="right") - 1
        final = chosen - first[episode] == dataset.lengths[episode]
        rows = (chosen - episode)[~final]
        part[~final, :observed] = apply(transforms, "observations", dataset.observations[rows])
        part[~final, observed:] = apply(transforms, "actions", dataset.actions[rows]).reshape(len(rows), -1)
        part[final, :observed] = apply(transforms, "observations", dataset.final_observations[episode[final]])
    return packed


def goal_rows_of(
    dataset: Dataset,
    kind: BatchKind,
    drawing: GoalDrawing,
    discount: float,
    transforms: Sequence[Affine],
    device: torch.device,
    memory_limit: int,
) -> GoalRows:
    """Returns a log's steps with goals, states on the device if they take at most `memory_limit` bytes (on a CPU `PACKED_ON_CPU`), else streamed.

    `discount`: the algorithm's. Raises DataError where the log's task ends by itself, unless the drawing takes that as the clock, or its rows
    are in no order and goals are to be later states; ConfigError for a discount that no geometric spacing has.
    """
    discount = discount if drawing.discount is None else drawing.discount
    if not 0 < discount < 1:
        raise ConfigError(
            f"goals: the discount is {discount:g}; later goals are drawn geometrically with one between 0 and 1, both excluded"
        )
    name, ends = dataset.metadata.get("name", "data"), int(np.count_nonzero(dataset.terminals))
    if in_no_order(dataset) and (drawing.value_future or drawing.actor_future):
        raise DataError(
            f"{name}: every episode is one step and not all end the task, so that no state comes later than the next; goals are later states of "
            "an episode. Read the log with its episodes"
        )
    if ends and drawing.terminals == "refuse":
        raise DataError(
            f"{name}: {ends:,} steps end the task (terminals); goals are learned as walks that could go on. "
            "If nothing but the clock or the log's own goal ended them, pass --goals.terminals as_timeouts"
        )
    count = len(dataset) + dataset.episodes
    size = width(dataset.spec.observation) + width(dataset.spec.action)
    kind = kind if isinstance(kind, Goals) else HindsightTransitions()
    states: Rows
    if fits_packed(count * size, device, memory_limit):
        states = DeviceRows(torch.from_numpy(pack_states(dataset, transforms, np.arange(count))).to(device))
    else:
        states = StreamedRows(count, partial(pack_states, dataset, transforms), device)
    return GoalRows(states, dataset.offsets, kind, drawing, discount, device)


def for_pairs(transforms: Sequence[Affine], spec: Spec) -> list[Affine]:
    """Returns transforms of observations as those of an observation and a goal side by side; others as they are. `spec` is the log's."""
    observed = width(spec.observation)
    made = []
    for t in transforms:
        if t.column == "observations":
            scale, shift = (np.tile(np.broadcast_to(x, observed), 2) for x in (t.scale, t.shift))
            t = Affine(t.column, scale, shift, t.description)
        made.append(t)
    return made
