"""The known picture of going on online: CQL's dip, Cal-QL's smaller one, IQL's slow gain; Pendulum, from its expert and its medium log.

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
from pathlib import Path
from typing import Any

from control_record import append_row, mean_and_error, read_rows

HERE = Path(__file__).parent
RAW, PAGE = HERE / "raw" / "online.jsonl", HERE / "ONLINE.md"
ENVIRONMENT = "Pendulum-v1"
LOGS = {"pendulum/expert": (5_000, 3_000), "pendulum/medium": (3_000, 4_000)}  # gradient steps offline, steps online
EVERY, EPISODES, WARM_START = 250, 20, 400
DIP = 1_000  # steps in which the policy may fall before it has learned from what it did
LATE = 50  # a later fall by more than this is counted
COMMON = {"hidden": (64, 64)}
FAST = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "temperature_learning_rate": 1e-3}
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings, and how the online phase gathers
    "cql": (COMMON | FAST | {"conservatism": 5.0}, {"mixing": 0.5}),
    "cal_ql": (COMMON | FAST | {"conservatism": 5.0}, {"mixing": 0.5}),
    "iql": (COMMON | {"learning_rate": 1e-3}, {"pour": True}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("/tmp/online"))
    parser.add_argument("--log", default="pendulum/expert", choices=list(LOGS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    if not a.table:
        import torch

        torch.set_num_threads(1)
        for method in a.methods:
            run(a.log, method, a.runs, a.seeds, a.resume)
    PAGE.write_text(page(read_rows(RAW)), encoding="utf-8")


def run(log: str, method: str, runs: Path, seeds: int, resume: bool) -> None:
    """Learns offline, goes on online, and adds a line for each seed to the raw file."""
    import stitchrl
    from stitchrl import __version__

    settings, online = METHODS[method]
    evaluation, (steps, online_steps) = {"every": EVERY, "episodes": EPISODES}, LOGS[log]
    online = online | {"warm_start": WARM_START}
    common: dict[str, Any] = {"evaluation": evaluation}
    offline, after = (runs / f"{log.replace('/', '-')}-{method}{phase}" for phase in ("", "-online"))
    stitchrl.train(
        method, log, run=offline, environment=ENVIRONMENT, seeds=seeds, settings=settings, preprocessing={"reward_scale": 0.1},
        training={"steps": steps, "save_every": steps, "threads": 1}, **_kept(offline, resume), **common,
    )  # fmt: skip
    stitchrl.finetune(offline, ENVIRONMENT, steps=online_steps, into=after, online=online, **_kept(after, resume), **common)
    lines = _lines(after / "evaluations.jsonl")
    below = _lines(offline / "metrics.jsonl")[-1].get("metric/below_return")
    for seed in range(seeds):
        curve = {str(line["step"]): statistics.fmean(line["returns"][seed]) for line in lines}
        row = {"log": log, "method": method, "seed": seed, "curve": curve, "settings": settings, "online": online}
        row |= {
            "offline_steps": steps,
            "below_return": None if below is None else below[seed],
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
        f"Written by `benchmarks/scores/online.py` from raw/online.jsonl ({max(r['date'][:10] for r in rows)}); do not edit. {ENVIRONMENT}: the best",
        "earn about -150, random actions -1,240. Learned offline, then one gradient step an environment step after 400.",
        "Networks (64, 64), rates 1e-3, rewards × 0.1. Mean return, mean over seeds ± standard error. *dip*: the lowest evaluation of the first",
        f"{DIP:,} steps minus the one at step 0, mean over seeds; *lowest*: of the whole phase; *late*: seeds that fall by more than {LATE}",
        "after those steps; *area*: mean return over the whole online phase; *below*: of the actions that the policy would take, the share that the",
        "critic values below what the log earned from there, which is what Cal-QL corrects, in the last 1,000 steps offline. Each has its own",
        "default target: `cal_ql` takes the best of ten next actions, `cql` one.",
    ]
    for log in LOGS:
        here = {key: row for key, row in last.items() if key[0] == log}
        if not here:
            continue
        shown = [s for s in sorted({int(s) for row in here.values() for s in row["curve"]}) if s % 500 == 0]
        episodes = " or ".join(str(n) for n in sorted({row["episodes"] for row in here.values()}))
        lines += ["", f"From `{log}`, {LOGS[log][0]:,} gradient steps offline, evaluations of {episodes} episodes:", ""]
        lines += [
            "| | seeds | " + " | ".join(f"{s:,}" for s in shown) + " | dip | lowest | late | area | below |",
            "|---" * (len(shown) + 7) + "|",
        ]
        for method in METHODS:
            found = [row for key, row in here.items() if key[1] == method]
            if not found:
                continue
            curves = [row["curve"] for row in found]
            below = [100 * row["below_return"] for row in found if row.get("below_return") is not None]
            cells = [mean_and_error([c[str(s)] for c in curves if str(s) in c]) for s in shown]
            dips, falls = (
                [min(0.0, min(v for s, v in c.items() if 0 < int(s) <= last) - c["0"]) for c in curves] for last in (DIP, max(shown))
            )
            late = sum(min(v for s, v in c.items() if int(s) > DIP) < c["0"] - LATE for c in curves)
            areas = [statistics.fmean(c.values()) for c in curves]
            lines.append(
                f"| `{method}` | {len(curves)} | "
                + " | ".join(
                    [
                        *cells,
                        mean_and_error(dips),
                        mean_and_error(falls),
                        str(late),
                        mean_and_error(areas),
                        f"{statistics.fmean(below):.1f} %" if below else "–",
                    ]
                )
                + " |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
