"""Saved policies: byte for byte the same again, whole or refused, and never acted with on what they did not learn from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stitchrl import agent, algorithms
from stitchrl.agent import Agent
from stitchrl.core.algorithm import build
from stitchrl.core.errors import CheckpointError, DataError, StitchError
from stitchrl.core.goals import Goals, with_goal
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.transforms import Affine
from stitchrl.evaluation.evidence import AgentTarget
from stitchrl.evaluation.playing import play
from stitchrl.training import seeds
from tests.algorithms.synthetic_log import Case

REAL = Spec(Box((3,)), Box((2,), (-2.0, 0.0), (2.0, 1.0)))
TRANSFORMS = [
    Affine("actions", np.array([0.5, 2.0]), np.array([0.0, -1.0]), "actions to [-1, 1]"),
    Affine("observations", np.array([2.0, 1.0, 0.5]), np.array([1.0, 0.0, -1.0]), "standardize"),
]


def policy_of(name: str, spec: Spec, transforms: list[Affine] | None = None, numbers: tuple[int, ...] = (3, 8), **settings: Any) -> Agent:
    kind, config = algorithms.find(name)
    small = {"hidden": (5,)} if "hidden" in config.__dataclass_fields__ else {}
    made = Case(name, "discrete" if isinstance(spec.action, Discrete) else "box").config(**small, **settings)
    copies = [build(kind, made, spec, number) for number in numbers]
    return Agent(name, copies[0], seeds.stack(copies, torch.device("cpu"), torch.float32), spec, transforms or [], numbers)


def reaches_goals(name: str) -> bool:
    return isinstance(algorithms.find(name)[0].batch, Goals)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    policy_of("bc", REAL, TRANSFORMS, distribution="gaussian").save(tmp_path / "policy")
    return tmp_path / "policy"


CASES = [
    (name, spec)
    for name in algorithms.names()
    for spec in (REAL, Spec(Box((3,)), Discrete(4)), Spec(Discrete(6), Discrete(4)))
    if algorithms.find(name)[0].action_space in ("any", "discrete" if isinstance(spec.action, Discrete) else "box")
    and not (reaches_goals(name) and isinstance(spec.observation, Discrete))
]


@pytest.mark.parametrize(("name", "spec"), CASES)
@pytest.mark.parametrize("numbers", [(3,), (3, 8)])
def test_saved_and_loaded_it_acts_and_is_saved_the_same(tmp_path: Path, name: str, spec: Spec, numbers: tuple[int, ...]) -> None:
    transforms = TRANSFORMS if spec is REAL else None
    if reaches_goals(name):  # it reads an observation and a goal
        spec, transforms = with_goal(spec), transforms and TRANSFORMS[:1]
    ours = policy_of(name, spec, transforms, numbers)
    ours.save(tmp_path / "one")
    again = agent.load(tmp_path / "one")
    again.save(tmp_path / "two")
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == ["config.json", "model.safetensors", "normalizers.safetensors"]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    rng = np.random.default_rng(0)
    space, rows_of_x = spec.observation, (len(numbers), 7)
    x = rng.integers(0, 6, rows_of_x) if isinstance(space, Discrete) else rng.normal(size=(*rows_of_x, space.size))
    earned = rng.normal(size=rows_of_x)
    for sampled in (False, True):
        assert np.array_equal(ours.act(x, earned, sampled=sampled), again.act(x, earned, sampled=sampled))
    ours.reset()  # what remembers begins anew, as `predict` does
    first = ours.act(x)
    for i, number in enumerate(numbers):  # each seed alone, and one row at a time, as all together
        together = first[i]
        assert ours.predict(x[i], seed=number) == pytest.approx(together, abs=1e-5)
        rows = np.concatenate([again.predict(x[i, k : k + 1], seed=number) for k in range(7)])
        assert rows == pytest.approx(together, abs=1e-5)


def test_a_policy_in_half_the_bytes_is_the_rounded_one_exactly(tmp_path: Path) -> None:
    ours = policy_of("bc", REAL, TRANSFORMS, distribution="gaussian")
    ours.save(tmp_path / "half", half=True)
    again = agent.load(tmp_path / "half")
    for name, value in ours.parameters.items():
        assert again.parameters[name].dtype == torch.float32
        assert torch.equal(again.parameters[name], value.half().float())
    bytes_used = (tmp_path / "half" / "model.safetensors").stat().st_size
    again.save(tmp_path / "again", half=True)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (tmp_path / "half" / "model.safetensors").read_bytes()
    assert bytes_used < 2 * sum(value.numel() for value in ours.parameters.values()) + 600
    x = np.random.default_rng(0).normal(size=(2, 9, 3))
    assert again.act(x) == pytest.approx(ours.act(x), abs=5e-3)


def test_a_number_too_large_for_half_is_refused(tmp_path: Path) -> None:
    ours = policy_of("bc", REAL, TRANSFORMS, distribution="gaussian")
    next(iter(ours.parameters.values())).fill_(7e4)
    with pytest.raises(CheckpointError, match="beyond float16's 65,504"):
        ours.save(tmp_path / "half", half=True)


def test_actions_come_in_the_units_of_the_task() -> None:
    """A policy whose network is constant: its mean of 0.5 in [-1, 1] is 1.0 in [-2, 2] and 0.75 in [0, 1]."""
    constant = policy_of("bc", REAL, TRANSFORMS, (0,))
    for name, parameter in constant.parameters.items():
        parameter.zero_()
        if name.endswith("bias") and parameter.shape[-1] == 2:
            parameter.fill_(float(np.arctanh(0.5)))
    assert constant.predict(np.ones((1, 3))) == pytest.approx(np.array([[1.0, 0.75]]), abs=1e-6)


def test_sampled_actions_are_reproducible_and_differ() -> None:
    ours = policy_of("bc", REAL, TRANSFORMS, distribution="gaussian")
    x = np.zeros((2, 4, 3))
    first = ours.act(x, sampled=True)
    assert not np.array_equal(first, ours.act(x, sampled=True))
    assert not np.array_equal(first[0, 0], first[0, 1])
    ours.seed_acting(5)
    once = ours.act(x, sampled=True)
    ours.seed_acting(5)
    assert np.array_equal(once, ours.act(x, sampled=True)) and not np.array_equal(once, first)


def test_a_rollout_that_draws_is_the_same_again() -> None:
    ours = policy_of("bc", Spec(Box((3,)), Box((1,), (-2.0,), (2.0,))), distribution="gaussian")
    ours.act(np.zeros((2, 1, 3)), sampled=True)  # whatever was drawn before
    first, again = (play(ours, "Pendulum-v1", sampled=True, episodes=2, processes=1, max_steps=5).returns for _ in range(2))
    mode = play(ours, "Pendulum-v1", episodes=2, processes=1, max_steps=5).returns
    assert np.array_equal(first, again) and not np.array_equal(first, mode)


def test_many_sampled_actions_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = policy_of("bcq", REAL, TRANSFORMS, autoencoder_hidden=(5,), acting_candidates=6)  # 6 candidates of 4 latents for each
    x = np.random.default_rng(0).normal(size=(2, 7, 3))
    ours.seed_acting(5)
    pieces = [ours.act(x[:, i : i + 3], sampled=True) for i in (0, 3, 6)]
    monkeypatch.setattr(agent, "NOISE_AT_ONCE", 3 * 24)
    ours.seed_acting(5)
    assert np.array_equal(ours.act(x, sampled=True), np.concatenate(pieces, 1))


@pytest.mark.parametrize(
    ("name", "words"), [("bcq", "best of drawn candidates"), ("fql", "noise through a network"), ("td3_bc", "deterministic")]
)
def test_a_policy_without_a_density_says_so_to_those_who_estimate(name: str, words: str) -> None:
    target = AgentTarget(policy_of(name, REAL, TRANSFORMS), sampled=True)
    with pytest.raises(DataError, match=words):
        target.log_probabilities(np.zeros((2, 3), np.float32), np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(
    ("observations", "words"),
    [
        (np.zeros((4, 2)), r"shape \[4, 2\]; expected \[N, 3\]"),
        (np.zeros(3), r"shape \[3\]; expected \[N, 3\]"),
        (np.zeros((1, 1, 3)), "shape"),
        (np.full((1, 3), np.nan), "not finite"),
        (np.array([[1.0, np.inf, 0.0]]), "not finite"),
        (np.array([["a", "b", "c"]]), "expected numbers"),
        (np.array([[None, 1, 2]]), "expected numbers"),
    ],
)
def test_observations_unlike_the_data_are_refused(observations: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        policy_of("bc", REAL).predict(observations)


@pytest.mark.parametrize("states", [[6], [-1], [0.5], [np.nan], [10**12]])
def test_states_that_the_data_do_not_have_are_refused(states: list[float]) -> None:
    with pytest.raises(DataError, match="0 … 5|not finite"):
        policy_of("bc", Spec(Discrete(6), Discrete(4))).predict(np.array(states))


def test_real_numbers_for_a_policy_of_frames_are_refused() -> None:
    frames = policy_of("bc", Spec(Box((3,), dtype="uint8"), Discrete(2)))
    assert frames.predict(np.zeros((2, 3), np.uint8)).shape == (2,)
    with pytest.raises(DataError, match="uint8"):
        frames.predict(np.zeros((2, 3)))


def test_act_wants_every_seed_and_predict_a_seed_that_is_there() -> None:
    ours = policy_of("bc", REAL)
    with pytest.raises(DataError, match="of 2 seeds"):
        ours.act(np.zeros((1, 4, 3)))
    with pytest.raises(DataError, match="no seed 4; it has 3, 8"):
        ours.predict(np.zeros((1, 3)), seed=4)


def test_no_observations_give_no_actions() -> None:
    assert policy_of("bc", REAL, TRANSFORMS).predict(np.zeros((0, 3))).shape == (0, 2)


# --------------------------------------------------------------------------------------------------------- damaged, foreign and hostile


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "normalizers.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "noise", "directory"])
def test_a_policy_is_whole_or_refused(saved: Path, file: str, damage: str) -> None:
    path = saved / file
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "cut":
            path.write_bytes(content[:-8])
        case "empty":
            path.write_bytes(b"")
        case "noise":
            path.write_bytes(b"\xff" * 64)
        case "directory":
            path.mkdir()
    with pytest.raises(CheckpointError):
        agent.load(saved)


CHANGES: dict[str, dict[str, Any]] = {
    "unknown algorithm": {"algorithm": "nope"},
    "an import path": {"algorithm": "os.system"},
    "a path": {"algorithm": "../bc"},
    "no name": {"algorithm": ["bc"]},
    "unknown setting": {"settings": {"distribution": "gaussian", "callback": "os.system"}},
    "settings that are none": {"settings": [1]},
    "setting of another type": {"settings": {"hidden": "wide"}},
    "networks too large for any memory": {"settings": {"hidden": [10**9, 10**9], "distribution": "gaussian"}},
    "networks beyond counting": {"settings": {"hidden": [10**18, 10**18], "distribution": "gaussian"}},
    "states too many for any memory": {"spec": {"observation": {"kind": "discrete", "n": 10**13}, "action": REAL.to_json()["action"]}},
    "no states": {"spec": {"observation": {"kind": "discrete", "n": 0}, "action": REAL.to_json()["action"]}},
    "no space": {"spec": {"observation": {"kind": "sphere"}}},
    "no spec": {"spec": 3},
    "another format": {"format": 2},
    "no seeds": {"seeds": []},
    "seeds of words": {"seeds": ["a", "b"]},
    "a seed twice": {"seeds": [3, 3]},
    "negative seeds": {"seeds": [-3, 3]},
    "more seeds than weights": {"seeds": [1, 2, 3]},
    "seeds of lists": {"seeds": [[1], [2]]},
    "fewer transforms": {"transforms": []},
    "more transforms": {"transforms": [{"column": "actions", "description": ""}] * 3},
    "transforms of nothing": {"transforms": [{}, {}]},
    "transforms of other columns": {
        "transforms": [{"column": "observations", "description": ""}, {"column": "actions", "description": ""}]
    },
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_hostile_config_is_refused(saved: Path, name: str) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | CHANGES[name]))
    with pytest.raises(CheckpointError, match="policy"):
        agent.load(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("0.0003", "NaN"), "NaN"),
        (lambda text: text.replace("0.0003", "1e999"), "too large"),
        (lambda text: text.replace("0.0003", "1" * 5_000), "JSON"),
        (lambda text: text.replace('"format": 1,', '"format": 1, "format": 1,'), "repeated"),
        (lambda text: text.replace('"format": 1,', '"format": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + ","), "JSON"),
        (lambda text: text + " " * 17_000_000, "bytes"),
        (lambda text: "\udcff" + text, "JSON"),
        (lambda text: "[]", "not a policy"),
        (lambda text: "7", "not a policy"),
        (lambda text: '"format"', "not a policy"),
        (lambda text: "", "JSON"),
    ],
)
def test_json_that_is_none_is_refused(saved: Path, change: Callable[[str], str], words: str) -> None:
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_bytes(change(text).encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=words):
        agent.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"extra": torch.zeros(2)},
        lambda t: dict(list(t.items())[1:]),
        lambda t: {k: v[..., :1].contiguous() for k, v in t.items()},
        lambda t: {k: torch.full_like(v, float("nan")) for k, v in t.items()},
        lambda t: {k: v.to(torch.int32) for k, v in t.items()},
        lambda t: {k: v.to(torch.bfloat16) for k, v in t.items()},
        lambda t: {k: v.to(torch.float16) if i else v for i, (k, v) in enumerate(t.items())},
        lambda t: {},
    ],
)
def test_weights_that_do_not_fit_are_refused(saved: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(saved / "model.safetensors")), saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="model.safetensors"):
        agent.load(saved)


def test_normalizers_that_are_not_finite_are_refused(saved: Path) -> None:
    arrays = load_file(saved / "normalizers.safetensors")
    save_file({k: v * float("inf") for k, v in arrays.items()}, saved / "normalizers.safetensors")
    with pytest.raises(CheckpointError, match="finite"):
        agent.load(saved)


def test_a_save_cut_short_is_no_policy(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another policy's save that runs out of disk nothing can be loaded by mistake."""
    import os

    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"could not be written \(No space left on device\)"):
        policy_of("bc", REAL, TRANSFORMS, numbers=(1, 2), distribution="gaussian").save(saved)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"holds no config.json; expected"):
        agent.load(saved)


def test_a_run_directory_and_its_policy_are_the_same(saved: Path, tmp_path: Path) -> None:
    x = np.ones((2, 3))
    assert np.array_equal(agent.load(tmp_path).predict(x), agent.load(saved).predict(x))
    shutil.rmtree(saved)
    with pytest.raises(StitchError):
        agent.load(tmp_path)
