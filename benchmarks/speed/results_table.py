"""RESULTS.md from the raw lines of `side_by_side.py` alone: medians over rounds, of ratios within a round."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

Line = dict[str, Any]
Key = tuple[str, int]  # variant and seeds
ORDER = ("floor", "d3rlpy", "eager", "compiled", "captured", "two processes")


def latest(path: Path, wanted: Callable[[Line], bool]) -> list[Line]:
    """Returns the lines of the newest run that has any that are wanted, its `run` line first; none if no run has."""
    lines = [json.loads(text) for text in path.read_text().splitlines() if text.strip()]
    runs = [line["run"] for line in lines if wanted(line)]
    return [line for line in lines if line["run"] == runs[-1]] if runs else []


def by_round(lines: Iterable[Line], algorithm: str, device: str) -> dict[Key, dict[int, float]]:
    """Returns gradient steps a second, those of all seeds together, of each variant and round."""
    found: dict[Key, dict[int, float]] = defaultdict(dict)
    for line in lines:
        if line["kind"] == "window" and (line["algorithm"], line["device"]) == (algorithm, device):
            found[line["variant"], line["seeds"]][line["round"]] = line["seeds"] * line["steps"] / line["seconds"]
    return {key: found[key] for key in sorted(found, key=lambda key: (ORDER.index(key[0].split(",")[0]), key))}


def ratios(above: dict[int, float], below: dict[int, float]) -> list[float]:
    """Returns the ratio in each round that has both."""
    return [above[k] / below[k] for k in sorted(above.keys() & below.keys())]


def middle(values: list[float], digits: int = 2) -> str:
    """Returns `median (quarter – three quarters)`."""
    if not values:
        return "–"
    if len(values) < 4:
        return f"{median(values):.{digits}f}"
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _rate(values: Iterable[float]) -> str:
    value = median(values)
    return f"{value:,.0f}" if value >= 20 else f"{value:.2f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]


def _steps(lines: list[Line], device: str, operations: dict[str, float]) -> list[str]:
    rows = []
    for name, floating in operations.items():
        found = by_round(lines, name, device)
        floor, peer = found.get(("floor", 1), {}), found.get(("d3rlpy", 1), {})
        for (variant, seeds), values in found.items():
            if seeds == 1:
                plain = found.get(("eager", 1), {})
                against = [
                    middle(ratios(values, floor)) if variant != "floor" else f"1 ({floating / 1e9:.3g} GFLOP)",
                    middle(ratios(values, peer)) if variant != "d3rlpy" else "1",
                    middle(ratios(values, plain)) if variant in ("compiled", "captured") else "",
                ]
                rows.append([name, variant, _rate(values.values()), *against, str(len(values))])
    return _table(["algorithm", "", "steps/s", "of the floor", "× d3rlpy", "× own eager", "rounds"], rows) if rows else []


def _seeds(lines: list[Line], device: str, operations: dict[str, float]) -> list[str]:
    rows = []
    for name in operations:
        found = by_round(lines, name, device)
        for (variant, seeds), values in found.items():
            if seeds > 1:
                single = found.get((variant.removeprefix("two processes, "), 1), {})
                peer = ratios(values, found.get(("d3rlpy", 1), {}))
                rows.append([name, variant, str(seeds), _rate(values.values()), middle(ratios(values, single)), middle(peer)])
    head = ["algorithm", "", "seeds", "seeds × steps/s", "× one seed", "× d3rlpy (one seed)"]
    return ["### Many seeds", "", *_table(head, rows)] if rows else []


def _ingest(lines: list[Line]) -> list[str]:
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line["kind"] == "ingest":
            found[line["library"]].append(line)
    rows = []
    for library, times in found.items():
        against = {x["round"]: x["seconds"] for x in found.get("d3rlpy", [])}
        faster = ratios(against, {x["round"]: x["seconds"] for x in times})
        memory = [median(x[name] for x in times) for name in ("added_megabytes", "peak_added_megabytes")]
        rows.append(
            [
                library,
                middle([x["seconds"] for x in times]),
                *(f"{m:.0f}" for m in memory),
                "" if library == "d3rlpy" else middle(faster, 1),
            ]
        )
    if not rows:
        return []
    size = next(line["transitions"] for line in lines if line["kind"] == "run")
    head = ["", "seconds", "added MB", "peak added MB", "× d3rlpy's speed"]
    about = f"An uncompressed npz of {size:,} transitions to where the first batch can be drawn, a fresh process each time, imports not"
    about += " counted; ours: the Dataset, kept, and the packed rows of the first 64 batches."
    about += " `numpy.load` alone is the least that any library has to do."
    return ["## Ingest", "", about, "", *_table(head, rows)]


def _start_up(lines: list[Line]) -> list[str]:
    found: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if line["kind"] == "start_up":
            found[line["what"]].append(line["seconds"])
    names = {
        "python": "an empty Python program", "help": "`stitchrl --help`",
        "train, one step": "`stitchrl train td3_bc`, one step without compilation, from the shell to the saved policy",
    }  # fmt: skip
    rows = [[names[what], middle(times)] for what, times in found.items()]
    part = ["## Start-up", "", *_table(["", "seconds"], rows)] if rows else []
    compiled: dict[str, dict[str, float]] = defaultdict(dict)
    for line in lines:
        if line["kind"] == "compile":
            compiled[line["algorithm"]][line["which"]] = line["seconds"]
    rows = [[name, *(f"{times[w]:.1f}" if w in times else "–" for w in ("cold", "warm"))] for name, times in compiled.items()]
    head = ["first two steps, compiled", "empty cache, s", "own cache, s"]
    return part + (["### Compile times", "", *_table(head, rows)] if rows else [])


def _about(lines: list[Line], device: str) -> list[str]:
    run = next(line for line in lines if line["kind"] == "run")
    peers = run["peers"]
    machine = run["machine"]
    ended = next((f"to {line['date']}" for line in lines if line["kind"] == "end"), "(not finished)")
    reached = [f"{x['algorithm']} {x['reached']} of {x['wanted']}" for x in lines if x["kind"] == "rounds" and x["device"] == device]
    library = f"d3rlpy {peers['version']} (torch {peers['torch']})" if peers else "d3rlpy not measured"
    parts = [
        f"{run['date']} {ended}; {machine['cpu']}, {machine['cores']} cores, load {machine['load']:.1f} at the start; threads: {run['threads']}.",
        f"stitchrl {run['ours']['version']} at {run['commit'][:10]}{' with changes' if run['source_changed'] else ''}, "
        f"Python {run['python']}, torch {run['ours']['torch']}; {library}.",
        f"{run['transitions']:,} synthetic transitions (17 observations, 6 actions), batch 256, two hidden layers of 256, sampling included.",
        f"`{run['command']}`. Rounds: {', '.join(reached) or 'none'}.",
    ]
    failed = [f"{x.get('algorithm', '')} {x['variant']}: {x['error']}" for x in lines if x["kind"] == "failed"]
    return [" ".join(parts), *([f"Left out: {'; '.join(failed)}."] if failed else []), ""]


def markdown(path: Path, operations: dict[str, float]) -> str:
    """Returns the page of the newest run of each part in the raw file."""
    text = [
        "# Speed, side by side", "",
        "Written by `side_by_side.py --table` from `raw/side_by_side.jsonl`; do not edit. Numbers are medians over rounds; ratios are medians of",
        "the ratios within a round, with quartiles. *floor*: the step's minimal matrix products alone (see `floor.py`); *compiled*: the default",
        "for long runs; *eager*: without a compiler.", "",
    ]  # fmt: skip
    for device, title in (("cpu", "CPU"), ("cuda", "CUDA")):
        lines = latest(path, lambda line, device=device: line["kind"] == "window" and line["device"] == device)  # type: ignore[misc]
        if lines:
            text += [f"## Gradient steps, {title}", "", *_about(lines, device), *_steps(lines, device, operations)]
            text += _seeds(lines, device, operations)
    text += _ingest(latest(path, lambda line: line["kind"] == "ingest"))
    text += _start_up(latest(path, lambda line: line["kind"] in ("start_up", "compile")))
    return "\n".join(text).rstrip() + "\n"
