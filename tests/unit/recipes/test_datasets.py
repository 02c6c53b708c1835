"""Built-in datasets: what they promise (hash, exact values, their story), and a cache that is whole or absent."""

import json
import multiprocessing
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.data.dataset import Dataset
from stitchrl.data.doctor import examine
from stitchrl.data.sources import minari
from stitchrl.environments.make import ICU_SEPSIS, make, mdp_of, spec_of
from stitchrl.environments.tasks.tabular import TabularMDP, greedy_policy, policy_value, solve, uniform_policy
from stitchrl.recipes import dataset_cache
from stitchrl.recipes.datasets import available, load
from stitchrl.recipes.fingerprints import FINGERPRINTS
from stitchrl.recipes.pointmaze_logs import environment_options

TABULAR = [name for name in available() if name.startswith(("gridworld/", "icu-sepsis/"))]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STITCHRL_CACHE", str(root))
    return root


def imitated(mdp: TabularMDP, log: Dataset) -> np.ndarray:
    """The commonest action of each state; any action where there is none."""
    counts = np.zeros((mdp.states, mdp.actions))
    np.add.at(counts, (log.observations, log.actions), 1)
    return np.where(counts.sum(1, keepdims=True) > 0, np.eye(mdp.actions)[counts.argmax(1)], 1 / mdp.actions)


def fitted(mdp: TabularMDP, log: Dataset, unseen: float) -> tuple[float, float]:
    """Q-learning on the log until it rests, unseen pairs left at `unseen`: what it believes, and what its policy is worth."""
    counts, rewards = np.zeros((mdp.states, mdp.actions)), np.zeros((mdp.states, mdp.actions))
    pairs = (log.observations, log.actions)
    np.add.at(counts, pairs, 1)
    np.add.at(rewards, pairs, log.rewards)
    q, following = np.full(counts.shape, unseen), log.next_observations()
    for _ in range(300):
        value = np.where(mdp.terminal, 0.0, q.max(1))
        targets = rewards.copy()
        np.add.at(targets, pairs, mdp.discount * value[following])
        q = np.where(counts > 0, targets / np.maximum(counts, 1), q)
    return float(mdp.initial @ np.where(mdp.terminal, 0.0, q.max(1))), policy_value(mdp, greedy_policy(q))


def test_a_log_of_trained_agents_holds_what_it_says() -> None:
    recipe, log = available()["pendulum/mixed"], load("pendulum/mixed")
    assert (len(log), log.episodes) == (recipe.steps, recipe.episodes)
    assert not log.terminals.any() and np.abs(log.actions).max() <= 2
    policies = log.columns["infos/policy_id"][log.offsets[:-1]]
    expert, medium, random = (float(log.returns()[policies == i].mean()) for i in range(3))
    assert random < medium < expert
    assert random == pytest.approx(recipe.reference["random"], abs=5 * 300 / (policies == 2).sum() ** 0.5)
    again = recipe.make()
    assert again.fingerprint() == log.fingerprint()
    assert dataset_cache.promised(recipe) in (None, log.fingerprint())


@pytest.mark.parametrize("name", TABULAR)
def test_it_is_the_one_promised(name: str) -> None:
    recipe, log = available()[name], load(name)
    assert log.fingerprint() == recipe.fingerprint == log.metadata["fingerprint"]
    assert (len(log), log.episodes) == (recipe.steps, recipe.episodes)
    assert log.metadata["name"] == name
    world = make(log.metadata["environment"], **log.metadata["environment_options"])
    assert spec_of(world) == log.spec
    mdp = mdp_of(world)
    assert log.metadata["discount"] == mdp.discount
    assert {finding.severity for finding in examine(log)} <= {"warning", "note"}
    # the references are exact: undiscounted, within the environment's clock
    limit = None if log.metadata["environment"] == ICU_SEPSIS else world.spec.max_episode_steps
    reference = log.metadata["reference"]
    assert reference["random"] == pytest.approx(policy_value(mdp, uniform_policy(mdp), 1.0, limit), abs=1e-6)
    assert reference["expert"] == pytest.approx(policy_value(mdp, greedy_policy(solve(mdp)[1]), 1.0, limit), abs=1e-6)


