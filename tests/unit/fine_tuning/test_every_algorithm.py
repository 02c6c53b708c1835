"""Every algorithm that says its runs may go on: they do, for two seeds, and a kill in the midst of an episode leaves no trace."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stitchrl import algorithms
from stitchrl.evaluation.judge import Evaluation
from stitchrl.experiment import plan, run_experiment
from stitchrl.fine_tuning.continuation import OnlinePhase
from stitchrl.fine_tuning.online_phase import run_online
from stitchrl.fine_tuning.parent_run import read_parent
from stitchrl.training import checkpoint
from stitchrl.training.learner import Training
from tests.unit.fine_tuning.scripted_task import CLOCKED, register_tasks
from tests.unit.fine_tuning.test_online_phase import QUIET, TRAINING, chance

register_tasks()
ABLE = [name for name in algorithms.names() if algorithms.find(name)[0].fine_tunes]
WHOLE_EPISODES = ("cal_ql", "rebrac")  # their rows need what follows: the episode in flight is not yet in the replay


@pytest.mark.parametrize("name", [n if n in WHOLE_EPISODES else pytest.param(n, marks=pytest.mark.slow) for n in ABLE])
def test_a_run_goes_on_and_a_kill_leaves_no_trace(name: str, tmp_path: Path) -> None:
    kind, config = algorithms.find(name)
    environment = "CartPole-v1" if kind.action_space == "discrete" else CLOCKED
    data, narrow = chance(environment, 12), {f.name: (8, 8) for f in dataclasses.fields(config) if f.name.endswith("hidden")}
    made = plan(name, settings=narrow, training=Training(steps=5, **TRAINING), seeds=2)
    run_experiment(made, data, path=tmp_path / "offline", source="here", logging=QUIET)
    parent, on = read_parent(tmp_path / "offline"), tmp_path / "on"

    def go_on(resume: bool) -> dict[str, torch.Tensor]:
        run_online(
            parent, data, path=on, source="here", environment=environment, online=OnlinePhase(warm_start=15, mixing=0.5),
            training=replace(parent.training, steps=30), evaluation=Evaluation(episodes=1), logging=QUIET, resume=resume,
        )  # fmt: skip
        return checkpoint.load_newest(on / "checkpoints")[0]

    whole = go_on(resume=False)
    learned = [key for key in whole if key.startswith("parameters/")]
    before = checkpoint.load_newest(tmp_path / "offline" / "checkpoints")[0]
    assert all(bool(torch.isfinite(whole[key]).all()) for key in learned)
    assert {key.split("/")[1].split(".")[0] for key in learned if not torch.equal(whole[key], before[key])} >= set(made_networks(whole))
    for step in (20, 30):  # step 10 lies in the third episode of four steps
        shutil.rmtree(on / "checkpoints" / f"step_{step:010d}")
    again = go_on(resume=True)
    assert [key for key in whole if not torch.equal(whole[key], again[key])] == []


def made_networks(tensors: dict[str, torch.Tensor]) -> list[str]:
    """The networks that have an optimizer."""
    return [key.removeprefix("counts/") for key in tensors if key.startswith("counts/")]
