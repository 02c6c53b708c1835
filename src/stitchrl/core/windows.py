"""Windows of successive states of one episode: what sequence models and planners eat.

A packed row is a state: what was seen, what was done there, what it earned. A batch gathers T of them a window; past the episode's end
the window is padded with a row of zeros, which is `present` nowhere, so that padding is masked and never normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

from torch import Tensor

from stitchrl.core.batch import unpack_actions, unpack_space, width
from stitchrl.core.frame_batch import FrameRows, PackedRows
from stitchrl.core.spec import Spec, is_image


class WindowBatch(NamedTuple):
    """`s, a, r, g, terminal, t, taken, present, *_ = batch`: B windows of T states."""

    observations: Tensor  # [B, T, *O], int64 [B, T] where discrete, uint8 where images
    actions: Tensor  # [B, T, A], int64 [B, T] where discrete; 0 where nothing was done
    rewards: Tensor  # [B, T], in the learner's units, as the next
    returns_to_go: Tensor  # [B, T]: discounted, its own reward included, to the episode's end, whoever ended it; 0 at its final state
    terminals: Tensor  # [B, T]: 1 where the action done here ended the task, 0 where only the clock or the log ended it
    timesteps: Tensor  # int64 [B, T], counted from the episode's start
    taken: Tensor  # [B, T]: 1 where an action was done, 0 at an episode's final state and on padding
    present: Tensor  # [B, T]: 1 where a state is, 0 on padding
    labels: Tensor | None = None  # int64 [B, T], of which kind each step is, where asked for; 0 where nothing was done
    goals: Tensor | None = None  # [B, T, *O], where each step's episode ends, where asked for; 0 on padding


@final
@dataclass(frozen=True)
class Windows:
    """`length` successive states, starting at a step drawn uniformly: episodes are drawn in proportion to their length.

    length: T, `history` included. discount: of the returns to go. history: states before the drawn one; before an episode's start its first
    state is repeated, as if it had waited there. longest: steps of the longest episode whose timesteps can be told apart; a log with a
    longer one is refused. final_states: whether a window may reach an episode's final state, where nothing is done.
    labels: a column of integers, 0 to label_count - 1, that say of which kind each step is. goals: whether each step tells where its episode
    ends; not of images. Of these only `labels` and `goals` matter to `unpack`.
    """

    length: int = 20
    discount: float = 1.0
    history: int = 0
    longest: int | None = None
    final_states: bool = True
    labels: str | None = None
    label_count: int = 0
    goals: bool = False

    def columns(self, spec: Spec) -> dict[str, int]:
        """Returns the packed columns in order, with their widths; images are gathered beside them."""
        seen = {} if is_image(spec.observation) else {"observations": width(spec.observation)}
        told = ("rewards", "returns_to_go", "terminals", "timesteps", "taken", "present", *(["labels"] if self.labels else []))
        goals = {"goals": width(spec.observation)} if self.goals else {}
        return seen | {"actions": width(spec.action)} | dict.fromkeys(told, 1) | goals

    def unpack(self, rows: PackedRows, spec: Spec) -> WindowBatch:
        """Returns the batch in packed `rows [B, T, width]`, or in rows and frames."""
        numbers = rows.numbers if isinstance(rows, FrameRows) else rows
        widths = self.columns(spec)
        columns = dict(zip(widths, numbers.split(list(widths.values()), dim=-1), strict=True))
        s = _stacks(rows, spec) if isinstance(rows, FrameRows) else unpack_space(columns.pop("observations"), spec.observation)
        a = unpack_actions(columns.pop("actions"), spec.action)
        goals = unpack_space(columns.pop("goals"), spec.observation) if self.goals else None
        r, g, terminal, t, taken, present, *labels = (x.squeeze(-1) for x in columns.values())
        return WindowBatch(s, a, r, g, terminal, t.long(), taken, present, labels[0].long() if labels else None, goals)


def _stacks(rows: FrameRows, spec: Spec) -> Tensor:
    """The observations in the frames `windows [B, T, D, *F]`: stacks, or the frames themselves where an observation is one."""
    return rows.windows.reshape(*rows.numbers.shape[:-1], *spec.observation.shape)  # type: ignore[union-attr]