def test_qualities_are_in_order() -> None:
    for task, levels in (("gridworld", ["random", "mixed", "medium", "expert"]), ("icu-sepsis", ["random", "mixed", "expert"])):
        means = [load(f"{task}/{level}").returns().mean() for level in levels]
        assert (np.diff(means) > 0).all(), (task, means)


def test_the_mixed_sepsis_log_tells_its_story() -> None:
    log, mdp = load("icu-sepsis/mixed"), mdp_of(make(ICU_SEPSIS))
    logged = log.returns().mean()
    imitation = policy_value(mdp, imitated(mdp, log))
    believes, worth = fitted(mdp, log, unseen=0.8)
    assert believes > 0.99  # nearly everyone survives, it thinks
    assert worth < logged - 0.015  # and treats worse than the log
    assert imitation < logged + 0.005  # the commonest dose is not the best one
    ids = log.columns["infos/policy_id"][log.offsets[:-1]]
    better = log.select(np.flatnonzero(ids == 2)).returns().mean()
    assert better > logged + 0.05  # yet there is better in it
    counts = np.bincount(log.observations * 25 + log.actions, minlength=716 * 25)
    assert 0.2 < (counts[: 713 * 25] == 0).mean() < 0.6  # thin support


@pytest.mark.parametrize("level", ["medium", "mixed"])
def test_mixed_grid_logs_hold_more_than_imitation_gets(level: str) -> None:
    log = load(f"gridworld/{level}")
    mdp = mdp_of(make(log.metadata["environment"]))
    _, stitched = fitted(mdp, log, unseen=-1.0)
    assert stitched > policy_value(mdp, imitated(mdp, log)) + 0.1


def test_the_stitch_log_can_only_be_stitched() -> None:
    log = load("gridworld/stitch")
    mdp = mdp_of(make(log.metadata["environment"], **log.metadata["environment_options"]))
    goal, start = 49, 74
    first = log.observations[log.offsets[:-1]]
    assert set(first.tolist()) == {0, start}
    assert not ((first == start) & (log.final_observations == goal)).any()
    best = mdp.initial @ solve(mdp)[0]
    returns = log.returns()
    for share in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0):  # filtered imitation, whatever the filter
        kept = log.select(np.sort(np.argsort(-returns, kind="stable")[: int(share * log.episodes)]))
        assert policy_value(mdp, imitated(mdp, kept)) < best - 0.15
    assert fitted(mdp, log, unseen=-1.0)[1] == pytest.approx(best, abs=0.02)  # cautious about what it never saw
    assert fitted(mdp, log, unseen=0.8)[1] < 0  # hopeful about it


@pytest.mark.parametrize("size", ["umaze", "medium", "large"])
def test_the_maze_and_its_goal(size: str) -> None:
    recipe = available()[f"pointmaze/{size}"]
    world = make(recipe.environment, **environment_options(size))
    assert world.spec is not None
    assert recipe.steps == recipe.episodes * world.spec.max_episode_steps
    goals = np.stack([world.reset(seed=seed)[0][4:] for seed in range(20)])
    assert (np.ptp(goals, axis=0) < 0.5).all()  # one cell
    world.close()


def test_a_minari_id_is_the_log_that_minari_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=f"no {tmp_path}/D4RL/pointmaze/umaze-v2.*`minari download D4RL/pointmaze/umaze-v2`"):
        load("D4RL/pointmaze/umaze-v2")
    made = load("gridworld/mixed").select([0, 1])
    minari.write(made, tmp_path / "own" / "grid-v0", "own/grid-v0")
    assert load("own/grid-v0").fingerprint() == made.fingerprint()
    with pytest.raises(ConfigError, match="Did you mean 'hopper/medium'"):  # D4RL's old names have no namespace
        load("hopper-medium-v2")


def test_a_name_that_is_none() -> None:
    with pytest.raises(ConfigError, match="neither a file nor a built-in dataset. Did you mean 'icu-sepsis/mixed'"):
        load("icu-sepsis/mixd")
    with pytest.raises(ConfigError, match="`stitchrl data list` shows"):
        load("qqqq")
    with pytest.raises(ConfigError, match="takes no options; found 'schema'|takes no options; found schema"):
        load("gridworld/mixed", schema=None)
    with pytest.raises(DataError, match="no such file"):
        load("missing.csv")


