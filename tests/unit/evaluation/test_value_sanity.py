"""Bounds of values worked out by hand, the best supported policy of small tasks, and what is said of beliefs above them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stitchrl.agent import load
from stitchrl.core.errors import CheckpointError
from stitchrl.core.records import Logging
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.transforms import affine_rewards
from stitchrl.evaluation.critic_scores import critic_scores
from stitchrl.evaluation.value_sanity import (
    ValueSanity,
    assumption,
    believed,
    best_logged,
    critic_readings,
    limits_of,
    possible_returns,
    supported_optimum,
    value_sanity,
)
from stitchrl.experiment import Preprocessing, judge_of, paid, plan, run_experiment
from stitchrl.training.learner import Training


def log(episodes: list[tuple[list[float], bool]]) -> Dataset:
    """Episodes of (rewards, whether a terminal ends it)."""
    lengths = [len(rewards) for rewards, _ in episodes]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rewards = np.concatenate([np.asarray(r, np.float32) for r, _ in episodes])
    last = np.zeros(len(rewards), bool)
    last[offsets[1:] - 1] = True
    ended = np.repeat([end for _, end in episodes], lengths)
    columns: dict[str, Any] = {
        "observations": np.zeros((len(rewards), 1), np.float32),
        "actions": np.zeros(len(rewards), np.int64),
        "rewards": rewards,
        "terminals": last & ended,
        "timeouts": last & ~ended,
    }
    return Dataset(Spec(Box((1,)), Discrete(2)), columns, offsets, np.zeros((len(lengths), 1), np.float32))


@pytest.mark.parametrize(
    ("episodes", "discount", "bounds"),
    [
        # only the end pays: at most the best end, at any discount
        ([([0.0, 0.0, 1.0], True), ([0.0, 0.0], True)], 0.9, (0.0, 1.0)),
        ([([0.0, 0.0, 1.0], True), ([0.0, -2.0], True)], 1.0, (-2.0, 1.0)),
        # 1 a step for ever: 1 / (1 - 0.9); of the clock or a terminal alike, since an episode might last
        ([([1.0, 1.0, 1.0], False)], 0.9, (10.0, 10.0)),
        ([([1.0, 0.5, 1.0], True)], 0.9, (1.0, 10.0)),
        # undiscounted, at most as long as the longest of 4: 3 · 1 + 5, and at least the worst first step being the last
        ([([1.0, 1.0, 1.0, 5.0], True), ([1.0, -1.0], True)], 1.0, (-1.0, 8.0)),
        ([([1.0, 0.0, 1.0], False), ([0.0], True)], 1.0, (0.0, 2.0)),
        # a cost a step: ending at once is best, never ending worst
        ([([-1.0, -1.0, -1.0], True)], 0.5, (-2.0, -1.0)),
        # every episode one step: nothing comes after
        ([([-3.0], True), ([-1.0], True)], 0.9, (-3.0, -1.0)),
    ],
)
def test_what_a_value_can_be(episodes: list[tuple[list[float], bool]], discount: float, bounds: tuple[float, float]) -> None:
    assert possible_returns(log(episodes), discount) == pytest.approx(bounds)


def test_bounds_hold_for_every_reachable_return() -> None:
    """Episodes of up to 6 steps whose rewards are drawn from those of a log: none leaves the bounds, and some come near them."""
    rng = np.random.default_rng(0)
    data = log([([-1.0, 0.5, 2.0], True), ([0.5, -1.0, 0.5, 0.5, -1.0, -3.0], True)])
    way, ends = [-1.0, 0.5], [2.0, -3.0]
    for discount in (0.8, 1.0):
        low, high = possible_returns(data, discount)
        found = []
        for _ in range(3000):
            rewards = [*rng.choice(way, rng.integers(0, 6)), rng.choice(ends)]
            found.append(sum(discount**t * r for t, r in enumerate(rewards)))
        assert low - 1e-9 <= min(found) and max(found) <= high + 1e-9
        if discount == 1.0:
            assert min(found) == low == -8.0 and max(found) == high == 4.5


def test_scaling_and_shifting_rewards_moves_the_bounds() -> None:
    data = log([([0.0, 1.0], False)])
    assert possible_returns(data, 0.9, [affine_rewards(2.0, -1.0)]) == pytest.approx((-10.0, 10.0))
    assert "2 steps" in assumption(data, 1.0) and "lasts" not in assumption(data, 0.9)


def test_the_best_logged_return_has_a_margin_and_counts_what_a_clock_cut_off() -> None:
    # 1 + 0.5 and 0.5 (γ = 0.5): range 1, a tenth of it above 1.5
    assert best_logged(log([([1.0, 1.0], True), ([0.0, 1.0], True)]), 0.5) == pytest.approx(1.6)
    # the first is cut after two steps; it may yet earn 0.25 · 2
    assert best_logged(log([([1.0, 1.0], False), ([0.0, 1.0], True)]), 0.5) == pytest.approx(2.1)


def two_state_log(times: int) -> Dataset:
    """State 0: action 0 ends with 0.4; action 1 leads to state 1, where action 0 ends with 1 (in half of the cases) or 0; action 2 never."""
    paths = [([(0, 0, 0.4)], times), ([(0, 1, 0.0), (1, 0, 1.0)], times), ([(0, 1, 0.0), (1, 0, 0.0)], times), ([(0, 2, 9.0)], 1)]
    rows = [(s, a, r, k == len(path) - 1) for path, n in paths for _ in range(n) for k, (s, a, r) in enumerate(path)]
    s, a, r, end = (np.array(column) for column in zip(*rows, strict=True))
    columns: dict[str, Any] = {
        "observations": s.astype(np.int64), "actions": a.astype(np.int64), "rewards": r.astype(np.float32), "terminals": end.astype(bool),
        "timeouts": np.zeros(len(s), bool),
    }  # fmt: skip
    offsets = np.concatenate([[0], np.flatnonzero(end) + 1])
    return Dataset(Spec(Discrete(2), Discrete(3)), columns, offsets, np.ones(len(offsets) - 1, np.int64))


def test_the_best_policy_of_logged_choices() -> None:
    """Undiscounted 0.5 through state 1; at a discount of 0.7 that is 0.35 and 0.4 at once is better; the single 9 does not count."""
    assert supported_optimum(two_state_log(20), 1.0) == pytest.approx(0.5)
    assert supported_optimum(two_state_log(20), 0.7) == pytest.approx(0.4)
    assert supported_optimum(two_state_log(20), 1.0, least=1) == pytest.approx(9.0)
    # too few of everything: each state's most frequent action, here the way through state 1, taken 6 times of 10
    assert supported_optimum(two_state_log(3), 1.0) == pytest.approx(0.5)
    assert supported_optimum(log([([1.0], True)]), 1.0) is None


def test_the_supported_optimum_is_the_exact_one_where_all_is_logged() -> None:
    from stitchrl.environments.tasks.gridworld import gridworld
    from stitchrl.environments.tasks.tabular import solve

    mdp = gridworld(("S..", ".C.", "..G"), slip=0.0, discount=0.9).mdp
    after = mdp.transition.toarray().argmax(1).reshape(mdp.states, mdp.actions)
    start = int(np.argmax(mdp.initial))
    # the first row is the start's, so that its value is the mean over first states once the others are episodes of the start too
    pairs = [(s, a) for s in range(mdp.states) if not mdp.terminal[s] for a in range(mdp.actions)]
    rows = [p for p in pairs if p[0] == start] + [p for p in pairs if p[0] != start]
    s, a = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    columns: dict[str, Any] = {
        "observations": s, "actions": a, "rewards": np.asarray(mdp.reward[s, a], np.float32),
        "terminals": np.asarray(mdp.terminal[after[s, a]], bool),
        "timeouts": ~np.asarray(mdp.terminal[after[s, a]], bool),
    }  # fmt: skip
    data = Dataset(Spec(Discrete(mdp.states), Discrete(mdp.actions)), columns, np.arange(len(s) + 1), after[s, a].astype(np.int64))
    values = solve(mdp)[0]
    assert supported_optimum(data, 0.9, least=1) == pytest.approx(float(values[s].mean()), abs=1e-6)


SANE = ValueSanity(
    discount=1.0, low=0.0, high=1.0, best_logged=1.1, deviation=0.4, supported_optimum=0.476, believed=[0.45], logged=[0.4], chosen=[0.5],
    spread=[0.01], assumption="as logged",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "levels", "words"),
    [
        ({}, [], ""),
        ({"believed": None}, [], ""),
        ({"believed": [0.72]}, ["warn"], "believes 0.72; in the log's own model the best policy of logged choices is worth 0.476"),
        ({"believed": [0.4, 1.03]}, ["fail", "warn"], "believes 1.03, and no policy can be worth more than 1 (as logged)"),
        ({"believed": [0.9], "supported_optimum": None}, [], ""),
        (
            {"believed": [0.9], "supported_optimum": None, "best_logged": 0.6},
            ["warn"],
            "the best logged episode, with a margin, earned 0.6",
        ),
        ({"chosen": [0.9]}, ["warn"], "its own actions are valued 0.5 above logged ones"),
        ({"spread": [0.5]}, ["warn"], "its critics differ by 0.5"),
    ],
)
def test_problems_are_said_in_words(changes: dict[str, Any], levels: list[str], words: str) -> None:
    found = replace(SANE, **changes).problems
    assert [p.level for p in found] == levels and (not words or words in found[0].sentence)


def run(path: Path, dataset: Dataset, name: str = "q_learning", scale: float = 1.0, shift: float = 0.0, **settings: Any) -> Path:
    changed = {each: settings.pop(each) for each in ("reward_bound", "terminal_reward") if each in settings}
    made = plan(
        name, settings={"hidden": (8,)} | settings, seeds=2,
        preprocessing=Preprocessing(reward_scale=scale, reward_shift=shift, **changed),
        training=Training(steps=20, batch_size=8, log_every=10, save_every=20, device="cpu", compile="off"),
    )  # fmt: skip
    run_experiment(made, dataset, path=path, source="test", logging=Logging(tensorboard=False, quiet=True))
    return path


def test_a_run_is_read_from_its_files(tmp_path: Path) -> None:
    """What the checkpoint's critic says is what the last line of metrics said; in the log's units it is divided by the scale of 4."""
    data = two_state_log(4)
    path = run(tmp_path / "run", data, scale=4.0, ensemble=2, discount=0.9)
    line = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    read = critic_readings(path, data)
    assert read is not None and set(read) == {"logged_value", "chosen_value", "critic_spread", "start_value"}
    for name, values in read.items():
        assert values == pytest.approx(line[f"probe/{name}"], rel=1e-6)
    found = value_sanity(path, data)
    assert (
        found.reason is None and found.believed == pytest.approx([v / 4 for v in read["start_value"]]) and found.high == pytest.approx(9.0)
    )
    assert found.supported_optimum is not None and found.units == "the log's" and found.discount == 0.9
    # an evaluation's own record comes first
    assert believed(path) is None
    (path / "evaluations.jsonl").write_text('{"step": 10, "believed_value": [9.5, 1.0]}\n{"step": 20, "believed_value": null}\n')
    found = value_sanity(path, data)
    assert found.believed == [9.5, 1.0] and found.problems[0].level == "fail"
    (path / "evaluations.jsonl").write_text("{\n")
    with pytest.raises(CheckpointError, match="evaluations.jsonl line 1"):
        value_sanity(path, data)


def test_values_of_changed_rewards_are_held_to_what_those_can_be(tmp_path: Path) -> None:
    data = two_state_log(4)  # its 9 is cut to 2; every end earns 5
    cut = value_sanity(run(tmp_path / "cut", data, reward_bound=2.0), data)
    assert cut.high == pytest.approx(2.0) and cut.units == "the log's, with the rewards that were learned from"
    assert value_sanity(run(tmp_path / "ends", data, terminal_reward=5.0), data).high == pytest.approx(5.0)
    (tmp_path / "cut" / "evaluations.jsonl").write_text('{"step": 10, "believed_value": [9.0, 1.0]}\n')
    told = value_sanity(tmp_path / "cut", data).problems[0]
    assert told.level == "fail" and told.sentence.endswith("(units are the log's, with the rewards that were learned from)")
    scores = critic_scores(tmp_path / "cut", load(tmp_path / "cut"), data)  # nor are they compared with those of other rewards
    assert scores.believed is None and scores.td_error is None
    untouched = value_sanity(run(tmp_path / "untouched", data, reward_bound=9.0), data)
    assert untouched.high == pytest.approx(9.0) and untouched.units == "the log's"


def test_the_run_doctor_and_the_judge_know_which_rewards_are_learned_from() -> None:
    data = two_state_log(4)
    for change, high, own in (({"reward_bound": 2.0}, 2.0, False), ({"terminal_reward": 5.0}, 5.0, False), ({}, 9.0, True)):
        made = plan("q_learning", preprocessing=Preprocessing(**change))  # type: ignore[arg-type]
        assert limits_of(paid(data, made), made.settings, []).high == pytest.approx(high)
        assert judge_of(made, data, None, {}).in_tasks_units is own


def test_entropy_lifts_no_bound_where_it_counts_for_nothing() -> None:
    """No value of reaching goals is above 0, whatever temperature a method tells."""
    steps = np.zeros((6, 2), np.float32)
    flags = {"terminals": np.zeros(6, bool), "timeouts": np.arange(6) % 3 == 2}
    columns = {"observations": steps, "actions": steps[:, :1], "rewards": steps[:, 0], **flags}
    dataset = Dataset(Spec(Box((2,)), Box((1,), (-1.0,), (1.0,))), columns, np.array([0, 3, 6]), steps[:2])
    for algorithm in ("cql", "iql"):
        assert limits_of(dataset, plan(algorithm).settings, [], to_goals=True).free_entropy == 0
    assert limits_of(dataset, plan("sac").settings, [], to_goals=True).free_entropy > 0


def test_the_mean_of_logged_actions_is_the_critics(tmp_path: Path) -> None:
    from stitchrl.algorithms import find
    from stitchrl.core.algorithm import build
    from stitchrl.training import checkpoint

    data = two_state_log(4)
    path = run(tmp_path / "run", data)
    template = build(find("q_learning")[0], plan("q_learning", settings={"hidden": (8,)}).settings, data.spec, 0)
    tensors = checkpoint.load_newest(path / "checkpoints")[0]
    template.load_state_dict({name: tensors[f"parameters/{name}"][1] for name, _ in template.named_parameters()})
    with torch.no_grad():
        q = template.critic(torch.as_tensor(np.array(data.observations)))[0].numpy()  # type: ignore[operator]
    read = critic_readings(path, data)
    assert read is not None
    assert read["logged_value"][1] == pytest.approx(float(np.take_along_axis(q, data.actions[:, None], 1).mean()), rel=1e-5)
    assert read["chosen_value"][1] == pytest.approx(float(q.max(1).mean()), rel=1e-5)
    assert read["start_value"][1] == pytest.approx(float(q.max(1)[data.offsets[:-1]].mean()), rel=1e-5)
    assert "critic_spread" not in read


def test_what_cannot_be_judged_is_said(tmp_path: Path) -> None:
    data = two_state_log(4)
    found = value_sanity(run(tmp_path / "bc", data, "bc"), data)
    assert found.reason == "bc has no critic: it believes nothing of its policy's value" and found.problems == [] and math.isnan(found.high)
    shifted = value_sanity(run(tmp_path / "shifted", data, shift=-1.0), data)
    assert shifted.units == "the learner's, whose rewards are shifted" and shifted.supported_optimum is None
    assert shifted.believed is not None and shifted.high == pytest.approx(8.0)  # the 9 of the last step, less 1
