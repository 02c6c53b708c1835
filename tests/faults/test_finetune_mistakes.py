"""`stitchrl finetune` as its users meet it: every mistake one clear line and exit code 2; and the way round once."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from stitchrl.core.goals import GoalDrawing
from stitchrl.core.records import Logging
from stitchrl.data import sources
from stitchrl.experiment import plan, run_experiment
from stitchrl.training.learner import Training
from tests.faults.commands import Running, results, stitchrl
from tests.faults.test_command_mistakes import told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on 60 random steps in the spaces of CartPole, and what is wrong with copies of them."""
    made = tmp_path_factory.mktemp("finetune")
    rng = np.random.default_rng(0)
    log = {
        "observations": rng.normal(size=(60, 4)).astype(np.float32),
        "actions": rng.integers(0, 2, 60),
        "rewards": rng.normal(size=60),
        "terminals": np.arange(60) % 10 == 9,
        "timeouts": np.zeros(60, bool),
    }
    np.savez(made / "log.npz", **log)
    np.savez(made / "other.npz", **(log | {"rewards": np.zeros(60)}))
    training = Training(steps=4, batch_size=8, save_every=4, log_every=4, device="cpu", compile="off")
    for algorithm, settings in (("iql", {"hidden": (4,)}), ("bc", {"hidden": (4,)})):
        run_experiment(
            plan(algorithm, settings=settings, training=training), sources.read(made / "log.npz"), path=made / algorithm, source="log.npz",
            logging=Logging(tensorboard=False, quiet=True),
        )  # fmt: skip
    run_experiment(
        plan("iql", settings={"hidden": (4,)}, training=training, goals=GoalDrawing(hindsight=True, terminals="as_timeouts")),
        sources.read(made / "log.npz"), path=made / "goals", source="log.npz", logging=Logging(tensorboard=False, quiet=True),
    )  # fmt: skip
    for name, lost in (("no_checkpoint", "checkpoints"), ("no_policy", "policy")):
        shutil.copytree(made / "iql", made / name)
        shutil.rmtree(made / name / lost)
    moved = shutil.copytree(made / "iql", made / "moved")
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"data": config["data"] | {"source": "gone/log.npz"}}))
    for name, wrong in (("seeds", "abc"), ("data", None), ("training", 3), ("parent", {})):
        edited = shutil.copytree(made / "iql", made / f"edited_{name}")
        (edited / "config.json").write_text(json.dumps(config | {name: wrong}))
    (made / "nothing").mkdir()
    return made