def test_a_path_is_read(tmp_path: Path) -> None:
    load("gridworld/stitch").save(tmp_path / "mine")
    assert load(tmp_path / "mine").fingerprint() == available()["gridworld/stitch"].fingerprint
    assert load(str(tmp_path / "mine")).metadata["name"] == "gridworld/stitch"


def test_the_second_time_it_is_opened_and_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    log = load("gridworld/random")
    calls: list[str] = []
    monkeypatch.setattr(dataset_cache, "_made", lambda recipe: calls.append(recipe.name))
    assert load("gridworld/random").fingerprint() == log.fingerprint()
    assert not calls


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "metadata"])
def test_a_damaged_entry_is_made_again_with_a_warning(damage: str, cache: Path) -> None:
    load("gridworld/random")
    file = cache / "gridworld" / "random-1" / "rewards.npy"
    if damage == "flip":
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "delete":
        file.unlink()
    else:
        record = json.loads((file.parent / "dataset.json").read_text())
        record["metadata"]["fingerprint"] = "0" * 64
        (file.parent / "dataset.json").write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="gridworld/random is made again"):
        log = load("gridworld/random")
    assert log.fingerprint() == available()["gridworld/random"].fingerprint
    assert load("gridworld/random").fingerprint() == log.fingerprint()


def test_the_shipped_log_is_the_one_that_would_be_made(tmp_path: Path, cache: Path) -> None:
    recipe = available()["icu-sepsis/mixed"]
    assert recipe.make().fingerprint() == recipe.fingerprint
    assert not list(cache.glob("icu-sepsis/mixed*"))
    (tmp_path / "log.npz").write_bytes(recipe.shipped.read_bytes())  # type: ignore[union-attr]
    other = replace(recipe, shipped=tmp_path / "log.npz", fingerprint="0" * 64)
    with pytest.raises(DataError, match="its hash differs"):
        dataset_cache.load_built_in(other)


def test_every_promised_hash_is_of_a_log() -> None:
    assert FINGERPRINTS.keys() <= available().keys()
    assert all(len(fingerprint) == 64 for fingerprint in FINGERPRINTS.values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [
    *(f"{robot}/medium-replay" for robot in ("halfcheetah", "hopper", "walker2d", "ant")), "cartpole/mixed", "pendulum/expert", "pong/expert",
    "breakout/expert", "highway/mixed", "antmaze/umaze-play", "antmaze/large-explore",
])  # fmt: skip
def test_a_log_made_anew_is_the_promised_one(name: str) -> None:
    """One of each kind, what is quickest to make; the versions that a promise is of must be installed."""
    recipe = available()[name]
    if (fingerprint := dataset_cache.promised(recipe)) is None:
        pytest.skip(f"{name}: no promise of the installed versions")
    assert recipe.make().fingerprint() == fingerprint


def test_the_maze_log_is_the_one_promised_for_this_mujoco() -> None:
    log = load("pointmaze/umaze")
    assert dataset_cache.promised(available()["pointmaze/umaze"]) in (None, log.fingerprint())
    assert len(log) == available()["pointmaze/umaze"].steps
    reference = log.metadata["reference"]
    assert reference["random"] < log.returns().mean() < 0.2 * reference["expert"]


def test_another_hash_than_the_promised_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_CACHE", str(tmp_path))
    recipe = replace(available()["gridworld/random"], fingerprint="f" * 64)
    with pytest.warns(UserWarning, match="made here has the hash fdd6e2e88df9, the release's ffffffffffff"):
        dataset_cache.load_built_in(recipe)
    unpromised = replace(recipe, versions={"numpy": "0.0.1"}, revision=2)  # made with another version: nothing is promised
    assert dataset_cache.promised(unpromised) is None
    assert dataset_cache.load_built_in(unpromised).metadata["fingerprint"].startswith("fdd6e2e88df9")


