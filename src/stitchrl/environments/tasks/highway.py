"""Driving on a highway among others (highway-env; Leurent, 2018): fast is good, a collision ends the drive and costs dearly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.core.rounding import rounded

if TYPE_CHECKING:
    import gymnasium

FEATURES = ("presence", "x", "y", "vx", "vy")
LANE_WIDTH = 4.0  # metres
SEEN = 200.0  # metres ahead and behind, highway-env's x = 1
FASTEST = 80.0  # metres a second, its vx = 1
STEP = 2.0**-20  # of observations and rewards


def highway(lanes: int = 3, vehicles: int = 20, observed: int = 7, collision_cost: float = 5.0) -> gymnasium.Env[Any, Any]:
    """Returns `highway-fast-v0` with flat observations: presence, x, y, vx and vy of the ego vehicle and of the `observed` - 1 nearest
    ones, relative to it, float32 `[5 · observed]`.

    Observations and rewards are multiples of 2⁻²⁰: what is 0 but for a processor's last digit is 0, and a log is the same on every machine.
    Actions: lane left, idle, lane right, faster, slower, of which each lasts a second. Reward of a step: 0.4 for the speed, from 0 at 20 to 1
    at 30 m/s, and 0.1 for the lane, from 0 at the left to 1 at the right; minus `collision_cost` where the drive ends in a collision.
    """
    if lanes < 2 or vehicles < 1 or observed < 2 or collision_cost < 0:
        raise ConfigError(
            f"highway with {lanes} lanes, {vehicles} vehicles, {observed} observed, collision cost {collision_cost}; expected at least 2, 1, 2, 0"
        )
    try:
        import highway_env
    except ImportError:
        raise ConfigError(
            "stitchrl/Highway-v0 needs the package highway-env, which is not installed. Run: pip install highway-env"
        ) from None
    import gymnasium
    from gymnasium.wrappers import FlattenObservation, TransformObservation, TransformReward

    gymnasium.register_envs(highway_env)
    config = {
        "lanes_count": lanes,
        "vehicles_count": vehicles,
        "duration": 1_000_000,  # the clock is Gymnasium's
        "normalize_reward": False,
        "collision_reward": -collision_cost,
        "observation": {"type": "Kinematics", "features": list(FEATURES), "vehicles_count": observed, "see_behind": True},
    }
    world = FlattenObservation(gymnasium.make("highway-fast-v0", disable_env_checker=True, config=config))
    seen = TransformObservation(world, lambda observation: rounded(observation, STEP) + 0.0, world.observation_space)  # + 0: no -0
    return TransformReward(seen, lambda reward: float(rounded(np.asarray(reward), STEP)) + 0.0)
