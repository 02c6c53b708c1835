"""Minari's directories against Minari itself, in both directions and all storages."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data import sources
from stitchrl.data.episode_checks import check_reading
from stitchrl.data.sources import minari as ours
from stitchrl.environments.make import make
from stitchrl.evaluation.judge import Evaluation, Judge
from stitchrl.verbs.data import convert
from tests.unit.data.logs import Stream, rich_dataset, streams, transitions_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import gymnasium

    minari = pytest.importorskip("minari")
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def stream_of(lengths: list[int], discrete: bool) -> Stream:
    generator = np.random.default_rng(0)
    return Stream(
        [(100 * i + np.arange(3 * n + 3, dtype=np.float32)).reshape(n + 1, 3) for i, n in enumerate(lengths)],
        [generator.integers(0, 3, n) if discrete else generator.uniform(-2, 2, (n, 2)).astype(np.float32) for n in lengths],
        [generator.standard_normal(n).astype(np.float32) for n in lengths],
        [n % 2 == 0 for n in lengths],
    )


def create(
    name: str, stream: Stream, observation: Any, action: Any, storage: str, observations: list[Any] | None = None, **environments: Any
) -> None:
    buffers = [
        EpisodeBuffer(
            observations=o,
            actions=a,
            rewards=r.tolist(),
            terminations=[False] * (len(r) - 1) + [ended],
            truncations=[False] * (len(r) - 1) + [not ended],
            infos={},
        )
        for o, a, r, ended in zip(observations or stream.observations, stream.actions, stream.rewards, stream.ended, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fields that only a published dataset needs
        minari.create_dataset_from_buffers(
            name,
            buffers,
            observation_space=observation,
            action_space=action,
            data_format=storage,
            algorithm_name="counting",
            **environments,
        )


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("storage", ["hdf5", "arrow", "parquet"])
def test_what_minari_wrote_is_read_aligned(local: Path, storage: str, discrete: bool) -> None:
    stream = stream_of([3, 4, 1], discrete)
    action = spaces.Discrete(3) if discrete else spaces.Box(-2, 2, (2,))
    create(f"test/{storage}-v0", stream, spaces.Box(-np.inf, np.inf, (3,)), action, storage)
    d = sources.read(local / "test" / f"{storage}-v0")
    assert transitions_of(d) == stream.transitions()
    assert d.lengths.tolist() == [3, 4, 1]
    assert d.timeouts.sum() == 2
    assert d.spec == Spec(Box((3,)), Discrete(3) if discrete else Box((2,), (-2.0,), (2.0,)))
    assert d.metadata["name"] == f"test/{storage}-v0"


@settings(max_examples=5)
@given(drawn=streams())
def test_what_we_write_minari_reads(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Stream, Spec]) -> None:
    stream, spec = drawn
    root = tmp_path_factory.mktemp("root")
    d = rich_dataset(stream, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        ours.write(d, root / "ours" / "log-v0", "ours/log-v0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = minari.load_dataset("ours/log-v0")
            episodes = list(loaded.iterate_episodes())
    assert (loaded.total_steps, loaded.total_episodes) == (stream.steps, len(stream.rewards))
    for i, episode in enumerate(episodes):
        assert np.array_equal(episode.observations, stream.observations[i])
        assert np.array_equal(episode.actions, stream.actions[i])
        assert np.array_equal(episode.rewards, stream.rewards[i])
        assert episode.terminations[-1] == stream.ended[i]
        assert episode.truncations[-1] != stream.ended[i]
    again = ours.read(root / "ours" / "log-v0", isolated=False)
    assert again.fingerprint() == d.fingerprint()
    assert (again.spec, again.metadata) == (d.spec, d.metadata)


@pytest.mark.parametrize("storage", ["hdf5", "arrow"])
def test_goals_of_a_dict_observation_become_a_column(local: Path, storage: str) -> None:
    stream = stream_of([3, 2], False)
    entries = [{"observation": o, "achieved_goal": o[:, :2], "desired_goal": o[:, :2] * 0 + i} for i, o in enumerate(stream.observations)]
    space = spaces.Dict(
        observation=spaces.Box(-np.inf, np.inf, (3,)),
        achieved_goal=spaces.Box(-np.inf, np.inf, (2,)),
        desired_goal=spaces.Box(-np.inf, np.inf, (2,)),
    )
    create(f"test/goals-{storage}-v0", stream, space, spaces.Box(-2, 2, (2,)), storage, entries)
    path = local / "test" / f"goals-{storage}-v0"
    d = ours.read(path)
    assert transitions_of(d) == stream.transitions()
    assert d.columns["goals"].tolist() == [[0, 0]] * 3 + [[1, 1]] * 2
    wide = ours.read(path, observation_keys=["observation", "desired_goal"], goal_keys=["achieved_goal"])
    assert wide.spec.observation == Box((5,))
    assert np.array_equal(wide.observations[:, :3], d.observations)
    assert np.array_equal(wide.columns["goals"], d.observations[:, :2])
    with pytest.raises(DataError, match="'pixels' is unknown; found 'observation', 'achieved_goal', 'desired_goal'"):
        ours.read(path, observation_keys=["pixels"])


def test_the_log_s_environment_keeps_its_options_and_clock(local: Path) -> None:
    stream = stream_of([3, 2], True)
    cells = [np.arange(len(r) + 1) for r in stream.rewards]
    lake = gymnasium.make("FrozenLake-v1", is_slippery=False, max_episode_steps=50, render_mode="rgb_array")
    small = gymnasium.make("FrozenLake-v1", desc=["SF", "HG"])
    spaces_of = (spaces.Discrete(16), spaces.Discrete(4))
    create("test/lake-v0", stream, *spaces_of, "hdf5", cells, env=lake)
    create("test/judged-v0", stream, *spaces_of, "hdf5", cells, env=lake, eval_env=small)
    d = ours.read(local / "test" / "lake-v0")
    assert d.metadata["environment"] == "FrozenLake-v1"
    assert d.metadata["environment_options"] == {"map_name": "4x4", "is_slippery": False, "max_episode_steps": 50}
    opened = make(d.metadata["environment"], **d.metadata["environment_options"])
    assert opened.spec is not None and opened.spec.max_episode_steps == 50
    assert [row[2] for row in opened.unwrapped.P[0][2]] == [0.0]  # to the right alone, where ice is not slippery
    ours.write(d, local / "again")
    assert ours.read(local / "again").metadata == d.metadata
    judged = ours.read(local / "test" / "judged-v0").metadata
    assert judged["environment_options"] == {"map_name": "4x4", "desc": ["SF", "HG"], "max_episode_steps": 100}


def test_a_log_of_frames_that_were_skipped_by_a_wrapper_asks_for_no_skipping_twice() -> None:
    kwargs = {"game": "pong", "obs_type": "rgb", "frameskip": 1, "render_mode": None}
    skipping = {"name": "AtariPreprocessing", "entry_point": "…", "kwargs": {"frame_skip": 4}}
    for wrappers, expected in (
        ([skipping], {"game": "pong", "obs_type": "rgb"}),
        ([], {"game": "pong", "obs_type": "rgb", "frameskip": 1}),
    ):
        described = {"id": "ALE/Pong-v5", "kwargs": kwargs, "max_episode_steps": None, "additional_wrappers": wrappers}
        assert ours._environment_options(described, "env_spec") == expected


def test_a_wrapped_environment_is_told(local: Path) -> None:
    """It is opened without: policies of a log of actions from -1 to 1 would be judged in a task of -2 to 2."""
    stream = stream_of([3, 2], True)
    boxes = spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(-1, 1, (1,))
    with warnings.catch_warnings(action="ignore"):  # of bounds cast to float32: as float32 they could not be written
        wrapped = gymnasium.wrappers.RescaleAction(gymnasium.make("Pendulum-v1"), -1.0, 1.0)
    create("test/wrapped-v0", stream, *boxes, "hdf5", env=wrapped)
    found = check_reading(ours.read(local / "test" / "wrapped-v0"))
    assert [(x.code, x.severity) for x in found] == [("wrappers-left-out", "warning")]
    assert "the log was made in Pendulum-v1 wrapped in RescaleAction, which is left out where Pendulum-v1 is opened" in found[0].message
    create("test/plain-v0", stream, *boxes, "hdf5", env=gymnasium.make("Pendulum-v1"))
    assert check_reading(ours.read(local / "test" / "plain-v0")) == []


def test_actions_that_count_from_elsewhere_count_from_zero(local: Path) -> None:
    stream = stream_of([2], True)
    shifted = stream._replace(actions=[a + 5 for a in stream.actions])
    create("test/start-v0", shifted, spaces.Box(-np.inf, np.inf, (3,)), spaces.Discrete(3, start=5), "hdf5")
    d = ours.read(local / "test" / "start-v0")
    assert transitions_of(d) == stream.transitions()
    assert d.metadata["action_start"] == 5


def test_what_cannot_be_read_is_said(local: Path) -> None:
    stream = stream_of([2, 3], False)
    create("test/bad-v0", stream, spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(-2, 2, (2,)), "hdf5")
    path = local / "test" / "bad-v0"
    record = json.loads((path / "data" / "metadata.json").read_text())

    def changed(**values: Any) -> Path:
        (path / "data" / "metadata.json").write_text(json.dumps(record | values))
        return path

    cases = {
        "bad-v0: .*metadata.json says 3": {"total_episodes": 3},
        "bad-v0: action_space is a MultiDiscrete": {"action_space": json.dumps({"type": "MultiDiscrete", "nvec": [2, 2]})},
        "bad-v0: data_format is 'pickle'": {"data_format": "pickle"},
        "bad-v0: metadata.json: action_space: not valid JSON": {"action_space": "{"},
        "bad-v0: metadata.json has no 'action_space'": {"action_space": None},
        "bad-v0: metadata.json: env_spec: expected kwargs by name": {"env_spec": json.dumps({"id": "X-v0", "kwargs": [1]})},
    }
    for message, values in cases.items():
        with pytest.raises(DataError, match=message):
            ours.read(changed(**values))


@pytest.mark.parametrize(("environment", "shown", "first"), [("PointMaze_UMaze-v3", 4, ()), ("AntMaze_UMaze-v5", 105, ("achieved_goal",))])
def test_a_log_whose_goals_stand_apart_is_put_beside_them_for_its_environment(
    environment: str, shown: int, first: tuple[str, ...], local: Path
) -> None:
    """PointMaze shows 4 numbers and a goal of 2, AntMaze before its 105 where the ant is; the log's entries are as Minari records them."""
    pytest.importorskip("gymnasium_robotics")
    stream = stream_of([3, 2], False)
    entries = [
        {"achieved_goal": o[:, :2], "desired_goal": o[:, :2] * 0 + 7, "observation": np.pad(o, ((0, 0), (0, shown - 3)))}
        for o in stream.observations
    ]
    box = {width: spaces.Box(-np.inf, np.inf, (width,), np.float64) for width in (2, shown)}
    space = spaces.Dict(achieved_goal=box[2], desired_goal=box[2], observation=box[shown])
    create("test/maze-v0", stream, space, spaces.Box(-2, 2, (2,)), "hdf5", entries)
    found = ours.read(local / "test" / "maze-v0")
    judged = (environment, {}, None, (0,))
    entries_named = (*first, "observation", "desired_goal")
    wider, keys = shown + 2 * len(entries_named) - 2, " ".join(entries_named)
    told = rf"box\[{wider}\] and the policy box\[{shown}\].*data convert LOG --observation-keys {keys} --to WIDE"
    with pytest.raises(ConfigError, match=told):
        Judge(Evaluation(), found, *judged)
    named = ["--observation-keys", *entries_named, "--to", str(local / "wide")]
    assert convert([str(local / "test" / "maze-v0"), *named]) == 0
    wide = sources.read(local / "wide")
    place = found.observations[0][:2].tolist() if first else []
    assert wide.observations[0].tolist() == [*place, *found.observations[0].tolist(), 7, 7]
    if not first:  # an ant's actions are eight
        Judge(Evaluation(), wide, *judged)
