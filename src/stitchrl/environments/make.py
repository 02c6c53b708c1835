"""One door to every environment: Gymnasium's, those of installed packages, and our own exactly solvable tasks."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Space, Spec
from stitchrl.environments import maze_files, mujoco_notice, robotics_notice
from stitchrl.environments.atari import DEFAULTS, is_atari, open_atari
from stitchrl.environments.clock import name_of

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.vector import VectorEnv

GRIDWORLD = "stitchrl/Gridworld-v0"
CLIFF = "stitchrl/Cliff-v0"
CHAIN = "stitchrl/Chain-v0"
LQG = "stitchrl/LQG-v0"
ICU_SEPSIS = "stitchrl/ICU-Sepsis-v0"
ANT_DIRECTIONS = "stitchrl/AntDirections-v0"
ANT_MAZE = "stitchrl/AntMaze-v0"
POINT_FORK = "stitchrl/PointFork-v0"
HIGHWAY = "stitchrl/Highway-v0"
PONG_POSITIONS = "stitchrl/PongPositions-v0"
BREAKOUT_POSITIONS = "stitchrl/BreakoutPositions-v0"

_OGBENCH = ("pointmaze-", "antmaze-", "humanoidmaze-", "antsoccer-", "cube-", "scene-", "puzzle-")
_OGBENCH_PIXELS = ("visual-", "powderworld-")
_MAZES = (*_OGBENCH, "PointMaze", "AntMaze", ANT_MAZE, POINT_FORK)
# Ids that appear once a package is imported: how they begin, its module, and what to install.
_PACKAGES: tuple[tuple[str, str, str], ...] = (
    ("PointMaze", "gymnasium_robotics", "pip install gymnasium-robotics 'gymnasium[mujoco]'"),
    ("AntMaze", "gymnasium_robotics", "pip install gymnasium-robotics 'gymnasium[mujoco]'"),
    ("Adroit", "gymnasium_robotics", "pip install gymnasium-robotics 'gymnasium[mujoco]'"),
    ("Fetch", "gymnasium_robotics", "pip install gymnasium-robotics 'gymnasium[mujoco]'"),
    ("HandManipulate", "gymnasium_robotics", "pip install gymnasium-robotics 'gymnasium[mujoco]'"),
    ("HandReach", "gymnasium_robotics", "pip install gymnasium-robotics 'gymnasium[mujoco]'"),
    ("FrankaKitchen", "gymnasium_robotics", "pip install gymnasium-robotics 'gymnasium[mujoco]'"),
    ("Sepsis/", "icu_sepsis", "pip install icu-sepsis"),
    ("ALE/", "ale_py", "pip install ale-py opencv-python-headless"),
    ("highway-", "highway_env", "pip install highway-env"),
    ("MiniGrid-", "minigrid", "pip install minigrid"),
    ("BabyAI-", "minigrid", "pip install minigrid"),
    ("MinAtar/", "minatar", "pip install minatar"),
    *((prefix, "ogbench", "pip install ogbench") for prefix in _OGBENCH),
    ("online-", "ogbench.online_locomotion", "pip install ogbench"),
)
_EXTRAS = {
    "mujoco": "pip install 'gymnasium[mujoco]'",
    "box2d": "pip install 'gymnasium[box2d]'",
    "Box2D": "pip install 'gymnasium[box2d]'",
}
# Our own tasks: the clock, and the function or class under environments/tasks whose arguments are the options.
_TASKS: dict[str, tuple[int, str]] = {
    GRIDWORLD: (100, "gridworld.gridworld"),
    CLIFF: (100, "cliff.cliff"),
    CHAIN: (100, "chain.chain"),
    LQG: (1000, "lqg_environment.LQGEnvironment"),
    ICU_SEPSIS: (500, "icu_sepsis.icu_sepsis"),
    ANT_DIRECTIONS: (1000, "ant_directions.AntDirections"),
    ANT_MAZE: (1000, "ant_maze.AntMaze"),
    POINT_FORK: (300, "point_fork.PointFork"),
    HIGHWAY: (30, "highway.highway"),
    PONG_POSITIONS: (27_000, "atari_features.pong"),  # the clock of ALE's own ids: 108,000 frames, four to a step
    BREAKOUT_POSITIONS: (27_000, "atari_features.breakout"),
}


def make(id: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """Returns the environment `id`; further options go to it (and `max_episode_steps` to its clock).

    Ids: ours (`stitchrl/…`: Gridworld-v0, Cliff-v0, Chain-v0, LQG-v0, ICU-Sepsis-v0, AntMaze-v0, AntDirections-v0, PointFork-v0,
    Highway-v0, PongPositions-v0, BreakoutPositions-v0), Gymnasium's, those of installed packages, and your own as `MODULE:ID`: MODULE,
    installed or a file in the working directory, is imported and registers ID.
    Atari games (ALE/…) have a frame skip of 4 and stacks of 4 grey frames (environments/atari.py); their clock counts steps of four frames.
    A Dict observation with 'observation' and 'desired_goal' becomes one float32 Box, the goal last (of AntMaze, where the ant is
    first); so do OGBench's observations and goals, of its evaluation tasks in turn or of one, `task=3` (environments/goal_tasks.py).
    Raises ConfigError naming the nearest id, the package to install, or the options that exist.
    """
    import gymnasium

    if not isinstance(id, str):
        raise ConfigError(f"environment is {id!r}; expected its name, such as 'Pendulum-v1'")
    if id.startswith(_OGBENCH_PIXELS):
        raise ConfigError(
            f"environment {id!r} shows OGBench's pixels, which are not read here; choose one of states, such as 'pointmaze-medium-v0'"
        )
    _register_tasks()
    _import_package(id)
    task = options.pop("task", None) if id.startswith(_OGBENCH) else None
    try:
        if is_atari(id, options):
            return open_atari(id, options)
        mujoco_notice.once(getattr(gymnasium.registry.get(id), "entry_point", None))
        with maze_files.cleared() if id.startswith(_MAZES) else nullcontext():
            environment = gymnasium.make(id, disable_env_checker=True, **options)
    except ConfigError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(
            f"environment {id!r} needs a package that is not installed ({_first_line(error)}). {_install(id, error)}"
        ) from None
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.Error) as error:
        raise _unknown(id, error) from None
    except ModuleNotFoundError as error:
        raise _missing_module(id, error) from None
    except ValueError as error:
        raise ConfigError(f"environment {id!r} could not be made with {options}: {_first_line(error)}") from error
    except TypeError as error:
        raise _wrong_option(id, options, error) from error
    return _flat(environment, task)


def make_vector(
    id: str, n: int, processes: int = 1, autoreset: Literal["next_step", "same_step", "disabled"] = "same_step", **options: Any
) -> VectorEnv[Any, Any, Any]:
    """Returns `n` copies as one Gymnasium vector environment: in this process, or each in its own where `processes` = n.

    autoreset: with "same_step" the observation after an episode's end is the next one's first, and the last is in
    `infos["final_obs"]`. Rollouts use `evaluation.slots`, which seeds every episode. Raises ConfigError, as `make` does.
    """
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

    if n < 1 or processes not in (1, n):
        raise ConfigError(f"{n} environments in {processes} processes; expected at least 1, in 1 process or as many as environments")
    modes = {"next_step": AutoresetMode.NEXT_STEP, "same_step": AutoresetMode.SAME_STEP, "disabled": AutoresetMode.DISABLED}
    if autoreset not in modes:
        raise ConfigError(f"autoreset {autoreset!r} is unknown; expected one of {', '.join(modes)}")
    make(id, **options).close()  # a mistake is told here, not by n processes
    functions = [partial(make, id, **options)] * n
    if processes == 1:
        return SyncVectorEnv(functions, autoreset_mode=modes[autoreset])
    return AsyncVectorEnv(functions, autoreset_mode=modes[autoreset])


def spec_of(environment: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> Spec:
    """Returns the spaces of an environment (of one copy, for a vector of them).

    Real-valued spaces become float32 (uint8 stays), whatever the environment computes in. Raises ConfigError for other spaces
    than Box, Discrete from 0, and the Dict of observation and desired goal that `make` flattens.
    """
    name = name_of(environment)
    observation = getattr(environment, "single_observation_space", environment.observation_space)
    action = getattr(environment, "single_action_space", environment.action_space)
    return Spec(space_of(observation, f"{name}: observations"), space_of(action, f"{name}: actions"))


def space_of(space: Any, where: str = "the space") -> Space:
    """Returns our description of a Gymnasium space. Raises ConfigError for one that is neither Box nor Discrete from 0."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            raise ConfigError(f"{where} are integers from {space.start}; expected to begin at 0. Shift them in an ActionWrapper of yours")
        return Discrete(int(space.n))
    if isinstance(space, spaces.Box):
        dtype = "uint8" if space.dtype == np.uint8 else "float32"
        low, high = (_bound(x) for x in (space.low, space.high))
        return Box(tuple(int(x) for x in space.shape), low, high, dtype)
    raise ConfigError(
        f"{where} are a {type(space).__name__} space; expected Box, Discrete, or a Dict with 'observation' and 'desired_goal'. "
        "Flatten it, for instance by gymnasium.wrappers.FlattenObservation"
    )


