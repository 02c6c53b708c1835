"""Walks of OGBench's point through its mazes, as those behind its datasets (Park et al., 2024, arXiv:2410.20092).

The walker heads for the next cell on a shortest way to a goal of its own, by a step of full length disturbed by noise. `navigate`: long
episodes, a new goal anywhere in the maze on each arrival. `stitch`: short ones between two cells at most four apart, to and fro, so that
no episode crosses the maze and long ways must be put together from several.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np

from stitchrl.core.spec import Box, Spec
from stitchrl.data.dataset import Dataset

Array = np.ndarray[Any, np.dtype[Any]]
Cell = tuple[int, ...]  # row, column
Kind = Literal["navigate", "stitch"]

NOISE = 0.5  # standard deviation of what is added to a step of length 1, in each direction
REACHED = 1.0  # metres from a goal: the tasks' own reach
APART = 4  # cells, at most, between the ends of a stitch walk
_WITHIN = 1.0  # metres of starts and goals around their cell's centre, in each direction, as the tasks'


def goal_walks(environment: str, kind: Kind, episodes: int, steps: int, seed: int) -> Dataset:
    """Returns a log of `episodes` walks of `steps` steps each, without rewards; observations x, y in metres. Each walk has its own generator."""
    from stitchrl.environments.make import make

    world = make(environment, terminate_at_goal=False, max_episode_steps=steps + 1)
    try:
        world.reset(seed=seed)
        maze: Any = world.unwrapped
        ahead = cache(lambda here, there: maze.get_oracle_subgoal(maze.ij_to_xy(here), maze.ij_to_xy(there))[0])
        walks = [_walk(maze, ahead, kind, steps, np.random.default_rng(np.random.SeedSequence([seed, i]))) for i in range(episodes)]
    finally:
        world.close()
    return Dataset.from_episodes(walks, Spec(Box((2,)), Box((2,), (-1.0,), (1.0,))))


def _walk(maze: Any, ahead: Callable[[Cell, Cell], Array], kind: Kind, steps: int, generator: np.random.Generator) -> dict[str, Any]:
    """One episode's columns; `ahead` tells the centre of the next cell on the way from one to another."""
    free = np.argwhere(maze.maze_map == 0)
    first = _drawn(free, generator)
    ends = _near(maze, first) if kind == "stitch" else free
    maze.set_xy(_point(maze, first, generator))
    position = maze.get_xy()
    there = _drawn(ends, generator)
    goal, back = _point(maze, there, generator), first
    observations, actions = [position], []
    for _ in range(steps):
        if np.linalg.norm(goal - position) <= REACHED:
            there, back = (back, there) if kind == "stitch" else (_drawn(ends, generator), there)
            goal = _point(maze, there, generator)
        here = maze.xy_to_ij(position)
        way = (goal if here == there else ahead(here, there)) - position
        action = np.clip(way / max(float(np.linalg.norm(way)), 1e-6) + NOISE * generator.standard_normal(2), -1, 1).astype(np.float32)
        maze.step(action)
        position = maze.get_xy()
        observations.append(position)
        actions.append(action)
    timeouts = np.arange(steps) == steps - 1
    columns = {"actions": np.stack(actions), "rewards": np.zeros(steps, np.float32), "terminals": np.zeros(steps, np.bool_)}
    return {"observations": np.stack(observations).astype(np.float32), **columns, "timeouts": timeouts}


def _drawn(cells: Array, generator: np.random.Generator) -> Cell:
    return tuple(cells[generator.integers(len(cells))].tolist())


def _near(maze: Any, cell: Cell) -> Array:
    """Free cells from one to `APART` steps away."""
    centre = maze.ij_to_xy(cell)
    distance = maze.get_oracle_subgoal(centre, centre)[1]  # of each cell to this one; -1 in walls
    return np.argwhere((distance > 0) & (distance <= APART))


def _point(maze: Any, cell: Cell, generator: np.random.Generator) -> Array:
    return np.array(maze.ij_to_xy(cell)) + generator.uniform(-_WITHIN, _WITHIN, 2)
