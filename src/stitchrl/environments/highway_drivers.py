"""Two ways to drive on `stitchrl/Highway-v0`, written down: a cautious driver who keeps distance, and a reckless one who does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.environments.behaviours import ScriptedBehaviour
from stitchrl.environments.tasks.highway import FASTEST, FEATURES, LANE_WIDTH, SEEN

Array = np.ndarray[Any, np.dtype[Any]]
LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)


@final
@dataclass(frozen=True)
class Habits:
    """When a driver does what. Seconds are of headway at the present speed, metres from centre to centre."""

    follows: float  # seconds to the vehicle ahead below which it changes lane or slows down
    speeds_up: float  # seconds to the vehicle ahead above which it goes faster
    limit: float  # metres a second that it does not try to exceed
    needs_ahead: float  # metres free ahead in a lane before moving there
    needs_behind: float  # metres free behind
    brakes: bool  # where it can neither go on nor change lane


HABITS = {
    "cautious": Habits(follows=1.6, speeds_up=2.6, limit=24.0, needs_ahead=45.0, needs_behind=30.0, brakes=True),
    "reckless": Habits(follows=0.8, speeds_up=0.8, limit=30.0, needs_ahead=14.0, needs_behind=8.0, brakes=False),
}


def highway_driver(kind: Literal["cautious", "reckless"], spec: Spec, environment: Any) -> ScriptedBehaviour:
    """Returns a driver for a highway of the environment's lanes; raises ConfigError for any other task."""
    config = getattr(environment.unwrapped, "config", None)
    fits = isinstance(spec.observation, Box) and len(spec.observation.shape) == 1 and spec.observation.size % len(FEATURES) == 0
    if not isinstance(config, dict) or "lanes_count" not in config or not fits or spec.action != Discrete(5):
        raise ConfigError(f"the {kind} driver drives on stitchrl/Highway-v0; found {spec.observation} and {spec.action}")
    lanes, habits = int(config["lanes_count"]), HABITS[kind]
    return ScriptedBehaviour(lambda observations: drive(observations, habits, lanes), f"{kind} driver")


def drive(observations: Array, habits: Habits, lanes: int) -> Array:
    """Returns int64 `[N]` actions for flat observations `[N, 5 · observed]`."""
    rows = np.asarray(observations, np.float64).reshape(len(observations), -1, len(FEATURES))
    height = LANE_WIDTH * lanes  # metres, highway-env's y = 1
    speed = rows[:, 0, 3] * FASTEST
    own = np.clip(np.rint(rows[:, 0, 2] * height / LANE_WIDTH), 0, lanes - 1)
    others = rows[:, 1:]
    present = others[:, :, 0] > 0.5
    ahead = others[:, :, 1] * SEEN
    lane = np.rint(others[:, :, 2] * height / LANE_WIDTH)  # relative to the own one
    gap = np.where(present & (lane == 0) & (ahead > 0), ahead, np.inf).min(1)
    headway = gap / np.maximum(speed, 1)
    blocking = present & (ahead < habits.needs_ahead) & (ahead > -habits.needs_behind)
    free = {side: ~(blocking & (lane == side)).any(1) & (own + side >= 0) & (own + side < lanes) for side in (-1, 1)}
    action = np.where((headway > habits.speeds_up) & (speed < habits.limit - 0.5), FASTER, IDLE)
    action = np.where((headway > habits.follows) & (speed > habits.limit + 1), SLOWER, action)
    blocked = headway <= habits.follows
    stuck = SLOWER if habits.brakes else FASTER
    return np.where(blocked, np.where(free[-1], LEFT, np.where(free[1], RIGHT, stuck)), action).astype(np.int64)
