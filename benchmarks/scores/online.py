"""The known picture of going on online: CQL's dip, Cal-QL without one, IQL's slow gain; Pendulum, from its medium log.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/online.py --runs /tmp/online      # writes raw/online.jsonl and ONLINE.md
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

HERE = Path(__file__).parent
RAW, PAGE = HERE / "raw" / "online.jsonl", HERE / "ONLINE.md"
ENVIRONMENT, DATA = "Pendulum-v1", "pendulum/medium"
OFFLINE, ONLINE, EVERY, WARM_START = 3_000, 4_000, 250, 400
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
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    if not a.table:
        import torch

        torch.set_num_threads(1)
        for method in a.methods:
            run(method, a.runs, a.seeds)
    PAGE.write_text(page([json.loads(line) for line in RAW.read_text().splitlines()]), encoding="utf-8")


def run(method: str, runs: Path, seeds: int) -> None:
    """Learns offline, goes on online, and adds a line for each seed to the raw file."""
    import stitchrl
    from stitchrl import __version__

    settings, online = METHODS[method]
    evaluation = {"every": EVERY, "episodes": 10}
    common: dict[str, Any] = {"evaluation": evaluation}
    offline, after = runs / method, runs / f"{method}-online"
    stitchrl.train(
        method, DATA, run=offline, environment=ENVIRONMENT, seeds=seeds, settings=settings, preprocessing={"reward_scale": 0.1},
        training={"steps": OFFLINE, "save_every": OFFLINE, "threads": 1}, overwrite=True, **common,
    )  # fmt: skip
    stitchrl.finetune(offline, ENVIRONMENT, steps=ONLINE, into=after, online=online | {"warm_start": WARM_START}, overwrite=True, **common)
    lines = [json.loads(line) for line in (after / "evaluations.jsonl").read_text().splitlines()]
    with RAW.open("a") as file:
        for seed in range(seeds):
            curve = {str(line["step"]): statistics.fmean(line["returns"][seed]) for line in lines}
            row = {"method": method, "seed": seed, "curve": curve, "settings": settings, "online": online, "offline_steps": OFFLINE}
            row |= {
                "version": __version__,
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "command": " ".join(sys.argv),
            }
            file.write(json.dumps(row) + "\n")


def page(rows: list[dict[str, Any]]) -> str:
    """Returns the Markdown page of the last run of each method and seed."""
    last = {(row["method"], row["seed"]): row for row in rows}
    methods = [m for m in METHODS if any(k[0] == m for k in last)]
    steps = sorted({int(s) for row in last.values() for s in row["curve"]})
    shown = [s for s in steps if s % 500 == 0]
    first = next(iter(last.values()))
    lines = [
        "# Going on online: the known picture",
        "",
        f"Written by `{first['command']}` on {first['date'][:10]} (stitchrl {first['version']})",
        f"from raw/online.jsonl; do not edit. {ENVIRONMENT} from `{DATA}` (about -900; the best earn about -150):",
        f"{first['offline_steps']:,} gradient steps offline, then one an environment step after {WARM_START}. Networks (64, 64), rates 1e-3,",
        "rewards × 0.1. Mean return of ten episodes; mean over seeds ± standard error. *dip*: the lowest evaluation after step 0 minus the",
        "one at step 0, mean over seeds; *area*: mean return over the whole online phase.",
        "",
        "| | seeds | " + " | ".join(f"{s:,}" for s in shown) + " | dip | area |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for method in methods:
        curves = [row["curve"] for key, row in last.items() if key[0] == method]
        cells = [_mean([c[str(s)] for c in curves if str(s) in c]) for s in shown]
        dips = [min(0.0, min(v for s, v in c.items() if int(s) > 0) - c["0"]) for c in curves]
        areas = [statistics.fmean(c.values()) for c in curves]
        lines.append(f"| `{method}` | {len(curves)} | " + " | ".join([*cells, _mean(dips), _mean(areas)]) + " |")
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.0f}" if values else "–"
    return f"{statistics.fmean(values):.0f} ± {statistics.stdev(values) / len(values) ** 0.5:.0f}"


if __name__ == "__main__":
    main()
