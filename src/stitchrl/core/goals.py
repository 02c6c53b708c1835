"""Goals by hindsight (Andrychowicz et al., 2017, arXiv:1707.01495): each step is learned as if it had aimed at another state of the log.

A goal is a whole observation. A policy that reaches goals sees one vector, the observation and then the goal, so that its spec holds
both side by side. Drawn as OGBench draws them (Park et al., 2024, arXiv:2410.20092): reward -1 a step until the state is the goal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from stitchrl.core.batch import BatchKind, TransitionBatch, Transitions, unpack_actions, width
from stitchrl.core.errors import ConfigError
from stitchrl.core.settings import Count, Fraction, OpenFraction, refuse_changed
from stitchrl.core.spec import Box, Space, Spec

Spacing = Literal["geometric", "uniform"]


@final
@dataclass(frozen=True)
class GoalDrawing:
    """Which states of the log become goals: shares that add up to 1, for what learns values and for what learns to act apart."""

    hindsight: bool = False
    """learn to reach the states of the log in place of earning its rewards; the policy then reads an observation and a goal"""
    value_current: Fraction = 0.2
    """share of value goals that are the step's own state"""
    value_future: Fraction = 0.5
    """… that are later states of its episode"""
    value_random: Fraction = 0.3
    """… that are any states of the log"""
    value_spacing: Spacing = "geometric"
    """of later states: geometric in the steps to them, cut at the episode's end, or all as likely"""
    actor_current: Fraction = 0.0
    actor_future: Fraction = 1.0
    """OGBench: 1 on navigate, 0.5 on stitch, 0 on explore"""
    actor_random: Fraction = 0.0
    actor_spacing: Spacing = "uniform"
    discount: OpenFraction | None = None
    """of the geometric spacing: the mean is 1 / (1 - discount) steps; None: the algorithm's discount, 0.99 where it has none"""
    subgoal_steps: Count = 25
    """how far ahead subgoals lie (hierarchical algorithms alone)"""
    terminals: Literal["refuse", "as_timeouts"] = "refuse"
    """of steps that end the log's own task: stop, or take them as the clock's, as if the walk could have gone on"""


def check_drawing(drawing: GoalDrawing, kind: BatchKind, algorithm: str, *, clones: bool = False) -> None:
    """Raises ConfigError for shares that are not 1 together, settings without effect, or an algorithm that cannot learn from such goals.

    clones: it learns to act alone, and no values.
    """
    if not drawing.hindsight:
        if isinstance(kind, Goals):
            raise ConfigError(f"goals: hindsight is off, and '{algorithm}' learns from nothing else; leave it out")
        others = tuple(field.name for field in fields(drawing) if field.name != "hindsight")
        refuse_changed(drawing, others, "without --goals.hindsight", "add that to learn to reach goals, or leave it out")
        return
    if not isinstance(kind, Goals | Transitions):
        raise ConfigError(
            f"goals: '{algorithm}' learns from more than single steps, of which hindsight cannot change the goal; leave it out"
        )
    if not (isinstance(kind, Goals) and kind.subgoals):
        refuse_changed(drawing, ("subgoal_steps",), f"with '{algorithm}', which has no subgoals")
    if clones:
        values = tuple(field.name for field in fields(drawing) if field.name.startswith("value_"))
        refuse_changed(drawing, values, f"with '{algorithm}', which learns no values")
    used = [part for part in (("actor",) if clones else ("value", "actor")) if getattr(drawing, f"{part}_future")]
    unused = tuple(f"{part}_spacing" for part in ("value", "actor") if part not in used)
    refuse_changed(drawing, unused, "where no goal is a later state of the episode")
    if not any(getattr(drawing, f"{part}_spacing") == "geometric" for part in used):
        refuse_changed(drawing, ("discount",), f"with '{algorithm}', which draws no later states at a geometric distance")
    for part in ("value", "actor"):
        shares = [getattr(drawing, f"{part}_{name}") for name in ("current", "future", "random")]
        if not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ConfigError(
                f"goals: {part}_current, {part}_future and {part}_random are {', '.join(f'{x:g}' for x in shares)}; "
                f"they must add up to 1 and give {sum(shares):g}"
            )


class GoalBatch(NamedTuple):
    """`s, a, r, s_next, terminal, goal, actor_goal = batch`: r is -1 and terminal 0 but where s is the goal, there 0 and 1."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminals: Tensor
    value_goals: Tensor
    actor_goals: Tensor


class SubgoalBatch(NamedTuple):
    """A goal batch with states `subgoal_steps` ahead: of the episode, and on the way to the actor's goal, not beyond it."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminals: Tensor
    value_goals: Tensor
    actor_goals: Tensor
    subgoals: Tensor
    actor_subgoals: Tensor


