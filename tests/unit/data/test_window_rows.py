"""Windows: which states of the log stand in each, what they are worth, and that padding is nothing at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchrl.core.errors import DataError
from stitchrl.core.frame_batch import gather
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.core.windows import WindowBatch, Windows
from stitchrl.data import window_rows
from stitchrl.data.dataset import Dataset
from stitchrl.data.frame_stacks import stack_frames
from stitchrl.data.sampling import StreamedRows, rows_of
from stitchrl.data.transforms import Affine, apply
from stitchrl.data.window_rows import WindowRows
from tests.unit.data.image_logs import SIDE, dense, single

CPU = torch.device("cpu")
SPEC = Spec(Box((2,)), Box((1,), (-1.0,), (1.0,)))


def log(lengths: tuple[int, ...] = (3, 5, 1), terminal: bool = True) -> Dataset:
    """Returns episodes whose observations are (episode + 1, time + 1), whose actions are a tenth of the time and whose rewards are 1, 2, 3, …"""
    episodes = []
    for e, length in enumerate(lengths):
        observations = np.array([[e + 1, t + 1] for t in range(length + 1)], np.float32)
        columns = {"observations": observations, "actions": np.arange(length, dtype=np.float32)[:, None] / 10}
        episodes.append({**columns, "rewards": np.arange(1.0, length + 1), "terminals": terminal})
    return Dataset.from_episodes(episodes, SPEC)


def rows(dataset: Dataset, memory: int = 1 << 20, transforms: tuple[Affine, ...] = (), **kind: Any) -> WindowRows:
    made = rows_of(dataset, Windows(**kind), transforms, CPU, memory)
    assert isinstance(made, WindowRows)
    return made


def window(made: WindowRows, step: int) -> WindowBatch:
    """Returns the window that begins at a step of the log, without the axis of windows."""
    table, position = made.gather(made.states_of(torch.tensor([step])))
    batch = made.kind.unpack(gather(table, position, torch.float32), made.spec)
    return WindowBatch._make(None if x is None else x[0] for x in batch)


def test_a_window_is_the_steps_of_one_episode_and_then_nothing() -> None:
    s, a, r, g, terminal, t, taken, present, *_ = window(rows(log(), length=6), 1)  # episode 0, time 1, of 3 steps
    assert s.tolist() == [[1, 2], [1, 3], [1, 4], [0, 0], [0, 0], [0, 0]]
    assert a.squeeze(-1).tolist() == pytest.approx([0.1, 0.2, 0, 0, 0, 0])
    assert r.tolist() == [2, 3, 0, 0, 0, 0]
    assert g.tolist() == [5, 3, 0, 0, 0, 0]
    assert terminal.tolist() == [0, 1, 0, 0, 0, 0], "the last action ended the task"
    assert t.dtype == torch.int64 and t.tolist() == [1, 2, 3, 0, 0, 0]
    assert taken.tolist() == [1, 1, 0, 0, 0, 0] and present.tolist() == [1, 1, 1, 0, 0, 0]


def test_steps_alone_leave_the_final_state_out() -> None:
    batch = window(rows(log(), length=4, final_states=False), 1)
    assert batch.present.tolist() == batch.taken.tolist() == [1, 1, 0, 0]
    assert batch.observations[2].tolist() == [0, 0]


def test_before_the_start_the_first_state_is_repeated() -> None:
    batch = window(rows(log(), length=5, history=3), 4)  # episode 1, time 1
    assert batch.observations.tolist() == [[2, 1], [2, 1], [2, 1], [2, 2], [2, 3]]
    assert batch.timesteps.tolist() == [0, 0, 0, 1, 2]
    assert batch.actions.squeeze(-1).tolist() == pytest.approx([0, 0, 0, 0.1, 0.2])


def test_returns_are_discounted_and_end_with_the_episode_whoever_ended_it() -> None:
    for terminal in (True, False):
        batch = window(rows(log(terminal=terminal), length=3, discount=0.5), 0)
        assert batch.returns_to_go.tolist() == [1 + 0.5 * 2 + 0.25 * 3, 2 + 0.5 * 3, 3]
    assert batch.terminals.tolist() == [0, 0, 0], "the clock ends no task"


def test_transforms_change_states_and_never_padding() -> None:
    scales = (
        Affine("observations", np.array([10.0, 1.0]), np.array([5.0, 7.0]), "o"),
        Affine("actions", np.array([2.0]), np.array([0.5]), "a"),
        Affine("rewards", np.array([3.0]), np.array([1.0]), "r"),
    )
    batch = window(rows(log(), transforms=scales, length=4), 2)  # the last step of episode 0
    assert batch.observations.tolist() == [[15, 10], [15, 11], [0, 0], [0, 0]]
    assert batch.actions.squeeze(-1).tolist() == pytest.approx([0.9, 0, 0, 0])
    assert batch.rewards.tolist() == [10, 0, 0, 0] and batch.returns_to_go.tolist() == [10, 0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    length=st.integers(1, 9),
    history=st.integers(0, 3),
    final=st.booleans(),
)
def test_every_window_is_what_a_loop_over_the_episode_finds(lengths: list[int], length: int, history: int, final: bool) -> None:
    if len(lengths) > 1 and set(lengths) == {1}:
        lengths[0] = 2
    dataset = log(tuple(lengths))
    made = rows(dataset, length=length + history, history=history, final_states=final)
    for step in range(len(dataset)):
        batch, e = window(made, step), int(dataset.episode_of(step))
        time = step - int(dataset.offsets[e])
        last = lengths[e] if final else lengths[e] - 1
        for k in range(length + history):
            there = max(time - history + k, 0)
            expected = [e + 1, there + 1] if there <= last else [0, 0]
            assert batch.observations[k].tolist() == expected
            assert bool(batch.present[k]) == (there <= last) and bool(batch.taken[k]) == (there < lengths[e] and there <= last)


def test_starts_are_drawn_over_steps_so_that_long_episodes_come_more_often() -> None:
    made = rows(log((1, 9)), length=2)
    states = made.draw(0, (1, 20_000), torch.Generator().manual_seed(0))[0, :, 0]
    assert float((states == 0).double().mean()) == pytest.approx(0.1, abs=0.01)
    assert sorted(set(states.tolist())) == [0, *range(2, 11)], "no window begins in a final state"


def test_streamed_windows_are_those_in_memory() -> None:
    dataset = log()
    one, two = rows(dataset, length=4, discount=0.9), rows(dataset, memory=0, length=4, discount=0.9)
    assert isinstance(two.states, StreamedRows)
    for step in range(len(dataset)):
        for mine, theirs in zip(window(one, step), window(two, step), strict=True):
            assert mine is theirs is None or torch.equal(mine, theirs)


def test_a_sample_holds_every_episode_s_first_state() -> None:
    made = rows(log((3, 5, 1, 4)), length=4)
    sample = made.sample(most=3)
    assert sample.observations.shape[1:] == (1, 2)
    firsts = sample.returns_to_go[sample.timesteps == 0]
    assert sorted(firsts.tolist()) == [1, 6, 10, 15], "the returns of the four episodes"
    assert bool(sample.present.all())
    assert len(made.sample(most=9).present) <= 9 + 4, "of 17 states every other one, and the four first"


def test_of_images_as_many_are_sampled_as_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = rows(single((30, 20)), length=3)
    monkeypatch.setattr(window_rows, "SAMPLED_BYTES", 10 * SIDE * SIDE)
    sample = made.sample()
    assert 2 <= len(sample.present) <= 10 + 2
    assert (sample.timesteps == 0).sum() == 2


def test_labels_come_with_their_steps_and_are_checked() -> None:
    dataset = log()
    labelled = replace(dataset, columns={**dataset.columns, "infos/gait": np.repeat([2, 0, 1], [3, 5, 1])})
    made = rows(labelled, length=3, labels="infos/gait", label_count=3)
    table, position = made.gather(made.states_of(torch.tensor([1, 3, 8])))
    batch = made.kind.unpack(gather(table, position, torch.float32), SPEC)
    assert batch.labels is not None and batch.labels.tolist() == [[2, 2, 0], [0, 0, 0], [1, 0, 0]], "0 at final states and past them"
    with pytest.raises(DataError, match=r"'infos/gait' has labels from 0 to 2; 2 kinds were announced: expected 0 to 1"):
        rows(labelled, labels="infos/gait", label_count=2)
    with pytest.raises(DataError, match=r"no column 'infos/trot' of labels; it has .*'infos/gait'"):
        rows(labelled, labels="infos/trot", label_count=3)
    with pytest.raises(DataError, match=r"'rewards' is float32 \[9\]; labels are one integer a step"):
        rows(labelled, labels="rewards", label_count=3)


@pytest.mark.parametrize("memory", [1 << 20, 0], ids=["in memory", "streamed"])
def test_goals_are_where_each_episode_ends(memory: int) -> None:
    made = rows(log((3, 5)), memory, (Affine("observations", np.array([10.0, 10.0]), np.array([1.0, 1.0]), "o"),), length=3, goals=True)
    table, position = made.gather(made.states_of(torch.tensor([2, 4])))
    batch = made.kind.unpack(gather(table, position, torch.float32), made.spec)
    ends = torch.tensor([[1.0, 4], [2, 6]])
    expected = torch.stack([torch.stack([ends[0], ends[0], torch.full((2,), torch.nan)]), ends[1].expand(3, 2)])
    transformed = torch.from_numpy(
        apply([Affine("observations", np.array([10.0, 10.0]), np.array([1.0, 1.0]), "o")], "observations", expected.numpy().reshape(-1, 2))
    ).reshape(2, 3, 2)
    assert batch.goals is not None and torch.equal(batch.goals, transformed.nan_to_num(0.0))


def test_integers_stay_integers() -> None:
    spec = Spec(Discrete(7), Discrete(3))
    episode = {"observations": np.array([4, 6, 5]), "actions": np.array([2, 1]), "rewards": np.zeros(2), "terminals": True}
    batch = window(rows(Dataset.from_episodes([episode], spec), length=4), 0)
    assert batch.observations.dtype == batch.actions.dtype == torch.int64
    assert batch.observations.tolist() == [4, 6, 5, 0] and batch.actions.tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize("dataset", [single(), dense(single()), stack_frames(single((4, 2)), 3)], ids=["one by one", "dense", "stacks"])
def test_windows_of_frames_are_the_log_s_observations(dataset: Dataset) -> None:
    made = rows(dataset, length=3)
    for step in range(len(dataset)):
        batch = window(made, step)
        e = int(dataset.episode_of(step))
        assert batch.observations.dtype == torch.uint8
        for k in range(3):
            row = step + k
            if row < dataset.offsets[e + 1]:
                assert np.array_equal(batch.observations[k].numpy(), np.asarray(dataset.observations[row]))
            elif row == dataset.offsets[e + 1]:
                assert np.array_equal(batch.observations[k].numpy(), np.asarray(dataset.final_observations[e]))
            else:
                assert not batch.present[k]


def test_an_episode_that_is_too_long_or_in_no_order_is_refused() -> None:
    with pytest.raises(DataError, match="an episode has 5 steps and timesteps are told apart up to 4"):
        rows(log(), longest=4)
    rows(log(), longest=5)
    with pytest.raises(DataError, match="every episode is one step"):
        rows(log((1, 1, 1), terminal=False))