def test_a_cached_log_that_is_not_the_promised_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one is that other versions made, before those of the promise were installed."""
    monkeypatch.setenv("STITCHRL_CACHE", str(tmp_path))
    recipe = replace(available()["gridworld/random"], fingerprint="f" * 64)
    dataset_cache.load_built_in(replace(recipe, versions={"numpy": "0.0.1"}))
    with pytest.warns(UserWarning, match="has the hash fdd6e2e88df9, the release's ffffffffffff: other versions or another machine"):
        assert dataset_cache.load_built_in(recipe).metadata["fingerprint"].startswith("fdd6e2e88df9")


def test_a_cached_log_has_the_reference_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_CACHE", str(tmp_path))
    recipe = available()["gridworld/random"]
    made = dataset_cache.load_built_in(recipe).metadata["reference"]
    other = {"random": -1.0, "expert": 3.0}
    assert made == recipe.reference != other
    assert dataset_cache.load_built_in(replace(recipe, reference=other)).metadata["reference"] == other


def test_a_cache_that_can_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_CACHE", str(tmp_path))
    whole = load("gridworld/random").fingerprint()
    (tmp_path / ".gridworld-random.lock").unlink()
    (tmp_path / ".gridworld-random.lock").mkdir()  # no lock can be had; root may write to whatever is read-only
    monkeypatch.setattr(dataset_cache, "_made", lambda recipe: pytest.fail("it is there"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load("gridworld/random").fingerprint() == whole


@pytest.mark.parametrize("name", ["pendulum/mixed", "cartpole/mixed"])
def test_a_log_of_a_processor_with_sines_of_its_own_is_the_promised_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's AVX-512 sine is not the C library's; 24 episodes stand for the log, of which every step hangs on the one before."""
    from stitchrl.recipes import control_logs

    task, level = name.split("/")
    monkeypatch.setitem(control_logs._EPISODES, task, 24)
    sines = {function: getattr(np, function) for function in ("sin", "cos")}
    made = {}
    for off in (False, True):
        for function, own in sines.items():
            monkeypatch.setattr(np, function, (lambda x, own=own: np.nextafter(own(x), 2.0)) if off else own)
        made[off] = control_logs._make(task, level, 302).fingerprint()
    assert made[False] == made[True]


def test_a_cache_that_cannot_be_written_keeps_the_data_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STITCHRL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="is not kept. Set STITCHRL_CACHE"):
        assert len(load("gridworld/random")) == available()["gridworld/random"].steps


def test_what_a_killed_process_left_of_an_entry_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_CACHE", str(tmp_path))
    left, others = (".random-1.tmp-abc", ".random-1.old-abc"), (".random-10.tmp-abc", ".mixed-1.tmp-abc")
    for name in (*left, *others):
        (tmp_path / "gridworld" / name).mkdir(parents=True)
        (tmp_path / "gridworld" / name / "rewards.npy").write_text("cut sho")
    load("gridworld/random")
    assert {entry.name for entry in (tmp_path / "gridworld").iterdir()} == {"random-1", *others}, "others may be at work on theirs"


def test_an_error_while_a_log_is_made_is_not_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_CACHE", str(tmp_path))
    made: list[str] = []

    def make() -> Dataset:
        made.append("once")
        raise FileNotFoundError("libmujoco.so")

    with pytest.raises(FileNotFoundError, match="libmujoco"):
        dataset_cache.load_built_in(replace(available()["gridworld/random"], make=make))
    assert made == ["once"]


def _load_slowly(root: str, answers: "multiprocessing.Queue[tuple[int, str]]") -> None:
    import os
    import time

    os.environ["STITCHRL_CACHE"] = root
    made = 0

    def make_slowly() -> Dataset:
        nonlocal made
        made += 1
        time.sleep(0.3)
        return available()["gridworld/random"].make()

    log = dataset_cache.load_built_in(replace(available()["gridworld/random"], make=make_slowly))
    answers.put((made, log.fingerprint()))


def test_of_several_processes_one_makes_and_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_load_slowly, args=(str(tmp_path), answers)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(made for made, _ in found) == [0, 0, 1]
    assert {fingerprint for _, fingerprint in found} == {available()["gridworld/random"].fingerprint}
