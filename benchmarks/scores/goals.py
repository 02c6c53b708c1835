"""Share of OGBench's five tasks solved, after few steps: goal-conditioned methods on our own logs of its mazes.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/goals.py pointmaze/stitch gcbc gciql hiql --steps 60000 --width 128 --seeds 0 1 2

Adds a line for each evaluation to raw/goals.jsonl and writes GOALS.md from all of them (`--table`: only that). The method `constant` learns
nothing: one push of the ball for ever, in each of 16 directions.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from control_record import append_row, mean_and_error, read_rows

from stitchrl.recipes.published_scores import published

HERE = Path(__file__).parent
RAW, PAGE = HERE / "raw" / "goals.jsonl", HERE / "GOALS.md"
BEFORE = HERE / "raw" / "goals_before.jsonl"  # on logs that were made otherwise
ANTS = HERE / "raw" / "ants.jsonl"  # of ants.py
THEIRS = HERE / "raw" / "goals_ogbench.jsonl"  # of peers/ogbench_goals.py
PARITY = HERE / "raw" / "parity_ogbench.json"  # of peers/ogbench_parity.py
CROSSED = HERE / "raw" / "gcbc_crossed.jsonl"  # of gcbc_crossed.py
STANDARD = HERE / "standard" / "raw.jsonl"  # of `stitchrl benchmark run`
WALKER = "the walker, told the way"
EPISODES = 50
LATENT = ("crl", "qrl")
OGBENCH_SEEDS = 8  # its table's deviations are over as many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", nargs="?", default="pointmaze/navigate")
    parser.add_argument("methods", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--target-rate", type=float, help="of the target networks, where there are any; OGBench's 0.005 unless told")
    parser.add_argument("--latent", type=int, help="of CRL's and QRL's networks; OGBench's 512 unless told")
    parser.add_argument("--every", type=int, default=10_000, help="steps between evaluations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--times", type=int, default=1, help="as many walks in the log; ten times are OGBench's size")
    parser.add_argument("--standardize", action="store_true", help="observations; OGBench has them as they are")
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    for method in [] if a.table else a.methods:
        if method == "constant":
            push(a.log)
        else:
            run(method, a)
    PAGE.write_text(page(read_rows(RAW), read_rows(BEFORE)), encoding="utf-8")


def run(method: str, a: argparse.Namespace) -> None:
    """Learns all seeds at once, and records the share of solved tasks on the way and at the end."""
    import torch

    from stitchrl import __version__, load
    from stitchrl.agent import Agent
    from stitchrl.algorithms import find
    from stitchrl.evaluation.playing import play
    from stitchrl.experiment import as_acting, make_learner, plan, prepare
    from stitchrl.recipes import goal_maze_logs, published
    from stitchrl.training.learner import Training

    torch.set_num_threads(1)
    recipe = published.recipe(f"{method}:{a.log}")
    settings: dict[str, Any] = dict(recipe.settings) | {"hidden": (a.width,) * a.layers}
    if a.target_rate is not None and "target_rate" in find(recipe.algorithm)[1].__dataclass_fields__:
        settings["target_rate"] = a.target_rate
    if method in LATENT and a.latent is not None:
        settings["latent"] = a.latent
    made = plan(
        recipe.algorithm, settings=settings, goals=recipe.goals, seeds=a.seeds,
        preprocessing=replace(recipe.preprocessing, standardize_observations=a.standardize),
        training=Training(steps=a.steps, batch_size=a.batch_size, compile="on", threads=1),
    )  # fmt: skip
    dataset = load(a.log) if a.times == 1 else goal_maze_logs.make(a.log, a.times)
    data, transforms = prepare(dataset, made)
    learner, began = make_learner(made, data, transforms), time.perf_counter()
    for step in range(1, a.steps + 1):
        learner.advance()
        if step % a.every and step != a.steps:
            continue
        learner.check()
        spec, seen = as_acting(made, data, transforms)
        agent = Agent(recipe.algorithm, learner.template, learner.update.parameters, spec, seen, made.seeds)
        found = play(agent, str(dataset.metadata["environment"]), episodes=EPISODES, seed=10_000, parallel=25, processes=1).successes
        if found is None:
            raise ValueError(f"the task of {a.log} does not tell successes")
        for seed, solved in zip(a.seeds, found, strict=True):
            row: dict[str, Any] = {
                "log": a.log,
                "method": method,
                "step": step,
                "steps": a.steps,
                "width": a.width,
                "layers": a.layers,
                "seed": seed,
                "batch_size": a.batch_size,
                "standardized": a.standardize,
                "target_rate": getattr(made.settings, "target_rate", None),
                "latent": a.latent if method in LATENT else None,
                "times": a.times,
                "distribution": getattr(made.settings, "distribution", None),
                "log_sha256": dataset.fingerprint(),
            }
            row |= {
                "episodes": EPISODES,
                "success": float(solved.mean()),
                "tasks": [float(solved[k::5].mean()) for k in range(5)],
                "seconds": round((time.perf_counter() - began) / len(a.seeds)),
                "version": __version__,
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "command": " ".join(sys.argv),
            }
            append_row(RAW, row)
            print(a.log, method, seed, step, f"{100 * row['success']:.0f} %", row["tasks"], flush=True)


def push(log: str) -> None:
    """Records the best of 16 directions in which to push a ball for ever: a floor that a policy which knows its way stands above."""
    from stitchrl import __version__, load
    from stitchrl.evaluation.rollout import rollout

    if load(log).spec.action.size != 2:
        raise SystemExit(f"{log}: a constant push is for a ball, of two forces")
    environment, began, tried = str(load(log).metadata["environment"]), time.perf_counter(), []
    for angle in np.arange(16) * np.pi / 8:
        force = np.array([np.cos(angle), np.sin(angle)]) / max(abs(np.cos(angle)), abs(np.sin(angle)))
        found = rollout(
            lambda seen, _, force=force: np.tile(force, (*seen.shape[:2], 1)).astype(np.float32),
            environment, episodes=EPISODES, seed=10_000, parallel=25, processes=1,
        ).successes  # fmt: skip
        assert found is not None
        tried.append((float(found.mean()), float(np.degrees(angle)), [float(found[0, k::5].mean()) for k in range(5)]))
    success, angle, tasks = max(tried)
    row = {"log": log, "method": "constant", "step": 0, "steps": 0, "width": 0, "seed": 0, "episodes": EPISODES, "success": success}
    row |= {"tasks": tasks, "angle": angle, "tried": tried, "seconds": round(time.perf_counter() - began), "version": __version__}
    row |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": " ".join(sys.argv)}
    append_row(RAW, row)
    print(log, success, angle, tasks, flush=True)


def page(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> str:
    """Returns the Markdown page of the raw lines, seeds put together."""
    lines = [
        "# Reaching goals, after few steps",
        "",
        f"Written by `benchmarks/scores/goals.py` from raw/goals.jsonl ({max(r['date'][:10] for r in rows + before)}); do not edit.",
        "Share of episodes that reach OGBench's five goals, as many episodes of each; mean ± standard error over seeds, or, of one seed, the share",
        "alone (its error is up to 7 points of 50 episodes, up to 10 of 25). Batches of 256, networks as told, observations as they are (*std*:",
        "standardised), our logs of 100,000 steps. *targets*: the step of the target networks' average, 0.005 unless told: a goal's value comes from",
        "one state further with each of its rounds, and in so few steps it does not come far. *published*: OGBench's table, a million steps, four",
        "times the batch, networks of 512 × 3, ten times the log, mean ± deviation over eight seeds; *within*: whether several seeds of ours are",
        "within one standard error of it, or above. `constant`: the best of 16 directions in which to push a ball for ever, chosen",
        "on the episodes that it is told of; what it solves too tells nothing of a method. *squashed*: GCBC's mean through a tanh, of ReLU units,",
        "before it was OGBench's. *again*: the same seeds once more, by the code of half a day later (why they differ was not looked for),",
        "ended after 60,000 of 100,000 steps. *OGBench's first weights*: Glorot's in place of PyTorch's, small in a policy's last layer, tried and",
        "not kept ([why](../../docs/algorithms/gcivl.md)).",
        "",
        *(_table(rows) if rows else ["No runs yet on the logs of now."]),
        "",
        *_against_theirs(rows, read_rows(THEIRS)),
        *_ants(read_rows(ANTS)),
        "## On the logs before",
        "",
        "From raw/goals_before.jsonl, observations standardised. The logs made until 2026-11-22 were not OGBench's in kind: goals of `navigate`",
        "lay in any cell, so that the tasks' own were among the rarest; ants turned away a metre before theirs, where the tasks ask for half of",
        "one; walks of `stitch` went to and fro between cells at most four apart, where OGBench's go four and stay.",
        "",
        *_table(before),
    ]
    return "\n".join(lines) + "\n"


def _against_theirs(rows: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """Ours beside OGBench's own code on the same log, of the same sizes and steps."""
    if not theirs:
        return []
    told = json.loads(PARITY.read_text())
    apart, moved = (max(row[name] for row in told["methods"].values()) for name in ("difference", "movement"))
    ours: dict[tuple[Any, ...], dict[int, list[float]]] = {}
    for row in rows:
        if not row.get("standardized") and not _setting(row)[-1].startswith(("OGBench's", "squashed")):
            ours.setdefault(_alike(row), {}).setdefault(row["seed"], []).append(100 * row["success"])
    for row in (row for row in read_rows(STANDARD) if row["dataset"] == "pointmaze/navigate"):
        rate = 0.05 if row["method"] in ("gcivl", "gciql", "hiql") else None  # of the suite; the others have no targets
        of_suite = {
            "log": row["dataset"],
            "method": row["method"],
            "width": 128,
            "target_rate": rate,
            "step": row["last"]["step"],
            "latent": 64,
        }
        ours.setdefault(_alike(of_suite), {})[row["seed"]] = [statistics.fmean(row["last"]["scores"])]  # the newest line is the suite's
    found: dict[tuple[Any, ...], dict[int, float]] = {}
    for row in theirs:
        found.setdefault(_alike(row), {})[row["seed"]] = 100 * row["success"]
    lines = []
    for key, scores in sorted(
        ((key, scores) for key, scores in found.items() if key in ours), key=lambda cell: (cell[0][0], cell[0][-1], cell[0][1])
    ):
        log, method, width, layers, *_, step = key
        own = [statistics.fmean(runs) for runs in ours[key].values()]
        other = [*scores.values()]
        spread = statistics.fmean(other), statistics.stdev(other) if len(other) > 1 else 0.0
        shown = f"{mean_and_error(own)} | {len(own)} | {mean_and_error(other)} | {len(other)}"
        lines.append(f"| `{log}` | {width} × {layers} | {step:,} | `{method}` | {shown} | {_judged(own, spread, len(other))} |")
    before = """\
Its agents (JAX; `peers/ogbench_goals.py`, raw/goals_ogbench.jsonl; put together from stored copies, [as told](peers/README.md)) on our logs,
with batches of 256 and targets of 0.05 as ours, played and judged by the same code. Ours are of the table above, a seed's runs of the same
size put together. *within*: whether ours are within one standard error of theirs, or above; errors of both are put together."""
    if any(row["log"] == "pointmaze/navigate" for row in theirs):
        before += """
Of `pointmaze/navigate` ours are of the suite [`standard`](standard/table.md): 25 episodes, latents of 64 in QRL and CRL."""
    after = f"""\
Update for update they are the same: with the same weights and batches, in float64, no parameter of the six methods is more than
{apart:.0e} apart after {told["steps"]} steps, in which they move by up to {moved:.2f} (`peers/ogbench_parity.py`, raw/parity_ogbench.json). Three
differences are undone for that: Flax's layer norm adds 1e-6 to a variance, PyTorch's 1e-5; OGBench's target networks follow the weights before a
step, ours those after it; its HIQL reads goals in the target value through the representation of now, ours through one that is averaged too.
First weights and draws of goals differ, as told in [`gcivl`](../../docs/algorithms/gcivl.md); seeds differ by tens of points in so few
steps. {_crossed(read_rows(CROSSED))}
Each seed is judged in episodes of its own, as ours; only OGBench's rows without `episodes_of` are all of seed 0's episodes (GCBC's were made
of both kinds: 18 ± 3 and 19 ± 3)."""
    heads = (
        "| log | networks | steps | method | ours, % | seeds | OGBench's code, % | seeds | within |",
        "|---|---|---:|---|---:|---:|---:|---:|---|",
    )
    return ["## Against OGBench's own code", "", *before.splitlines(), "", *heads, *lines, "", *after.splitlines(), ""]


