"""Plans as pictures: written, read back, drawn; and how a maze's walls are found."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.environments.make import GRIDWORLD, make
from stitchrl.environments.maze_walls import walls_of
from stitchrl.report.plan_views import Plans, plans_png, plans_section, read_plans, stages_gif, standing, write_pictures, write_plans
from stitchrl.verbs.plan import plan


def made(stages: int = 3) -> Plans:
    """Two starts, three straight plans of four points: up, to the right, and one whose end is not known."""
    line = np.linspace(0, 1, 4)[:, None] * np.array([[[0.0, 1.0]], [[1.0, 0.0]], [[1.0, 1.0]]])  # [K, T, 2]
    line[2, 3] = np.nan
    both = np.stack([line, line + 0.5])
    growing = both[:, 1:2] * np.linspace(0, 1, stages)[None, :, None, None] if stages else np.zeros((2, 0, 4, 2))
    walls = np.array([[-1, -1, 3, 0.5], [-1, 1.5, 3, 0.5]])
    return Plans(
        both, np.array([[1.0, 5.0, 2.0], [3.0, 3.0, 3.0]]), growing, both[:, 0, 0], np.array([[1, 1], [np.nan, np.nan]]), walls, score="v"
    )


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)


def has(png: bytes, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels(png).astype(int) - colour).max(1) <= 3).any())


def test_plans_are_read_as_they_were_written(tmp_path: Path) -> None:
    plans = made()
    assert read_plans(tmp_path) is None
    write_plans(tmp_path, plans)
    again = read_plans(tmp_path)
    assert again is not None
    for field in dataclasses.fields(Plans):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(plans, field.name))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", b"not a zip"])
def test_a_damaged_file_is_told(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "plans.npz").write_bytes(damage)
    with pytest.raises(DataError, match="stitchrl plan"):
        read_plans(tmp_path)


def test_arrays_that_do_not_fit_are_told() -> None:
    with pytest.raises(DataError, match=r"'scores' has shape \[2, 2\]; expected \[2, 3\]"):
        dataclasses.replace(made(), scores=np.zeros((2, 2)))
    with pytest.raises(DataError, match="not finite"):
        dataclasses.replace(made(), scores=np.full((2, 3), np.nan))


def test_a_picture_shows_walls_start_goal_and_the_best_plan() -> None:
    yellow, wall, goal = (253, 231, 36), (201, 206, 212), (213, 94, 0)  # viridis' last; as in the module
    picture = plans_png(made(), 0)
    assert has(picture, yellow) and has(picture, wall) and has(picture, goal)
    assert not has(plans_png(made(), 1), goal)
    bare = plans_png(dataclasses.replace(made(), walls=np.zeros((0, 4))), 0)
    assert not has(bare, wall) and has(bare, yellow)


def test_the_stages_move_and_rest_on_the_last() -> None:
    moving = Image.open(io.BytesIO(stages_gif(made(), 0)))
    assert moving.n_frames == 3 and moving.info.get("loop") == 0
    moving.seek(2)
    assert moving.info["duration"] == 2500
    long = Image.open(io.BytesIO(stages_gif(made(1001), 0)))
    assert long.n_frames == 40
    with pytest.raises(DataError, match="not kept"):
        stages_gif(made(0), 0)


def test_pictures_are_files_and_part_of_a_page(tmp_path: Path) -> None:
    names = [path.name for path in write_pictures(made(), tmp_path)]
    assert names == ["plans_1.png", "plans_1.gif", "plans_2.png", "plans_2.gif"] and all((tmp_path / name).stat().st_size for name in names)
    one = dataclasses.replace(made(), **{name: getattr(made(), name)[:1] for name in ("plans", "scores", "stages", "starts", "goals")})
    write_pictures(one, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plans_1.gif", "plans_1.png"], "none are left of other plans"
    body = plans_section(made()).body
    assert body.count("data:image/png;base64,") == body.count("data:image/gif;base64,") == 2 and "the best, wide, has 5" in body


def test_plans_that_go_nowhere_are_told() -> None:
    assert standing(made()) == ""
    plans = made().plans.copy()
    plans[1] = plans[1, :, :1]
    one = dataclasses.replace(made(), plans=plans)
    assert "From 1 of 2 every plan stays where it starts" in standing(one) and standing(one) in plans_section(one).body


def test_a_grids_walls_lie_where_its_map_has_them() -> None:
    world = make(GRIDWORLD, map=["S#", ".G"])
    maze = walls_of(world, GRIDWORLD, {"map": ["S#", ".G"]})
    assert maze is not None and maze.walls[-1].tolist() == [1, -1, 1, 1]
    assert maze.positions(np.array([0, 3])).tolist() == [[0.5, -0.5], [1.5, -1.5]]
    assert maze.goal_of(np.array(0)).tolist() == [1.5, -1.5]


@pytest.mark.parametrize("id", ["PointMaze_UMaze-v3", "pointmaze-medium-v0"])
def test_a_mazes_walls_hold_no_start_and_no_goal(id: str) -> None:
    pytest.importorskip("mujoco")
    world = make(id)
    maze = walls_of(world, id, {})
    assert maze is not None
    for seed in range(4):
        observation = np.asarray(world.reset(seed=seed)[0])
        for point in (maze.positions(observation), maze.goal_of(observation)):
            inside = (point >= maze.walls[:, :2]) & (point <= maze.walls[:, :2] + maze.walls[:, 2:])
            assert not inside.all(1).any()
    low, high = maze.walls[:, :2].min(0), (maze.walls[:, :2] + maze.walls[:, 2:]).max(0)
    assert (low < point).all() and (point < high).all()
    world.close()


def test_other_environments_have_no_walls() -> None:
    world = make("CartPole-v1")
    assert walls_of(world, "CartPole-v1", {}) is None


def test_the_plans_of_a_run_are_drawn_and_shown_in_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stitchrl import train

    tiny = {"horizon": 4, "width": 8, "multipliers": (1, 2), "diffusion_steps": 3, "candidates": 2}
    run = tmp_path / "run"
    train("diffuser", "gridworld/expert", settings=tiny, training={"steps": 2, "batch_size": 4}, run=run)
    assert plan([str(run), "--starts", "1"]) == 0  # in its log's own task, as it stayed offline
    assert "2 plan(s) of 4 states from each of 1 start(s)" in capsys.readouterr().out
    plans = read_plans(run)
    assert plans is not None and plans.stages.shape == (1, 4, 4, 2) and plans.score == "predicted return"
    assert (plans.plans[0, :, 0] == plans.starts[0]).all(), "the present state is given"
    assert {"plans_1.png", "plans_1.gif"} < {path.name for path in run.iterdir()}
    assert "data:image/gif" in (run / "report.html").read_text()


def test_a_policy_that_does_not_plan_is_told(tmp_path: Path) -> None:
    from stitchrl import train

    train("bc", "gridworld/expert", settings={"hidden": (8,)}, training={"steps": 2}, run=tmp_path / "run")
    with pytest.raises(ConfigError, match="makes no plans"):
        plan([str(tmp_path / "run"), "--env", GRIDWORLD])
