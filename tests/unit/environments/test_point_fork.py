"""The ball's fork: its prizes, its starts, and that its log can only be stitched."""

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.data.following import returns_to_go
from stitchrl.environments.collect import collect
from stitchrl.environments.make import POINT_FORK, make
from stitchrl.environments.maze_walls import walls_of
from stitchrl.environments.waypoints import WaypointBehaviour
from stitchrl.recipes import pointmaze_logs
from stitchrl.recipes.datasets import available

pytest.importorskip("gymnasium_robotics")


@pytest.fixture(scope="module")
def fork():
    made = make(POINT_FORK)
    yield made
    made.close()


def test_starts_in_its_cell_at_rest_and_repeats_by_seed(fork):
    first, info = fork.reset(seed=3)
    fork.step(np.ones(2, np.float32))
    again, _ = fork.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    assert (first.shape, first.dtype, info) == ((4,), np.float32, {"success": False})
    other = make(POINT_FORK, start="other")
    far, _ = other.reset(seed=3)
    other.close()
    # the map has 8 rows and 7 columns of 1 m, its middle at 0
    for seen, centre in ((first, [-2, 2.5]), (far, [1, -2.5])):
        assert np.abs(seen[:2] - centre).max() <= 0.25
        np.testing.assert_array_equal(seen[2:], 0)


@pytest.mark.parametrize(("place", "reward"), [("goal", 1.0), ("lesser", 0.45)])
def test_each_step_at_a_prize_is_paid_and_none_ends_the_episode(fork, place, reward):
    fork.reset(seed=0)
    ball, centre = fork.unwrapped.point_env, getattr(fork.unwrapped, place)
    for distance, paid in ((0.46, 0.0), (0.44, reward), (0.0, reward)):
        ball.set_state(centre + [0, distance * (1 if place == "goal" else -1)], np.zeros(2))
        _, found, terminated, truncated, info = fork.step(np.zeros(2, np.float32))
        assert (found, terminated, truncated, info["success"]) == (paid, False, False, paid == 1)


def test_the_clock_ends_it_and_a_controller_told_the_goal_earns_the_reference():
    world = make(POINT_FORK)
    log = collect(POINT_FORK, WaypointBehaviour(world, world.unwrapped.goal, noise=0.0), episodes=8)
    world.close()
    np.testing.assert_array_equal(log.lengths, 300)
    np.testing.assert_array_equal(log.timeouts.nonzero()[0], log.offsets[1:] - 1)
    assert not log.terminals.any()
    assert log.returns().mean() == pytest.approx(pointmaze_logs.FORK_REFERENCE["expert"], abs=5)


def test_its_log_has_two_ways_that_share_the_corridor_and_the_best_lead_to_the_lesser_prize():
    recipe = available()["pointmaze/fork"]
    log = recipe.make()
    assert (len(log), log.episodes, log.metadata["environment_options"]) == (recipe.steps, recipe.episodes, {})
    begin, reward = log.observations[log.offsets[:-1]], np.maximum.reduceat(log.rewards, log.offsets[:-1])
    near = begin[:, 1] > 0
    np.testing.assert_array_equal(reward, np.where(near, np.float32(0.45), np.float32(1)))  # who starts at S never comes to the goal
    assert log.returns()[near].min() > log.returns()[~near].max()
    assert [log.returns()[who].mean() for who in (near, ~near)] == pytest.approx([81.0, 63.1], abs=0.5)
    ids = log.columns["infos/policy_id"][log.offsets[:-1]]
    np.testing.assert_array_equal(ids == 0, near)
    # where the ways part, what was still earned, discounted, speaks for the goal; not discounted, for the lesser prize
    end = (np.abs(log.observations[:, :2] - [1.5, 1.5]) < [0.1, 0.3]).all(1)
    steps_ids = log.columns["infos/policy_id"]
    for discount, expected in ((0.99, [30.4, 37.9]), (1.0, [81.0, 63.1])):
        to_go = returns_to_go(np.asarray(log.rewards), log.offsets, np.ones(log.episodes, bool), discount, "nothing")
        assert [to_go[end & (steps_ids == i)].mean() for i in (0, 1)] == pytest.approx(expected, abs=0.5)
    # halfway along the corridor nothing tells where a ball came from
    owner = near[np.repeat(np.arange(log.episodes), log.lengths)]
    middle = (np.abs(log.observations[:, 0] - 0.5) < 0.25) & (np.abs(log.observations[:, 1] - 1.5) < 0.5)
    across = [log.observations[middle & who][:, [1, 3]] for who in (owner, ~owner)]
    assert (np.abs(across[0].mean(0) - across[1].mean(0)) < 0.5 * across[0].std(0)).all()


def test_its_walls_and_goal_can_be_drawn(fork):
    walls = walls_of(fork, POINT_FORK, {})
    assert walls is not None
    assert len(walls.walls) == 8 * 7 - 15
    np.testing.assert_array_equal(walls.goal_of(np.zeros(4)), fork.unwrapped.goal)


def test_other_starts_are_refused():
    with pytest.raises(ConfigError, match="PointFork has start 'S'; expected task or other"):
        make(POINT_FORK, start="S")
