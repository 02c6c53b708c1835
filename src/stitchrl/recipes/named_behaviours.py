"""Behaviours by name, for `data collect` and the built-in datasets: random, scripted, and saved policies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.core.rounding import rounded
from stitchrl.core.spec import Spec
from stitchrl.environments.atari_positions import GAMES, Game, positions
from stitchrl.environments.behaviours import Behaviour, PolicyBehaviour, RandomBehaviour
from stitchrl.environments.clock import name_of

SAVED = Path(__file__).parents[1] / "environments" / "behaviour"  # policies trained by benchmarks/behaviours/
# A shipped policy is computed in float64, and what it does and how likely that was is rounded to multiples of these: a processor's own
# rounding moves it a billion times less, so that the built-in logs are the same on every machine.
ACTION_STEP, LOG_PROBABILITY_STEP = 2.0**-20, 2.0**-16


def behaviour(name: str, spec: Spec, environment: Any, *, sampled: bool = False) -> Behaviour:
    """Returns `random`, `waypoint` (in a PointMaze), `highway-cautious`, `highway-reckless`, `pong-medium`, `pong-expert`, or the policy saved in a
    run directory or shipped under a name such as `pendulum-expert`."""
    if name == "random":
        return RandomBehaviour(spec)
    if name == "waypoint":
        from stitchrl.environments.waypoints import WaypointBehaviour

        return WaypointBehaviour(environment)
    if name in ("highway-cautious", "highway-reckless"):
        from stitchrl.environments.highway_drivers import highway_driver

        return highway_driver("cautious" if name == "highway-cautious" else "reckless", spec, environment)
    if name in ("pong-medium", "pong-expert"):
        from stitchrl.environments.pong_controllers import pong_controller

        return pong_controller("medium" if name == "pong-medium" else "expert", spec)
    path = SAVED / name if (SAVED / name).is_dir() else Path(name)
    if path.parent == SAVED and (game := _game(name)) is not None:
        return saved_policy(path, spec, environment, sampled=sampled, seen=partial(positions, game=game))
    if not path.is_dir():
        shipped = sorted(p.name for p in SAVED.iterdir() if p.is_dir()) if SAVED.is_dir() else []
        raise ConfigError(
            f"behaviour '{name}' is neither random, waypoint, highway-cautious, highway-reckless, pong-medium, pong-expert, a shipped policy "
            f"({', '.join(shipped)}) nor a directory with a saved policy"
        )
    return saved_policy(path, spec, environment, sampled=sampled)


def walker(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a shipped policy's mode as a function of observations `[N, O]`, for behaviours that steer it."""
    from stitchrl.agent import load

    agent = load(SAVED / name).in_double()
    return lambda observations: rounded(agent.predict(observations), ACTION_STEP)


def _game(name: str) -> Game | None:
    """The Atari game of a shipped policy, which sees no frames but what is read off them."""
    return next((game for game in GAMES if name.startswith(f"{game}-")), None)


def saved_policy(
    path: Path, spec: Spec, environment: Any, *, sampled: bool = False, seen: Callable[[np.ndarray], np.ndarray] | None = None
) -> Behaviour:
    """Returns the first seed of a saved policy as a behaviour; `sampled` draws from it, and tells log-probabilities if the policy has them.

    seen: what the policy reads of the environment's observations, where that is not the observations themselves. Raises ConfigError for a
    policy with a memory, or one that does not fit the environment's spaces.
    """
    from stitchrl.agent import load
    from stitchrl.evaluation.judge import check_policy

    agent = load(path)
    if agent.remembers:
        raise ConfigError(
            f"{path}: a policy of '{agent.name}' acts on what it did and earned before, which a behaviour is not told; `stitchrl evaluate` plays it"
        )
    task = spec if seen is None else Spec(agent.spec.observation, spec.action)
    check_policy(agent, task, name_of(environment))
    agent = agent.of_seed(agent.seeds[0])
    shipped = path.parent == SAVED
    if shipped:
        agent = agent.in_double()
    known = sampled and agent.policy.samples_have_density

    def act(observations: np.ndarray, generator: np.random.Generator) -> Any:
        observations = observations if seen is None else seen(observations)
        if sampled:  # from the log's own generator, so that a log depends on its seed alone
            agent.seed_acting(int(generator.integers(2**63)))
        actions = agent.predict(observations, sampled=sampled)
        if shipped:
            actions = rounded(actions, ACTION_STEP)
        if not known:
            return actions
        # of the action as it is logged, so that an estimator that reads the log finds the same number
        found = agent.log_probabilities(observations, actions)[0]
        return actions, rounded(found, LOG_PROBABILITY_STEP) if shipped else found

    return PolicyBehaviour(act, f"{agent.name} policy {path.name}{' (sampled)' if sampled else ''}")
