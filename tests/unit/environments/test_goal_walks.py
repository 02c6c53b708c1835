"""Walks through OGBench's mazes: legal, the same for the same seed, long ones everywhere and short ones in their part of the maze."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stitchrl.environments.goal_walks import _junctions, _Route, goal_walks
from stitchrl.environments.make import make
from stitchrl.recipes import goal_maze_logs
from stitchrl.recipes.datasets import available

pytest.importorskip("ogbench")

MAZE = "pointmaze-medium-v0"


def cells(positions: np.ndarray) -> np.ndarray:
    """Returns `[N, 2]`, rows and columns of the cells that hold positions: 4 m wide, (1, 1) around the origin."""
    return np.floor((positions[:, ::-1] + 6) / 4).astype(int)


def test_walks_are_the_same_for_the_same_seed_and_go_where_the_maze_lets_them() -> None:
    log, again, other = (goal_walks(MAZE, "navigate", 2, 150, seed) for seed in (1, 1, 2))
    assert log.fingerprint() == again.fingerprint() != other.fingerprint()
    assert log.episodes == 2 and log.lengths.tolist() == [150, 150]
    assert log.timeouts.sum() == 2 and not log.terminals.any() and not log.rewards.any()
    assert np.abs(log.actions).max() <= 1
    world = make(MAZE)
    free = world.unwrapped.maze_map == 0
    world.close()
    here = cells(log.observations)
    assert free[here[:, 0], here[:, 1]].all()
    moved = np.abs(log.next_observations() - log.observations)
    assert 0.05 < moved.mean() < 0.2 and moved.max() < 0.5, "a step of 1 moves it 0.2 m"
    assert len(np.unique(here[:151], axis=0)) > 4


def test_stitch_walks_go_four_cells_and_stay() -> None:
    log = goal_walks(MAZE, "stitch", 6, 200, seed=3)
    world = make(MAZE)
    maze = world.unwrapped
    for episode in range(6):
        here = cells(log.episode(episode).observations)
        centre = maze.ij_to_xy(tuple(here[0]))
        distance = maze.get_oracle_subgoal(centre, centre)[1]
        assert distance[tuple(here[-1])] == 4 and (here[-60:] == here[-1]).all()
        assert len(np.unique(here, axis=0)) <= 8, "a way of four cells and what noise adds, not the maze"
    world.close()


def test_goals_are_where_ways_turn_part_or_end() -> None:
    drawn = """
        #######
        #..#..#
        #.....#
        #.#.#.#
        #.#.#.#
        #######"""
    free = np.array([[symbol == "." for symbol in line.strip()] for line in drawn.split()])
    found = {(int(i), int(j)) for i, j in _junctions(free)}
    assert found == {(1, 1), (1, 2), (1, 4), (1, 5), (2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (4, 1), (4, 3), (4, 5)}
    straight = np.pad(np.ones((1, 4), bool), 1)
    assert _junctions(straight).tolist() == [[1, 1], [1, 4]]


def test_a_walk_draws_its_next_goal_within_the_tasks_own_reach_of_the_present_one() -> None:
    world = make("antmaze-medium-v0")
    maze = world.unwrapped
    world.reset(seed=0)
    junctions = set(map(tuple, _junctions(maze.maze_map == 0).tolist()))
    for kind, moves_on in (("navigate", True), ("stitch", False)):
        route = _Route(maze, lambda here, there: np.array(maze.ij_to_xy(there)), kind, np.random.default_rng(6))
        for _ in range(5):
            before, there = np.array(maze.cur_goal_xy), route.there
            assert kind == "stitch" or there in junctions
            assert np.abs(before - maze.ij_to_xy(there)).max() <= 1
            maze.set_xy(before + [0.6, 0])
            route.arrive()
            assert np.array_equal(maze.cur_goal_xy, before), "half a metre is the ant's reach"
            maze.set_xy(before + [0.4, 0])
            route.arrive()
            assert np.array_equal(maze.cur_goal_xy, before) != moves_on
    world.close()


def test_built_in_logs_tell_what_they_are() -> None:
    for name, steps in (("navigate", 1000), ("stitch", 200), ("large-navigate", 1000), ("large-stitch", 200)):
        recipe = available()[f"pointmaze/{name}"]
        assert recipe.steps == 100_000 == recipe.episodes * steps
        assert ("large" in name) == ("large" in recipe.environment)


def test_a_longer_log_begins_with_the_shorter_ones_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(goal_maze_logs._LOGS["pointmaze/stitch"], episodes=2, steps=40)
    monkeypatch.setitem(goal_maze_logs._LOGS, "pointmaze/stitch", short)
    once, thrice = (goal_maze_logs.make("pointmaze/stitch", times) for times in (1, 3))
    assert (once.episodes, thrice.episodes) == (2, 6) and thrice.metadata["provenance"]["amount"] == "episodes=6"
    assert thrice.select(range(2)).steps_fingerprint() == once.steps_fingerprint() != thrice.select(range(2, 4)).steps_fingerprint()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["navigate", "stitch"])
def test_built_in_logs_are_the_promised_ones(name: str) -> None:
    recipe = available()[f"pointmaze/{name}"]
    assert recipe.make().fingerprint() == recipe.fingerprint


def test_an_ant_stands_up_for_each_walk_and_is_told_directions() -> None:
    told = []

    def mover(seen: np.ndarray, direction: np.ndarray) -> np.ndarray:
        told.append(direction)
        return np.zeros(8)

    log = goal_walks("antmaze-medium-v0", "explore", 2, 25, seed=5, mover=mover, noise=0.3)
    assert log.observations.shape == (50, 29) and log.actions.shape == (50, 8)
    np.testing.assert_allclose(np.linalg.norm(told, axis=1), 1)
    changes = [t for t in range(1, 25) if not np.array_equal(told[t], told[t - 1])]
    assert changes == [10, 20], "a new direction every ten steps"
    height = log.observations[[0, 25], 2]
    assert 0 < abs(height[0] - height[1]) < 0.2, "as the environment's reset leaves it: not twice the same"
    assert 0.2 < log.actions.std() < 0.4


def test_ant_logs_tell_what_they_are() -> None:
    for kind, steps in (("navigate", 1000), ("stitch", 200), ("explore", 500)):
        recipe = available()[f"antmaze/large-{kind}"]
        assert recipe.environment == "antmaze-large-v0" and recipe.steps == 100_000 == recipe.episodes * steps
