"""The commands as their users meet them: every mistake one clear line and exit code 2, help without the heavy imports, the whole way round once."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stitchrl.cli import VERBS, main
from stitchrl.core.intervals import interval
from tests.architecture.source_tree import ROOT
from tests.faults.commands import stitchrl

TINY = ("--steps", 4, "--batch-size", 8, "--settings.hidden", 4, "--logging.quiet", "--logging.no-tensorboard")
TABLE = ("episode,x,y,action,reward", "0,1,2,0,1", "0,2,1,1,0", "1,0,0,0,1", "1,1,1,1,1")
LAST_STEPS = "2 steps were left out when the file was read: the last of an episode, where nothing tells what followed it"
COLUMNS = ("--table.observations", "x", "y", "--table.episode", "episode")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    rng = np.random.default_rng(0)
    ends = np.arange(60) % 10 == 9
    log = {
        "observations": rng.normal(size=(60, 3)).astype(np.float32),
        "rewards": rng.normal(size=60),
        "terminals": ends,
        "timeouts": ends & False,
    }
    np.savez(folder / "integer.npz", **log, actions=rng.integers(0, 3, 60))
    np.savez(folder / "real.npz", **log, actions=rng.uniform(-0.9, 0.9, (60, 2)))
    np.savez(folder / "nan.npz", **(log | {"rewards": np.where(np.arange(60) == 23, np.nan, 1.0)}), actions=rng.integers(0, 3, 60))
    (folder / "table.csv").write_text("\n".join(TABLE) + "\n")
    (folder / "misspelt.csv").write_text("\n".join(TABLE).replace("reward", "rewrd") + "\n")
    (folder / "empty.csv").write_text("")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("observations, actions, rewards\n")
    (folder / "nothing").mkdir()
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Returns the exit code, and what was printed on stdout and stderr, of a command run in this process."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


MISTAKES = {
    "missing file": ("train bc --data nowhere.npz", "nowhere.npz: no such file"),
    "missing column": ("train bc --data misspelt.csv " + " ".join(COLUMNS), "no column 'reward'", "nearest is 'rewrd'"),
    "not a number": ("train bc --data nan.npz", "'rewards' is not finite", "episode 2, step 3"),
    "unknown algorithm": ("train iqll --data integer.npz", "unknown algorithm 'iqll'", "'iql'"),
    "no algorithm": ("train --data integer.npz", "name an algorithm first", "iql"),
    "unknown flag": ("train bc --data integer.npz --settings.lerning-rate 1", "unknown option --settings.lerning-rate", "--settings.learning-rate"),
    "value without its flag": ("train bc integer.npz --data integer.npz", "'integer.npz' follows no option that takes it", "--data", "--help"),
    "value of a flag that is on or off": ("evaluate runs/gone --sampled True", "'True' follows no option that takes it", "--env, --env-options, --"),
    "longer flag": ("train bc --data integer.npz --environment CartPole-v1", "unknown option --environment", "Did you mean --env?"),
    "misplaced flag": ("train bc --data integer.npz --training.steps 1", "unknown option --training.steps", "--steps"),
    "flag cut short": ("train bc --data integer.npz --resum", "unknown option --resum", "--resume"),
    "stray word": ("train bc --data integer.npz extra", "extra"),
    "unknown dataset": ("train bc --data gridworld/expart", "'gridworld/expart'", "'gridworld/expert'"),
    "malformed value": ("train bc --data integer.npz --steps ten", "--steps", "'ten'"),
    "value left out": ("train bc --data", "Missing value", "--data"),
    "no data": ("train bc", "--data is missing"),
    "no run": ("evaluate", "RUN is missing"),
    "no environment": ("data collect --to x.npz", "ENVIRONMENT is missing"),
    "real actions for integers": ("train q_learning --data real.npz", "needs integer actions", "td3_bc"),
    "integer actions for real": ("train td3_bc --data integer.npz", "needs real-valued actions", "q_learning"),
    "discount": ("train q_learning --data integer.npz --settings.discount 1.5", "discount is 1.5", "less than or equal to 1"),
    "not finite": ("train bc --data integer.npz --settings.learning-rate nan", "learning_rate is nan"),
    "infinite": ("train bc --data integer.npz --preprocessing.reward-scale inf", "reward_scale is inf"),
    "overflow": ("train bc --data integer.npz --preprocessing.reward-scale 1e300", "rewards from", "reward_scale"),
    "no reward left": ("train bc --data integer.npz --preprocessing.reward-scale 0", "reward_scale is 0: no reward would be left"),
    "no episodes left": ("train bc --data integer.npz --preprocessing.best-episodes 0", "best_episodes is 0"),
    "no seeds": ("train bc --data integer.npz --seeds 0", "--seeds is 0"),
    "negative seed": ("train bc --data integer.npz --seed-list -1", "seed is -1"),
    "seed twice": ("train bc --data integer.npz --seed-list 1 1", "seeds are (1, 1)"),
    "no steps": ("train bc --data integer.npz --steps 0", "steps is 0"),
    "evaluations at every step": ("train bc --data integer.npz --evaluation.every -1", "every is -1"),
    "no device": ("train bc --data integer.npz --device meta", "device 'meta' cannot be used"),
    "unknown recipe": ("train bc --data integer.npz --recipe nope", "unknown recipe 'nope'", "filtered_bc"),
    "trust of no run": ("trust nowhere --data integer.npz", "nowhere: no such run"),
    "trust with an unknown option": ("trust nowhere --data integer.npz --levl 0.9", "unknown option --levl", "--level"),
    "trust at an impossible level": ("trust nowhere --data integer.npz --level 2", "level is 2.0"),
    "select of nothing": ("select --data integer.npz", "name at least one run directory"),
    "recipe of another, in one word": ("train bc --data integer.npz --recipe=iql_locomotion", "is for iql"),
    "seeds twice over": ("train bc --data integer.npz --seeds 3 --seed-list 7 8", "--seed-list names the seeds; leave --seeds"),
    "a list in two parts": ("evaluate nothing --settings a=1 --settings b=2", "--settings is given more than once; give it once"),
    "seeds in two parts": ("train bc --data integer.npz --seed-list 4 --seed-list 5", "--seed-list is given more than once"),
    "recipe without a name": ("train bc --recipe --data integer.npz", "--recipe needs a name"),
    "recipe of another after one": ("train bc --data integer.npz --recipe filtered_bc --recipe iql_locomotion", "is for iql"),
    "a negative seed of a report": ("data report integer.npz --seed -1", "data report: seed is -1"),
    "a negative seed of a comparison": ("compare nothing --seed -1", "compare: seed is -1"),
    "a table's schema for arrays": ("data show integer.npz --table.episode stay", "unexpected keyword argument 'schema'", "tables (CSV, Parquet"),
    "convert over what is there": ("data convert integer.npz --to real.npz", "real.npz: exists already", "--overwrite"),
    "collect over what is there": ("data collect CartPole-v1 --to real.npz --episodes 1", "real.npz: exists already", "--overwrite"),
    "a log of the suite and another": ("benchmark run --suite smoke --datasets gridworld hopper --dry-run", "--datasets hopper: the suite smoke has"),
    "recipe of another": ("train bc --data integer.npz --recipe iql_locomotion", "is for iql"),
    "environment of another shape": ("train bc --data integer.npz --env CartPole-v1", "CartPole-v1 has observations box[4] and the policy box[3]"),
    "options of no environment": ("train bc --data integer.npz --env-options g=1", "--env-options g", "the data name no environment; name it"),
    "options and offline": ("train bc --data integer.npz --env none --env-options g=1", "--env-options g", "--env none stays offline"),
    "options that are none": ("train bc --data real.npz --env Pendulum-v1 --env-options g", "--env-options has 'g'; expected name=value"),
    "an option of no such name": ("data collect Pendulum-v1 --to x.npz --episodes 1 --env-options gravity=1", "'gravity'", "g"),
    "unknown environment": ("train bc --data integer.npz --env CartPol-v1", "'CartPole-v1'"),
    "empty table": ("train bc --data empty.csv", "empty.csv"),
    "empty archive": ("train bc --data empty.npz", "empty.npz"),
    "text as archive": ("train bc --data text.npz", "text.npz: not a complete .npz"),
    "directory of nothing": ("train bc --data nothing", "nothing: a directory"),
    "evaluate nothing": ("evaluate nothing", "holds no config.json; expected the directory of a run"),
    "evaluate nowhere": ("evaluate nowhere", "no such run"),
    "evaluate no episode": ("evaluate nothing --episodes 0", "episodes is 0"),
    "evaluate no target": ("evaluate nothing --targets", "--targets names none", "auto"),
    "evaluate into a directory": ("evaluate nothing --json nothing", "--json is nothing, which is a directory"),
    "evaluate into nowhere": ("evaluate nothing --json gone/x.json", "there is no directory gone"),
    "benchmark into a file": ("benchmark run --dry-run --out text.npz", "--out is text.npz, which is a file"),
    "plan into a file": ("plan nothing --to text.npz", "--to is text.npz, which is a file"),
    "evaluate a negative seed": ("evaluate nothing --seed -1", "seed is -1"),
    "compare none": ("compare", "at least one run"),
    "compare nothing": ("compare nothing", "nothing: has neither config.json"),
    "plot nowhere": ("plot nowhere --to x.svg", "no such run directory"),
    "unknown verb": ("trian", "unknown command 'trian'", "'train'"),
    "unknown data verb": ("data validte x", "unknown command 'data validte'", "'data validate'"),
    "convert to nowhere": ("data convert integer.npz", "--to is missing"),
    "convert to the unknown": ("data convert integer.npz --to x.zzz", "x.zzz: of no known kind"),
    "collect to the unknown": ("data collect CartPole-v1 --to x.zzz --episodes 1000000", "x.zzz: of no known kind"),
    "convert below a file": ("data convert integer.npz --to real.npz/x.npz", "real.npz/x.npz: cannot be written, since", "real.npz is a file"),
    "collect by a policy of another task": (
        "data collect InvertedPendulum-v5 --behaviour cartpole-expert --to x.npz --episodes 1", "InvertedPendulum-v5 has actions", "discrete(2)",
    ),
    "collect without a length": ("data collect CartPole-v1 --to x.npz", "episodes=None"),
    "report to nowhere": ("data report integer.npz --html no/such/directory.html", "no/such/directory.html"),
    "name too long": (f"train bc --data {'x' * 300}.npz", "File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(name: str, logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(logs)
    line, *words = MISTAKES[name]
    training = line.startswith("train") and "--data " in line
    more = ("--run", "run", *(() if "--steps" in line else TINY[:2]), *TINY[2:]) if training else ()
    code, out, err = told(capsys, *line.split(), *more)
    assert (code, out) == (2, ""), (out, err)
    assert len(err.splitlines()) == 1 and "Traceback" not in err and not err.startswith("stitchrl: stitchrl"), err
    assert err.startswith("stitchrl")
    for word in words:
        assert word in err, (word, err)
    assert not (logs / "run").exists()


@pytest.mark.parametrize("verb", [*VERBS, "train bc", "", "data"])
def test_help_is_given(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, *verb.split(), "--help")
    assert code == 0 and err == "" and len(out) > 100


def test_debug_shows_where_a_mistake_was_found() -> None:
    from stitchrl.core.errors import ConfigError

    with pytest.raises(ConfigError, match="unknown algorithm"):
        main(["train", "nope", "--debug"])


def test_help_takes_under_half_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); sys.argv = ['stitchrl', '--help']; from stitchrl.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "evaluate" in done.stdout and resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 0.5


def test_the_resolved_settings_are_printed_and_nothing_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = told(capsys, "train", "iql", "--data", "d", "--recipe", "iql_antmaze", "--settings.expectile", 0.6, "--print-config")
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    settings = json.loads(lines["settings"])
    assert code == 0 and err == "" and lines["algorithm"] == "iql"
    assert settings["expectile"] == 0.6 and settings["inverse_temperature"] == 10.0  # the flag's, and the recipe's
    assert json.loads(lines["preprocessing"])["reward_shift"] == -1.0 and list(tmp_path.iterdir()) == []
    (tmp_path / "columns.toml").write_text('observations = "x"\n')
    out = told(capsys, "train", "iql", "--data", "d.csv", "--schema", "columns.toml", "--print-config")[1]
    assert 'schema: "columns.toml"' in out and '"observations":["x"]' in out.replace(" ", "")
    for more, size in (((), 100), (("--batch-size", 32), 32)):
        out = told(capsys, "train", "bcq", "--data", "d", "--recipe", "bcq_locomotion", *more, "--print-config")[1]
        assert json.loads(dict(line.split(": ", 1) for line in out.splitlines())["training"])["batch_size"] == size


def test_a_run_tells_the_recipe_it_began_from(logs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    quick = ("--settings.hidden", 4, "--steps", 1, "--env", "none", "--logging.quiet", "--logging.no-tensorboard")
    assert told(capsys, "train", "bc", "--recipe", "filtered_bc", "--data", logs / "integer.npz", "--run", tmp_path / "run", *quick)[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"] == "filtered_bc" and config["preprocessing"]["best_episodes"] == 0.1


def test_a_faulty_log_is_told_with_exit_code_1_and_a_sound_one_with_0(
    logs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert told(capsys, "data", "validate", logs / "integer.npz")[0] == 0
    code, out, _ = told(capsys, "data", "validate", logs / "nan.npz", "--json", tmp_path / "found.json")
    assert code == 1 and "episode 2, step 3" in out
    assert json.loads((tmp_path / "found.json").read_text())["errors"] == 1


def test_a_report_is_written_as_json_and_html(logs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = told(capsys, "data", "report", logs / "integer.npz", "--json", tmp_path / "r.json", "--html", tmp_path / "r.html")
    assert code == 0 and "60 steps" in out
    assert {"report", "findings"} <= json.loads((tmp_path / "r.json").read_text()).keys()
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")


def test_a_tables_schema_stands_in_the_command_that_tells_of_trust(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_text('observations = ["x", "y"]\nepisode = "episode"\n')
    words = ("train", "bc", "--data", logs / "table.csv", "--schema", "table.toml", "--run", "run", *TINY)
    quietly = [word for word in words if word != "--logging.quiet"]
    told = stitchrl(tmp_path, *quietly).succeeded().out.splitlines()[-1]
    assert told == f"how far to trust it: stitchrl trust run --data {logs / 'table.csv'} --schema table.toml"


def test_a_table_trains_directly(logs: Path, tmp_path: Path) -> None:
    stitchrl(tmp_path, "train", "bc", "--data", logs / "table.csv", "--run", "run", *TINY, *COLUMNS).succeeded()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["steps"] == 2 and config["data"]["episodes"] == 2 and config["spec"]["observation"]["shape"] == [2]


def test_a_flag_has_its_say_over_a_schema_also_where_it_says_the_default(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{line},{paid}" for line, paid in zip(TABLE, ("paid", 10, 20, 30, 40), strict=True)]
    (tmp_path / "two.csv").write_text("\n".join(lines) + "\n")
    schema = tmp_path / "two.toml"
    schema.write_text('observations = ["x", "y"]\nepisode = "episode"\nreward = "paid"\nsort = true\n')
    file, paid, own = tmp_path / "two.csv", "return 20 ± 10", "return 1 ± 0"
    for more, earned in (((), paid), (("--table.reward", "reward"), own), (("--table.reward=None",), "no rewards")):
        code, out, err = told(capsys, "data", "show", file, "--schema", schema, "--table.no-sort", *more)
        assert code == 0 and earned in out, (more, out, err)
    assert "says sort without naming" in told(capsys, "data", "show", file, "--schema", schema)[2]
    for verb in (("train", "iql"), ("trust", "run"), ("select", "run"), ("data", "validate"), ("evaluate", "run")):
        data = [file] if verb[0] == "data" else [] if verb[0] == "evaluate" else ["--data", file]
        code, _, err = told(capsys, *verb, *data, "--schema", tmp_path / "gone.toml")
        assert code == 2 and ("unknown option --schema" if verb[0] == "evaluate" else "gone.toml: cannot be read") in err, (verb, err)


def test_what_a_reader_left_out_is_told_before_training(logs: Path, tmp_path: Path) -> None:
    lines = [f"{line},{end}" for line, end in zip(TABLE, ("timeout", 0, 1, 0, 1), strict=True)]
    (tmp_path / "clock.csv").write_text("\n".join(lines) + "\n")
    words = ("train", "bc", "--data", "clock.csv", "--run", "run", *TINY, *COLUMNS)
    told = [line for line in stitchrl(tmp_path, *words).succeeded().err.splitlines() if line.startswith("clock.csv: ")]
    assert told == [
        f"clock.csv: {found}; `stitchrl data validate` tells what to do" for found in (LAST_STEPS, "the file has 'timeout', not read")
    ]
    told = stitchrl(tmp_path, *words, "--table.timeout", "timeout", "--overwrite").succeeded().err
    assert LAST_STEPS in told and "not read" not in told


def test_the_whole_way_round(tmp_path: Path) -> None:
    """Random actions in CartPole become a log, the log a policy, the policy returns, the returns a comparison and curves."""

    def do(*arguments: object) -> str:
        return stitchrl(tmp_path, *arguments).succeeded().out

    assert "in 20 episodes" in do("data", "collect", "CartPole-v1", "--to", "log.npz", "--episodes", 20)
    assert "converted" in do("data", "convert", "log.npz", "--to", "converted")
    assert do("data", "show", "log.npz").splitlines()[-1:] != [] and "CartPole-v1" in do("data", "show", "converted")
    small = (
        "--steps",
        60,
        "--batch-size",
        16,
        "--settings.hidden",
        16,
        "--log-every",
        20,
        "--logging.no-tensorboard",
        "--evaluation.episodes",
        2,
    )
    for name, algorithm in (("a", "bc"), ("b", "q_learning")):
        ended = do("train", algorithm, "--data", "converted", "--run", name, "--seeds", 2, *small, "--evaluation.every", 20)
        assert "return" in ended and ended.splitlines()[-1] == f"how far to trust it: stitchrl trust {name} --data converted"
        assert (tmp_path / name / "report.html").exists() and (tmp_path / name / "card.md").exists()
    told = do("evaluate", "a", "--episodes", 3, "--parallel", 2, "--json", "evaluated.json")
    evaluated = json.loads((tmp_path / "evaluated.json").read_text())
    assert [evaluated[name] for name in ("seed", "sampled", "parallel", "settings")] == [20_000, False, 2, {}]
    assert np.shape(evaluated["returns"]) == (2, 3) and "CartPole-v1" in told
    assert f"return {np.mean(evaluated['returns']):.4g} " in told
    found = interval([evaluated["returns"]], generator=np.random.default_rng(0))
    assert (
        f"(IQM {found.estimate:.4g}, 95 % over seeds and episodes [{found.low:.4g}, {found.high:.4g}]; seeds " in told
        and found.low < found.high
    )
    compared = do("compare", "a", "b", "--json", "compared.json", "--html", "compared.html")
    assert "a" in compared and "b" in compared and json.loads((tmp_path / "compared.json").read_text())
    for file in do("plot", "a", "b", "--to", "plots").splitlines():
        assert (tmp_path / file).stat().st_size > 1_000
    do("train", "bc", "--data", "converted", "--run", "c", "--env", "none", "--steps", 20, "--batch-size", 16, "--log-every", 20)
    assert "! c: was never evaluated; only its metrics are drawn" in stitchrl(tmp_path, "plot", "c").succeeded().err
    assert (tmp_path / "plots" / "metrics.svg").stat().st_size > 1_000
    behaviour = do("data", "collect", "CartPole-v1", "--to", "second.npz", "--episodes", 2, "--behaviour", "a", "random", "--epsilon", 0.1)
    assert "in 2 episodes" in behaviour


def test_returns_are_asked_for_and_drawn_in_the_report(tmp_path: Path) -> None:
    def do(*arguments: object) -> str:
        return stitchrl(tmp_path, *arguments).succeeded().out

    do("data", "collect", "CartPole-v1", "--to", "log.npz", "--episodes", 10)
    small = "--settings.width 8 --settings.layers 1 --settings.context 4 --steps 4 --batch-size 4 --evaluation.episodes 1 --logging.no-tensorboard"
    ended = do("train", "decision_transformer", "--data", "log.npz", "--run", "run", *small.split())
    assert "stitchrl trust" not in ended  # which does not judge what remembers
    told = do("evaluate", "run", "--targets", "-5", "20", "--episodes", 2)
    written = json.loads((tmp_path / "run" / "asked_returns.json").read_text())
    assert written["asked"] == [-5, 20] and np.shape(written["returns"]) == (1, 2, 2)
    assert f"-5 -> {np.mean(written['returns'][0][0]):.4g}, 20 -> {np.mean(written['returns'][0][1]):.4g}; 2 episodes" in told
    assert "Asked and obtained" in (tmp_path / "run" / "report.html").read_text()
    collected = stitchrl(tmp_path, "data", "collect", "CartPole-v1", "--to", "second.npz", "--episodes", 2, "--behaviour", "run")
    collected.refused("run: a policy of 'decision_transformer' acts on what it did and earned before, which a behaviour is not told")
    stitchrl(tmp_path, "evaluate", "run", "--epsilon", "0.1").refused("a policy of 'decision_transformer' acts on what it did before")
    stitchrl(tmp_path, "evaluate", "run", "--targets", "20", "--epsilon", "0.1").refused(
        "--epsilon is 0.1 and has no effect with --targets"
    )
    words = "--discount is 0.9 and has no effect with --targets"
    stitchrl(tmp_path, "evaluate", "run", "--targets", "20", "--discount", "0.9").refused(words)
