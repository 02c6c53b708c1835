"""Where ball and paddles are in the frames of Pong and Breakout, read off the pixels: what our small Atari agents see.

Only the agents that made the logs see so little; a log holds the frames themselves (recipes/atari_logs.py). Numbers are pixels of the
84 x 84 grey frames of environments/atari.py.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Game = Literal["pong", "breakout"]

GAMES: dict[Game, str] = {"pong": "ALE/Pong-v5", "breakout": "ALE/Breakout-v5"}
FEATURES: dict[Game, int] = {"pong": 5, "breakout": 4}  # of each frame
_FRAME = 84
_PONG_FIELD = (slice(14, 77), slice(11, 73))  # between the bounds above and below, and the two paddles
_PONG_PADDLES = (slice(8, 11), slice(73, 76))  # columns: the opponent's, ours
_PONG_GREY = 87  # of its empty field
_BREAKOUT_FIELD = (slice(38, 75), slice(4, 80))  # below the bricks, among which a ball is not looked for
_BREAKOUT_PADDLE = (slice(75, 78), slice(4, 80))


def positions(frames: Array, game: Game) -> Array:
    """Returns float32 `[N, D * F]` in [-1, 1] for frames `[N, D, 84, 84]`: where each frame's paddles and ball are.

    Of a frame: the opponent's paddle (Pong), ours, the ball's column and row, and 1 where a ball is seen. What is not seen is at 0, the middle.
    """
    flat = frames.reshape(-1, _FRAME, _FRAME)
    found = _pong(flat) if game == "pong" else _breakout(flat)
    return np.stack(found, -1).reshape(len(frames), -1).astype(np.float32)


def _pong(frames: Array) -> list[Array]:
    rows = _PONG_FIELD[0]
    lit = np.abs(frames[:, rows].astype(np.int16) - _PONG_GREY) > 20
    paddles = [_middle(lit[:, :, columns].any(2))[0] for columns in _PONG_PADDLES]
    return [*paddles, *_ball(lit[:, :, _PONG_FIELD[1]])]


def _breakout(frames: Array) -> list[Array]:
    paddle, _ = _middle((frames[:, *_BREAKOUT_PADDLE] > 50).any(1))
    return [paddle, *_ball(frames[:, *_BREAKOUT_FIELD] > 50)]


def _ball(lit: Array) -> list[Array]:
    (column, seen), (row, _) = _middle(lit.any(1)), _middle(lit.any(2))
    return [column, row, seen]


def _middle(lit: Any) -> tuple[Array, Array]:
    """The mean place of what is lit along the last axis, from -1 to 1, and 1 where anything is."""
    count = np.asarray(lit).sum(1)
    place = (lit * np.linspace(-1, 1, lit.shape[1])).sum(1) / np.maximum(count, 1)
    return place, (count > 0).astype(np.float64)
