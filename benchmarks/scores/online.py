"""The known picture of going on online: CQL's dip, Cal-QL's smaller one, IQL's slow gain, on a pendulum; what calibration is for, in a maze.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/online.py --runs /tmp/online      # to raw/online.jsonl and ONLINE.md
.venv/bin/python benchmarks/scores/online.py --runs /tmp/online --resume              # goes on where it was cut; whole runs are read again
.venv/bin/python benchmarks/scores/online.py --table                                  # the page from the raw lines alone
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_record import append_row, mean_and_error, read_rows

HERE = Path(__file__).parent
RAW, PAGE = HERE / "raw" / "online.jsonl", HERE / "ONLINE.md"
EPISODES, WARM_START = 20, 400
DIP = 1_000  # steps in which the policy may fall before it has learned from what it did
LATE = 50  # a later fall by more than this is counted
COMMON = {"hidden": (64, 64)}
FAST = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "temperature_learning_rate": 1e-3}
HALVES = {"mixing": 0.5}
Method = tuple[str, dict[str, Any], dict[str, Any]]  # algorithm, settings, and how the online phase gathers


@dataclass(frozen=True)
class Ground:
    """A log's task, what is done to rewards, gradient steps offline, steps online, steps between evaluations, and the methods compared."""

    environment: str
    preprocessing: dict[str, float]
    offline: int
    online: int
    every: int
    methods: dict[str, Method]
    told: str = ""


