"""`--env-options`: the environment that a log is collected in, and policies are judged and go on in, opened as the command says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import stitchrl
from stitchrl.core.errors import ConfigError
from stitchrl.evaluation.recorded_task import task_of
from stitchrl.verbs.data import collect
from stitchrl.verbs.evaluate import evaluate
from stitchrl.verbs.finetune import finetune
from stitchrl.verbs.flags import named_values
from stitchrl.verbs.train import train

ENV = "stitchrl/Gridworld-v0"
TINY = ("--steps", "4", "--batch-size", "8", "--settings.hidden", "4", "--logging.quiet", "--logging.no-tensorboard")


def test_values_are_named_in_words_of_a_command() -> None:
    told = ("planning=none", "horizon=5", "beam-width=8", "goal=[[0, 4], [1, 5]]", "prefix_context=false", "dropped_mass=0.25")
    expected = {"planning": "none", "horizon": 5, "beam_width": 8, "goal": [[0, 4], [1, 5]], "prefix_context": False, "dropped_mass": 0.25}
    assert named_values(told, "--settings") == expected
    for word in ("planning", "=3"):
        with pytest.raises(ConfigError, match="--settings has .*expected name=value"):
            named_values((word,), "--settings")
    with pytest.raises(ConfigError, match="--settings has beam_width twice"):
        named_values(("beam-width=8", "beam_width=9"), "--settings")


def test_a_command_opens_an_environment_with_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, run = tmp_path / "log.npz", tmp_path / "run"
    collect([ENV, "--to", str(log), "--episodes", "4", "--env-options", "slip=0.25", "max-episode-steps=7"])
    dataset, own = stitchrl.load(log), {"slip": 0.25, "max_episode_steps": 7}
    assert dataset.metadata["environment_options"] == own and dataset.lengths.max() <= 7
    judged = ("--evaluation.episodes", "2")
    train(["q_learning", "--data", str(log), "--run", str(run), *TINY, *judged])
    assert task_of(run)[:2] == (ENV, own), "the log's own, where the command tells none"
    other = {"max_episode_steps": 3}
    words = ["--env-options", "max_episode_steps=3"]
    train(["q_learning", "--data", str(log), "--run", str(run), "--overwrite", *TINY, *judged, *words])
    assert task_of(run)[:2] == (ENV, other)
    assert max(json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])["lengths"][0]) <= 3
    capsys.readouterr()
    evaluate(
        [str(run), "--episodes", "2", "--discount", "0.9", "--json", str(tmp_path / "found.json"), "--env-options", "max_episode_steps=2"]
    )
    assert f"in {ENV} with max_episode_steps=2: return" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["environment_options"] == {"max_episode_steps": 2} and found["discount"] == 0.9 and max(found["lengths"][0]) <= 2
    finetune([str(run), "--steps", "4", "--warm-start", "2", "--run", str(tmp_path / "on"), "--env-options", "slip=0.5"])
    assert task_of(tmp_path / "on")[:2] == (ENV, {"slip": 0.5})
