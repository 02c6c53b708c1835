"""What follows a logged step: next actions and returns to go, by hand, packed and streamed; and logs that hold neither."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stitchrl.core.batch import NextActionTransitions, ReturnTransitions
from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.following import returns_to_go, usable_rows
from stitchrl.data.sampling import ChosenRows, StreamedRows, pack_rows, rows_of
from stitchrl.data.transforms import affine_rewards, scale_action_space
from stitchrl.training.blocks import Blocks

CPU = torch.device("cpu")
SPEC = Spec(Box((1,)), Box((1,), (0.0,), (2.0,)))


def log() -> Dataset:
    """Three episodes: three steps to a terminal, two to a timeout, one to a terminal."""
    ends = {"terminals": [0, 0, 1, 0, 0, 1], "timeouts": [0, 0, 0, 0, 1, 0]}
    return Dataset.from_flat(
        [[1], [2], [3], [4], [5], [6]], [[0.0], [0.5], [1.0], [1.5], [2.0], [0.5]], [1, 2, 4, 8, 16, 32], spec=SPEC,
        final_observations=[[30], [50], [60]], **ends,
    )  # fmt: skip


def test_a_row_holds_the_next_logged_action_as_the_learner_sees_it() -> None:
    rows = pack_rows(log(), NextActionTransitions(), scale_action_space(SPEC))
    assert rows[:, -1].tolist() == [-0.5, 0.0, 0.0, 1.0, 0.0, 0.0]  # the second and third 0 stand where nothing follows
    batch = NextActionTransitions().unpack(torch.from_numpy(rows), SPEC)
    assert batch.next_actions.shape == (6, 1) and batch.terminals.tolist() == [0, 0, 1, 0, 0, 1]
    assert batch.next_observations.flatten().tolist() == [2, 3, 30, 5, 50, 60]


def test_integer_next_actions_come_back_as_integers() -> None:
    d = Dataset.from_flat([[1], [2]], np.array([2, 1]), [0, 0], [0, 1], [0, 0], spec=Spec(Box((1,)), Discrete(3)), final_observations=[[3]])
    batch = NextActionTransitions().unpack(torch.from_numpy(pack_rows(d, NextActionTransitions(), [])), d.spec)
    assert batch.next_actions.dtype == torch.int64 and batch.next_actions.tolist() == [1, 0]


def test_a_step_that_the_clock_ended_is_left_out() -> None:
    usable = usable_rows(log(), NextActionTransitions())
    assert usable is not None and usable.tolist() == [0, 1, 2, 3, 5]
    assert usable_rows(log(), ReturnTransitions()) is None
    assert usable_rows(log().select([0, 2]), NextActionTransitions()) is None


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_packed_and_streamed_rows_draw_the_same_steps(limit: int) -> None:
    rows = rows_of(log(), NextActionTransitions(), [], CPU, limit)
    assert isinstance(rows, StreamedRows if limit == 0 else ChosenRows) and rows.size == 5
    block = Blocks(rows, {}, 8, (0,), CPU, torch.float32).draw()
    assert set(rows.numbers(block.drawn).unique().tolist()) == {0, 1, 2, 3, 5}  # numbers in the log, for whoever looks for the batch there
    whole = torch.from_numpy(pack_rows(log(), NextActionTransitions(), []))
    assert torch.equal(block.table[block.index], whole[rows.numbers(block.drawn)])


def test_returns_to_go_by_hand() -> None:
    d = log()
    found = pack_rows(d, ReturnTransitions(0.5, "nothing"), [])[:, -1]
    assert found.tolist() == [1 + 0.5 * (2 + 0.5 * 4), 2 + 0.5 * 4, 4, 8 + 0.5 * 16, 16, 32]
    found = pack_rows(d, ReturnTransitions(0.5, "last_reward"), [])[:, -1]
    assert found.tolist() == [3.0, 4.0, 4.0, 8 + 0.5 * 32, 16 / (1 - 0.5), 32]
    # in the learner's units of reward: 10 r - 5
    found = pack_rows(d, ReturnTransitions(0.5, "last_reward"), [affine_rewards(10.0, -5.0)])[:, -1]
    assert found.tolist() == [5 + 0.5 * (15 + 0.5 * 35), 15 + 0.5 * 35, 35, 75 + 0.5 * 310, 310, 315]


def test_a_failure_without_end_is_worth_its_reward_for_ever() -> None:
    # the authors' rule for trajectories of nothing but the failure's reward: r / (1 - discount) at each step
    found = returns_to_go(np.full(50, -5.0), np.array([0, 50]), np.array([False]), 0.99, "last_reward")
    np.testing.assert_allclose(found, -500.0, rtol=1e-6)


def test_returns_to_go_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 40)
    offsets, rewards, terminal = np.concatenate([[0], np.cumsum(lengths)]), rng.standard_normal(lengths.sum()), rng.random(40) < 0.5
    expected = np.zeros(len(rewards))
    for e in range(40):
        g = 0.0 if terminal[e] else rewards[offsets[e + 1] - 1] / (1 - 0.9)
        for i in reversed(range(offsets[e], offsets[e + 1])):
            g = expected[i] = rewards[i] + 0.9 * g
    np.testing.assert_allclose(returns_to_go(rewards, offsets, terminal, 0.9, "last_reward"), expected, rtol=1e-6)


def test_streamed_returns_are_the_packed_ones() -> None:
    streamed = rows_of(log(), ReturnTransitions(0.9), [], CPU, 0)
    table, position = streamed.gather(torch.tensor([[5, 0, 3, 3]]))
    assert torch.equal(table[position], torch.from_numpy(pack_rows(log(), ReturnTransitions(0.9), []))[torch.tensor([[5, 0, 3, 3]])])


@pytest.mark.parametrize("kind", [NextActionTransitions(), ReturnTransitions()])
@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_rows_in_no_order_are_refused(kind: Any, limit: int) -> None:
    d = Dataset.from_flat(
        [[1], [2]], [[0.0], [1.0]], [0, 0], [0, 1], spec=SPEC, next_observations=[[3], [4]], transitions=True, metadata={"name": "shuffled"}
    )
    with pytest.raises(DataError, match="shuffled: .*every episode is one step"):
        rows_of(d, kind, [], CPU, limit)


def test_one_short_episode_is_packed_as_a_replay_does() -> None:
    d = Dataset.from_flat([[1]], [[1.0]], [2], [0], [1], spec=SPEC, final_observations=[[3]])
    assert rows_of(d, NextActionTransitions(), [], CPU, 1 << 30).size == 0  # no step of it has a next action
    assert pack_rows(d, ReturnTransitions(0.5), [])[:, -1].tolist() == [4.0]


def test_a_return_without_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match="discount 1"):
        pack_rows(log(), ReturnTransitions(1.0), [])
    assert pack_rows(log(), ReturnTransitions(1.0, "nothing"), [])[:, -1].tolist() == [7, 6, 4, 24, 16, 32]
