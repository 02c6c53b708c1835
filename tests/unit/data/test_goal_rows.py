"""Goals by hindsight: which states of the log a step gets, and what it is worth to have reached one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stitchrl import algorithms
from stitchrl.core.batch import NextActionTransitions, Transitions
from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.goals import GoalDrawing, Goals, HindsightTransitions, check_drawing, with_goal, without_goal
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.goal_rows import GoalRows, for_pairs, goal_rows_of
from stitchrl.data.sampling import StreamedRows
from stitchrl.data.transforms import Affine, standardize_observations
from stitchrl.experiment import plan

CPU = torch.device("cpu")
SPEC = Spec(Box((2,)), Box((1,), (-1.0,), (1.0,)))
STATE, NEXT, VALUE_GOAL, ACTOR_GOAL, SUBGOAL, ACTOR_SUBGOAL = range(6)


def log(lengths: tuple[int, ...] = (3, 5, 1), terminal: bool = False) -> Dataset:
    """Returns episodes whose observations are (episode, time) and whose actions are a tenth of the time."""
    episodes = []
    for e, length in enumerate(lengths):
        observations = np.array([[e, t] for t in range(length + 1)], np.float32)
        columns = {"observations": observations, "actions": np.arange(length, dtype=np.float32)[:, None] / 10, "rewards": np.zeros(length)}
        episodes.append({**columns, "terminals": terminal})
    return Dataset.from_episodes(episodes, SPEC)


def rows(dataset: Dataset, kind: Any = None, memory: int = 1 << 20, discount: float = 0.9, **drawing: Any) -> GoalRows:
    return goal_rows_of(dataset, kind or Goals(), GoalDrawing(hindsight=True, **drawing), discount, [], CPU, memory)


def drawn(made: GoalRows, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of drawn steps, and (episode, time) of their states, `[count, R, 2]`."""
    index = made.draw(0, (1, count), torch.Generator().manual_seed(3))
    table, position = made.gather(index)
    return index[0, :, 0].numpy(), table[position][0, :, :, :2].numpy()


def test_a_step_is_followed_by_its_next_state_also_the_final_one() -> None:
    _, states = drawn(rows(log()), 500)
    assert (states[:, NEXT] == states[:, STATE] + [0, 1]).all()
    times = {(int(e), int(t)) for e, t in states[:, STATE]}
    assert times == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0)}, "no step begins in a final state"


def test_what_a_divergence_leaves_names_the_steps_of_the_log() -> None:
    d = log()
    made = rows(d)
    index = made.draw(0, (1, 500), torch.Generator().manual_seed(3))
    table, position = made.gather(index)
    states, numbers = table[position][0, :, :, :2].numpy(), made.numbers(index)[0].numpy()
    taken = numbers >= 0
    np.testing.assert_array_equal(np.asarray(d.observations)[numbers[taken]], states[taken])
    final = states[..., 1] == np.array([3, 5, 1])[states[..., 0].astype(int)]
    np.testing.assert_array_equal(taken, ~final)


