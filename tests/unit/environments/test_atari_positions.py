"""Ball and paddles are where they were drawn, and in the games they go where they are sent."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.environments.atari_positions import FEATURES, GAMES, Game, positions
from stitchrl.environments.make import make, spec_of
from stitchrl.recipes.named_behaviours import behaviour


def test_drawn_paddles_and_ball_are_found() -> None:
    frame = np.full((84, 84), 87, np.uint8)
    frame[14, 8:11] = 130  # the opponent at the top
    frame[76, 73:76] = 147  # we at the bottom
    frame[45, 42] = 236  # the ball in the middle: row 45 of 14 … 76, column 42 of 11 … 72
    opponent, ours, column, row, seen = positions(frame[None, None], "pong")[0]
    assert (opponent, ours, row, seen) == pytest.approx((-1, 1, 0, 1))
    assert column == pytest.approx(2 * (42 - 11) / 61 - 1)


def test_what_is_not_there_is_in_the_middle_and_said_to_be_unseen() -> None:
    assert positions(np.full((2, 4, 84, 84), 87, np.uint8), "pong").tolist() == [[0.0] * 20] * 2
    assert positions(np.zeros((1, 1, 84, 84), np.uint8), "breakout").tolist() == [[0.0] * 4]


def test_breakout_s_walls_and_bricks_are_no_ball() -> None:
    frame = np.zeros((84, 84), np.uint8)
    frame[:, :4], frame[:, 80:] = 142, 142
    frame[22:38, 4:80] = 120  # bricks
    frame[75:78, 4:12] = 142  # the paddle at the left wall
    frame[38, 79] = 142
    paddle, column, row, seen = positions(frame[None, None], "breakout")[0]
    assert paddle == pytest.approx(2 * 3.5 / 75 - 1, abs=1e-6)
    assert (column, row, seen) == pytest.approx((1, -1, 1))


@pytest.mark.parametrize("game", list(GAMES))
def test_in_the_game_itself_our_paddle_goes_where_it_is_sent(game: Game) -> None:
    """RIGHT moves Pong's paddle up and Breakout's to the right."""
    world = make(f"stitchrl/{game.capitalize()}Positions-v0")
    assert spec_of(world).observation.shape == (4 * FEATURES[game],)  # type: ignore[union-attr]
    seen, _ = world.reset(seed=0)
    places = []
    for action in (2, 3):
        for _ in range(30):
            seen, *_ = world.step(action)
        places.append(float(seen[-4]))  # of the newest frame
    world.close()
    up_or_left, down_or_right = (places[0], places[1]) if game == "pong" else (places[1], places[0])
    assert up_or_left < -0.5 < 0.5 < down_or_right


def test_the_shipped_controller_holds_its_own_in_pong_from_frames() -> None:
    world = make(GAMES["pong"])
    acting = behaviour("pong-expert", spec_of(world), world)
    seen, _ = world.reset(seed=0)
    points, generator = [], np.random.default_rng(0)
    for _ in range(1_200):
        actions, _ = acting.act(np.asarray(seen)[None], generator)
        seen, reward, *_ = world.step(int(actions[0]))
        points.append(float(reward))
    world.close()
    assert sum(points) >= -1 and len([x for x in points if x]) >= 3, "chance loses 21 of 21 in 900 steps"


def test_the_shipped_agent_plays_breakout_from_frames() -> None:
    world = make(GAMES["breakout"])
    acting = behaviour("breakout-expert", spec_of(world), world)
    seen, _ = world.reset(seed=0)
    earned, generator = 0.0, np.random.default_rng(0)
    for _ in range(300):
        actions, _ = acting.act(np.asarray(seen)[None], generator)
        seen, reward, terminal, timeout, _ = world.step(int(actions[0]))
        earned += float(reward)
        if terminal or timeout:
            break
    world.close()
    assert earned >= 4, "uniformly random actions earn 1.2 in a whole game"
