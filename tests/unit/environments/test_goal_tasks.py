"""OGBench's environments as policies meet them: the goal beside the observation, five tasks in turn, all by the seed."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.environments.make import make, spec_of
from stitchrl.evaluation.rollout import rollout

pytest.importorskip("ogbench")
MAZE = "pointmaze-medium-v0"
# start and goal cells of the medium maze's tasks (row, column), 4 m apart from (1, 1) at the origin: x goes with columns
TASKS = [((1, 1), (6, 6)), ((6, 1), (1, 6)), ((5, 3), (4, 2)), ((6, 5), (6, 1)), ((2, 6), (1, 1))]


def centre(cell: tuple[int, int]) -> np.ndarray:
    return np.array([4.0 * cell[1] - 4, 4.0 * cell[0] - 4])


def test_observations_hold_the_goal_and_both_lie_in_their_cells() -> None:
    world = make(MAZE)
    assert spec_of(world).observation.shape == (4,)
    for number, (start, goal) in enumerate(TASKS, 1):
        observation, info = world.reset(seed=number, options={"task_id": number})
        assert info["task_id"] == number and observation.dtype == np.float32
        assert np.abs(observation[:2] - centre(start)).max() <= 1 and np.abs(observation[2:] - centre(goal)).max() <= 1
        following, reward, ended, _, told = world.step(np.array([1.0, 0.0]))
        assert (following[2:] == observation[2:]).all() and reward == 0 and not ended and told["success"] == 0
    world.close()


def test_the_seed_alone_decides_and_the_global_numbers_are_left_as_they_were() -> None:
    one, two = make(MAZE), make(MAZE)
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.RandomState(3).random(2)
    firsts = []
    for world in (one, two):
        first, info = world.reset(seed=11)
        world.action_space.seed(0)
        walked = [world.step(world.action_space.sample())[0] for _ in range(5)]
        firsts.append((first, info["task_id"], np.stack(walked)))
        assert np.random.random() == expected[len(firsts) - 1]  # noqa: NPY002
    assert firsts[0][1] == firsts[1][1]
    assert (firsts[0][0] == firsts[1][0]).all() and (firsts[0][2] == firsts[1][2]).all()
    assert (one.reset(seed=12)[0] != firsts[0][0]).any()
    one.close()
    two.close()


@pytest.mark.parametrize("id", ["pointmaze-medium-singletask-v0", "antmaze-medium-singletask-task2-v0"])
def test_a_task_without_a_goal_beside_it_is_decided_by_its_seed_too(id: str) -> None:
    world, walks = make(id), []
    for seed in (5, 5, 6):
        np.random.seed(len(walks))  # noqa: NPY002
        first, _ = world.reset(seed=seed)
        walks.append(np.stack([first, world.step(np.full(world.action_space.shape, 0.5))[0]]))
    assert (walks[0] == walks[1]).all() and (walks[0] != walks[2]).any()
    world.close()


def test_goals_that_are_no_whole_observations_are_refused() -> None:
    with pytest.raises(ConfigError, match="leave out use_oracle_rep"):
        make("antmaze-medium-v0", use_oracle_rep=True).reset(seed=0)


def test_reaching_the_goal_ends_the_episode_as_a_success() -> None:
    world = make(MAZE, task=1)
    observation, _ = world.reset(seed=0)
    world.unwrapped.set_xy(observation[2:] - [0.9, 0.0])
    _, reward, ended, _, info = world.step(np.zeros(2))
    assert (reward, ended, info["success"]) == (1.0, True, 1.0)
    world.close()


def test_an_evaluation_goes_through_the_tasks_in_turn() -> None:
    seen: list[np.ndarray] = []

    def act(observations: np.ndarray, start: np.ndarray) -> np.ndarray:
        seen.extend(observations[start])
        return np.zeros((*observations.shape[:2], 2))

    result = rollout(act, MAZE, episodes=5, seeds=2, parallel=5, processes=1, max_steps=2)
    assert result.successes is not None and not result.successes.any()
    goals = np.stack(seen)[:, 2:].reshape(2, 5, 2)
    for number, (_, goal) in enumerate(TASKS):
        assert (np.abs(goals[:, number] - centre(goal)) <= 1).all()
    seen.clear()
    rollout(act, MAZE, episodes=3, seeds=1, parallel=1, processes=1, max_steps=2, environment_options={"task": 2})
    assert (np.abs(np.stack(seen)[:, 2:] - centre(TASKS[1][1])) <= 1).all()


def test_a_task_that_is_not_there_is_refused() -> None:
    for wrong in (0, 6, "one"):
        with pytest.raises(ConfigError, match="from 1 to 5"):
            make(MAZE, task=wrong)