def _crossed(rows: list[dict[str, Any]]) -> str:
    """What of GCBC's difference is due to the batches, and what to the first weights, by gcbc_crossed.py."""
    solved: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        solved.setdefault((row["batches"], row["weights"]), []).append(100 * row["success"])
    told = {key: f"{mean_and_error(scores)} %" for key, scores in solved.items()}
    first, second = ([told["ours", weights], told["ogbench", weights]] for weights in ("ours", "ogbench"))
    return f"""\
That GCBC stays behind on `pointmaze/navigate` is due to them: with the same updates in plain PyTorch
(`gcbc_crossed.py`, {len(solved["ours", "ours"])} seeds each) it solves {first[0]} from our first weights with our batches, {first[1]} with OGBench's
batches, and from OGBench's first weights {second[0]} and {second[1]}, all with the same loss. Ours are kept, because the
methods with values lose by theirs (the table above). GCIQL on `stitch`, behind with three seeds
after 20,000 steps, is not with eight; CRL's eight of each are little more than one standard error apart."""


def _alike(row: dict[str, Any]) -> tuple[Any, ...]:
    """What must be the same for two rows to be compared, whoever's they are."""
    sizes = row["width"], row.get("layers", 2), row.get("batch_size", 256), row.get("times", 1), row.get("target_rate") or 0.0
    latent = (row.get("latent") or row.get("settings", {}).get("latent_dim", 512)) if row["method"] in LATENT else 0
    return row["log"], row["method"], *sizes, latent, row["step"]


