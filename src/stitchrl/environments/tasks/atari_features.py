"""Pong and Breakout seen by the places of ball and paddles: tasks small enough to train the agents of our Atari logs on a CPU."""

from __future__ import annotations

from typing import Any, final

import gymnasium
import numpy as np

from stitchrl.environments.atari import open_atari
from stitchrl.environments.atari_positions import FEATURES, GAMES, Game, positions


@final
class AtariFeatures(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A game whose observation is `positions` of its stacked frames.

    tracking: added to each step's reward, times how near our paddle is to the ball across its way (1: at it, 0: at the other side): a hint
    to learn by, no part of the game.
    """

    def __init__(self, environment: gymnasium.Env[Any, Any], game: Game, tracking: float) -> None:
        super().__init__(environment)
        self.game: Game = game
        self.tracking = tracking
        self.across = -2 if game == "pong" else -3  # the ball's row in Pong, its column in Breakout, in the newest frame
        depth = environment.observation_space.shape[0]  # type: ignore[index]
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (depth * FEATURES[game],), np.float32)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        frames, info = self.env.reset(**options)
        return self._seen(frames), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        frames, reward, terminal, timeout, info = self.env.step(action)
        seen = self._seen(frames)
        near = seen[-1] * (1 - abs(seen[-4] - seen[self.across]) / 2)
        return seen, float(reward) + self.tracking * float(near), terminal, timeout, info

    def _seen(self, frames: Any) -> np.ndarray[Any, np.dtype[Any]]:
        return positions(np.asarray(frames)[None], self.game)[0]  # type: ignore[no-any-return]


def pong(tracking: float = 0.0) -> AtariFeatures:
    """Returns Pong by its positions."""
    return AtariFeatures(open_atari(GAMES["pong"], {}), "pong", tracking)


def breakout(tracking: float = 0.0) -> AtariFeatures:
    """Returns Breakout by its positions."""
    return AtariFeatures(open_atari(GAMES["breakout"], {}), "breakout", tracking)