class HindsightBatches(NamedTuple):
    """The same steps for an algorithm that knows of no goals, which are part of its observations: drawn for values, and for actors."""

    values: TransitionBatch
    actors: TransitionBatch


@final
@dataclass(frozen=True)
class Goals:
    """Single steps with goals. A packed row is a state and what was done there; of each step R rows stand side by side, `[B, R, width]`:
    the state, the next, the value's goal and the actor's goal, and with `subgoals` those of the two subgoals."""

    drawing: GoalDrawing = GoalDrawing(hindsight=True)  # the algorithm's default, which a run may change
    subgoals: bool = False

    @staticmethod
    def columns(spec: Spec) -> dict[str, int]:
        """Returns the packed columns in order, with their widths; `spec` is the policy's, of observation and goal."""
        return {"observations": width(spec.observation) // 2, "actions": width(spec.action)}

    def unpack(self, rows: Tensor, spec: Spec) -> GoalBatch | SubgoalBatch:
        """Returns the batch in packed `rows [B, R, width]`."""
        batch, subgoals = _unpacked(rows, spec)
        return SubgoalBatch(*batch, *subgoals) if self.subgoals else batch


@final
@dataclass(frozen=True)
class HindsightTransitions:
    """Rows as those of `Goals`, for an algorithm that learns from plain transitions: its observations are the state and the goal."""

    @staticmethod
    def columns(spec: Spec) -> dict[str, int]:
        """Returns the packed columns in order, with their widths."""
        return Goals.columns(spec)

    def unpack(self, rows: Tensor, spec: Spec) -> HindsightBatches:
        """Returns both batches in packed `rows [B, R, width]`."""
        batch, _ = _unpacked(rows, spec)
        made = []
        for goal in (batch.value_goals, batch.actor_goals):
            s, s_next = pair(batch.observations, goal), pair(batch.next_observations, goal)
            reached = _same(batch.observations, goal)
            made.append(TransitionBatch(s, batch.actions, reached - 1, s_next, reached))
        return HindsightBatches(*made)


def pair(observations: Tensor, goals: Tensor) -> Tensor:
    """Returns `[*batch, 2 O]`: observations `[*batch, O]`, then goals `[*batch, O]`."""
    return torch.cat([observations, goals], -1)


def with_goal(spec: Spec) -> Spec:
    """Returns the spec of a policy that reaches goals in a log's spaces; raises ConfigError where observations are no real vectors."""
    seen = spec.observation
    if not isinstance(seen, Box) or len(seen.shape) != 1 or seen.dtype != "float32":
        raise ConfigError(f"goals are drawn from real-valued observation vectors; these data have {seen}. Leave --goals.hindsight out")
    low, high = ((x if len(x) == 1 else x + x) for x in (seen.low, seen.high))
    return Spec(Box((2 * seen.size,), low, high), spec.action)


def is_with_goal(seen: Space, alone: Space) -> bool:
    """Whether one space is that of another's observations with a goal beside them."""
    if not isinstance(seen, Box) or not isinstance(alone, Box):
        return False
    return len(seen.shape) == len(alone.shape) == 1 and seen.size == 2 * alone.size


def without_goal(spec: Spec) -> Spec:
    """Returns what `with_goal` was given, but for bounds; raises ConfigError where the observation cannot be a pair."""
    seen = spec.observation
    if not isinstance(seen, Box) or len(seen.shape) != 1 or seen.size % 2:
        raise ConfigError(f"a policy that reaches goals reads an observation and a goal of the same size; found {seen}")
    return Spec(Box((seen.size // 2,)), spec.action)


def drawing_of(kind: BatchKind) -> GoalDrawing:
    """Returns the drawing that an algorithm's batch kind asks for, one without hindsight where it asks for none."""
    return kind.drawing if isinstance(kind, Goals) else GoalDrawing()


def _unpacked(rows: Tensor, spec: Spec) -> tuple[GoalBatch, list[Tensor]]:
    """The batch, and the subgoals where the rows hold them."""
    states, actions = rows.split(list(Goals.columns(spec).values()), dim=-1)  # [B, R, O], [B, R, A]
    s, s_next, value_goal, actor_goal, *subgoals = states.unbind(-2)
    reached = _same(s, value_goal)
    a = unpack_actions(actions[..., 0, :], spec.action)
    return GoalBatch(s, a, reached - 1, s_next, reached, value_goal, actor_goal), subgoals


def _same(s: Tensor, goal: Tensor) -> Tensor:
    # equal states, not equal rows of the log: in a finite world a goal is reached wherever it was met
    return (s == goal).all(-1).to(s.dtype)
