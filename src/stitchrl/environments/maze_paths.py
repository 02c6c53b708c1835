"""Ways through a maze of cells: which cell to enter next, and walkers that go to goals of their own, drawn anew on arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_REACHED = 0.45  # of a cell, within which a walker has arrived
_JITTER = 0.25  # of goals within their cell, in cells, as the tasks'


@final
class MazePaths:
    """The free cells of a map of gymnasium-robotics, their centres `[C, 2]` in metres, and shortest ways between them."""

    def __init__(self, maze: Any) -> None:
        self.free = np.array([[cell != 1 for cell in row] for row in maze.maze_map])
        self.size = float(maze.maze_size_scaling)
        corner = np.array([-maze.x_map_center, maze.y_map_center])  # the map's upper left, in metres
        self.cells = np.argwhere(self.free)
        self.centres = corner + (self.cells[:, ::-1] + 0.5) * self.size * [1, -1]
        self.next_cell = _next_cells(self.free, self.cells)

    def towards(self, position: Array, goal: Array) -> Array:
        """Returns `[N, 2]`, where to head from positions `[N, 2]` to goals `[N, 2]`: the next cell's centre, or the goal in one's own cell."""
        here, there = self.cell_of(position), self.cell_of(goal)
        ahead = self.next_cell[here, there]
        # Two neighbouring cells are one rectangle, so that the straight way from any point of one to any point of the other is free.
        return np.where((ahead == there)[:, None], goal, self.centres[ahead])

    def cell_of(self, position: Array) -> Array:
        """Returns `[N]`, the free cell whose centre is nearest: the one that holds the point, where it is not inside a wall."""
        return np.asarray(np.abs(position[:, None] - self.centres).max(2).argmin(1))

    def number(self, cell: tuple[int, int]) -> int:
        """Returns a free cell's position among `cells`."""
        return int(np.flatnonzero((self.cells == cell).all(1))[0])


@final
class OwnGoals:
    """Goals `[N, 2]` of N walkers, each drawn within a random cell (of `among`, where given) and drawn anew on arrival."""

    def __init__(self, paths: MazePaths, among: Sequence[tuple[int, int]] | None = None) -> None:
        self.paths = paths
        self.among = np.arange(len(paths.cells)) if among is None else np.array([paths.number(cell) for cell in among])
        self._goals = np.zeros((0, 2))
        self._fresh: Array = np.zeros(0, np.bool_)

    def reset(self, mask: Array) -> None:
        """Walkers of bool `mask [N]` want something new."""
        if len(self._fresh) != len(mask):
            self._goals, self._fresh = np.zeros((len(mask), 2)), np.ones(len(mask), np.bool_)
        self._fresh = self._fresh | mask

    def of(self, position: Array, generator: np.random.Generator) -> Array:
        """Returns the goals of walkers at positions `[N, 2]`."""
        if len(self._fresh) != len(position):
            self.reset(np.ones(len(position), np.bool_))
        arrived = np.linalg.norm(position - self._goals, axis=1) <= _REACHED * self.paths.size
        new = np.flatnonzero(self._fresh | arrived)
        if len(new):
            drawn = self.among[generator.integers(len(self.among), size=len(new))]
            jitter = generator.uniform(-_JITTER, _JITTER, (len(new), 2)) * self.paths.size
            self._goals[new] = self.paths.centres[drawn] + jitter
            self._fresh = np.zeros(len(position), np.bool_)
        return self._goals


def _next_cells(free: Array, cells: Array) -> Array:
    """`[C, C]`, the cell to enter next on a shortest way from the first to the second; itself where there is none."""
    number = {tuple(cell): i for i, cell in enumerate(cells.tolist())}
    table = np.tile(np.arange(len(cells))[:, None], (1, len(cells)))
    for goal in range(len(cells)):
        queue, seen = deque([goal]), {goal}
        while queue:
            cell = queue.popleft()
            row, column = cells[cell]
            for neighbour in ((row - 1, column), (row, column + 1), (row + 1, column), (row, column - 1)):
                i = number.get((int(neighbour[0]), int(neighbour[1])))
                if i is not None and i not in seen:
                    seen.add(i)
                    table[i, goal] = cell
                    queue.append(i)
    return table
