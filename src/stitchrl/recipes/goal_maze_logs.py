"""Logs of OGBench's point mazes in its manner (arXiv:2410.20092), a tenth of its size: what to learn to reach goals from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from stitchrl.data.dataset import Dataset
from stitchrl.recipes.dataset_recipe import DatasetRecipe

if TYPE_CHECKING:
    from stitchrl.environments.goal_walks import Kind

MUJOCO = "4.0.0"  # other versions may compute other trajectories: then the hash is that of the first making

# name -> environment, kind, episodes, steps of each, seed, hash
_LOGS: dict[str, tuple[str, Kind, int, int, int, str]] = {
    "navigate": ("pointmaze-medium-v0", "navigate", 100, 1000, 401, "16907f180e02f9c3a66b8aca96135637dbb4de0dad9f8c719d18b61897a5722f"),
    "stitch": ("pointmaze-medium-v0", "stitch", 500, 200, 402, "504e68a804c0be2fad09caf6f3dddd8fe2c97b0643863c26a517c201c7cc7e26"),
    "large-navigate": (
        "pointmaze-large-v0",
        "navigate",
        100,
        1000,
        403,
        "03e56422798b8a2da6162ee8b19b53fd7ad5c8885e6186bfd16ce3e1a08a7b26",
    ),
    "large-stitch": ("pointmaze-large-v0", "stitch", 500, 200, 404, "8bf14b3817a7dc09f08faa6494e3af24e7eb461af823161cc359a1a09acc332e"),
}
_ABOUT = {
    "navigate": "walks of 1,000 steps to goals anywhere in the maze, with noise",
    "stitch": "walks of 200 steps to and fro between cells at most four apart, with noise: long ways must be put together",
}
# Share of the five tasks that is solved within the clock: by uniformly random steps (none of 25 on the medium maze), and at most.
REFERENCE = {"random": 0.0, "expert": 1.0}


def recipes() -> list[DatasetRecipe]:
    """Returns `pointmaze/{navigate,stitch,large-navigate,large-stitch}`."""
    return [
        DatasetRecipe(
            f"pointmaze/{name}",
            f"OGBench's point maze ({'large' if 'large' in environment else 'medium'}), no rewards: {_ABOUT[kind]}.",
            environment,
            steps=episodes * steps,
            episodes=episodes,
            seconds=15,
            reference=REFERENCE,
            make=partial(_make, name),
            fingerprint=fingerprint,
            versions={"mujoco": MUJOCO, "ogbench": "1.2.2"},
            megabytes=2.5,
        )
        for name, (environment, kind, episodes, steps, _, fingerprint) in _LOGS.items()
    ]


def _make(name: str) -> Dataset:
    from stitchrl.environments.goal_walks import NOISE, goal_walks

    environment, kind, episodes, steps, seed, _ = _LOGS[name]
    log = goal_walks(environment, kind, episodes, steps, seed)
    metadata = {
        "name": f"pointmaze/{name}",
        "environment": environment,
        "environment_options": {},
        "discount": 0.99,
        "reference": REFERENCE,
        "provenance": {
            "behaviour": f"a walker to goals of its own ({kind}), noise {NOISE:g}",
            "seed": seed,
            "amount": f"episodes={episodes}",
        },
    }
    return Dataset(log.spec, log.columns, log.offsets, log.final_observations, metadata)
