"""Pong and Breakout seen by the places of ball and paddles: tasks small enough to train the agents of our Atari logs on a CPU."""

from __future__ import annotations

from typing import Any, final

import gymnasium
import numpy as np

from stitchrl.environments.atari import open_atari
from stitchrl.environments.atari_positions import FEATURES, GAMES, Game, positions


@final
class AtariFeatures(gymnasium.ObservationWrapper[Any, Any, Any]):
    """A game whose observation is `positions` of its stacked frames."""

    def __init__(self, environment: gymnasium.Env[Any, Any], game: Game) -> None:
        super().__init__(environment)
        self.game: Game = game
        depth = environment.observation_space.shape[0]  # type: ignore[index]
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (depth * FEATURES[game],), np.float32)

    def observation(self, observation: Any) -> np.ndarray[Any, np.dtype[Any]]:
        return positions(np.asarray(observation)[None], self.game)[0]  # type: ignore[no-any-return]


def pong() -> AtariFeatures:
    """Returns Pong by its positions."""
    return AtariFeatures(open_atari(GAMES["pong"], {}), "pong")


def breakout() -> AtariFeatures:
    """Returns Breakout by its positions."""
    return AtariFeatures(open_atari(GAMES["breakout"], {}), "breakout")
