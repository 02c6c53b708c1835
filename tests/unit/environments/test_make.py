"""Environments by id: ours, Gymnasium's, those of packages; and what is told when there is none."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.environments.make import GRIDWORLD, make, make_vector, mdp_of, space_of, spec_of
from stitchrl.environments.maze_walls import walls_of


def test_spec_of_discrete_and_box() -> None:
    assert spec_of(make(GRIDWORLD)) == Spec(Discrete(54), Discrete(4))
    pendulum = spec_of(make("Pendulum-v1"))
    assert pendulum.observation == Box((3,), (-1.0, -1.0, -8.0), (1.0, 1.0, 8.0))
    assert pendulum.action == Box((1,), (-2.0,), (2.0,))
    assert spec_of(make("CartPole-v1")).action == Discrete(2)


def test_goal_observations_become_one_box() -> None:
    environment = make("PointMaze_UMaze-v3")
    assert spec_of(environment) == Spec(Box((6,)), Box((2,), (-1.0,), (1.0,)))
    seen, _ = environment.reset(seed=3)
    raw = environment.unwrapped
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, [*raw.point_env.data.qpos, *raw.point_env.data.qvel, *raw.goal], rtol=1e-6)  # type: ignore[attr-defined]
    environment.close()


@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
@pytest.mark.parametrize("id", ["AntMaze_UMaze-v5", "AntMaze_UMaze-v4"])
def test_an_ant_sees_where_it_is(id: str) -> None:
    """Its observation is what its joints do; where it is stands in `achieved_goal` alone."""
    environment = make(id)
    seen, _ = environment.reset(seed=0)
    raw = environment.unwrapped
    place = raw.ant_env.data.qpos[:2]  # type: ignore[attr-defined]
    np.testing.assert_allclose(seen[[0, 1, 2, -2, -1]], [*place, raw.ant_env.data.qpos[2], *raw.goal], rtol=1e-6)  # type: ignore[attr-defined]
    walls = walls_of(environment, id, {})
    assert walls is not None
    np.testing.assert_allclose([walls.positions(seen), walls.goal_of(seen)], [place, raw.goal], rtol=1e-6)  # type: ignore[attr-defined]
    environment.close()


def test_a_task_that_others_call_mdp_is_none_of_ours() -> None:
    class Own(gymnasium.Env):  # type: ignore[type-arg]
        mdp = {"states": 3}

    assert mdp_of(Own()) is None


def test_options_reach_the_environment() -> None:
    environment = make(GRIDWORLD, map=["S.G"], slip=0.0, max_episode_steps=7)
    assert mdp_of(environment).states == 3
    assert environment.spec is not None
    assert environment.spec.max_episode_steps == 7


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("Hoper-v5", {}, "Did you mean 'Hopper-v5'"),
        ("CartPole-v7", {}, "Did you mean 'CartPole-v1'"),
        ("PointMaze_Umaze-v3", {}, "Did you mean 'PointMaze_UMaze-v3'"),
        ("gridworld", {}, "Did you mean 'stitchrl/Gridworld-v0'"),
        ("zzzzqqqq", {}, "is unknown"),
        ("nowhere:Thing-v0", {}, "'nowhere', which is neither installed nor in the working directory"),
        (GRIDWORLD, {"slp": 0.1}, "no option 'slp'. Did you mean 'slip'"),
        (GRIDWORLD, {"map": "clif"}, "map 'clif' is unknown"),
        ("CartPole-v1", {"gravity": 1}, "no option 'gravity'. Options: max_episode_steps"),
        ("CartPole-v1", {"max_episode_steps": -5}, "could not be made"),
        ("visual-antmaze-medium-v0", {}, "OGBench's pixels, which are not read here"),
        ("powderworld-easy-v0", {}, "OGBench's pixels, which are not read here"),
        ("pointmaze-medium-singletask-v0", {"task": 3}, "is of one task: another is told in its id"),
    ],
)
def test_a_mistake_is_told_in_one_line(id: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        make(id, **options)
    assert "\n" not in str(error.value)


def test_a_module_in_the_working_directory_registers_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_pendulum = "gymnasium.register('Own-v0', 'gymnasium.envs.classic_control:PendulumEnv', max_episode_steps=7)"
    (tmp_path / "own_task.py").write_text(f"import gymnasium\n\n{from_pendulum}\n", encoding="utf-8")
    (tmp_path / "half_task.py").write_text("import absent_module\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    environment = make("own_task:Own-v0")
    assert environment.spec is not None and environment.spec.max_episode_steps == 7
    with pytest.raises(ConfigError, match="Did you mean 'own_task:Own-v0'"):
        make("own_task:Ownn-v0")
    with pytest.raises(ConfigError, match="needs the module 'absent_module', which is not installed. Run: pip install absent_module"):
        make("half_task:Own-v0")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stitchrl.environments.make.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="package minatar, which is not installed. Run: pip install minatar"):
        make("MinAtar/Breakout-v9")


def test_spaces_we_do_not_speak_are_refused() -> None:
    from gymnasium import spaces

    with pytest.raises(ConfigError, match="Tuple space; expected Box, Discrete"):
        spec_of(make("Blackjack-v1"))
    with pytest.raises(ConfigError, match="integers from 1"):
        space_of(spaces.Discrete(3, start=1))
    assert space_of(spaces.Box(0, 255, (4, 84, 84), np.uint8)) == Box((4, 84, 84), (0.0,), (255.0,), "uint8")


@pytest.mark.parametrize("processes", [1, 2])
def test_vector_environments(processes: int) -> None:
    environments = make_vector("CartPole-v1", 2, processes=processes, max_episode_steps=3)
    seen, _ = environments.reset(seed=0)
    assert seen.shape == (2, 4)
    assert spec_of(environments) == spec_of(make("CartPole-v1"))
    for _ in range(3):
        *_, truncated, info = environments.step(np.array([0, 1]))
    assert truncated.all()
    assert len(info["final_obs"]) == 2
    environments.close()
    with pytest.raises(ConfigError, match="2 environments in 3 processes"):
        make_vector("CartPole-v1", 2, processes=3)


def test_stepping_a_tabular_environment_follows_its_table() -> None:
    environment = make(GRIDWORLD, map=["S.G"], slip=0.0, step_cost=0.1)
    assert environment.reset(seed=0)[0] == 0
    assert environment.step(1)[:4] == (1, pytest.approx(-0.1), False, False)
    assert environment.step(1)[:4] == (2, pytest.approx(0.9), True, False)
    with pytest.raises(ConfigError, match="call reset first"):
        environment.unwrapped.step(1)
    assert environment.reset(options={"state": 1})[0] == 1
    with pytest.raises(ConfigError, match="not terminal"):
        environment.reset(options={"state": 2})


@pytest.mark.parametrize(("id", "told"), [("PointMaze_UMaze-v3", False), ("AdroitHandDoor-v1", True)])
def test_the_notice_on_adroit_is_told_to_those_who_open_it(id: str, told: bool) -> None:
    pytest.importorskip("gymnasium_robotics")
    code = f"from stitchrl.environments.make import make; make({id!r}).close()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("AdroitHandDoorDense-v1" in done.stderr) == told


def test_what_mujoco_warns_of_is_told_once_and_leaves_no_file(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    code = "from stitchrl.environments.make import make; [make('HalfCheetah-v5').close() for _ in range(3)]"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line[:8] for line in (done.stdout + done.stderr).splitlines()] in (["MuJoCo: "], [])  # 4.0 has something to say of its model
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("id", ["AntMaze_UMaze-v5", "PointMaze_UMaze-v3", "antmaze-medium-v0", "stitchrl/AntMaze-v0"])
def test_a_maze_leaves_no_file_and_no_descriptor_behind(id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(id).close()  # what its packages open once
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    environment = make(id)
    environment.reset(seed=0)
    environment.close()
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() == str(tmp_path)
    if opened:
        assert len(os.listdir("/proc/self/fd")) == len(opened)


def test_mazes_may_be_made_by_several_threads() -> None:
    before = tempfile.tempdir, tempfile.mkstemp
    threads = [threading.Thread(target=lambda: make("PointMaze_UMaze-v3").close()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tempfile.tempdir, tempfile.mkstemp) == before
    with tempfile.TemporaryFile() as file:
        file.write(b"still there")
