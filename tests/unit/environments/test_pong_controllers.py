"""Pong's controllers: where they take the ball to cross, and what they do about it."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.environments.pong_controllers import CONTROLLERS, DOWN, STAY, UP, Controller, decide, pong_controller

PLAIN = Controller(dead_zone=0.05, damping=0.0, return_gain=0.5, column=1.0)


def places(
    own: float, ball: tuple[float, float], before: tuple[float, float], seen: float = 1.0, own_before: float | None = None
) -> np.ndarray:
    """Returns one row of four frames: the ball `(column, row)` now and a step before; the opponent in the middle."""
    frames = np.zeros((4, 5))
    frames[-1] = [0.0, own, *ball, seen]
    frames[-2] = [0.0, own if own_before is None else own_before, *before, 1.0]
    return frames.reshape(1, 20)


@pytest.mark.parametrize(
    ("own", "ball", "before", "expected"),
    [
        (0.0, (0.5, 0.2), (0.25, 0.1), DOWN),  # crosses at 0.4
        (0.42, (0.5, 0.2), (0.25, 0.1), STAY),
        (0.6, (0.5, 0.2), (0.25, 0.1), UP),
        (0.5, (0.0, 0.5), (-0.25, 0.25), STAY),  # 1.5 is beyond the wall: back to 0.5
        (0.0, (0.0, 0.5), (0.25, 0.5), DOWN),  # it flies away: half its row
        (0.25, (0.0, 0.5), (0.25, 0.5), STAY),
        (0.3, (0.9, 0.9), (-0.2, 0.9), UP),  # a new ball: to the middle
    ],
)
def test_it_goes_to_where_the_ball_will_cross(own: float, ball: tuple[float, float], before: tuple[float, float], expected: int) -> None:
    assert decide(places(own, ball, before), PLAIN).tolist() == [expected]


def test_it_waits_in_the_middle_for_a_ball_and_stops_in_time() -> None:
    assert decide(places(0.3, (0.0, 0.0), (0.0, 0.0), seen=0.0), PLAIN).tolist() == [UP]
    assert decide(places(0.3, (0.0, 0.0), (0.9, 0.0), seen=0.0), PLAIN).tolist() == [STAY], "the ball is beside it"
    slow = Controller(**{**vars(PLAIN), "damping": 1.0})
    moving = places(0.3, (0.5, 0.2), (0.25, 0.1), own_before=0.1)  # by 0.2 a step, to be at 0.5 where 0.4 is wanted
    assert (decide(moving, PLAIN).tolist(), decide(moving, slow).tolist()) == ([DOWN], [UP])
    both = np.concatenate([moving, places(0.42, (0.5, 0.2), (0.25, 0.1))])
    assert decide(both, slow).tolist() == [UP, STAY], "each row for itself"


def test_frames_of_another_game_are_refused() -> None:
    pixels = Spec(Box((4, 84, 84), dtype="uint8"), Discrete(6))
    frames = np.full((2, 4, 84, 84), 87, np.uint8)
    behaviour = pong_controller("expert", pixels)
    assert behaviour.act(frames, np.random.default_rng(0))[0].tolist() == [STAY, STAY], "an empty field"
    with pytest.raises(ConfigError, match="plays ALE/Pong-v5 from four frames"):
        pong_controller("medium", Spec(Box((4, 84, 84), dtype="uint8"), Discrete(4)))
    assert CONTROLLERS["medium"] != CONTROLLERS["expert"]
