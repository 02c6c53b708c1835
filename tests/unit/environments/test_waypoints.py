"""The PointMaze controller: shortest ways, arrival, and the log it leaves."""

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.environments.behaviours import MixtureBehaviour
from stitchrl.environments.collect import collect
from stitchrl.environments.make import make
from stitchrl.environments.waypoints import WaypointBehaviour

MAZE = [[1, 1, 1, 1, 1], [1, "g", 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
OPTIONS = {"maze_map": MAZE, "continuing_task": True, "max_episode_steps": 150}
ID = "PointMaze_UMaze-v3"


def test_the_way_around_the_wall_by_hand() -> None:
    walker = WaypointBehaviour(make(ID, **OPTIONS))
    # free cells in reading order: 0 1 2 above, 3 in the middle, 4 5 6 below; from 4 (below, left) to 0 (above, left) it is 5 6 3 2 1 0
    way = [4]
    while way[-1] != 0:
        way.append(int(walker.paths.next_cell[way[-1], 0]))
    assert way == [4, 5, 6, 3, 2, 1, 0]
    np.testing.assert_array_equal(walker.paths.centres[[0, 4, 6]], [[-1, 1], [-1, -1], [1, -1]])
    np.testing.assert_array_equal(walker.paths.cell_of(np.array([[-1.4, 0.6], [1.0, 0.0], [0.4, -1.2]])), [0, 3, 5])


def test_towards_the_task_it_arrives_and_stays() -> None:
    log = collect(ID, WaypointBehaviour(make(ID, **OPTIONS), goals="task", noise=0.0), episodes=6, options=OPTIONS)
    distance = np.linalg.norm(log.observations[:, :2] - log.observations[:, 4:], axis=1)
    last = log.offsets[1:] - 1
    assert (distance[last] < 0.1).all()
    assert (np.linalg.norm(log.observations[last, 2:4], axis=1) < 0.2).all()
    near = np.linalg.norm(log.next_observations()[:, :2] - log.observations[:, 4:], axis=1)
    clear = np.abs(near - 0.45) > 1e-5
    np.testing.assert_array_equal(log.rewards[clear], near[clear] <= 0.45)


def test_its_own_goals_keep_it_walking_everywhere() -> None:
    walker = WaypointBehaviour(make(ID, **OPTIONS))
    log = collect(ID, walker, episodes=16, options=OPTIONS, seed=1)
    assert set(walker.paths.cell_of(log.observations[:, :2]).tolist()) == set(range(7))
    assert not log.terminals.any()
    np.testing.assert_array_equal(log.lengths, 150)
    np.testing.assert_array_equal(log.timeouts.nonzero()[0], log.offsets[1:] - 1)
    assert np.abs(log.actions).max() <= 1
    assert np.linalg.norm(log.observations[:, 2:4], axis=1).mean() > 1  # metres a second; it does not stand still
    again = collect(ID, walker, episodes=16, options=OPTIONS, seed=1)  # also by a controller that has memories
    assert again.fingerprint() == log.fingerprint()


def test_towards_one_place_it_arrives_and_stays() -> None:
    log = collect(ID, WaypointBehaviour(make(ID, **OPTIONS), goals=np.array([1.0, 0.0]), noise=0.0), episodes=4, options=OPTIONS)
    assert (np.linalg.norm(log.observations[log.offsets[1:] - 1, :2] - [1, 0], axis=1) < 0.1).all()


def test_a_mixture_of_controllers_tells_them_apart() -> None:
    environment = make(ID, **OPTIONS)
    parts = [(1.0, WaypointBehaviour(environment)), (1.0, WaypointBehaviour(environment, goals="task", noise=0.1))]
    log = collect(ID, MixtureBehaviour(parts), episodes=16, options=OPTIONS, seed=0)
    expert = log.columns["infos/policy_id"][log.offsets[:-1]] == 1
    assert 0 < expert.sum() < 16
    assert log.returns()[expert].mean() > 2 * log.returns()[~expert].mean()


def test_other_environments_are_refused() -> None:
    with pytest.raises(ConfigError, match="need a PointMaze environment of gymnasium-robotics; found CartPole-v1"):
        WaypointBehaviour(make("CartPole-v1"))
    with pytest.raises(ConfigError, match=r"expected goals 'own', 'task' or a place \[x, y\]"):
        WaypointBehaviour(make(ID), goals="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected goals"):
        WaypointBehaviour(make(ID), goals=np.zeros(3))