def mdp_of(environment: gymnasium.Env[Any, Any]) -> Any:
    """Returns the `TabularMDP` of one of our exactly solvable tasks, None for any other environment."""
    from stitchrl.environments.tasks.tabular import TabularMDP

    found = getattr(environment.unwrapped, "mdp", None)
    return found if isinstance(found, TabularMDP) else None


def _bound(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
    flat = [float(x) for x in np.asarray(values).reshape(-1)]
    return (flat[0],) if len(set(flat)) == 1 else tuple(flat)


def _flat(environment: gymnasium.Env[Any, Any], task: int | None) -> gymnasium.Env[Any, Any]:
    from stitchrl.environments.goal_observations import GoalObservations, has_goal_observations
    from stitchrl.environments.goal_tasks import GoalTasks, SeededTask, has_goal_tasks, is_ogbench

    if has_goal_tasks(environment):
        return GoalTasks(environment, task)
    if task is not None:
        environment.close()
        raise ConfigError(
            f"task={task!r} is for environments of OGBench that reach goals; {name_of(environment)} is of one task: "
            "another is told in its id (…-singletask-task3-v0)"
        )
    if is_ogbench(environment):
        return SeededTask(environment)
    return GoalObservations(environment) if has_goal_observations(environment.observation_space) else environment


def _task(id: str) -> Any:
    module, _, name = f"stitchrl.environments.tasks.{_TASKS[id][1]}".rpartition(".")
    return getattr(import_module(module), name)


def _make_task(id: str, **options: Any) -> gymnasium.Env[Any, Any]:
    import gymnasium

    from stitchrl.environments.tasks.tabular_environment import TabularEnvironment

    made = _task(id)(**options)
    return made if isinstance(made, gymnasium.Env) else TabularEnvironment(getattr(made, "mdp", made))


def _register_tasks() -> None:
    from gymnasium.envs.registration import register, registry

    for id, (steps, _) in _TASKS.items():
        if id not in registry:
            register(id=id, entry_point=partial(_make_task, id), max_episode_steps=steps)


def _import_package(id: str) -> None:
    import gymnasium

    if ":" in id and (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # last, so that no file there takes the place of an installed module
    if id in gymnasium.registry or ":" in id:
        return
    for prefix, module, install in _PACKAGES:
        if id.startswith(prefix):
            package = module.partition(".")[0]
            if find_spec(package) is None:
                raise ConfigError(f"environment {id!r} comes from the package {package}, which is not installed. Run: {install}")
            robotics_notice.only_for(id)
            gymnasium.register_envs(import_module(module))


def _unknown(id: str, error: Exception) -> ConfigError:
    import gymnasium

    if id in gymnasium.registry:  # known, but it refused
        return ConfigError(f"environment {id!r} could not be made: {_first_line(error)}")
    known = sorted(gymnasium.registry)
    known.sort(key=lambda name: "/" not in name or name.startswith("stitchrl/"))  # of two alike, the plain one is meant
    lower = {name.lower().rpartition("/")[2]: name for name in known}
    module, colon, name = id.rpartition(":")
    near = difflib.get_close_matches(name.lower().rpartition("/")[2], lower, n=1, cutoff=0.3)
    hint = f"Did you mean {module + colon + lower[near[0]]!r}?" if near else "See `python -m gymnasium.envs.registration` for all ids"
    return ConfigError(f"environment {id!r} is unknown to the {len(known)} environments installed. {hint}")


def _missing_module(id: str, error: ModuleNotFoundError) -> ConfigError:
    own = id.partition(":")[0]
    module = error.name or getattr(error.__cause__, "name", None) or own  # Gymnasium tells it of a module of one's own as the cause
    if ":" in id and module == own.partition(".")[0]:
        return ConfigError(
            f"environment {id!r} needs the module {module!r}, which is neither installed nor in the working directory {os.getcwd()}; "
            f"a module of your own that registers the environment is called there, {module}.py"
        )
    return ConfigError(f"environment {id!r} needs the module {module!r}, which is not installed. {_install(id, error, module)}")


def _install(id: str, error: Exception, module: str | None = None) -> str:
    for prefix, _, install in _PACKAGES:
        if id.startswith(prefix):
            return f"Run: {install}"
    for word, install in _EXTRAS.items():
        if word in str(error):
            return f"Run: {install}"
    return "Install it with pip" if module is None else f"Run: pip install {module}"


def _wrong_option(id: str, options: dict[str, Any], error: TypeError) -> ConfigError:
    import gymnasium

    known = {"max_episode_steps", "render_mode"}
    if id in _TASKS:
        known |= set(inspect.signature(_task(id)).parameters)
    elif id in gymnasium.registry and (entry := gymnasium.registry[id].entry_point) is not None:
        load = gymnasium.envs.registration.load_env_creator
        known |= set(inspect.signature(load(entry) if isinstance(entry, str) else entry).parameters) - {"kwargs", "self"}
        known |= set(DEFAULTS) if is_atari(id, options) else set()
    odd = sorted(set(options) - known)
    if odd:
        near = difflib.get_close_matches(odd[0], known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Options: {', '.join(sorted(known))}"
        return ConfigError(f"environment {id!r} has no option {odd[0]!r}. {hint}")
    return ConfigError(f"environment {id!r} could not be made with {options}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
