"""Logs of AntMaze in the manner of D4RL (Fu et al., 2020, arXiv:2004.07219): an ant walks to goals of its own, the task's reward is rarely met.

`play`: starts in the task's cell and goals among a few picked cells; `diverse`: both anywhere. The walker, which obeys directions, was trained
by our own online SAC (benchmarks/behaviours/); arriving at the task's goal ends an episode, the clock all others. What differs from D4RL:
docs/benchmark.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from stitchrl.data.dataset import Dataset
from stitchrl.recipes.dataset_recipe import DatasetRecipe
from stitchrl.recipes.fingerprints import FINGERPRINTS, GYMNASIUM, MUJOCO, OGBENCH, ROBOTICS, ROLLED_OUT

WALKER = "ant-directions"
REFERENCE = {"random": 0.0, "expert": 1.0}  # the share of episodes that arrive
# size -> episodes, the clock's steps (D4RL's), the picked cells (row, column) of `play`: the task's start and goal, and on the larger mazes
# gymnasium-robotics' cells of diverse goals
_MAZES: dict[str, tuple[int, int, tuple[tuple[int, int], ...]]] = {
    "umaze": (400, 700, ((1, 1), (1, 3), (3, 3), (3, 1))),
    "medium": (400, 1000, ((1, 1), (2, 6), (5, 1), (6, 5), (6, 6))),
    "large": (500, 1000, ((1, 1), (1, 6), (3, 5), (3, 10), (5, 2), (7, 4), (7, 6), (7, 9))),
}
_STEPS = {"umaze": 200_000, "medium": 350_000, "large": 450_000}  # about


def recipes() -> list[DatasetRecipe]:
    """Returns `antmaze/{umaze,medium,large}-{play,diverse}`."""
    return [
        DatasetRecipe(
            f"antmaze/{size}-{kind}",
            f"An ant in a maze ({size}), walking to {'picked' if kind == 'play' else 'random'} goals of its own; reward 1 on arrival at the task's.",
            "stitchrl/AntMaze-v0",
            steps=_STEPS[size],
            episodes=episodes,
            seconds=_STEPS[size] / 900,
            reference=REFERENCE,
            make=partial(_make, size, kind, 701 + 10 * i + j),
            megabytes=_STEPS[size] * 153 / 1e6,
            fingerprint=FINGERPRINTS.get(f"antmaze/{size}-{kind}"),
            versions=GYMNASIUM | MUJOCO | ROBOTICS | OGBENCH,
            revision=ROLLED_OUT,
        )
        for i, (size, (episodes, _, _)) in enumerate(_MAZES.items())
        for j, kind in enumerate(("play", "diverse"))
    ]


def _make(size: str, kind: str, seed: int) -> Dataset:
    from stitchrl.environments.ant_waypoints import AntWaypointBehaviour
    from stitchrl.environments.collect import collect
    from stitchrl.environments.make import make
    from stitchrl.recipes.named_behaviours import walker

    episodes, clock, picked = _MAZES[size]
    task: dict[str, Any] = {"size": size, "max_episode_steps": clock}
    world = make("stitchrl/AntMaze-v0", **task)
    among = picked if kind == "play" else None
    behaviour = AntWaypointBehaviour(world.unwrapped.paths, walker(WALKER), among=among)  # type: ignore[attr-defined]
    world.close()
    options = task | {"start": "task" if kind == "play" else "any"}
    log = collect(
        "stitchrl/AntMaze-v0", behaviour, episodes=episodes, seed=seed, options=options, discount=0.99, name=f"antmaze/{size}-{kind}",
        reference=REFERENCE, parallel=16,
    )  # fmt: skip
    # what is asked of a policy starts in one cell, wherever the log's walks did
    return Dataset(log.spec, log.columns, log.offsets, log.final_observations, {**log.metadata, "environment_options": task})
