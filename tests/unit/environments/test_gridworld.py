"""Grid worlds: moves and slips by hand, and the maps doing what they were drawn for."""

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.environments.tasks.gridworld import MAPS, gridworld
from stitchrl.environments.tasks.tabular import solve


def test_moves_slips_walls_and_prizes_by_hand() -> None:
    world = gridworld(["S#", ".G"], slip=0.2, step_cost=0.1)  # states 0 S, 1 wall, 2 ground, 3 goal
    table = world.mdp.transition.toarray().reshape(4, 4, 4)
    np.testing.assert_allclose(table[0, 0], [1, 0, 0, 0])  # up: the edge; slips left (edge) and right (wall) stay too
    np.testing.assert_allclose(table[0, 1], [0.9, 0, 0.1, 0])  # right: the wall, 0.8; slips up (edge) 0.1, down 0.1
    np.testing.assert_allclose(table[0, 2], [0.2, 0, 0.8, 0])
    np.testing.assert_allclose(table[2, 1], [0.1, 0, 0.1, 0.8])
    assert world.mdp.reward[2, 1] == pytest.approx(0.8 * 1 - 0.1)
    assert world.mdp.terminal.tolist() == [False, False, False, True]


def test_a_straight_way_is_worth_what_it_costs() -> None:
    values, _ = solve(gridworld(["S..G"], slip=0, step_cost=0.1, discount=0.5).mdp)
    # from the last ground 0.9; before it -0.1 + 0.5 · 0.9 = 0.35; first -0.1 + 0.5 · 0.35 = 0.075
    np.testing.assert_allclose(values, [0.075, 0.35, 0.9, 0])


def test_starts_can_be_moved() -> None:
    assert gridworld("stitch").mdp.initial.argmax() == 74
    assert gridworld("stitch", start="B").mdp.initial.argmax() == 0
    assert gridworld(["SS.G"]).mdp.initial.tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("map", MAPS)
def test_every_ground_leads_to_the_goal(map: str) -> None:
    world = gridworld(map, slip=0.0, step_cost=0.0, discount=0.99)
    values, _ = solve(world.mdp)
    ground = [s for s in range(world.mdp.states) if not world.mdp.terminal[s] and s not in world.states("#")]
    assert (values[ground] > 0.5).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": "clif"}, "map 'clif' is unknown; expected one of cliff, stitch"),
        ({"map": ["S.", "G"]}, "all equally long"),
        ({"map": ["S?G"]}, r"cell '\?'"),
        ({"map": ["..G"]}, "no ground 'S'"),
        ({"start": "G"}, "no ground 'G'"),
        ({"slip": 1.5}, "slip is 1.5"),
    ],
)
def test_a_wrong_world_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gridworld(**options)
