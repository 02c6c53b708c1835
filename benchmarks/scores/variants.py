"""Runs beside the suites: a robot's log for methods that `standard` has on the pendulum alone; one thing changed at a time where a cell surprises.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/variants.py hopper/medium-expert --runs /tmp/variants    # to raw/variants.jsonl
.venv/bin/python benchmarks/scores/variants.py --table                                                        # VARIANTS.md from the raw lines alone
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control_record import append_row, mean_and_error, read_rows

HERE = Path(__file__).parent
RAW, PAGE = HERE / "raw" / "variants.jsonl", HERE / "VARIANTS.md"
EVERY, EPISODES, BATCH = 2_000, 10, 256  # as the suite `standard`


@dataclass(frozen=True)
class Variant:
    """A run with its recipe's settings but for these; `seeds` at once."""

    method: str
    recipe: str | None
    settings: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    steps: int = 10_000
    seeds: int = 3


def _iql(steps: int = 10_000, preprocessing: dict[str, Any] | None = None, **settings: Any) -> Variant:
    return Variant("iql", "iql_locomotion", settings, preprocessing or {}, steps)


def _fql(**settings: Any) -> Variant:
    return Variant("fql", None, {"hidden": (256, 256)} | settings, seeds=1)


_HOPPER = {
    "as the suite": _iql(),
    "cloning (inverse temperature 0)": _iql(inverse_temperature=0.0),
    "standardised": _iql(preprocessing={"standardize_observations": True}),
    "cloning, standardised": _iql(preprocessing={"standardize_observations": True}, inverse_temperature=0.0),
    "inverse temperature 1": _iql(inverse_temperature=1.0),
    "targets 0.05": _iql(target_rate=0.05),
    "constant rate": _iql(actor_schedule="constant"),
    "three times the steps": _iql(30_000),
}
_CHEETAH = "halfcheetah/medium-replay"
_SMALL = {"hidden": (64, 64)}  # as the suite on the pendulum


def _pendulum(method: str, **settings: Any) -> Variant:
    return Variant(method, None, _SMALL | settings, steps=6_000)


