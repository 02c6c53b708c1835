"""Runs that go wrong and runs that do not: which alarms rise, where they are written and shown, and that a resume tells none twice."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitchrl import experiment
from stitchrl.core.alarms import Alarm
from stitchrl.core.records import Logging
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.experiment import Preprocessing, plan, run_experiment
from stitchrl.report.card import card
from stitchrl.report.records_reader import read_run
from stitchrl.report.run import run_page
from stitchrl.training.learner import Training
from stitchrl.training.progress import Progress

QUIET = Logging(tensorboard=False, quiet=True)
SEPSIS = Training(steps=450, batch_size=128, log_every=50, save_every=450, device="cpu", compile="off")
FEW = Training(steps=40, batch_size=8, log_every=5, save_every=10, device="cpu", compile="off")


@pytest.fixture(scope="module")
def sepsis() -> Dataset:
    from stitchrl.recipes import datasets

    return datasets.load("icu-sepsis/mixed").select(np.arange(2_000))


def box_log(scale: float = 1.0) -> Dataset:
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.standard_normal((40, 2)).astype(np.float32), "actions": rng.uniform(-1, 1, (40, 1)).astype(np.float32),
        "rewards": (scale * rng.random(40)).astype(np.float32), "terminals": np.arange(40) % 10 == 9, "timeouts": np.zeros(40, bool),
    }  # fmt: skip
    return Dataset(
        Spec(Box((2,)), Box((1,), (-1.0,), (1.0,))), columns, np.arange(0, 41, 10), np.zeros((4, 2), np.float32), {"name": "box"}
    )


def grid_log() -> Dataset:
    """Discrete actions; the only reward, of 1, comes at an end: no value can exceed 1."""
    rng = np.random.default_rng(1)
    ends = np.arange(60) % 6 == 5
    columns = {
        "observations": rng.standard_normal((60, 2)).astype(np.float32), "actions": rng.integers(0, 3, 60),
        "rewards": (ends & (rng.random(60) < 0.5)).astype(np.float32), "terminals": ends, "timeouts": np.zeros(60, bool),
    }  # fmt: skip
    return Dataset(Spec(Box((2,)), Discrete(3)), columns, np.arange(0, 61, 6), np.zeros((10, 2), np.float32), {"name": "ends"})


def run(path: Path, dataset: Dataset, name: str, settings: dict[str, Any], training: Training = FEW, **options: Any) -> experiment.Result:
    preprocessing = Preprocessing(reward_scale=options.pop("scale", 1.0), **options.pop("rewards", {}))
    made = plan(name, settings={"hidden": (32,)} | settings, seeds=options.pop("seeds", 1), training=training, preprocessing=preprocessing)
    return run_experiment(made, dataset, path=path, source="test", logging=QUIET, **options)


@pytest.mark.parametrize(
    ("name", "settings", "scale", "alarms"),
    [
        ("q_learning", {"learning_rate": 3e-3, "discount": 1.0, "target_rate": 0.05}, 1.0, ["overestimation"]),
        ("cql", {"critic_learning_rate": 3e-3, "discount": 1.0, "conservatism": 1.0, "target_rate": 0.05}, 20.0, []),
        ("bc", {"learning_rate": 1e-3}, 1.0, []),
        ("iql", {"learning_rate": 3e-3, "discount": 1.0, "expectile": 0.8, "inverse_temperature": 1e5}, 1.0, ["saturated_weights"]),
        ("iql", {"learning_rate": 3e-3, "discount": 1.0, "expectile": 0.8, "inverse_temperature": 30.0}, 1.0, []),
    ],
    ids=["naive", "cql", "bc", "iql too sharp", "iql"],
)
def test_on_the_log_of_the_quickstart(
    tmp_path: Path, sepsis: Dataset, name: str, settings: dict[str, Any], scale: float, alarms: list[str]
) -> None:
    result = run(tmp_path / "run", sepsis, name, settings, SEPSIS, scale=scale)
    assert [a.name for a in result.alarms] == alarms
    assert all(a.cleared is None and a.seeds == (0,) for a in result.alarms)
    read = read_run(tmp_path / "run")
    assert read.alarms == list(result.alarms)  # an empty file where nothing was wrong


@pytest.mark.parametrize(
    ("name", "settings", "alarm", "words"),
    [
        ("sac", {"temperature_learning_rate": 1.0, "target_entropy": 5.0}, "temperature", "exploded"),
        ("sac", {"temperature_learning_rate": 1.0, "target_entropy": -500.0}, "temperature", "collapsed"),
        ("cql", {"lagrange_gap": -1000.0, "lagrange_learning_rate": 1.0}, "lagrange_multiplier", "at its clamp of 1e6"),
        ("cql", {"lagrange_gap": 1000.0, "lagrange_learning_rate": 1.0}, "lagrange_multiplier", "fell to"),
    ],
)
def test_multipliers_and_temperatures_that_run_away(tmp_path: Path, name: str, settings: dict[str, Any], alarm: str, words: str) -> None:
    found = {a.name: a for a in run(tmp_path / "run", box_log(), name, settings).alarms}
    assert alarm in found and words in found[alarm].seen


def test_what_rewards_are_changed_to_is_what_values_are_held_to(tmp_path: Path, sepsis: Dataset) -> None:
    """A log that pays 1 at most, learned from as paying 30 at every end: values above 1 are no wonder, nor is there a belief in its units."""
    settings = {"learning_rate": 1e-2, "discount": 1.0, "target_rate": 0.05}
    result = run(tmp_path / "run", sepsis, "q_learning", settings, rewards={"terminal_reward": 30.0}, environment="stitchrl/ICU-Sepsis-v0")
    assert max(result.metrics["probe/start_value"]) > 1 and "overestimation" not in [a.name for a in result.alarms]
    assert result.evaluation is not None and result.evaluation["believed_value"] is None


def test_a_learning_rate_far_too_large(tmp_path: Path) -> None:
    names = {a.name for a in run(tmp_path / "run", box_log(), "td3_bc", {"learning_rate": 10.0, "discount": 0.9}, seeds=2).alarms}
    assert "overestimation" in names or "growing_loss" in names
    assert run(tmp_path / "sane", box_log(), "td3_bc", {"discount": 0.9}, seeds=2).alarms == ()


WRONG = {"learning_rate": 0.3, "discount": 0.99, "target_rate": 1.0}


def test_a_resume_tells_no_alarm_twice(tmp_path: Path) -> None:
    """Stopped after every number of steps at which a checkpoint lies: the two parts tell together what the whole run tells, bit for bit."""
    whole: list[Alarm] = []
    result = run(tmp_path / "whole", grid_log(), "q_learning", WRONG, seeds=2, warn=whole.append)
    assert "overestimation" in {a.name for a in whole} and len({a.name for a in whole}) == len(whole)
    for step in (10, 20, 30):
        path, told = tmp_path / str(step), []  # type: tuple[Path, list[Alarm]]

        def stop(now: int, steps: int, speed: float, metrics: Any, last: int = step) -> None:
            import os
            import signal

            if now == last:
                os.kill(os.getpid(), signal.SIGTERM)

        assert run(path, grid_log(), "q_learning", WRONG, seeds=2, warn=told.append, show=stop).step == step
        again = run(path, grid_log(), "q_learning", WRONG, seeds=2, warn=told.append, resume=True)
        assert told == whole and again.alarms == result.alarms
        for file in ("alarms.jsonl", "policy/model.safetensors"):
            assert (path / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_alarms_past_the_checkpoint_are_cut_off_and_told_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(path, grid_log(), "q_learning", WRONG, seeds=2)
    lines = (path / "alarms.jsonl").read_text()
    extra = {"step": 41, "change": "rose", "name": "temperature", "seeds": [0], "seen": "later", "try": "x"}
    (path / "alarms.jsonl").write_text(lines + json.dumps(extra) + '\n{"torn')
    assert run(path, grid_log(), "q_learning", WRONG, seeds=2, resume=True).step == 40
    assert (path / "alarms.jsonl").read_text() == lines


def test_the_doctor_changes_nothing_that_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "watched", box_log(), "cql", {"lagrange_gap": 1.0}, seeds=2)
    monkeypatch.setattr(experiment, "probe_of", lambda *_: None)
    run(tmp_path / "alone", box_log(), "cql", {"lagrange_gap": 1.0}, seeds=2)
    for file in ("policy/model.safetensors", "checkpoints/step_0000000040/state.safetensors"):
        assert (tmp_path / "watched" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


def test_the_report_and_the_card_repeat_the_alarms(tmp_path: Path) -> None:
    path = tmp_path / "run"
    result = run(path, grid_log(), "q_learning", WRONG, seeds=2)
    page, text = run_page(path), card(path)
    first = next(a for a in result.alarms if a.name == "overestimation")
    assert "Alarms in training" in page and f"from {first.step:,}" in page and "no return can exceed 1" in page and "learn more" in page
    assert f"Alarm in training: overestimation from step {first.step}" in text
    (path / "metrics.jsonl").unlink()  # so that the pages below draw no curves
    (path / "alarms.jsonl").write_text("")
    assert "None: the run doctor looked" in run_page(path) and "Alarm in" not in card(path)
    (path / "alarms.jsonl").unlink()  # a run of before there was a doctor
    assert "run doctor" not in run_page(path)
    evil = {"step": 5, "change": "rose", "name": "<b>x</b>", "seeds": [0], "seen": "<script>alert(1)</script>\x1b[31m", "try": "|`<i>"}
    (path / "alarms.jsonl").write_text(json.dumps(evil) + "\n")
    assert "<script>" not in run_page(path) and "<b>x" not in run_page(path) and "\x1b" not in card(path)


def test_an_alarm_is_a_line_of_its_own_and_told_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with Progress("naive", quiet=False) as progress:
        run(tmp_path / "run", grid_log(), "q_learning", WRONG, seeds=2, show=progress, warn=progress.warning())
    told = [line for line in shown.getvalue().splitlines() if "overestimation" in line]
    assert len(told) == 1 and told[0].startswith("naive: overestimation from step ") and "no return can exceed 1. Try: " in told[0]
    shown.truncate(0)
    with Progress("naive", quiet=True) as progress:
        run(tmp_path / "quiet", grid_log(), "q_learning", WRONG, seeds=2, show=progress, warn=progress.warning())
    assert "overestimation" not in shown.getvalue()


def test_other_lines_of_metrics_do_not_disturb(tmp_path: Path) -> None:
    """A resume with other steps between lines, and records of another number of seeds left by hand, neither raise nor stop anything."""
    path = tmp_path / "run"
    run(path, grid_log(), "q_learning", WRONG, replace(FEW, steps=40), seeds=2)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    (path / "metrics.jsonl").write_text("\n".join([lines[0], '{"step": 6, "metric/q": [null, null], "odd": "text"}', *lines[1:]]) + "\n")
    assert run(path, grid_log(), "q_learning", WRONG, replace(FEW, log_every=7), seeds=2, resume=True).step == 40