def test_rows_in_no_order_have_no_later_states() -> None:
    single = [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    d = Dataset.from_flat(
        single, [[0.0]] * 3, [0] * 3, [0] * 3, spec=SPEC, next_observations=single, transitions=True, metadata={"name": "shuffled"}
    )
    with pytest.raises(DataError, match="shuffled: every episode is one step"):
        rows(d)
    nowhere = {"value_current": 0.0, "value_future": 0.0, "value_random": 1.0, "actor_future": 0.0, "actor_random": 1.0}
    assert rows(d, **nowhere).size == 3


def test_goals_are_drawn_by_their_shares() -> None:
    lengths = (400, 400)
    _, states = drawn(rows(log(lengths), discount=0.9))
    here, goal = states[:, STATE], states[:, VALUE_GOAL]
    current, same = (here == goal).all(1), here[:, 0] == goal[:, 0]
    assert current.mean() == pytest.approx(0.2, abs=0.012)  # four standard errors
    # a random one (0.3) is of the other episode half the time, and of what is past a quarter
    assert (~same).mean() == pytest.approx(0.15, abs=0.012)
    assert (same & (goal[:, 1] < here[:, 1])).mean() == pytest.approx(0.075, abs=0.01)
    actor = states[:, ACTOR_GOAL]
    assert (actor[:, 0] == here[:, 0]).all() and (actor[:, 1] > here[:, 1]).all(), "the actor's goals are later states, by default"


def test_later_goals_are_geometric_and_cut_at_the_episodes_end() -> None:
    made = rows(log((100_000,)), discount=0.9, value_current=0, value_future=1, value_random=0)
    _, states = drawn(made)
    ahead = states[:, VALUE_GOAL, 1] - states[:, STATE, 1]
    assert ahead.min() == 1
    assert ahead.mean() == pytest.approx(10, abs=0.3)  # the mean of a geometric law of 0.1; its deviation 9.5, of 20,000
    assert (ahead > 10).mean() == pytest.approx(0.9**10, abs=0.014)
    _, states = drawn(rows(log((4,)), discount=0.9, value_current=0, value_future=1, value_random=0))
    first = states[states[:, STATE, 1] == 0][:, VALUE_GOAL, 1]
    for k, p in ((1, 0.1), (2, 0.09), (3, 0.081), (4, 0.9**3)):
        assert (first == k).mean() == pytest.approx(p, abs=0.025)


def test_uniform_goals_are_all_later_states_as_likely() -> None:
    _, states = drawn(rows(log((4,))))
    for t in range(4):
        goal = states[states[:, STATE, 1] == t][:, ACTOR_GOAL, 1]
        for k in range(t + 1, 5):
            assert (goal == k).mean() == pytest.approx(1 / (4 - t), abs=0.03)


def test_subgoals_lie_ahead_and_not_beyond_the_goal() -> None:
    _, states = drawn(rows(log((50, 50)), Goals(subgoals=True), actor_future=0.5, actor_random=0.5, subgoal_steps=7))
    here, goal, subgoal, toward = (states[:, i] for i in (STATE, ACTOR_GOAL, SUBGOAL, ACTOR_SUBGOAL))
    assert (subgoal[:, 1] == np.minimum(here[:, 1] + 7, 50)).all() and (subgoal[:, 0] == here[:, 0]).all()
    other = goal[:, 0] != here[:, 0]
    assert (toward[other] == subgoal[other]).all()
    near = ~other & (goal[:, 1] > here[:, 1]) & (goal[:, 1] < here[:, 1] + 7)
    assert near.any()
    # a near goal that was drawn as a later state is its own subgoal; one that was drawn at random from the same episode need not be
    assert (toward[near] == goal[near]).all(1).mean() > 0.8
    assert (toward[:, 1] <= subgoal[:, 1]).all() and (toward[:, 0] == here[:, 0]).all()


def test_the_batch_says_where_the_goal_is_reached() -> None:
    spec = with_goal(SPEC)
    table = torch.tensor([[0.0, 0.0, 0.3], [0.0, 1.0, 0.4], [0.0, 1.0, 0.5]])  # the last two states are the same place
    steps = table[torch.tensor([[0, 1, 1, 0], [1, 2, 2, 0], [1, 2, 1, 1]])]
    s, a, r, s_next, terminal, goal, actor_goal = Goals().unpack(steps, spec)
    assert s.tolist() == [[0, 0], [0, 1], [0, 1]] and s_next.tolist() == [[0, 1], [0, 1], [0, 1]]
    assert a.squeeze(-1).tolist() == pytest.approx([0.3, 0.4, 0.4])
    assert terminal.tolist() == [0, 1, 1], "an equal state is the goal, at whatever time it was logged"
    assert r.tolist() == [-1, 0, 0]
    assert goal.tolist() == [[0, 1], [0, 1], [0, 1]] and actor_goal.tolist() == [[0, 0], [0, 0], [0, 1]]
    values, actors = HindsightTransitions().unpack(steps, spec)
    assert values.observations.tolist() == [[0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 0, 1]]
    assert values.next_observations.tolist() == [[0, 1, 0, 1]] * 3
    assert values.rewards.tolist() == [-1, 0, 0] and values.terminals.tolist() == [0, 1, 1]
    assert actors.observations.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]]
    assert actors.rewards.tolist() == [0, -1, 0] and actors.terminals.tolist() == [1, 0, 1]


def test_streamed_states_are_the_packed_ones() -> None:
    dataset = log((3, 50, 1, 7))
    packed, streamed = (rows(dataset, Goals(subgoals=True), memory) for memory in (1 << 20, 0))
    assert isinstance(streamed.states, StreamedRows) and not isinstance(packed.states, StreamedRows)
    index = packed.draw(0, (4, 32), torch.Generator().manual_seed(1))
    assert torch.equal(index, streamed.draw(0, (4, 32), torch.Generator().manual_seed(1)))
    (one, i), (two, j) = packed.gather(index), streamed.gather(index)
    assert torch.equal(one[i], two[j])


