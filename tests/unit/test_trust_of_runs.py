"""From a run to its report: the episodes that it held out judge it, and a log of another task is refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import stitchrl
from stitchrl.core.errors import ConfigError, DataError, StitchError
from stitchrl.core.records import Logging
from stitchrl.core.spec import Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.environments.tabular_logs import sample_log
from stitchrl.environments.tasks.chain import chain
from stitchrl.experiment import split_held_out
from stitchrl.verbs.trust import trust as verb

MDP = chain()
TABLE = np.full((MDP.states, MDP.actions), 1 / MDP.actions)


def log(episodes: int = 300) -> Dataset:
    return sample_log(MDP, np.ones(1), TABLE[None], episodes, np.random.default_rng(0), 400)


def trained(path: Path, dataset: Dataset, held_out: float) -> Path:
    stitchrl.train(
        "bc", dataset, run=path, settings={"hidden": (16,)}, training={"steps": 40, "batch_size": 32},
        preprocessing={"held_out": held_out}, logging=Logging(tensorboard=False, quiet=True),
    )  # fmt: skip
    return path


def test_held_out_episodes_are_the_same_ones_and_judge_the_run(tmp_path: Path) -> None:
    dataset = log()
    learned, rest = split_held_out(dataset, 0.4)
    assert (learned.episodes, rest.episodes) == (180, 120)
    run = trained(tmp_path / "run", dataset, 0.4)
    found = stitchrl.trust(run, dataset, quick=True).record
    assert found["data"]["fingerprint"] == rest.fingerprint()
    assert found["selection"]["words"].startswith("judged on episodes held out")
    assert next(c for c in found["checks"] if c["name"] == "drift")["status"] != "not run"


def test_without_held_out_episodes_the_report_says_that_it_flatters(tmp_path: Path) -> None:
    dataset = log()
    found = stitchrl.trust(trained(tmp_path / "run", dataset, 0.0), dataset, quick=True).record
    assert found["data"]["episodes"] == dataset.episodes
    assert "flatters" in found["selection"]["words"]


def test_the_log_it_learned_from_is_known_by_its_steps_and_another_is_not_said_to_be_held_out(tmp_path: Path) -> None:
    dataset = log()
    run = trained(tmp_path / "run", dataset, 0.4)

    def by(**more: np.ndarray) -> Dataset:
        return Dataset(dataset.spec, {**dataset.columns, **more}, dataset.offsets, dataset.final_observations, dataset.metadata)

    infos = by(**{"infos/policy_id": np.repeat(np.arange(300) % 2, dataset.lengths)})
    groups = by(groups=np.repeat(np.arange(300) // 5, dataset.lengths))
    half = dataset.select(np.arange(150))
    cases = (
        (infos, 120, "episodes held out of its training", "pass"),
        (groups, 300, "trained on the log that judges it, in other groups", "warn"),
        (half, 150, "another log than it was trained on; that they have no episode in common is not checked", "pass"),
    )
    for judged, episodes, words, status in cases:
        found = stitchrl.trust(run, judged, quick=True).record
        assert found["data"]["episodes"] == episodes and words in found["selection"]["words"]
        assert next(c for c in found["checks"] if c["name"] == "selection")["status"] == status
    selection = stitchrl.select([run], groups, quick=True)
    assert [one.provenance.same_data for one in selection.candidates if one.provenance is not None].count(True) == 1
    config = json.loads((run / "config.json").read_text())
    del config["data"]["steps_fingerprint"]  # as before
    (run / "config.json").write_text(json.dumps(config))
    found = stitchrl.trust(run, infos, quick=True).record
    assert "nothing tells whether it was trained on these episodes" in found["selection"]["words"]
    assert next(c for c in found["checks"] if c["name"] == "selection")["status"] == "warn"


def test_a_column_of_loggers_that_is_not_there_is_refused_and_one_that_is_needs_no_infos(tmp_path: Path) -> None:
    told = log(300)
    columns = {**told.columns, "infos/policy_id": np.repeat(np.arange(300) % 2, told.lengths)}
    dataset = Dataset(told.spec, columns, told.offsets, told.final_observations, told.metadata)
    run = trained(tmp_path / "run", dataset, 0.0)
    with pytest.raises(ConfigError, match="loggers is 'nosuch'; the data have no such column, but .*infos/policy_id"):
        stitchrl.trust(run, dataset, quick=True, loggers="nosuch")
    short, long = (stitchrl.trust(run, dataset, quick=True, loggers=name).record["checks"] for name in ("policy_id", "infos/policy_id"))
    assert [c for c in short if c["name"] == "leave_one_logger_out"] == [c for c in long if c["name"] == "leave_one_logger_out"]
    assert next(c for c in short if c["name"] == "leave_one_logger_out")["status"] != "not run"


def test_a_log_without_rewards_estimates_nothing(tmp_path: Path) -> None:
    told = log(40)
    columns = {**told.columns, "rewards": np.zeros(len(told), np.float32)}
    lacking = Dataset(told.spec, columns, told.offsets, told.final_observations, {"name": "bare", "rewards_missing": True})
    run = trained(tmp_path / "run", lacking, 0.0)
    for judge in (stitchrl.trust, stitchrl.select):
        with pytest.raises(DataError, match="bare: has no rewards, which every estimate reads"):
            judge(run, lacking, quick=True)  # type: ignore[operator]


def test_without_a_log_the_command_names_the_one_that_the_run_learned_from(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stitchrl.train("bc", "gridworld/mixed", run=run, training={"steps": 1}, logging=Logging(tensorboard=False, quiet=True))
    with pytest.raises(ConfigError, match="--data is missing.*learned from 'gridworld/mixed'"):
        verb([str(run)])
    with pytest.raises(ConfigError, match=r"--data is missing: the log to judge by\."):
        verb([str(run / "policy")])  # does not say what it learned from


def test_groups_are_held_out_whole() -> None:
    dataset = log()
    groups = np.repeat(np.arange(dataset.episodes) // 5, dataset.lengths)
    grouped = Dataset(dataset.spec, {**dataset.columns, "groups": groups}, dataset.offsets, dataset.final_observations)
    learned, rest = split_held_out(grouped, 0.3)
    assert not set(learned.columns["groups"]) & set(rest.columns["groups"])


def test_the_command_writes_page_and_record_and_its_code_is_the_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = log()
    dataset.save(tmp_path / "data")
    run = trained(tmp_path / "run", dataset, 0.4)
    code = verb([str(run), "--data", str(tmp_path / "data"), "--quick"])
    record = json.loads((run / "trust.json").read_text())
    assert code == record["verdict"]["exit_code"]
    assert record["verdict"]["word"].upper() in capsys.readouterr().out
    assert record["verdict"]["sentence"][:30] in (run / "trust.html").read_text()


def test_before_and_after_are_judged_on_what_both_held_out_and_written_with_the_figures_numbers(tmp_path: Path) -> None:
    dataset = log()
    dataset.save(tmp_path / "data")
    runs = [trained(tmp_path / name, dataset, held_out) for name, held_out in (("first", 0.3), ("second", 0.5))]
    code = verb(
        [str(runs[1]), "--before", str(runs[0]), "--data", str(tmp_path / "data"), "--quick", "--csv", str(tmp_path / "numbers"),
         "--return-range", "0", "1"]
    )  # fmt: skip
    record = json.loads((runs[1] / "trust.json").read_text())
    assert code == record["verdict"]["exit_code"]
    assert record["data"]["fingerprint"] == split_held_out(dataset, 0.3)[1].fingerprint(), "the smaller part, held out of both"
    before = record["before"]
    assert (before["policy"]["path"], record["policy"]["path"]) == (str(runs[0]), str(runs[1]))
    assert before["selection"]["words"].startswith("judged on episodes held out")
    assert [row["name"] for row in before["differences"]] == [e["name"] for e in record["estimates"] if e["name"] != "logged"]
    assert record["other_bounds"]["return_range"] == {"low": 0.0, "high": 1.0, "source": "declared in the request"}
    assert (tmp_path / "numbers" / "before_and_after.csv").read_text().startswith("name,estimate,low,high,level,reason")
    assert record["reproducibility"]["command"].count("--before") == 1 and "--csv" not in record["reproducibility"]["command"]


def test_a_log_of_another_task_is_refused(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", log(), 0.0)
    other = chain(length=12)
    table = np.full((other.states, other.actions), 1 / other.actions)
    with pytest.raises(StitchError, match="its observations are"):
        stitchrl.trust(run, sample_log(other, np.ones(1), table[None], 50, np.random.default_rng(0), 400), quick=True)


def test_a_log_that_lacks_the_last_states_is_read_in_the_policys_spaces(tmp_path: Path) -> None:
    dataset = log()
    run = trained(tmp_path / "run", dataset, 0.0)
    spec = Spec(Discrete(MDP.states - 1), Discrete(MDP.actions))  # as a file would tell whose largest state is one smaller
    seen = dataset.final_observations < MDP.states - 1
    shorter = dataset.select(np.flatnonzero(seen & (np.maximum.reduceat(dataset.observations, dataset.offsets[:-1]) < MDP.states - 1)))
    fewer = Dataset(spec, shorter.columns, shorter.offsets, shorter.final_observations, shorter.metadata)
    assert stitchrl.trust(run, fewer, quick=True).record["data"]["episodes"] == fewer.episodes