_PENDULUM: dict[str, Method] = {
    "cql": ("cql", COMMON | FAST | {"conservatism": 5.0}, HALVES),
    "cal_ql": ("cal_ql", COMMON | FAST | {"conservatism": 5.0}, HALVES),
    "iql": ("iql", COMMON | {"learning_rate": 1e-3}, {"pour": True}),
}
# one target for both, a sampled next action's, and one that lets values come from far in so few steps
_ALIKE = COMMON | FAST | {"conservatism": 5.0, "max_target_backup": False, "target_rate": 0.05, "sampled_actions": 4}
_MAZE: dict[str, Method] = {
    "cal_ql, not calibrated": ("cal_ql", _ALIKE | {"calibrated": False}, HALVES),
    "cal_ql": ("cal_ql", _ALIKE, HALVES),
}
GROUNDS = {
    "pendulum/expert": Ground("Pendulum-v1", {"reward_scale": 0.1}, 5_000, 3_000, 250, _PENDULUM),
    "pendulum/medium": Ground("Pendulum-v1", {"reward_scale": 0.1}, 3_000, 4_000, 250, _PENDULUM),
    "pointmaze/umaze": Ground(
        "PointMaze_UMaze-v3",
        {"reward_scale": 10.0, "reward_shift": -5.0},
        10_000,
        6_000,
        500,
        _MAZE,
        told=" (a ball's steps at the goal, of 300; ten times the reward less 5 is learned from; both value the next state by one sampled action, "
        "targets 0.05, four actions from each proposal, so that the bound alone is different)",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("/tmp/online"))
    parser.add_argument("--log", default="pendulum/expert", choices=list(GROUNDS))
    parser.add_argument("--methods", nargs="+", help="of the log's; all unless told")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    if not a.table:
        import torch

        torch.set_num_threads(1)
        for method in a.methods or GROUNDS[a.log].methods:
            run(a.log, method, a.runs, a.seeds, a.resume)
    PAGE.write_text(page(read_rows(RAW)), encoding="utf-8")


def run(log: str, method: str, runs: Path, seeds: int, resume: bool) -> None:
    """Learns offline, goes on online, and adds a line for each seed to the raw file."""
    import stitchrl
    from stitchrl import __version__

    ground = GROUNDS[log]
    algorithm, settings, online = ground.methods[method]
    steps, online = ground.offline, online | {"warm_start": WARM_START}
    offline, after = (runs / f"{log}-{method}{phase}".replace("/", "-").replace(", ", "-").replace(" ", "-") for phase in ("", "-online"))
    stitchrl.train(
        algorithm, log, run=offline, environment=ground.environment, seeds=seeds, settings=settings, preprocessing=ground.preprocessing,
        training={"steps": steps, "save_every": steps, "threads": 1}, evaluation={"every": steps, "episodes": EPISODES},
        **_kept(offline, resume),
    )  # fmt: skip
    stitchrl.finetune(
        offline, ground.environment, steps=ground.online, into=after, online=online,
        evaluation={"every": ground.every, "episodes": EPISODES}, **_kept(after, resume),
    )  # fmt: skip
    lines = _lines(after / "evaluations.jsonl")
    last = _lines(offline / "metrics.jsonl")[-1]
    below, values = last.get("metric/below_return"), last["metric/q"]
    for seed in range(seeds):
        curve = {str(line["step"]): statistics.fmean(line["returns"][seed]) for line in lines}
        row = {"log": log, "method": method, "seed": seed, "curve": curve, "settings": settings, "online": online}
        row |= {
            "offline_steps": steps,
            "below_return": None if below is None else below[seed],
            "value": values[seed],
            "episodes": EPISODES,
            "version": __version__,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
        }
        append_row(RAW, row)


def _kept(run: Path, resume: bool) -> dict[str, bool]:
    return {"resume": True} if resume and (run / "config.json").is_file() else {"overwrite": True}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def page(rows: list[dict[str, Any]]) -> str:
    """Returns the Markdown page of the last run of each log, method and seed."""
    last = {(row["log"], row["method"], row["seed"]): row for row in rows}
    lines = [
        "# Going on online: the known picture",
        "",
        f"Written by `benchmarks/scores/online.py` from raw/online.jsonl ({max(r['date'][:10] for r in rows)}); do not edit. On a pendulum",
        "the best earn about -150, random actions -1,240. Learned offline, then one gradient step an environment step after 400. Networks",
        "(64, 64), rates 1e-3; the pendulum's rewards × 0.1. Mean return, mean over seeds ± standard error. *dip*: the lowest evaluation",
        f"of the first {DIP:,} steps minus the one at step 0, mean over seeds; *lowest*: of the whole phase; *late*: seeds that fall by",
        f"more than {LATE} after those steps; *gain*: the last evaluation minus the one at step 0; *area*: mean return over the whole online",
        "phase; *below*: of the actions that the policy would take, the share that the critic values below what the log earned from there,",
        "which is what Cal-QL corrects, and *value*: of the logged actions, both in the last 1,000 steps offline. On the pendulum each has",
        "its own default target: `cal_ql` takes the best of ten next actions, `cql` one.",
    ]
    for log, ground in GROUNDS.items():
        here = {key: row for key, row in last.items() if key[0] == log}
        if not here:
            continue
        shown = [s for s in sorted({int(s) for row in here.values() for s in row["curve"]}) if s % (2 * ground.every) == 0]
        episodes = " or ".join(str(n) for n in sorted({row["episodes"] for row in here.values()}))
        lines += ["", f"From `{log}`, {ground.offline:,} gradient steps offline, evaluations of {episodes} episodes{ground.told}:", ""]
        lines += [
            "| | seeds | " + " | ".join(f"{s:,}" for s in shown) + " | dip | lowest | late | gain | area | below | value |",
            "|---" * (len(shown) + 9) + "|",
        ]
        for method in ground.methods:
            found = [row for key, row in here.items() if key[1] == method]
            if not found:
                continue
            curves = [row["curve"] for row in found]
            below = [100 * row["below_return"] for row in found if row.get("below_return") is not None]
            values = [row["value"] for row in found if row.get("value") is not None]
            cells = [mean_and_error([c[str(s)] for c in curves if str(s) in c]) for s in shown]
            dips, falls = (
                [min(0.0, min(v for s, v in c.items() if 0 < int(s) <= last) - c["0"]) for c in curves] for last in (DIP, max(shown))
            )
            late = sum(min(v for s, v in c.items() if int(s) > DIP) < c["0"] - LATE for c in curves)
            gains = [c[str(max(shown))] - c["0"] for c in curves]
            areas = [statistics.fmean(c.values()) for c in curves]
            lines.append(
                f"| `{method}` | {len(curves)} | "
                + " | ".join(
                    [
                        *cells,
                        mean_and_error(dips),
                        mean_and_error(falls),
                        str(late),
                        mean_and_error(gains),
                        mean_and_error(areas),
                        f"{statistics.fmean(below):.1f} %" if below else "–",
                        mean_and_error(values) if values else "–",
                    ]
                )
                + " |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
