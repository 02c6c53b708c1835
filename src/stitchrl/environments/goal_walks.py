"""Walks through OGBench's mazes, as those behind its datasets (Park et al., 2024, arXiv:2410.20092).

The walker heads for the centre of the next cell on a shortest way to a goal of its own, disturbed by noise. `navigate`: long episodes, a new goal
at a corner, a crossing or a dead end on each arrival. `stitch`: short ones to a cell four away, where it stays, so that no episode crosses the maze
and long ways must be put together from several. `explore`: no goals, a new random direction every ten steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, final

import numpy as np

from stitchrl.core.spec import Box, Spec
from stitchrl.data.dataset import Dataset

Array = np.ndarray[Any, np.dtype[Any]]
Cell = tuple[int, ...]  # row, column
Kind = Literal["navigate", "stitch", "explore"]
Mover = Callable[[Array, Array], Array]  # an observation [O] and a direction [2] of length 1 to an action [A], before noise

NOISE = 0.5  # of the point: standard deviation of what is added to a step of length 1, in each direction
APART = 4  # cells between the ends of a stitch walk
_WITHIN = 1.0  # metres of starts and goals around their cell's centre, in each direction, as the tasks'
_TURN = 10  # steps between two directions of an exploring walk
_SHAKEN = 0.1  # of an ant's first position (most of it, uniform) and velocity (standard deviation), as the environment's reset has it


def goal_walks(
    environment: str, kind: Kind, episodes: int, steps: int, seed: int, *, mover: Mover | None = None, noise: float = NOISE
) -> Dataset:
    """Returns a log of `episodes` walks of `steps` steps each, without rewards. Each walk has its own generator.

    Observations of a point: x, y in metres; of an ant 29 numbers, x and y first. mover: turns directions into actions; None: for the
    point, whose action is the direction itself. noise: standard deviation of the Gaussian added to actions, which are clipped to [-1, 1].
    """
    from stitchrl.environments.make import make

    world = make(environment, terminate_at_goal=False, max_episode_steps=steps + 1)
    try:
        world.reset(seed=seed)
        maze: Any = world.unwrapped
        ahead = cache(lambda here, there: maze.get_oracle_subgoal(maze.ij_to_xy(here), maze.ij_to_xy(there))[0])
        generators = [np.random.default_rng(np.random.SeedSequence([seed, i])) for i in range(episodes)]
        walks = [_walk(maze, ahead, kind, steps, mover or _straight, noise, generator) for generator in generators]
    finally:
        world.close()
    observation, action = walks[0]["observations"].shape[1], walks[0]["actions"].shape[1]
    return Dataset.from_episodes(walks, Spec(Box((observation,)), Box((action,), (-1.0,), (1.0,))))


def _straight(observation: Array, direction: Array) -> Array:
    return direction


def _walk(
    maze: Any, ahead: Callable[[Cell, Cell], Array], kind: Kind, steps: int, mover: Mover, noise: float, generator: np.random.Generator
) -> dict[str, Any]:
    """One episode's columns; `ahead` tells the centre of the next cell on the way from one to another."""
    route = _Route(maze, ahead, kind, generator)
    if maze.model.nq > 2:  # an ant stands up
        position = maze.init_qpos + generator.uniform(-_SHAKEN, _SHAKEN, maze.model.nq)
        maze.set_state(position, maze.init_qvel + _SHAKEN * generator.standard_normal(maze.model.nv))
    maze.set_xy(_point(maze, route.first, generator))
    seen = maze.get_ob()
    observations, actions = [seen], []
    for t in range(steps):
        action = mover(seen, route.direction(seen[:2], t))
        action = np.clip(action + noise * generator.standard_normal(action.shape), -1, 1).astype(np.float32)
        maze.step(action)
        route.arrive()
        seen = maze.get_ob()
        observations.append(seen)
        actions.append(action)
    timeouts = np.arange(steps) == steps - 1
    columns = {"actions": np.stack(actions), "rewards": np.zeros(steps, np.float32), "terminals": np.zeros(steps, np.bool_)}
    return {"observations": np.stack(observations).astype(np.float32), **columns, "timeouts": timeouts}


@final
class _Route:
    """Where one walk heads: to goals of its own, or anywhere."""

    def __init__(self, maze: Any, ahead: Callable[[Cell, Cell], Array], kind: Kind, generator: np.random.Generator) -> None:
        self.maze, self.ahead, self.kind, self.generator = maze, ahead, kind, generator
        self.first = _drawn(np.argwhere(maze.maze_map == 0), generator)
        self.ends = _away(maze, self.first) if kind == "stitch" else _junctions(maze.maze_map == 0)
        self._aim()

    def direction(self, position: Array, t: int) -> Array:
        """Returns the direction `[2]` of length 1 (at most, very near to where it leads) at time t."""
        if self.kind == "explore":
            if t % _TURN == 0:
                angle = self.generator.uniform(0, 2 * math.pi)
                self.way = np.array([math.cos(angle), math.sin(angle)])
            return self.way
        way = self.ahead(self.maze.xy_to_ij(position), self.there) - position  # in the goal's cell: to its centre
        return np.asarray(way / max(math.hypot(*way), 1e-6))

    def arrive(self) -> None:
        """Draws the next goal of a `navigate` walk that is within the tasks' own reach of the present one."""
        if self.kind == "navigate" and self.maze.compute_success():
            self._aim()

    def _aim(self) -> None:
        self.there = _drawn(self.ends, self.generator)
        self.maze.set_goal(goal_xy=_point(self.maze, self.there, self.generator))


def _drawn(cells: Array, generator: np.random.Generator) -> Cell:
    return tuple(cells[generator.integers(len(cells))].tolist())


def _away(maze: Any, cell: Cell) -> Array:
    """Free cells `APART` steps away from one, or that one alone where there are none."""
    centre = maze.ij_to_xy(cell)
    distance = maze.get_oracle_subgoal(centre, centre)[1]  # of each cell to this one; -1 in walls
    found = np.argwhere(distance == APART)
    return found if len(found) else np.array([cell])


def _junctions(free: Array) -> Array:
    """Free cells where a way turns, parts or ends: all but those with a free neighbour on two opposite sides and no other. Walls are all around."""
    down, up, right, left = (np.roll(free, by, axis) for axis in (0, 1) for by in (-1, 1))
    hallway = (up & down & ~left & ~right) | (left & right & ~up & ~down)
    return np.argwhere(free & ~hallway)


def _point(maze: Any, cell: Cell, generator: np.random.Generator) -> Array:
    return np.array(maze.ij_to_xy(cell)) + generator.uniform(-_WITHIN, _WITHIN, 2)
