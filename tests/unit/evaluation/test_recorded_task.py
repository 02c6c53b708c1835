"""Which task a run or a log names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitchrl.core.errors import CheckpointError, ConfigError
from stitchrl.core.spec import Box, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.recorded_task import kept, named_by, task_for, task_of
from stitchrl.verbs.train import environment_of


def recorded(path: Path, **parts: Any) -> Path:
    (path / "config.json").write_text(json.dumps(parts))
    return path


def test_a_module_is_not_run_on_a_logs_word(tmp_path: Path) -> None:
    named = {"environment": "setup:Mine-v0"}
    log = Dataset(Spec(Box((1,)), Box((1,))), {"observations": np.zeros((1, 1), np.float32), "actions": np.zeros((1, 1), np.float32),
        "rewards": np.zeros(1, np.float32), "terminals": np.zeros(1, bool), "timeouts": np.ones(1, bool)}, np.array([0, 1]),
        np.zeros((1, 1), np.float32), named)  # fmt: skip
    with pytest.raises(ConfigError, match=r"names the environment 'setup:Mine-v0'.*--env setup:Mine-v0"):
        environment_of(log, "auto")
    assert environment_of(log, "setup:Mine-v0") == ("setup:Mine-v0", {}) and environment_of(log, "none") == (None, {})
    own = {"environment": {"id": "setup:Mine-v0", "options": {}}}
    with pytest.raises(ConfigError, match="takes your word"):
        task_of(recorded(tmp_path, data=own))
    with pytest.raises(ConfigError, match="takes your word"):
        task_for(tmp_path, log, None)
    assert task_of(tmp_path, "setup:Mine-v0").environment == "setup:Mine-v0"
    assert task_of(recorded(tmp_path, **own)).environment == "setup:Mine-v0"  # the run's own: whoever trained it said so


def test_a_config_without_an_id_is_no_runs(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected an environment's id and options"):
        task_of(recorded(tmp_path, environment={"id": "CartPole-v1", "options": [1]}))
    with pytest.raises(ConfigError, match="names no environment"):
        task_of(recorded(tmp_path, environment={"options": {}}))


def test_options_that_a_run_could_not_keep_are_refused_before_it_learns(tmp_path: Path) -> None:
    import stitchrl

    words = r"environment_options: 'goal' is ndarray '\[0.5 0.5\]'; expected plain JSON values"
    options = {"goal": np.array([0.5, 0.5])}
    named = named_by({"environment": "CartPole-v1", "environment_options": options})
    with pytest.raises(ConfigError, match=words):
        kept(named)
    whole = {"id": "CartPole-v1", "options": {"size": (3, 4), "name": "medium"}}
    assert kept(whole) == whole and kept(None) is None
    given = {"sutton_barto_reward": np.bool_(True)}
    with pytest.raises(ConfigError, match="'sutton_barto_reward' is bool"):
        stitchrl.train("bc", "cartpole/mixed", run=tmp_path / "run", environment="CartPole-v1", environment_options=given)
    assert not (tmp_path / "run").exists()