def _ants(rows: list[dict[str, Any]]) -> list[str]:
    """Why they come there seldom: the last measure of each kind by ants.py."""
    last = {(row["what"], row.get("noise"), row.get("learning_rate")): row for row in rows}
    needed = [("HIQL", None, 3e-4), ("HIQL", None, 1e-3), (WALKER, 0.0, None), (WALKER, 0.2, None)]
    if not set(needed) <= set(last):
        return []
    hiql, faster, still, noisy = (last[kind] for kind in needed)
    percent = {name: f"{100 * value:.0f} %" for name, value in hiql.items() if isinstance(value, float)}
    told, shaken = (f"{100 * row['solved']:.0f} %" for row in (still, noisy))
    ranks, nearer = hiql["rank_correlations"], [f"{100 * x:.0f}" for x in hiql["nearer_is_worth_more"]]
    spread, bound, led = f"{hiql['advantage_deviation']:.1f}", percent["weights_at_bound"], percent["solved_told_the_way"]
    error, low, high = f"{hiql['squared_error_of_actions']:.2f}", min(ranks), max(ranks)
    worst, best = min(faster["rank_correlations"]), max(faster["rank_correlations"])
    lost = round(100 * faster["solved_told_the_way"])
    text = f"""\
The log's walker, told the way, solves {told} of {still["episodes"]} episodes of the five tasks, half of these within {still["median_steps"]:.0f} of
1,000 steps, and {shaken} with the log's noise (standard errors of up to 9 points). HIQL's low level after {hiql["steps"]:,} steps (width
{hiql["width"]}, targets {hiql["target_rate"]:g}), led every 25 steps to where the best of the nearest logged walks came, solves {led} of
{hiql["episodes"]}, though its squared error on logged actions is {error} a number (the log's noise: at most 0.04) and {bound} of its weights
stand at their bound (one step's advantage, of true values at most 1, has a standard deviation of {spread}). So it is where to go
that is not known: the value, by which the high level picks subgoals, orders states by their way to a task's goal with rank
correlations of {low:.2f} to {high:.2f}, and tells in {min(nearer)} to {max(nearer)} % of cases whether 25 steps of a walk led nearer or away.
With a learning rate of {faster["learning_rate"]:g} for {hiql["learning_rate"]:g} it is no better
({worst:.2f} to {best:.2f}; the low level, led so, solves {lost} %).
What helps are faster targets, and time: the table."""
    return ["## Why ants stay behind", "", "Measured by `ants.py` (raw/ants.jsonl).", *text.splitlines(), ""]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    last = {(r["log"], r["method"], _setting(r), r["step"], r["seed"]): r for r in rows}
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for key, r in last.items():
        cells.setdefault(key[:-1], []).append(r)
    lines = [
        "| log | networks | steps | method | seeds | success, % | of the five tasks, % | seconds a seed | published | within |",
        "|---|---|---:|---|---:|---:|---|---:|---|---|",
    ]
    for (log, method, setting, step), found in sorted(
        cells.items(), key=lambda cell: (cell[0][0], cell[0][2][:5], cell[0][3], _mean_success(cell[1]))
    ):
        tasks = " ".join(f"{100 * statistics.fmean(each):.0f}" for each in zip(*(r["tasks"] for r in found), strict=True))
        _, theirs = published(log) or ("", {})
        told, seconds = _told(theirs.get(method)), statistics.fmean(r["seconds"] for r in found)
        success = mean_and_error([100 * r["success"] for r in found])
        lines.append(
            f"| `{log}` | {_told_setting(setting)} | {step:,} | `{method}` | {len(found)} | {success} | {tasks} | {seconds:.0f} | {told} "
            f"| {_judged([100 * r['success'] for r in found], theirs.get(method))} |"
        )
    return lines


