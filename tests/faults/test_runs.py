"""Runs that are killed, stopped, starved and lied to: what is on the disk is whole, and a resume ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stitchrl.training import checkpoint
from tests.faults.commands import Ended, Running, afresh, records, results, step_of, stitchrl

STEPS = 200
TINY = ("--batch-size", 16, "--settings.hidden", 16, "--logging.no-tensorboard")
OFTEN = ("--save-every", 20, "--log-every", 10)
JUDGED = ("--evaluation.every", 50, "--evaluation.episodes", 2)
LONG = ("--steps", 1_000_000, *TINY, *OFTEN, "--compile", "off", "--env", "none")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"STITCHRL_CACHE": str(tmp_path_factory.mktemp("cache"))}


def whole(*more: object, run: object = "run") -> list[object]:
    """The run that most tests repeat: two seeds of IQL on a grid world, judged in it."""
    return ["train", "iql", "--data", "gridworld/expert", "--run", run, "--steps", STEPS, "--seeds", 2, *TINY, *OFTEN, *JUDGED, *more]


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, cache: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    stitchrl(folder, *whole("--logging.quiet"), environment=cache).succeeded()
    return folder / "run"


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory, cache: dict[str, str]) -> Path:
    """The same run, killed just after its first checkpoint, of step 20."""
    folder = tmp_path_factory.mktemp("killed")
    ended = stitchrl(folder, *whole(), environment=cache | {"STITCHRL_FAILPOINT": "checkpoint:renamed"})
    assert ended.code == -signal.SIGKILL and checkpoint.steps(folder / "run" / "checkpoints") == [20]
    return folder / "run"


def npz(folder: Path, **columns: np.ndarray) -> Path:
    """A log of 6 episodes of 10 steps with three actions."""
    rng = np.random.default_rng(0)
    ends = np.arange(60) % 10 == 9
    own = {"observations": rng.normal(size=(60, 3)).astype(np.float32), "actions": rng.integers(0, 3, 60), "timeouts": ends & False}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "log.npz", **(own | {"rewards": rng.normal(size=60), "terminals": ends} | columns))
    return folder / "log.npz"


# ------------------------------------------------------------------------------------------------------------------ killed and stopped


def check_interruptions(folder: Path, cache: dict[str, str], uninterrupted: Path, numbers: list[int], seed: int) -> None:
    """Interrupts at random moments, each time later than the last, resumes, and compares the end with the uninterrupted run."""
    chosen = random.Random(seed)
    run, resume = folder / "run", False
    for i, number in enumerate(numbers):
        beyond = step_of(run) + 10  # what an earlier try has told is no progress of this one
        running = Running(folder, *whole(*(["--resume"] if resume else [])), environment=cache)
        running.reaches(run, max(beyond, chosen.randrange(10, 10 + (i + 1) * (STEPS - 20) // len(numbers))))
        time.sleep(chosen.random() * 0.03)
        running.send(number)
        ended = running.wait()
        assert ended.code in (0, -number if number == signal.SIGKILL else 128 + number), ended
        resume = (run / "config.json").exists()
    stitchrl(folder, *whole("--resume"), environment=cache).succeeded()
    assert results(run) == results(uninterrupted)
    assert [entry.name for entry in (run / "checkpoints").iterdir() if ".tmp-" in entry.name] == []


def test_a_run_killed_three_times_ends_as_if_never_killed(tmp_path: Path, cache: dict[str, str], uninterrupted: Path) -> None:
    check_interruptions(tmp_path, cache, uninterrupted, [signal.SIGKILL] * 3, seed=0)


def test_a_run_stopped_by_signals_ends_as_if_never_stopped(tmp_path: Path, cache: dict[str, str], uninterrupted: Path) -> None:
    check_interruptions(tmp_path, cache, uninterrupted, [signal.SIGTERM, signal.SIGINT], seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_a_run_killed_many_times_ends_as_if_never_killed(tmp_path: Path, cache: dict[str, str], uninterrupted: Path, seed: int) -> None:
    check_interruptions(
        tmp_path, cache, uninterrupted, [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGINT], seed
    )


@pytest.mark.parametrize("point", ["made", "weights", "state", "manifest", "renamed"])
def test_a_kill_inside_a_checkpoint_leaves_the_one_before(tmp_path: Path, cache: dict[str, str], killed: Path, point: str) -> None:
    shutil.copytree(killed, tmp_path / "run")
    ended = stitchrl(tmp_path, *whole("--resume"), environment=cache | {"STITCHRL_FAILPOINT": f"checkpoint:{point}"})
    assert ended.code == -signal.SIGKILL
    assert checkpoint.load_newest(tmp_path / "run" / "checkpoints")[1]["step"] == (40 if point == "renamed" else 20)
    assert step_of(tmp_path / "run") == 40


def test_what_a_kill_leaves_behind_is_cleared_and_the_run_goes_on(
    tmp_path: Path, cache: dict[str, str], killed: Path, uninterrupted: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    leftover = run / "checkpoints" / "step_0000000040.tmp-1"
    leftover.mkdir()
    (leftover / "state.safetensors").write_bytes(b"half")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "loss/act')
    stitchrl(tmp_path, *whole("--resume"), environment=cache).succeeded()
    assert not leftover.exists() and results(run) == results(uninterrupted)


def started(folder: Path, *more: object) -> tuple[Running, Path]:
    """A long run on a log of this file that has come past its first checkpoint."""
    running = Running(folder, "train", "q_learning", "--data", npz(folder), "--run", "run", *LONG, *more)
    assert running.reaches(folder / "run", 30)
    return running, folder / "run"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_the_run(tmp_path: Path, number: int, code: int) -> None:
    running, run = started(tmp_path, "--logging.quiet")
    began = time.monotonic()
    running.send(number)
    ended = running.wait()
    assert time.monotonic() - began < 5
    newest = checkpoint.steps(run / "checkpoints")[-1]
    told = ended.refused("stopped by a signal", f"step {newest:,};", "--resume", code=code)
    assert "checkpoint is complete" in told
    checkpoint.load(run / "checkpoints" / f"step_{newest:010d}")


def test_what_could_not_act_is_refused_before_it_learns(tmp_path: Path) -> None:
    few = ["--steps", 5, "--batch-size", 8, "--settings.horizon", 4, "--settings.width", 4, "--settings.multipliers", 1, "--env", "none"]
    wrong = ["--settings.diffusion-steps", 4, "--settings.unguided-steps", 4]
    ended = stitchrl(tmp_path, "train", "diffuser", "--data", npz(tmp_path), "--run", "run", *few, *wrong)
    ended.refused("unguided_steps is 4 and sampling begins 4 steps before its end", "at most 3")
    assert {entry.name for entry in (tmp_path / "run").iterdir()} <= {"lock"}


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    # a step of seconds, so that the second signal comes within the step that the first one waits for
    heavy = ("--settings.hidden", 1024, 1024, "--settings.ensemble", 8, "--batch-size", 1024)
    running = Running(tmp_path, "train", "q_learning", "--data", npz(tmp_path), "--run", "run", *LONG, *heavy, "--log-every", 1)
    assert running.reaches(tmp_path / "run", 1)
    running.send(signal.SIGINT)  # another signal than the second: two of a kind at once can become one
    running.send(signal.SIGTERM)
    assert running.wait().code == 143
    assert not (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "run" / "policy").exists()


def test_a_stop_inside_an_evaluation_loses_nothing(tmp_path: Path, cache: dict[str, str]) -> None:
    run = tmp_path / "run"
    few = ["train", "bc", "--data", "gridworld/expert", "--run", run, "--steps", 40, *TINY, *OFTEN, "--evaluation.every", 20]
    running = Running(tmp_path, *few, "--evaluation.episodes", 1_000_000, environment=cache)
    assert running.reaches(run, 20)
    time.sleep(0.5)
    began = time.monotonic()
    running.send(signal.SIGTERM)
    assert running.wait().code == 143 and time.monotonic() - began < 5
    assert checkpoint.steps(run / "checkpoints") == [20] and not (run / "evaluations.jsonl").exists()
    stitchrl(tmp_path, *few, "--evaluation.episodes", 2, "--resume", environment=cache).succeeded()
    assert [line["step"] for line in records(run, "evaluations")] == [20, 40]


def test_a_killed_run_with_processes_of_environments_can_be_resumed_at_once(tmp_path: Path, cache: dict[str, str]) -> None:
    run = tmp_path / "run"
    few = ["train", "bc", "--data", "gridworld/expert", "--run", run, "--steps", 40, *TINY, *OFTEN, "--evaluation.every", 20]
    running = Running(tmp_path, *few, "--evaluation.episodes", 1_000_000, "--evaluation.processes", 2, environment=cache)
    assert running.reaches(run, 20)
    time.sleep(1)
    running.send(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    stitchrl(tmp_path, *few, "--evaluation.episodes", 2, "--resume", environment=cache).succeeded()


# -------------------------------------------------------------------------------------------------------------------------- the same again


def test_the_same_again_is_the_same_bit_for_bit_and_a_resume_of_it_changes_nothing(
    tmp_path: Path, cache: dict[str, str], uninterrupted: Path
) -> None:
    first = stitchrl(tmp_path, *whole(), environment=cache).succeeded()
    before = results(tmp_path / "run")
    assert before == results(uninterrupted)
    again = stitchrl(tmp_path, *whole("--resume"), environment=cache).succeeded()
    assert results(tmp_path / "run") == before and again.out == first.out


def test_habits_of_logging_saving_and_judging_change_no_weight(tmp_path: Path, cache: dict[str, str], uninterrupted: Path) -> None:
    other = (
        "--log-every",
        7,
        "--save-every",
        33,
        "--evaluation.every",
        21,
        "--evaluation.sampled",
        "--logging.tensorboard",
        "--logging.quiet",
    )
    stitchrl(tmp_path, *whole(*other), environment=cache).succeeded()
    for file in ("model.safetensors", "config.json", "normalizers.safetensors"):
        assert (tmp_path / "run" / "policy" / file).read_bytes() == (uninterrupted / "policy" / file).read_bytes()


def test_another_seed_is_another_policy(tmp_path: Path, cache: dict[str, str], uninterrupted: Path) -> None:
    stitchrl(tmp_path, *whole("--first-seed", 1), environment=cache).succeeded()
    assert (tmp_path / "run" / "policy" / "model.safetensors").read_bytes() != (uninterrupted / "policy" / "model.safetensors").read_bytes()
    assert records(tmp_path / "run", "metrics")[0]["loss/actor"][0] == pytest.approx(
        records(uninterrupted, "metrics")[0]["loss/actor"][1], rel=1e-4  # seed 1, first here and second there
    )  # fmt: skip


def test_the_order_of_hashes_changes_nothing(tmp_path: Path) -> None:
    log = npz(tmp_path)
    for number in ("0", "1"):
        few = ["train", "q_learning", "--data", log, "--run", number, "--steps", 40, *TINY, *OFTEN, "--env", "none"]
        afresh(tmp_path, *few, environment={"PYTHONHASHSEED": number}).succeeded()
    assert results(tmp_path / "0") == results(tmp_path / "1")


# ------------------------------------------------------------------------------------------------------------------------ not finite


def test_a_loss_that_is_not_finite_ends_with_a_report_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    few = ["--run", "run", *TINY, "--env", "none", "--save-every", 1, "--steps", 500, "--log-every", 10, "--logging.quiet"]
    rate = ("--settings.learning-rate", 1e6, "--settings.target-rate", 1)
    ended = stitchrl(tmp_path, "train", "q_learning", "--data", npz(tmp_path), *few, *rate)
    told = ended.refused("is not finite", "data validate", code=4)
    report = json.loads((tmp_path / "run" / "crash_report.json").read_text())
    assert report["error"] in told and report["step"] >= 1 and report["seeds"] == [0]
    assert (tmp_path / "run" / report["batch"]).stat().st_size > 0
    tensors, extra = checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    assert extra["step"] == report["last_checkpoint"] <= report["step"]
    assert all(np.isfinite(tensor.double().numpy()).all() for tensor in tensors.values())
    text = (tmp_path / "run" / "metrics.jsonl").read_text() if (tmp_path / "run" / "metrics.jsonl").exists() else ""
    assert "NaN" not in text and "Infinity" not in text and "null" not in text


def test_rewards_whose_squares_overflow_end_before_the_first_step(tmp_path: Path) -> None:
    log = npz(tmp_path, rewards=np.full(60, 1e30))
    ended = stitchrl(tmp_path, "train", "q_learning", "--data", log, "--run", "run", *LONG)
    ended.refused("step 0: loss/critic of seed 0 is not finite", code=4)
    assert json.loads((tmp_path / "run" / "crash_report.json").read_text())["last_checkpoint"] is None


@pytest.mark.parametrize(
    ("column", "value", "word"),
    [("rewards", np.nan, "not finite"), ("rewards", np.inf, "not finite"), ("observations", -np.inf, "not finite")],
)
def test_numbers_that_are_not_finite_are_refused_where_they_stand(tmp_path: Path, column: str, value: float, word: str) -> None:
    shape = (60, 3) if column == "observations" else (60,)
    values = np.zeros(shape, np.float32)
    values[23] = value
    log = npz(tmp_path, **{column: values})
    stitchrl(tmp_path, "train", "bc", "--data", log, "--run", "run", *LONG).refused(f"'{column}' is {word}", "episode 2, step 3", "row 23")
    assert not (tmp_path / "run").exists()
    stitchrl(tmp_path, "data", "validate", log, "--json", "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["errors"] >= 1 and "episode 2, step 3" in json.dumps(found).replace('"episode": 2, "step": 3', "episode 2, step 3")


# ------------------------------------------------------------------------------------------------------------------------ the directory


def test_a_directory_in_use_is_refused_with_the_process_that_uses_it(tmp_path: Path) -> None:
    running, run = started(tmp_path)
    for more in ("--resume", "--overwrite"):
        ended = stitchrl(tmp_path / "other", "train", "q_learning", "--data", tmp_path / "log.npz", "--run", run, *LONG, more)
        ended.refused(f"in use by process {running.pid}", "--run")
    running.send(signal.SIGKILL)
    running.wait()
    ended = stitchrl(tmp_path / "other", "train", "q_learning", "--data", tmp_path / "log.npz", "--run", run, *LONG)
    ended.refused("already holds a run", "--resume", "--overwrite")  # and no longer in use: the dead hold nothing


def test_a_directory_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "deep").mkdir(parents=True)
    (work / "deep" / "thesis.txt").write_text("years")
    (work / "config.json").write_text('{"name": "another program\'s"}')
    for more in ((), ("--overwrite",)):
        ended = stitchrl(tmp_path, "train", "bc", "--data", npz(tmp_path), "--run", work, *LONG, *more)
        ended.refused("not a run", "--run")
    assert (work / "deep" / "thesis.txt").read_text() == "years" and sorted(p.name for p in work.iterdir()) == ["config.json", "deep"]


def test_overwrite_replaces_a_run_and_follows_no_link(tmp_path: Path, killed: Path, cache: dict[str, str], uninterrupted: Path) -> None:
    shutil.copytree(killed, tmp_path / "run")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    (tmp_path / "run" / "link").symlink_to(tmp_path / "precious")
    stitchrl(tmp_path, *whole("--overwrite"), environment=cache).succeeded()
    assert results(tmp_path / "run") == results(uninterrupted)
    assert (tmp_path / "precious" / "file").read_text() == "kept" and not (tmp_path / "run" / "link").exists()


def test_a_refused_run_leaves_the_one_that_it_would_have_replaced(tmp_path: Path) -> None:
    columns = {"observations": np.zeros((60, 3), np.float32), "actions": np.zeros((60, 2), np.float32)}
    line = ["train", "qrl", "--data", npz(tmp_path, **columns), "--run", "run", "--steps", 2, *TINY, "--goals.terminals", "as_timeouts"]
    stitchrl(tmp_path, *line, "--settings.latent", 64).succeeded()

    def held() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != "lock"}

    before = held()
    stitchrl(tmp_path, *line, "--settings.latent", 33, "--overwrite").refused("latent is 33")
    assert held() == before


def test_resume_and_overwrite_together_are_refused(tmp_path: Path, killed: Path, cache: dict[str, str]) -> None:
    shutil.copytree(killed, tmp_path / "run")
    stitchrl(tmp_path, *whole("--resume", "--overwrite"), environment=cache).refused("--resume", "--overwrite")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [20]


def test_nothing_to_resume_is_told(tmp_path: Path) -> None:
    ended = stitchrl(tmp_path, "train", "bc", "--data", npz(tmp_path), "--run", "run", *LONG, "--resume")
    ended.refused("no run to resume here", "--resume")
    assert not (tmp_path / "run").exists()


def test_a_run_refused_before_its_first_step_is_no_run(tmp_path: Path, cache: dict[str, str]) -> None:
    few = ["train", "bc", "--data", npz(tmp_path), "--run", "run", "--steps", 2, *TINY]
    stitchrl(tmp_path, *few, "--logging.mlflow-experiment", "x").refused("pip install mlflow")
    stitchrl(tmp_path, *few).succeeded()


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_file_in_the_way_is_told_before_training(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = stitchrl(tmp_path, "train", "bc", "--data", npz(tmp_path), "--run", place, *LONG)
    ended.refused(f"{place}: the run directory cannot be written", "--run")
    assert (tmp_path / "file").read_text() == "in the way"


# ----------------------------------------------------------------------------------------------------------------------------- resuming


def test_changed_settings_are_listed_and_refused_unless_allowed(tmp_path: Path, killed: Path, cache: dict[str, str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    before = (run / "config.json").read_bytes()
    changes = ("--resume", "--settings.learning-rate", 0.01, "--settings.expectile", 0.9)
    told = stitchrl(tmp_path, *whole(*changes), environment=cache).refused("--allow-change")
    assert "settings.learning_rate is 0.01 and was 0.0003" in told and "settings.expectile is 0.9 and was 0.7" in told
    one = stitchrl(tmp_path, *whole(*changes, "--allow-change", "settings.expectile"), environment=cache).refused("learning_rate")
    assert "expectile" not in one
    both = ("--allow-change", "settings.expectile", "settings.hidden")
    wrong = stitchrl(tmp_path, *whole("--resume", "--settings.hidden", 8, *both), environment=cache)
    wrong.refused("the checkpoint's", "has shape")  # what no change of settings can make fit
    assert (run / "config.json").read_bytes() == before  # refused: nothing is written
    both = ("--allow-change", "settings.expectile", "settings.learning_rate")
    stitchrl(tmp_path, *whole(*changes, *both), environment=cache).succeeded()
    assert json.loads((run / "config.json").read_text())["settings"]["expectile"] == 0.9


def test_more_steps_are_taken_and_fewer_than_were_are_not(tmp_path: Path, cache: dict[str, str]) -> None:
    few = ["train", "bc", "--data", npz(tmp_path), "--run", "run", *TINY]
    stitchrl(tmp_path, *few, "--steps", 4).succeeded()
    on = ("--resume", "--allow-change")
    stitchrl(tmp_path, *few, "--steps", 6, *on, "training.stps").refused("no such setting", "'training.steps'")
    stitchrl(tmp_path, *few, "--steps", 6, *on, "training.steps").succeeded()
    stitchrl(tmp_path, *few, "--steps", 5, *on, "training.steps").refused("has taken 6 steps, and steps is 5")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["steps"] == 6


def test_what_no_step_is_left_to_honour_is_refused_and_what_changed_is_kept_by_step(tmp_path: Path, cache: dict[str, str]) -> None:
    log = npz(tmp_path)
    line = ["train", "bc", "--data", log, "--run", "run", *TINY, "--resume"]
    stitchrl(tmp_path, *line[:-1], "--steps", 4).succeeded()
    before = (tmp_path / "run" / "config.json").read_bytes()
    late = ("--settings.learning-rate", 0.01, "--allow-change", "settings")
    stitchrl(tmp_path, *line, "--steps", 4, *late).refused("has taken all its 4 steps", "learning_rate is 0.01", "training.steps")
    own = ("--preprocessing.held-out", 0.4, "--allow-change", "preprocessing", "training.steps")
    for steps in (4, 8):  # "held out" would be said of episodes that were learned from
        stitchrl(tmp_path, *line, "--steps", steps, *own).refused("held_out is 0.4", "learned from already")
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    stitchrl(tmp_path, *line, "--steps", 6, *late, "training.steps").succeeded()
    (changes,) = json.loads((tmp_path / "run" / "config.json").read_text())["changes"]
    assert changes["step"] == 4 and changes["changed"] == ["settings.learning_rate is 0.01 and was 0.0003", "training.steps is 6 and was 4"]
    assert "changed at step 4: `settings.learning_rate is 0.01 and was 0.0003`" in (tmp_path / "run" / "card.md").read_text()
    assert "settings.learning_rate is 0.01 and was 0.0003; training.steps is 6" in (tmp_path / "run" / "report.html").read_text()
    stitchrl(tmp_path, *line, "--steps", 7, "--settings.learning-rate", 0.01, "--allow-change", "training.steps").succeeded()
    assert [change["step"] for change in json.loads((tmp_path / "run" / "config.json").read_text())["changes"]] == [4, 6]


def test_a_judgement_that_comes_after_the_last_one_is_evaluates(tmp_path: Path, cache: dict[str, str]) -> None:
    shorter = ("--settings.hidden", 16, "--logging.no-tensorboard", "--steps", 4, "--evaluation.episodes")
    line = ["train", "bc", "--data", "gridworld/expert", "--run", "run", *shorter]
    stitchrl(tmp_path, *line, 1, environment=cache).succeeded()
    before = (tmp_path / "run" / "config.json").read_bytes()
    stitchrl(tmp_path, *line, 3, "--resume", environment=cache).refused("evaluation.episodes is 3 and was 1", "stitchrl evaluate run")
    stitchrl(tmp_path, *line, 1, "--resume", "--evaluation.processes", 2, environment=cache).succeeded()
    (tmp_path / "run" / "config.json").write_bytes(before)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_what_was_said_of_a_policy_that_learns_on_is_set_aside(tmp_path: Path) -> None:
    line = ["train", "bc", "--data", npz(tmp_path), "--run", "run", *TINY]
    stitchrl(tmp_path, *line, "--steps", 4).succeeded()
    (tmp_path / "run" / "trust.json").write_text('{"verdict": "Supported: of step 4"}')
    told = stitchrl(tmp_path, *line, "--steps", 6, "--resume", "--allow-change", "training.steps").succeeded()
    assert "trust.json are of the policy so far, which learns on from step 4" in told.err
    assert (tmp_path / "run" / "earlier" / "step_4" / "trust.json").read_text() == '{"verdict": "Supported: of step 4"}'
    assert "was not run on this run" in (tmp_path / "run" / "card.md").read_text()
    assert (tmp_path / "run" / "policy").is_dir() and (tmp_path / "run" / "earlier" / "step_4" / "policy").is_dir()


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew_unasked(tmp_path: Path) -> None:
    line = ["train", "bc", "--data", npz(tmp_path), "--run", "run", *TINY, "--steps", 4]
    stitchrl(tmp_path, *line).succeeded()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    kept = records(tmp_path / "run", "metrics")
    stitchrl(tmp_path, *line, "--resume").refused("holds a policy and no checkpoint to go on from", "--overwrite")
    assert records(tmp_path / "run", "metrics") == kept
    (tmp_path / "run" / "metrics.jsonl").unlink()  # as a stop before the first step leaves a run
    stitchrl(tmp_path, *line, "--resume").succeeded()
    assert records(tmp_path / "run", "metrics") == kept


def test_a_line_of_records_that_cannot_be_read_is_told_and_kept_beside(tmp_path: Path) -> None:
    line = ["train", "bc", "--data", npz(tmp_path), "--run", "run", *TINY, "--log-every", 1]
    stitchrl(tmp_path, *line, "--steps", 4).succeeded()
    file = tmp_path / "run" / "metrics.jsonl"
    first, second, *more = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first, "{damaged\n", second, *more]))
    on = ("--steps", 6, "--resume", "--allow-change", "training.steps")
    assert "1 line(s) cannot be read and are kept in metrics.jsonl.unreadable" in stitchrl(tmp_path, *line, *on).succeeded().err
    assert (tmp_path / "run" / "metrics.jsonl.unreadable").read_text() == "{damaged\n"
    assert [row["step"] for row in records(tmp_path / "run", "metrics")] == [1, 2, 3, 4, 5, 6]


def test_other_data_are_refused(tmp_path: Path) -> None:
    few = ["train", "bc", "--run", "run", "--steps", 2, *TINY]
    stitchrl(tmp_path, *few, "--data", npz(tmp_path)).succeeded()
    ended = stitchrl(tmp_path, *few, "--data", npz(tmp_path / "other", rewards=np.ones(60)), "--resume")
    ended.refused("data.fingerprint")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_checkpoint_is_told_and_the_run_goes_on_from_the_one_before(
    tmp_path: Path, cache: dict[str, str], killed: Path, uninterrupted: Path, damage: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    stitchrl(tmp_path, *whole("--resume"), environment=cache | {"STITCHRL_FAILPOINT": "checkpoint:renamed"})
    assert checkpoint.steps(run / "checkpoints") == [20, 40]
    damage(run / "checkpoints" / "step_0000000040" / "state.safetensors")
    ended = stitchrl(tmp_path, *whole("--resume", "--logging.quiet"), environment=cache).succeeded()
    assert len(ended.err.splitlines()) == 1, ended.err
    assert "warning" in ended.err and "step_0000000040" in ended.err and "going back" in ended.err
    assert results(run) == results(uninterrupted)


def test_a_disk_that_takes_no_more_ends_the_run_with_older_checkpoints_intact(tmp_path: Path, cache: dict[str, str], killed: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    content = (run / "checkpoints" / "step_0000000020" / "state.safetensors").read_bytes()
    limit = 12_000  # bytes a file may have: enough for config and metrics, not for a checkpoint
    assert len(content) > limit > (run / "config.json").stat().st_size
    ended = stitchrl(tmp_path, *whole("--resume", "--logging.quiet"), environment=cache, file_limit=limit)
    ended.refused("checkpoint of step 40 could not be written", "older ones are intact")
    assert [entry.name for entry in (run / "checkpoints").iterdir()] == ["step_0000000020"]
    assert (run / "checkpoints" / "step_0000000020" / "state.safetensors").read_bytes() == content


def test_a_fresh_interpreter_stops_and_resumes_too(tmp_path: Path, cache: dict[str, str], killed: Path, uninterrupted: Path) -> None:
    shutil.copytree(killed, tmp_path / "run")
    ended: Ended = afresh(tmp_path, *whole("--resume", "--logging.quiet"), environment=cache).succeeded()
    assert ended.err == "" and results(tmp_path / "run") == results(uninterrupted)
