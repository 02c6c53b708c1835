"""Logs of OGBench's mazes in its manner (arXiv:2410.20092), a tenth of its size (`explore`: a fiftieth): what to learn to reach goals from.

The ant is our own (benchmarks/behaviours/), its hand on the reins OGBench's: noise 0.2 on its way to goals, 1 where it explores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

from stitchrl.data.dataset import Dataset
from stitchrl.recipes.antmaze_logs import WALKER
from stitchrl.recipes.dataset_recipe import DatasetRecipe
from stitchrl.recipes.fingerprints import FINGERPRINTS, MUJOCO, OGBENCH, ROLLED_OUT

if TYPE_CHECKING:
    from stitchrl.environments.goal_walks import Kind, Mover


@final
@dataclass(frozen=True)
class _Walks:
    """One log: `episodes` of `steps`."""

    body: str  # point, ant
    size: str  # medium, large
    kind: Kind
    episodes: int
    steps: int
    seed: int
    fingerprint: str | None = None  # an ant's, which a network moves: in FINGERPRINTS


_LOGS = {
    "pointmaze/navigate": _Walks("point", "medium", "navigate", 100, 1000, 401, "295dcc4f9b83d3371efafa3c7c4f5d67f7134ed368f5d5dc80868595c6c13aa0"),
    "pointmaze/stitch": _Walks("point", "medium", "stitch", 500, 200, 402, "5564e7c805123e8656d55eadaf539298abe8079b7cfd863100189f6136e15056"),
    "pointmaze/large-navigate": _Walks(
        "point", "large", "navigate", 100, 1000, 403, "d9457a161544ebaefa16dd36e297d78149503a2c6c90372a295ce846e049b425"
    ),
    "pointmaze/large-stitch": _Walks("point", "large", "stitch", 500, 200, 404, "4d21ad6d8c53828a8bc5470ceb97e9c5eac44983d1889df39f44c0a7cbd3b0c4"),
    "antmaze/medium-navigate": _Walks("ant", "medium", "navigate", 100, 1000, 411),
    "antmaze/medium-stitch": _Walks("ant", "medium", "stitch", 500, 200, 412),
    "antmaze/medium-explore": _Walks("ant", "medium", "explore", 200, 500, 413),
    "antmaze/large-navigate": _Walks("ant", "large", "navigate", 100, 1000, 414),
    "antmaze/large-stitch": _Walks("ant", "large", "stitch", 500, 200, 415),
    "antmaze/large-explore": _Walks("ant", "large", "explore", 200, 500, 416),
}  # fmt: skip
_ABOUT = {
    "navigate": "walks of 1,000 steps from goal to goal, at corners, crossings and dead ends, with noise",
    "stitch": "walks of 200 steps to a cell four away, to stay there, with noise: long ways must be put together",
    "explore": "walks of 500 steps without a goal, a new direction every ten, with much noise",
}
_NOISE = {"point": {"navigate": 0.5, "stitch": 0.5}, "ant": {"navigate": 0.2, "stitch": 0.2, "explore": 1.0}}
# Share of the five tasks that is solved within the clock: by uniformly random steps (none of 25 on the medium point maze), and at most.
REFERENCE = {"random": 0.0, "expert": 1.0}


def recipes() -> list[DatasetRecipe]:
    """Returns `pointmaze/{navigate,stitch,large-navigate,large-stitch}` and `antmaze/{medium,large}-{navigate,stitch,explore}`."""
    return [
        DatasetRecipe(
            name,
            f"OGBench's {walks.body} maze ({walks.size}), no rewards: {_ABOUT[walks.kind]}.",
            _environment(walks),
            steps=walks.episodes * walks.steps,
            episodes=walks.episodes,
            seconds=15 if walks.body == "point" else 150,
            reference=REFERENCE,
            make=partial(make, name),
            fingerprint=walks.fingerprint or FINGERPRINTS.get(name),
            versions=MUJOCO | OGBENCH,
            revision=2 if walks.body == "point" else ROLLED_OUT + 1,
            megabytes=2.5 if walks.body == "point" else 16,
        )
        for name, walks in _LOGS.items()
    ]


def _environment(walks: _Walks) -> str:
    return f"{walks.body}maze-{walks.size}-v0"


def make(name: str, times: int = 1) -> Dataset:
    """Returns a log by its name, of `times` as many walks; ten times (`explore`: fifty) are OGBench's size."""
    from stitchrl.environments.goal_walks import goal_walks

    walks = _LOGS[name]
    walks = replace(walks, episodes=times * walks.episodes)
    environment, noise = _environment(walks), _NOISE[walks.body][walks.kind]
    mover = None if walks.body == "point" else _ant()
    log = goal_walks(environment, walks.kind, walks.episodes, walks.steps, walks.seed, mover=mover, noise=noise)
    aim = "in random directions" if walks.kind == "explore" else f"to goals of its own ({walks.kind})"
    metadata = {
        "name": name,
        "environment": environment,
        "environment_options": {},
        "discount": 0.99,
        "reference": REFERENCE,
        "provenance": {"behaviour": f"a walker {aim}, noise {noise:g}", "seed": walks.seed, "amount": f"episodes={walks.episodes}"},
    }
    return Dataset(log.spec, log.columns, log.offsets, log.final_observations, metadata)


def _ant() -> Mover:
    """What turns an ant's direction into its action, before noise."""
    import numpy as np

    from stitchrl.recipes.named_behaviours import walker

    obey = walker(WALKER)
    return lambda seen, direction: obey(np.concatenate([seen[2:29], direction]).astype(np.float32)[None])[0]
