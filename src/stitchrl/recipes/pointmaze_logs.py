"""Logs of PointMaze as D4RL's maze2d: a controller walks to goals of its own, the task's goal stays in one cell, the reward is sparse.

And one of two ways that share a corridor, none of which leads from the start to the goal (environments/tasks/point_fork.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from stitchrl.core.errors import ConfigError
from stitchrl.data.dataset import Dataset
from stitchrl.environments import robotics_notice
from stitchrl.environments.make import POINT_FORK
from stitchrl.recipes.dataset_recipe import DatasetRecipe
from stitchrl.recipes.fingerprints import MUJOCO, ROBOTICS
from stitchrl.recipes.joined_logs import joined

# size -> Gymnasium id, the map's name in gymnasium-robotics, the goal's cell (D4RL's), episodes, steps of each
_MAZES: dict[str, tuple[str, str, tuple[int, int], int, int]] = {
    "umaze": ("PointMaze_UMaze-v3", "U_MAZE", (1, 1), 400, 300),
    "medium": ("PointMaze_Medium-v3", "MEDIUM_MAZE", (6, 6), 400, 600),
    "large": ("PointMaze_Large-v3", "LARGE_MAZE", (7, 9), 500, 800),
}
# Mean returns of 200 episodes under uniformly random forces, and under the controller told the task's goal, without noise (± 2 and ± 5).
_REFERENCES = {
    "umaze": {"random": 11.1, "expert": 230.8},
    "medium": {"random": 7.8, "expert": 471.0},
    "large": {"random": 5.5, "expert": 621.5},
}
_SECONDS = {"umaze": 40, "medium": 80, "large": 130}
_FINGERPRINTS = {
    "umaze": "79e0ceb1f71ab03d589c83b30b2492602b631466dee608ec2d8cf1e81f0780fe",
    "medium": "5d6a57dd2b06d31009741ff785e0c4c620757816612c794bef2d8cf0dc587ec8",
    "large": "abfbfb69724d8d8f047092cb7909c5568e9eb55f8a49a68271c5d70f36d88dee",
}
# Of 1,000 episodes under uniformly random forces 9 met a prize; 200 of the controller told the goal, without noise (± 0.2).
FORK_REFERENCE = {"random": 0.2, "expert": 180.1}


def recipes() -> list[DatasetRecipe]:
    """Returns `pointmaze/{umaze,medium,large,fork}`."""
    mazes = [
        DatasetRecipe(
            f"pointmaze/{size}",
            f"A ball in a maze ({size}), pushed to goals of its own with noise; the task, to reach one cell and stay, must be stitched together.",
            id,
            steps=episodes * steps,
            episodes=episodes,
            seconds=_SECONDS[size],
            reference=_REFERENCES[size],
            make=partial(_make, size),
            megabytes=episodes * steps * 42 / 1e6,
            fingerprint=_FINGERPRINTS[size],
            versions=MUJOCO | ROBOTICS,
        )
        for size, (id, _, _, episodes, steps) in _MAZES.items()
    ]
    fork = DatasetRecipe(
        "pointmaze/fork",
        "A ball's two ways that share a corridor: those from the start lead to the lesser prize, those to the goal begin far away.",
        POINT_FORK,
        steps=90_000,
        episodes=300,
        seconds=20,
        reference=FORK_REFERENCE,
        make=_make_fork,
        revision=2,
        megabytes=4,
        fingerprint="e0d2c93c8d1741caaa5a86bc7517a3ca24069b52c395e4e295b124677ad23788",
        versions=MUJOCO | ROBOTICS,
    )
    return [*mazes, fork]


def environment_options(size: str) -> dict[str, Any]:
    """Returns the options of the environment in which the log was made: gymnasium-robotics' map with the goal in one cell."""
    robotics_notice.only_for("PointMaze")
    try:
        from gymnasium_robotics.envs.maze import maps
    except ImportError:
        raise ConfigError(
            "pointmaze needs gymnasium-robotics and MuJoCo. Run: pip install gymnasium-robotics 'gymnasium[mujoco]'"
        ) from None
    _, name, (row, column), _, _ = _MAZES[size]
    maze = [list(cells) for cells in getattr(maps, name)]
    maze[row][column] = "g"
    return {"maze_map": maze, "continuing_task": True}


def _make(size: str) -> Dataset:
    from stitchrl.environments.collect import collect
    from stitchrl.environments.make import make
    from stitchrl.environments.waypoints import WaypointBehaviour

    id, _, _, episodes, _ = _MAZES[size]
    options = environment_options(size)
    world = make(id, **options)
    behaviour = WaypointBehaviour(world)
    world.close()
    name, seed = f"pointmaze/{size}", 301 + list(_MAZES).index(size)
    reference = _REFERENCES[size]
    return collect(id, behaviour, episodes=episodes, seed=seed, options=options, discount=0.99, name=name, reference=reference)


def _make_fork() -> Dataset:
    from stitchrl.environments.collect import collect
    from stitchrl.environments.make import make
    from stitchrl.environments.waypoints import WaypointBehaviour

    world = make(POINT_FORK)
    task: Any = world.unwrapped
    ways = (("task", task.lesser, 200, 311), ("other", task.goal, 100, 312))
    logs = [
        collect(POINT_FORK, WaypointBehaviour(world, place), episodes=episodes, seed=seed, options={"start": start}, name="pointmaze/fork")
        for start, place, episodes, seed in ways
    ]
    world.close()
    parts = [log.metadata["provenance"] | {"environment_options": log.metadata["environment_options"]} for log in logs]
    # what is asked of a policy starts in one cell
    return joined(logs, environment_options={}, reference=FORK_REFERENCE, provenance={"parts": parts})