VARIANTS: dict[str, dict[str, Variant]] = {
    "hopper/medium-expert": _HOPPER,
    "hopper/medium-replay": _HOPPER,
    "pendulum/mixed": {
        "TD3+BC, as the suite": _pendulum("td3_bc"),
        "TD3+BC, rate 0.001": _pendulum("td3_bc", learning_rate=1e-3),
        "TD3+BC, alpha 100": _pendulum("td3_bc", alpha=100.0),
        "TD3+BC, alpha 100, rate 0.001": _pendulum("td3_bc", alpha=100.0, learning_rate=1e-3),
        "ReBRAC, as the suite": _pendulum("rebrac"),
        "ReBRAC, without layer norm": _pendulum("rebrac", layer_norm=False),
        "ReBRAC, no penalty in the critic": _pendulum("rebrac", critic_penalty=0.0),
        "ReBRAC, neither": _pendulum("rebrac", critic_penalty=0.0, layer_norm=False),
        "ReBRAC, actor's penalty 0.4": _pendulum("rebrac", actor_penalty=0.4),
    },
    _CHEETAH: {
        "EDAC": Variant("edac", f"edac:{_CHEETAH}", seeds=1),
        "SAC-N": Variant("sac_n", f"sac_n:{_CHEETAH}", seeds=1),
        "BCQ": Variant("bcq", "bcq_locomotion", seeds=1),
        "FQL, distillation 10": _fql(),
        "FQL, values normalised, 10": _fql(normalize_value=True),
        "FQL, values normalised, 1": _fql(normalize_value=True, distillation=1.0),
        "FQL, values normalised, 0.1": _fql(normalize_value=True, distillation=0.1),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", nargs="?", default=_CHEETAH, choices=list(VARIANTS))
    parser.add_argument("--variants", nargs="+", default=[], help="by name; none: all of the log's")
    parser.add_argument("--runs", type=Path, default=Path("/tmp/variants"))
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    for name in [] if a.table else a.variants or VARIANTS[a.log]:
        run(a.log, name, VARIANTS[a.log][name], a.runs)
    PAGE.write_text(page(read_rows(RAW)), encoding="utf-8")


def run(log: str, name: str, variant: Variant, runs: Path) -> None:
    """Learns all seeds at once and adds a line for each: normalised scores and lengths of episodes by step, and what was measured last."""
    import torch

    import stitchrl

    torch.set_num_threads(1)
    algorithm, dataset = {"sac_n": "edac"}.get(variant.method, variant.method), stitchrl.load(log)
    path = runs / "-".join((*log.split("/"), *name.replace(",", "").split()))
    stitchrl.train(
        algorithm, dataset, run=path, environment=str(dataset.metadata["environment"]), recipe=variant.recipe,
        seeds=variant.seeds, settings=variant.settings, preprocessing=variant.preprocessing,
        training={"steps": variant.steps, "batch_size": BATCH, "threads": 1}, evaluation={"every": EVERY, "episodes": EPISODES},
        logging={"quiet": True, "tensorboard": False}, overwrite=True,
    )  # fmt: skip
    lines, metrics = (_lines(path / f"{file}.jsonl") for file in ("evaluations", "metrics"))
    if lines[-1]["step"] != variant.steps:
        raise SystemExit(f"{path} was stopped after {lines[-1]['step']:,} of {variant.steps:,} steps: nothing is recorded")
    config = json.loads((path / "config.json").read_text())
    for seed in range(variant.seeds):
        row = {
            "log": log, "variant": name, "method": variant.method, "seed": seed, "steps": variant.steps, "recipe": variant.recipe,
            "settings": config["settings"], "preprocessing": variant.preprocessing, "batch_size": BATCH, "episodes": EPISODES,
            "curve": {str(line["step"]): round(statistics.fmean(line["normalized"][seed]), 4) for line in lines},
            "lengths": {str(line["step"]): statistics.fmean(line["lengths"][seed]) for line in lines},
            "metrics": {key: round(values[seed], 5) for key, values in metrics[-1].items() if key.startswith(("loss/", "metric/"))},
            "seconds": round(lines[-1]["seconds"] / variant.seeds, 1), "log_sha256": config["data"]["fingerprint"],
            "version": stitchrl.__version__, "command": " ".join(sys.argv),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        append_row(RAW, row)
    print(log, name, "done", flush=True)


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the page: a table for each log, its variants in the order of `VARIANTS`."""
    lines = [
        "# Runs beside the suites",
        "",
        f"Written by `benchmarks/scores/variants.py` from raw/variants.jsonl ({max(row['date'] for row in rows)[:10]}); do not edit.",
        "Normalised scores (D4RL's scale) of the last policy, mean ± standard error over seeds, and the mean of each evaluation on the way, every",
        f"{EVERY:,} steps, of {EPISODES} episodes. Batches of {BATCH}; all else as the method's recipe, or its defaults. What they say is told in",
        "[standard/README.md](standard/README.md).",
    ]
    for log, variants in VARIANTS.items():
        of_log = [row for row in rows if row["log"] == log]
        if not of_log:
            continue
        lines += ["", f"## {log}", "", "| | seeds | last | on the way | seconds a seed |", "|---|---:|---:|---|---:|"]
        for name in variants:
            if not (found := [row for row in of_log if row["variant"] == name]):
                continue
            curves = [list(row["curve"].values()) for row in found]
            way = " ".join(f"{statistics.fmean(column):.0f}" for column in zip(*curves, strict=True))
            seconds = statistics.fmean(row["seconds"] for row in found)
            lines.append(f"| {name} | {len(found)} | {mean_and_error([curve[-1] for curve in curves], 1)} | {way} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
