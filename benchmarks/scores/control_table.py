"""The table of control scores, from the raw file alone: `.venv/bin/python benchmarks/scores/control_table.py` writes CONTROL.md."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from stitchrl.evaluation.references import normalized_score, reference_for

HERE = Path(__file__).parent
# ours -> its name and d3rlpy's counterpart; d3rlpy's CQL values the next state by the mean action
NAMES = {
    "td3_bc": ("TD3+BC", "td3_bc"),
    "iql": ("IQL, cosine schedule of the actor's rate as the authors' code", "iql"),
    "iql/constant": ("IQL, constant rate as d3rlpy's", "iql"),
    "cql/mean/sequential": ("CQL, mean backup and sequential order as d3rlpy's", "cql"),
    "cql/mean": ("CQL, mean backup", "cql"),
    "cql": ("CQL, sampled backup as the paper's code", "cql"),
}


def main() -> None:
    rows = [json.loads(line) for line in (HERE / "raw" / "control.jsonl").read_text().splitlines()]
    scores: dict[str, dict[tuple[str, str, int], dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    versions: dict[str, str] = {}
    for row in rows:
        reference = reference_for(row["settings"]["environment"], {})
        assert reference is not None
        value = float(np.mean(normalized_score(np.array(row["returns"]), reference)))
        kind = "cql/mean" if row["settings"].get("mean_backup") else row["algorithm"]
        kind += "/constant" if row["settings"].get("actor_schedule") == "constant" else ""
        kind += "/sequential" if row["settings"].get("order") == "sequential" else ""
        scores[row["library"]][row["data"], kind, row["steps"]][row["seed"]] = value
        versions[row["library"]] = row["version"]
    lines = [
        "# Control scores beside d3rlpy",
        "",
        "Written by `benchmarks/scores/control_table.py` from `raw/control.jsonl`; every line there has its command, versions, seed and date.",
        f"Normalised score (D4RL's references) of the last policy, mean ± standard error over seeds, 20 episodes each; {_told(versions)}.",
        "Same data, same settings (batch 256, two layers of 256), same number of gradient steps, one thread. The logs are by TRPO policies",
        "(`../shared/data/MANIFEST.md`), not D4RL's: compare the columns, not the papers.",
        "",
        "| data | algorithm | steps | seeds | stitchrl | d3rlpy | difference | within one standard error, or better |",
        "|---|---|---:|---|---:|---:|---:|---|",
    ]
    for (data, kind, steps), ours in sorted(scores["stitchrl"].items()):
        name, counterpart = NAMES[kind]
        theirs = scores["d3rlpy"].get((data, counterpart, steps), {})
        cells = [_mean(ours), _mean(theirs)]
        difference, judged = "–", "–"
        if len(ours) > 1 and len(theirs) > 1:
            gap = np.mean(list(ours.values())) - np.mean(list(theirs.values()))
            error = np.hypot(_error(ours), _error(theirs))
            difference, judged = f"{gap:+.1f} ± {error:.1f}", "yes" if gap >= -error else "no"
        seeds = f"{len(ours)} / {len(theirs)}"
        lines.append(f"| {data} | {name} | {steps:,} | {seeds} | {cells[0]} | {cells[1]} | {difference} | {judged} |")
    lines += _parity()
    (HERE / "CONTROL.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _parity() -> list[str]:
    """How far our networks and d3rlpy's are apart after common updates."""
    found = json.loads((HERE / "raw" / "parity.json").read_text())
    lines = [
        "",
        "## The same updates",
        "",
        f"From the same weights, on the same batches of {found['data']} and with the same random numbers, in float64, {found['steps']} updates",
        f"of ours and of d3rlpy {found['d3rlpy']} (`{found['command']}`, {found['date']}).",
        "Held still: CQL's temperature and IQL's deviation, which are parametrised differently; CQL with d3rlpy's mean backup, IQL with its",
        "constant rate. Scores above therefore differ by these, by the order of updates, by first weights and by chance.",
        "",
        "| algorithm | largest difference of a parameter | largest movement of one |",
        "|---|---:|---:|",
    ]
    return [
        *lines,
        *(f"| {NAMES[k][0].split(',')[0]} | {v['difference']:.1e} | {v['movement']:.1e} |" for k, v in found["algorithms"].items()),
    ]


def _told(versions: dict[str, str]) -> str:
    return ", ".join(f"{library} {version}" for library, version in sorted(versions.items()))


def _error(values: dict[int, float]) -> float:
    return float(np.std(list(values.values()), ddof=1) / np.sqrt(len(values)))


def _mean(values: dict[int, float]) -> str:
    if not values:
        return "–"
    return f"{np.mean(list(values.values())):.1f}" + (f" ± {_error(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
