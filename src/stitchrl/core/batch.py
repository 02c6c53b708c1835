"""What an algorithm eats. Shapes: S seeds, B batch, T time, N environments, E ensemble, K action chunk, D width, O/A observation/action.

A batch kind states which columns of the log it needs; the data layer packs them into one row a step, `[N, width]` on the
device, so that a batch is a single gather, and the kind unpacks the gathered rows `[B, width]` into named tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, final

from torch import Tensor

from stitchrl.core.frame_batch import PackedRows, observations
from stitchrl.core.spec import Discrete, Space, Spec, is_image


class TransitionBatch(NamedTuple):
    """`s, a, r, s_next, terminal = batch`: observations and actions as the spec says, rewards and terminals `[B]` float."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminals: Tensor  # 1 where the task ended, 0 elsewhere, also where only the clock ran out


def width(space: Space) -> int:
    """Returns how many numbers one element of a space takes in a packed row."""
    return 1 if isinstance(space, Discrete) else space.size


def unpack_space(columns: Tensor, space: Space) -> Tensor:
    """Returns `[B, *shape]` (or int64 `[B]` where discrete) from `[B, width]` columns of packed rows."""
    if isinstance(space, Discrete):
        return columns.squeeze(-1).long()
    return columns if len(space.shape) == 1 else columns.unflatten(-1, space.shape)


def unpack_actions(columns: Tensor, space: Space) -> Tensor:
    """Returns `[B, A]`, actions of whatever shape as vectors (or int64 `[B]` where discrete), from `[B, width]` columns of packed rows."""
    return columns.squeeze(-1).long() if isinstance(space, Discrete) else columns


@final
@dataclass(frozen=True)
class Transitions:
    """Single steps (s, a, r, s', terminal), each drawn uniformly from the log."""

    @staticmethod
    def columns(spec: Spec) -> dict[str, int]:
        """Returns the packed columns in order, with their widths; observation and action stand side by side as a critic reads them.

        Images are not packed: their frames are gathered beside the rows.
        """
        if is_image(spec.observation):
            return {"actions": width(spec.action), "rewards": 1, "terminals": 1}
        observation, action = width(spec.observation), width(spec.action)
        return {"observations": observation, "actions": action, "rewards": 1, "terminals": 1, "next_observations": observation}

    def unpack(self, rows: PackedRows, spec: Spec) -> TransitionBatch:
        """Returns the batch in packed `rows [B, width]`, or in rows and frames; images stay uint8."""
        if not isinstance(rows, Tensor):
            s, s_next = observations(rows, spec.observation)
            a, r, terminal = rows.numbers.split(list(self.columns(spec).values()), dim=-1)
            return TransitionBatch(s, unpack_actions(a, spec.action), r.squeeze(-1), s_next, terminal.squeeze(-1))
        s, a, r, terminal, s_next = rows.split(list(self.columns(spec).values()), dim=-1)
        return TransitionBatch(
            unpack_space(s, spec.observation),
            unpack_actions(a, spec.action),
            r.squeeze(-1),
            unpack_space(s_next, spec.observation),
            terminal.squeeze(-1),
        )


class PolicyBatch(NamedTuple):
    """`s, a, r, s_next, terminal, policy = batch`: a transition batch with what a fixed policy does at the next observations."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminals: Tensor
    next_policy: Tensor  # probabilities [B, n] of discrete actions, or K drawn actions [B, K, A]


@final
@dataclass(frozen=True)
class PolicyTransitions:
    """Single steps with a policy's probabilities or `draws` drawn actions at the next observations, computed before learning."""

    draws: int = 1  # of a continuous policy; read from the rows, so that one kind serves any number

    def columns(self, spec: Spec) -> dict[str, int]:
        """Returns the packed columns in order, with their widths."""
        policy = spec.action.n if isinstance(spec.action, Discrete) else self.draws * spec.action.size
        return Transitions.columns(spec) | {"next_policy": policy}

    def unpack(self, rows: Tensor, spec: Spec) -> PolicyBatch:
        """Returns the batch in packed `rows [B, width]`."""
        step = sum(Transitions.columns(spec).values())
        policy = rows[:, step:]
        if not isinstance(spec.action, Discrete):
            policy = policy.unflatten(-1, (-1, *spec.action.shape))
        return PolicyBatch(*Transitions().unpack(rows[:, :step], spec), policy)


class NextActionBatch(NamedTuple):
    """`s, a, r, s_next, terminal, a_next = batch`: a transition batch with the action that the log took next."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminals: Tensor
    next_actions: Tensor  # 0 after a terminal, where nothing follows


@final
@dataclass(frozen=True)
class NextActionTransitions:
    """Single steps with the logged action at the next observation, each drawn uniformly from the steps that have one or end the task.

    The last step of an episode that only the clock (or the log) ended has neither: the data layer leaves it out.
    """

    @staticmethod
    def columns(spec: Spec) -> dict[str, int]:
        """Returns the packed columns in order, with their widths."""
        return Transitions.columns(spec) | {"next_actions": width(spec.action)}

    def unpack(self, rows: Tensor, spec: Spec) -> NextActionBatch:
        """Returns the batch in packed `rows [B, width]`."""
        step = sum(Transitions.columns(spec).values())
        return NextActionBatch(*Transitions().unpack(rows[:, :step], spec), unpack_actions(rows[:, step:], spec.action))


class ReturnBatch(NamedTuple):
    """`s, a, r, s_next, terminal, g = batch`: a transition batch with what the log's episode still earned from each step on."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminals: Tensor
    returns_to_go: Tensor  # [B], discounted, its own reward included, in the learner's units of reward


@final
@dataclass(frozen=True)
class ReturnTransitions:
    """Single steps with the discounted return from each step to the end of its episode.

    `beyond_timeout`: what a step that only the clock ended is followed by: its own reward for ever, r / (1 - discount), or nothing.
    Neither matters to `unpack`: one kind reads the rows of any discount.
    """

    discount: float = 0.99
    beyond_timeout: Literal["last_reward", "nothing"] = "last_reward"

    @staticmethod
    def columns(spec: Spec) -> dict[str, int]:
        """Returns the packed columns in order, with their widths."""
        return Transitions.columns(spec) | {"returns_to_go": 1}

    def unpack(self, rows: Tensor, spec: Spec) -> ReturnBatch:
        """Returns the batch in packed `rows [B, width]`."""
        return ReturnBatch(*Transitions().unpack(rows[:, :-1], spec), rows[:, -1])


# What these kinds' critics read is one step of the log, so that they can be asked about any step.
SINGLE_STEPS = (Transitions, NextActionTransitions, ReturnTransitions)


class BatchKind(Protocol):
    """Which columns of the log a batch is packed from, and how it is unpacked."""

    def columns(self, spec: Spec) -> dict[str, int]:
        """Returns the packed columns in order, with their widths."""

    def unpack(self, rows: Any, spec: Spec) -> Any:
        """Returns the named tensors in packed `rows [B, width]`; `Transitions` also those in rows and frames (core/frame_batch.py)."""
