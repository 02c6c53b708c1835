"""The ant, its mazes and the steering along waypoints."""

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.environments.ant_waypoints import AntWaypointBehaviour
from stitchrl.environments.make import make

pytest.importorskip("ogbench")
pytest.importorskip("gymnasium_robotics")


@pytest.fixture(scope="module")
def maze():
    made = make("stitchrl/AntMaze-v0", size="umaze")
    yield made
    made.close()


def test_starts_in_its_cell_and_repeats_by_seed(maze):
    first, info = maze.reset(seed=3)
    maze.step(np.full(8, 0.5, np.float32))
    again, _ = maze.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (29,)
    assert first.dtype == np.float32
    # the U's lower left cell of 3 x 3 cells of 4 m; the goal is its upper left one
    assert np.abs(first[:2] - [-4, -4]).max() <= 0.5
    np.testing.assert_array_equal(maze.unwrapped.goal, [-4, 4])
    assert info == {"success": False}


def test_arriving_is_the_only_reward_and_the_end(maze):
    maze.reset(seed=0)
    ant = maze.unwrapped._inner.ant_env
    for distance, arrived in ((1.2, False), (0.2, True)):
        position = ant.data.qpos.copy()
        position[:2] = maze.unwrapped.goal - [0, distance]
        ant.set_state(position, np.zeros(14))
        _, reward, terminated, truncated, info = maze.step(np.zeros(8, np.float32))
        assert (reward, terminated, truncated, info["success"]) == (float(arrived), arrived, False, arrived)


def test_the_walker_is_told_the_next_cell(maze):
    seen = []

    def walker(observations):
        seen.append(observations)
        return np.zeros((len(observations), 8))

    paths = maze.unwrapped.paths
    behaviour = AntWaypointBehaviour(paths, walker, goal=maze.unwrapped.goal, noise=0.0)
    observations = np.zeros((2, 29), np.float32)
    observations[:, :2] = [[-4, -4], [-3, 4]]  # at the U's one end, and in the goal's own cell
    observations[:, 2:] = np.arange(27)
    actions, log = behaviour.act(observations, np.random.default_rng(0))
    np.testing.assert_array_equal(seen[0][:, :27], observations[:, 2:])
    np.testing.assert_allclose(seen[0][:, 27:], [[1, 0], [-1, 0]], atol=1e-6)  # around the wall first; straight to the goal
    assert actions.shape == (2, 8)
    assert log is None


def test_an_ant_obeys_its_direction_for_reward():
    environment = make("stitchrl/AntDirections-v0", interval=5)
    observation, _ = environment.reset(seed=1)
    directions = []
    for _ in range(10):
        before = environment.unwrapped.ant.data.qpos[:2].copy()
        direction = observation[27:].astype(float)
        observation, reward, *_ = environment.step(environment.action_space.sample())
        moved = environment.unwrapped.ant.data.qpos[:2] - before
        assert reward == pytest.approx(moved @ direction / 0.1, abs=1e-5)
        directions.append(tuple(direction))
    assert len(set(directions)) == 2
    environment.close()


def test_wrong_size_and_walker_are_told(maze):
    with pytest.raises(ConfigError, match="umaze, medium, large"):
        make("stitchrl/AntMaze-v0", size="huge")
    with pytest.raises(ConfigError, match="noise"):
        AntWaypointBehaviour(maze.unwrapped.paths, lambda x: x, noise=-1.0)
