"""Two small agents for Pong: a controller that goes to where the ball will cross its column, its numbers searched game by game.

benchmarks/behaviours/pong.py searched and recorded what both earn. Q-learning on the same places, which is how Breakout's agents were trained,
still lost by ten points and more after 200,000 steps. What decides is braking: the paddle slides on, and one that is steered to a point
swings about it, wider than it is tall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.environments.atari_positions import FEATURES, positions
from stitchrl.environments.behaviours import ScriptedBehaviour

Array = np.ndarray[Any, np.dtype[Any]]
STAY, UP, DOWN = 0, 2, 3  # of Pong's six actions
_JUMP = 0.6  # columns a step: faster than any ball, which is a new one


@final
@dataclass(frozen=True)
class Controller:
    """Lengths are halves of the field's height, as `positions` has them; speeds are lengths a step."""

    dead_zone: float  # distance from the target below which it stays
    damping: float  # steps of its own speed that it takes itself to be ahead
    column: float = 1.1  # at which the crossing is looked for
    return_gain: float = 0.3  # of the ball's row, while it flies away


CONTROLLERS: dict[Literal["medium", "expert"], Controller] = {
    "medium": Controller(dead_zone=0.1, damping=1.0),
    "expert": Controller(dead_zone=0.26, damping=1.7),
}


def pong_controller(kind: Literal["medium", "expert"], spec: Spec) -> ScriptedBehaviour:
    """Returns a controller for the frames of `ALE/Pong-v5`; raises ConfigError for any other task."""
    frames = spec.observation
    if not isinstance(frames, Box) or frames.shape != (4, 84, 84) or spec.action != Discrete(6):
        raise ConfigError(f"pong-{kind} plays ALE/Pong-v5 from four frames; found {spec.observation} and {spec.action}")
    controller = CONTROLLERS[kind]
    return ScriptedBehaviour(
        lambda observations: decide(positions(np.asarray(observations), "pong"), controller), f"pong controller, {kind}"
    )


def decide(places: Array, controller: Controller) -> Array:
    """Returns int64 `[N]` actions for places `[N, 4 · 5]`, as `positions` tells them."""
    frames = np.asarray(places, np.float64).reshape(len(places), 4, FEATURES["pong"])
    (_, own, x, y, seen), before = frames[:, -1].T, frames[:, -2].T
    speed, rise = x - before[2], y - before[3]
    flies = (seen > 0) & (before[4] > 0) & (np.abs(speed) < _JUMP)
    comes = flies & (speed > 0.005)
    crossing = _reflected(y + rise * (controller.column - x) / np.where(comes, speed, 1.0))
    target = np.where(comes, crossing, np.where(flies, controller.return_gain * y, 0.0))
    distance = target - own - controller.damping * (own - before[1])
    passing = (seen == 0) & (before[4] > 0) & (before[2] > 0.5)  # beside our paddle, where it is not looked for
    distance = np.where(passing, 0.0, distance)
    return np.where(distance > controller.dead_zone, DOWN, np.where(distance < -controller.dead_zone, UP, STAY)).astype(np.int64)


def _reflected(rows: Array) -> Array:
    """Where straight ways end between walls at -1 and 1."""
    folded = (rows + 1) % 4
    return np.where(folded <= 2, folded, 4 - folded) - 1