ENV = "--env CartPole-v1 --steps 20 --warm-start 10 --logging.quiet --logging.no-tensorboard"
MISTAKES = {
    "no run": ("finetune", "name a run first"),
    "a flag first": ("finetune --env CartPole-v1", "name a run first"),
    "nowhere": (f"finetune nowhere {ENV}", "nowhere: no such run directory"),
    "no run there": (f"finetune nothing {ENV}", "nothing/config.json: no such file"),
    "no critic": (f"finetune bc {ENV}", "bc: 'bc' has no critic", "iql"),
    "goals": (f"finetune goals {ENV}", "goals: learned to reach goals by hindsight", "without --goals.hindsight"),
    "no environment": ("finetune iql --steps 20", "iql: names no environment, nor does its log", "--env"),
    "other spaces": (f"finetune iql {ENV} --env MountainCar-v0", "MountainCar-v0 has observations box[2]", "box[4]"),
    "unknown environment": (f"finetune iql {ENV} --env CartPol-v1", "'CartPole-v1'"),
    "no checkpoint": (f"finetune no_checkpoint {ENV}", "no_checkpoint: has no checkpoint", "critic"),
    "no policy": (f"finetune no_policy {ENV}", "no_policy: has no policy yet", "--resume"),
    "data moved": (f"finetune moved {ENV}", "gone/log.npz: no such file"),
    "other data": (f"finetune moved {ENV} --data other.npz", "other.npz: not the log", "fingerprint"),
    "seeds edited": (f"finetune edited_seeds {ENV}", "edited_seeds/config.json: seeds is 'abc'; expected a list of integers"),
    "data edited": (f"finetune edited_data {ENV}", "data is None; expected an object"),
    "training edited": (f"finetune edited_training {ENV}", "training is 3; expected an object"),
    "parent edited": (f"finetune edited_parent {ENV}", "parent has no path"),
    "mixing above": (f"finetune iql {ENV} --mixing 1.5", "mixing is 1.5", "less than 1"),
    "mixing below": (f"finetune iql {ENV} --mixing -0.5", "mixing is -0.5"),
    "mixing of nothing": (f"finetune iql {ENV} --mixing 0.001", "0 of its rows"),
    "mixed and poured": (f"finetune iql {ENV} --mixing 0.5 --pour", "pour is on"),
    "too few steps": (f"finetune iql {ENV} --steps 5", "nothing would be learned"),
    "misspelt": (f"finetune iql {ENV} --mixin 0.5", "unknown option --mixin", "--mixing"),
    "setting of another": (f"finetune iql {ENV} --settings.alpha 0.5", "unknown option --settings.alpha"),
    "setting out of range": (f"finetune iql {ENV} --settings.expectile 2", "expectile is 2"),
    "another network": (f"finetune iql {ENV} --settings.hidden 8 --run wide", "settings that make the networks"),
    "nothing to resume": (f"finetune iql {ENV} --resume --run none", "no run to resume"),
    "its own directory": (f"finetune iql {ENV} --run iql --overwrite", "directory of its own"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    line, *words = MISTAKES[name]
    code, out, err = told(capsys, *line.split())
    assert (code, out) == (2, ""), (out, err)
    assert len(err.splitlines()) == 1 and "Traceback" not in err and err.startswith("stitchrl"), err
    for word in words:
        assert word in err, (word, err)


def test_the_way_round(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A moved log is told by --data; the run is told of, shown with both phases, and says that it is no offline result."""
    monkeypatch.chdir(folder)
    line = f"finetune moved {ENV} --data log.npz --evaluation.episodes 2".replace("--logging.quiet", "")
    code, out, _ = told(capsys, *line.split())
    assert code == 0 and out.startswith(f"{folder / 'moved-finetune'}: 20 steps in the environment; return ") and "at step 0; return" in out
    card = (folder / "moved-finetune" / "card.md").read_text()
    assert "went on from `moved` (its step 4) in `CartPole-v1`" in card and "no offline result" in card
    assert told(capsys, "plot", "moved-finetune", "--to", "curve.svg")[0] == 0
    assert told(capsys, *line.split(), "--print-config")[1].startswith("algorithm: iql")
    assert told(capsys, *line.split())[2].startswith("stitchrl: ") and "settings.hidden" in told(capsys, "finetune", "moved", "--help")[1]


def test_a_resume_with_another_count_of_updates_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    line = f"finetune iql {ENV} --run counted".split()
    assert told(capsys, *line)[0] == 0
    code, _, err = told(capsys, *line, "--steps", "40", "--warm-start", "30", "--resume", "--allow-change", "training.steps", "online")
    assert code == 2 and "updates were done by step 20, and by these settings it is 0; keep --warm-start" in err
    before = (folder / "counted" / "metrics.jsonl").read_bytes()
    assert told(capsys, *line, "--settings.hidden", "8", "--overwrite")[0] == 2
    assert (folder / "counted" / "metrics.jsonl").read_bytes() == before, "a refused run replaces nothing"


@pytest.mark.slow
def test_a_run_killed_and_stopped_ends_as_if_nothing_had_happened(folder: Path) -> None:
    """Killed while it writes its second checkpoint, stopped by SIGTERM after that, then let run: the episode in flight is CartPole's."""
    more = "--steps 400 --save-every 50 --log-every 10 --evaluation.every 200"
    line = ["finetune", "iql", *ENV.replace("--steps 20", more).split()]
    stitchrl(folder, *line, "--run", "whole").succeeded()
    cut = [*line, "--run", "cut"]
    killed = stitchrl(folder, *cut, environment={"STITCHRL_FAILPOINT": "checkpoint:renamed"})
    assert killed.code == -signal.SIGKILL
    killed = stitchrl(folder, *cut, "--resume", environment={"STITCHRL_FAILPOINT": "checkpoint:weights"})
    assert killed.code == -signal.SIGKILL
    running = Running(folder, *cut, "--resume")
    assert running.reaches(folder / "cut", 150)  # the killed one told of step 100
    running.send(signal.SIGTERM)
    assert running.wait().code in (143, 0)
    stitchrl(folder, *cut, "--resume").succeeded()
    assert results(folder / "cut") == results(folder / "whole")