def test_actions_stand_beside_their_states_and_scales_are_applied() -> None:
    dataset = log((3, 2))
    scale = Affine("observations", np.array([1.0, 10.0]), np.array([5.0, 0.0]), "a scale")
    made = goal_rows_of(dataset, Transitions(), GoalDrawing(hindsight=True), 0.9, [scale], CPU, 1 << 20)
    assert isinstance(made.kind, HindsightTransitions)
    table, _ = made.gather(torch.zeros(1, dtype=torch.int64))
    expected = [[5, 0, 0], [5, 10, 0.1], [5, 20, 0.2], [5, 30, 0], [6, 0, 0], [6, 10, 0.1], [6, 20, 0]]
    np.testing.assert_allclose(table.numpy(), expected, rtol=1e-6)


def test_transforms_of_pairs_treat_both_halves_alike() -> None:
    dataset = log((3, 5))
    [pairs] = for_pairs([standardize_observations(dataset)], SPEC)
    x = np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 5.0, 0.0, 2.0]], np.float32)
    found = pairs.forward(x)
    single = standardize_observations(dataset)
    np.testing.assert_allclose(found, np.concatenate([single.forward(x[:, :2]), single.forward(x[:, 2:])], 1), rtol=1e-6)
    number = Affine("observations", np.array([2.0]), np.array([1.0]), "of all dimensions")
    assert for_pairs([number], SPEC)[0].scale.tolist() == [2.0] * 4


def test_a_log_that_ends_its_own_task_is_refused_unless_told() -> None:
    with pytest.raises(DataError, match=r"3 steps end the task .*--goals.terminals as_timeouts"):
        rows(log(terminal=True))
    assert rows(log(terminal=True), terminals="as_timeouts").size == 9
    with pytest.raises(ConfigError, match="discount is 1"):
        rows(log(), discount=1.0)


def test_specs_of_pairs() -> None:
    spec = Spec(Box((2,), (0.0, -1.0), (1.0, 1.0)), Discrete(3))
    assert with_goal(spec).observation == Box((4,), (0.0, -1.0, 0.0, -1.0), (1.0, 1.0, 1.0, 1.0))
    assert without_goal(with_goal(spec)).observation.shape == (2,)
    for seen in (Discrete(4), Box((3, 8, 8), dtype="uint8")):
        with pytest.raises(ConfigError, match="real-valued observation vectors"):
            with_goal(Spec(seen, Discrete(2)))
    with pytest.raises(ConfigError, match="same size"):
        without_goal(Spec(Box((3,)), Discrete(2)))


def test_drawings_that_cannot_be_meant_are_refused() -> None:
    on = GoalDrawing(hindsight=True)
    check_drawing(on, Transitions(), "iql")
    check_drawing(on, Goals(), "gcivl")
    check_drawing(GoalDrawing(), Transitions(), "iql")
    with pytest.raises(ConfigError, match="add up to 1 and give 1.3"):
        check_drawing(replace(on, value_future=0.8), Transitions(), "iql")
    with pytest.raises(ConfigError, match="subgoal_steps is 3, and has no effect without --goals.hindsight; add that"):
        check_drawing(GoalDrawing(subgoal_steps=3), Transitions(), "iql")
    for kind, name in ((Transitions(), "iql"), (Goals(), "gcivl")):
        with pytest.raises(ConfigError, match=f"subgoal_steps is 3, and has no effect with '{name}', which has no subgoals"):
            check_drawing(replace(on, subgoal_steps=3), kind, name)
    check_drawing(replace(on, subgoal_steps=3), Goals(subgoals=True), "hiql")
    kinds = {name: algorithms.find(name)[0] for name in algorithms.names()}
    assert {name for name, kind in kinds.items() if isinstance(kind.batch, Transitions) and not kind.fine_tunes} == {"bc"}, "what clones"
    with pytest.raises(ConfigError, match="discount is 0.9, and has no effect with 'bc'"):
        plan("bc", goals=replace(on, discount=0.9))
    plan("bc", goals=replace(on, discount=0.9, actor_spacing="geometric"))
    with pytest.raises(ConfigError, match="value_future is 0.8, and has no effect with 'bc', which learns no values"):
        plan("bc", goals=replace(on, value_current=0.2, value_future=0.8, value_random=0.0))
    plan("bc", goals=replace(on, actor_future=0.5, actor_random=0.5))
    plan("iql", goals=replace(on, value_current=0.2, value_future=0.8, value_random=0.0))
    with pytest.raises(ConfigError, match="learns from nothing else"):
        check_drawing(GoalDrawing(), Goals(), "gcivl")
    with pytest.raises(ConfigError, match="more than single steps"):
        check_drawing(on, NextActionTransitions(), "rebrac")