def _setting(row: dict[str, Any]) -> tuple[int, int, int, int, bool, float, str]:
    """Returns how a row was learned: times the log, batch, width and layers of networks, whether standardised, the rate of targets, otherwise."""
    size, batch = row.get("times", 1), row.get("batch_size", 256)
    tried = "OGBench's first weights" * ("first_weights" in row)
    squashed = row["method"] == "gcbc" and not tried and row.get("distribution") != "clipped"  # before 2026-11-23
    words = (
        tried or "squashed" * squashed or "again" * row.get("again", False) or (f"latents of {row['latent']}" if row.get("latent") else "")
    )
    return size, batch, row["width"], row.get("layers", 2), row.get("standardized", False), row.get("target_rate") or 0.005, words


def _told_setting(setting: tuple[int, int, int, int, bool, float, str]) -> str:
    times, batch, width, layers, standardized, rate, otherwise = setting
    if not width:
        return "–"
    words = [f"{width} × {layers}", "std" * standardized, f"targets {rate:g}" * (rate != 0.005)]
    words += [f"batches of {batch:,}" * (batch != 256), f"log × {times}" * (times != 1), otherwise]
    return ", ".join(filter(None, words))


def _told(score: tuple[float, float] | None) -> str:
    """A published score and its deviation."""
    if score is None:
        return "–"
    mean, deviation = score
    return f"{mean:g} ± {deviation:g}" if deviation else f"{mean:g}"


def _judged(ours: list[float], theirs: tuple[float, float] | None, seeds: int = OGBENCH_SEEDS) -> str:
    """Whether several seeds' mean is within one standard error of others' mean and deviation, or above it; errors of both are put together."""
    if theirs is None or min(len(ours), seeds) < 2:
        return "–"
    error = math.hypot(statistics.stdev(ours) / math.sqrt(len(ours)), theirs[1] / math.sqrt(seeds))
    return "yes" if statistics.fmean(ours) >= theirs[0] - error else "no"


def _mean_success(rows: list[dict[str, Any]]) -> float:
    return statistics.fmean(r["success"] for r in rows)


if __name__ == "__main__":
    main()
