"""`stitchrl plan RUN`: what a policy that plans would do where episodes begin, drawn in its maze."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import tyro

from stitchrl.core.errors import ConfigError
from stitchrl.core.files import check_writable
from stitchrl.core.settings import Count, Natural, check_settings, refuse_changed
from stitchrl.verbs.flags import named_values, options_told, parse

if TYPE_CHECKING:
    from stitchrl.report.plan_views import Plans

PROG = "stitchrl plan"


@final
@dataclass(frozen=True)
class Plan:
    run: Annotated[Path, tyro.conf.Positional]
    """a run directory or a saved policy"""
    env: str = "auto"
    """auto: the environment that the run was evaluated in, or else its log's own; MODULE:ID imports your own MODULE first"""
    env_options: tuple[str, ...] = ()
    """of that environment, in place of those that the run keeps for it: name=value, such as max_episode_steps=500"""
    starts: Count = 2
    """episodes whose beginning is planned for"""
    dimensions: tuple[Natural, Natural] = (0, 1)
    """of the observation, drawn where the environment is no maze"""
    sampled: bool = False
    """draw the plans' noise anew instead of taking the policy's fixed one"""
    seed: Natural = 20_000
    """of the first episode"""
    settings: tuple[str, ...] = ()
    """of the algorithm, changed for planning with the weights as they are: name=value, such as a Trajectory Transformer's horizon=40"""
    to: Path | None = None
    """directory of the pictures; the run's own unless told"""


def plan(arguments: Sequence[str]) -> int:
    """Draws the plans of a run's first seed; its directory keeps them, and its report shows them."""
    a = parse(Plan, arguments, PROG, "Draw what a policy that plans would do where episodes begin.")
    check_settings(a, PROG)
    if a.to is not None:
        check_writable(a.to, "--to", directory=True)
    from stitchrl.report.plan_views import standing, write_pictures, write_plans
    from stitchrl.report.run import write_run_report

    found = _plans(a)
    directory = a.to or a.run
    directory.mkdir(parents=True, exist_ok=True)
    written = [write_plans(directory, found), *write_pictures(found, directory)]
    if a.to is None and (a.run / "policy").is_dir():
        write_run_report(a.run)
    count, candidates, length, _ = found.plans.shape
    made = f"{candidates} plan(s) of {length} states from each of {count} start(s)"
    print(f"{a.run}{found.told}: {made}; written: {', '.join(map(str, written))}.{standing(found)}")
    return 0


def _plans(a: Plan) -> Plans:
    import numpy as np

    from stitchrl.agent import load
    from stitchrl.core.spec import Discrete
    from stitchrl.environments.make import make
    from stitchrl.environments.maze_walls import MazeWalls, walls_of
    from stitchrl.evaluation.acting_settings import acting_with, in_words
    from stitchrl.evaluation.judge import check_task
    from stitchrl.evaluation.recorded_task import task_of
    from stitchrl.evaluation.seen_plans import seen_plans
    from stitchrl.report.plan_views import Plans

    agent = load(a.run)
    if a.settings:
        agent = acting_with(agent, named_values(a.settings, "--settings"))
    id, options, _ = task_of(a.run, None if a.env == "auto" else a.env, options_told(a.env_options))
    check_task(agent, id, options)
    with closing(make(id, **options)) as world:
        maze = walls_of(world, id, options)
        observations = np.stack([np.asarray(world.reset(seed=a.seed + i)[0]) for i in range(a.starts)])
    seen = seen_plans(agent, observations, sampled=a.sampled)
    space: Any = agent.spec.observation
    if maze is not None:
        refuse_changed(a, ("dimensions",), f"in {id}, a maze, where places are drawn")
        walls, axes, place = maze, ("x", "y"), maze.positions
        goals = np.stack([maze.goal_of(x) for x in observations])
    else:
        if isinstance(space, Discrete) or len(space.shape) != 1 or max(a.dimensions) >= space.size:
            raise ConfigError(f"{PROG}: --dimensions {a.dimensions[0]} {a.dimensions[1]} are not those of observations of {id}: {space}")
        walls, axes = MazeWalls(np.zeros((0, 4))), (f"observation {a.dimensions[0]}", f"observation {a.dimensions[1]}")
        goals = np.full((a.starts, 2), np.nan)

        def place(states: Any) -> Any:
            return np.asarray(states[..., list(a.dimensions)], np.float64)

    drawn = [place(x) for x in (seen.states, seen.stages, seen.observations)]
    return Plans(
        drawn[0], seen.scores, drawn[1], drawn[2], goals, np.asarray(walls.walls, np.float64), axes, seen.score, in_words(a.settings)
    )
