"""The benchmark's tables, made from its raw lines alone: last and best policies with IQM and intervals (arXiv:2108.13264)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from stitchrl.core.errors import CheckpointError
from stitchrl.core.intervals import interval
from stitchrl.report.benchmark_rows import is_done
from stitchrl.report.summary import COVERAGE, FEW_SEEDS, interval_text, short_number

Row = dict[str, Any]
Which = Literal["last", "best"]
Cells = dict[str, dict[str, list[Row]]]  # dataset -> method -> one row a seed
Published = Callable[[str], tuple[str, Mapping[str, tuple[float, float]]] | None]
_ROBOTS = ("halfcheetah", "hopper", "walker2d", "ant")  # scored on one scale, D4RL's
_NEEDED = ("dataset", "method", "seed", "steps", "config_hash", "dataset_hash", "versions", "date")


def benchmark_table(rows: Sequence[Row], published: Published, source: str, level: float = 0.95) -> str:
    """Returns a Markdown page. `published(dataset)` gives the log of the same kind and its (mean, deviation) by method, from `source`.

    Equal lines give equal pages. Where a method was run on a log with several settings, data or sources, the newest counts, and the page says so.
    Raises CheckpointError for a line without what a table needs, or if there is none.
    """
    for row in rows:
        missing = [name for name in (*_NEEDED, *(("last", "best", "seconds") if is_done(row) else ())) if name not in row]
        if missing:
            run = f"{row.get('dataset')} {row.get('method')} seed {row.get('seed')}"
            raise CheckpointError(f"raw.jsonl: the line of {run} has no '{missing[0]}'; remove the line, and its run is made again")
    cells, older = _cells([row for row in rows if is_done(row)])
    if not cells:
        raise CheckpointError("no run came to its end yet; `stitchrl benchmark run` makes them")
    methods = list(dict.fromkeys(method for by_method in cells.values() for method in by_method))
    parts = [
        _head(cells, level),
        "## Last policy\n\n" + _scores(cells, methods, "last", level),
        "## Best policy of each seed\n\nChosen by looking at the environment, which offline work cannot do: judge by the last.\n\n"
        + _scores(cells, methods, "best", level),
        _over_logs(cells, methods, level),
        _published(cells, methods, published, source),
        _notes(rows, cells, older, level),
        "## Which runs\n\n" + _hashes(cells),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cells(rows: Sequence[Row]) -> tuple[Cells, int]:
    """The newest settings, data and source of each method on each log, one row a seed; and how many rows are of older ones."""
    grouped: dict[tuple[str, str], dict[tuple[str, str], dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in sorted(rows, key=lambda row: str(row["date"])):
        kinds = grouped[row["dataset"], row["method"]]
        kind = (row["config_hash"], row["dataset_hash"])
        kinds[kind] = kinds.pop(kind, {})  # the newest stands last
        kinds[kind][row["seed"]] = row
    cells: Cells = {}
    kept = 0
    for dataset, method in dict.fromkeys((row["dataset"], row["method"]) for row in rows):
        newest = _of_newest_source(list(grouped[dataset, method].values())[-1])
        cells.setdefault(dataset, {})[method] = [newest[seed] for seed in sorted(newest)]
        kept += len(newest)
    distinct = {
        tuple(row.get(name) for name in ("dataset", "method", "config_hash", "dataset_hash", "seed", "source_hash")) for row in rows
    }
    return cells, len(distinct) - kept


def _of_newest_source(seeds: dict[int, Row]) -> dict[int, Row]:
    """Without the seeds that an earlier source of the algorithm learned; a line that tells no source stands for any."""
    told = [row for row in seeds.values() if row.get("source_hash")]
    if not told:
        return seeds
    newest = max(told, key=lambda row: str(row["date"]))["source_hash"]
    return {seed: row for seed, row in seeds.items() if row.get("source_hash") in (None, newest)}


def _episodes(rows: list[Row], which: Which) -> np.ndarray:
    """[S, episodes]; one column where the policies' scores are known exactly, and where seeds were judged by different numbers of episodes."""
    if all(row[which].get("exact_score") is not None for row in rows):
        return np.asarray([[row[which]["exact_score"]] for row in rows], np.float64)
    scores = [row[which]["scores"] for row in rows]
    if len({len(x) for x in scores}) == 1:
        return np.asarray(scores, np.float64)
    return np.asarray([[np.mean(x)] for x in scores], np.float64)


def _interval(tasks: list[np.ndarray], level: float) -> str:
    return interval_text(interval(tasks, generator=np.random.default_rng(0), level=level))


def _head(cells: Cells, level: float) -> str:
    rows = [row for by_method in cells.values() for found in by_method.values() for row in found]
    suites = ", ".join(sorted({str(row.get("suite", "?")) for row in rows}))
    versions = sorted({f"{name} {number}" for row in rows for name, number in row["versions"].items()})
    seeds = sorted({row["seed"] for row in rows})
    dates = sorted(str(row["date"])[:10] for row in rows)
    exact = any(row["last"].get("exact_score") is not None for row in rows)
    one = "core" if all(row.get("device", "cpu") == "cpu" for row in rows) else "process, some on a GPU"
    lines = [
        f"# Benchmark: {suites}",
        "Written by `stitchrl benchmark table` from raw.jsonl alone. Normalised scores: 0 is a random policy, 100 the reference expert (D4RL's "
        "for its robots). A seed's score is its mean over episodes; a cell is the interquartile mean over seeds with its "
        f"{100 * level:g} % stratified-bootstrap interval over seeds and episodes."
        + (" Where the task's model is known a policy's score is its exact value, without episodes." if exact else ""),
        f"{len(rows)} runs, seeds {', '.join(map(str, seeds))}, {dates[0]} to {dates[-1]}, {sum(row['seconds'] for row in rows) / 3600:.1f} hours "
        f"of one {one}; {', '.join(versions)}.",
    ]
    return "\n\n".join(lines)


def _scores(cells: Cells, methods: list[str], which: Which, level: float) -> str:
    most = max(len(found) for by_method in cells.values() for found in by_method.values())
    kindred = [{name: cells[name] for name in group} for group in _kindred(cells)]
    return "\n\n".join(_scores_of(group, methods, which, level, most) for group in kindred)


def _kindred(cells: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The logs in groups, of which no two have a method in common: a table each, without columns that stand empty."""
    groups: list[set[str]] = []
    for dataset, by_method in cells.items():
        kin = [group for group in groups if any(set(by_method) & set(cells[other]) for other in group)]
        groups = [group for group in groups if group not in kin] + [{dataset}.union(*kin)]
    ordered = [[name for name in cells if name in group] for group in groups]
    return sorted(ordered, key=lambda names: list(cells).index(names[0]))


def _scores_of(cells: Cells, methods: list[str], which: Which, level: float, most: int) -> str:
    methods = [method for method in methods if any(method in by_method for by_method in cells.values())]
    lines = []
    for by_method in cells.values():
        first = next(iter(by_method.values()))[0]
        steps = sorted({row["steps"] for found in by_method.values() for row in found})
        texts = []
        for method in methods:
            found = by_method.get(method)
            text = "–" if found is None else _interval([_episodes(found, which)], level)
            texts.append(text + ("" if found is None or len(found) == most else f" ({len(found)} of {most} seeds)"))
        lines.append([_name(first), " or ".join(f"{s:,}" for s in steps), short_number(_of_log(first), 1), *texts])
    return _markdown(["log", "steps", "its own score", *methods], lines)


def _name(row: Row) -> str:
    return str(row["dataset"]) + (" (return)" if row.get("measure") == "return" else "")


def _of_log(row: Row) -> float | None:
    """The score of the logged episodes themselves."""
    value, reference = row.get("log_return"), row.get("reference")
    if value is None or row.get("measure") == "return" or reference is None:
        return value
    return 100 * float((value - reference["random"]) / (reference["expert"] - reference["random"]))


def _over_logs(cells: Cells, methods: list[str], level: float) -> str:
    """Each method over the logs of one scale that the same methods were run on: those of one task, or of D4RL's robots."""
    scored = {dataset: by for dataset, by in cells.items() if next(iter(by.values()))[0].get("measure") != "return"}
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for dataset, by_method in scored.items():
        task = dataset.partition("/")[0]
        groups["robots" if task in _ROBOTS else task, tuple(method for method in methods if method in by_method)].append(dataset)
    parts = []
    for (_, group), names in groups.items():
        if len(names) < 2 or len(group) < 2:
            continue
        lines = []
        for method in group:
            last = [_episodes(scored[name][method], "last") for name in names]
            best = [_episodes(scored[name][method], "best") for name in names]
            lines.append([method, str(sum(len(x) for x in last)), _interval(last, level), _interval(best, level)])
        parts.append(f"{', '.join(names)}:\n\n" + _markdown(["method", "runs", "last", "best"], lines))
    return "## Over logs\n\n" + "\n\n".join(parts) if parts else ""


def _published(cells: Cells, methods: list[str], published: Published, source: str) -> str:
    found = {dataset: published(dataset) for dataset in cells}
    known = {dataset: entry for dataset, entry in found.items() if entry is not None}
    tables = []
    for group in _kindred({dataset: scores for dataset, (_, scores) in known.items()}):
        shown = [method for method in methods if any(method in known[dataset][1] for dataset in group)]
        lines = []
        for dataset in group:
            name, scores = known[dataset]
            lines.append([name, dataset, *("{:.1f} ± {:.1f}".format(*scores[method]) if method in scores else "–" for method in shown)])
        if shown:
            tables.append(_markdown(["published", "our log of its kind", *shown], lines))
    if not tables:
        return ""
    return f"## Published, not the same data\n\n{source}. Not comparable in height.\n\n" + "\n\n".join(tables)


def _notes(rows: Sequence[Row], cells: Cells, older: int, level: float) -> str:
    kept = [row for by_method in cells.values() for seeds in by_method.values() for row in seeds]
    notes = {row["note"]: dict.fromkeys(r["dataset"] for r in kept if r.get("note") == row["note"]) for row in kept if row.get("note")}
    found = [f"{', '.join(names)}: {note}." for note, names in notes.items()]
    fewest = min(len(seeds) for by_method in cells.values() for seeds in by_method.values())
    if fewest == 1:
        found.append("One seed: its interval covers episodes, not training.")
    elif fewest < FEW_SEEDS:
        covered = f"only about {COVERAGE[fewest]} %" if level == 0.95 else "less than that"
        alike = "; of fewer than four the interquartile mean is the mean" if fewest < 4 else ""
        found.append(f"As few as {fewest} seeds: where seeds differ much, their {100 * level:g} % interval covers {covered}{alike}.")
    found += _several_logs(cells)
    if older:
        what = "settings, data or sources" if any("source_hash" in row for row in rows) else "settings or data"
        found.append(f"{older} raw lines of older {what} are left out.")
    ends = {(row["dataset"], row["method"], row["seed"]): row for row in rows}  # the last of each: one made after a failure makes up for it
    found += [f"FAILED: {name} {method} seed {seed}: {row['error']}" for (name, method, seed), row in ends.items() if not is_done(row)]
    for alarm in sorted({alarm for row in kept for alarm in row.get("alarms", [])}):
        where = dict.fromkeys(f"{row['dataset']} {row['method']}" for row in kept if alarm in row.get("alarms", []))
        found.append(f"Alarm in training, {alarm}: {', '.join(where)}.")
    return "## Notes\n\n" + "\n".join(f"- {line}" for line in found) if found else ""


def _several_logs(cells: Cells) -> list[str]:
    """Tells where methods in one row learned from logs that are not the same: of another release, or of a machine that rounds otherwise."""
    told = []
    for dataset, by_method in cells.items():
        logs: dict[str, list[str]] = defaultdict(list)
        for method, seeds in by_method.items():
            logs[str(seeds[0]["dataset_hash"])[:12]].append(method)
        if len(logs) > 1:
            parts = "; ".join(f"{', '.join(methods)} from {name}" for name, methods in logs.items())
            told.append(
                f"{dataset}: **not one log**, but as many of the recipe as there are hashes: {parts}. Its own score is the first's."
            )
    return told


def _hashes(cells: Cells) -> str:
    lines = []
    for dataset, by_method in cells.items():
        for method, seeds in by_method.items():
            first = seeds[0]
            seconds = sum(row["seconds"] for row in seeds) / len(seeds)
            lines.append(
                [
                    dataset,
                    str(first["dataset_hash"])[:12],
                    method,
                    str(first.get("algorithm", "?")),
                    str(first["config_hash"])[:12],
                    f"{seconds:.0f}",
                ]
            )
    return _markdown(["log", "its sha256", "method", "algorithm", "settings' sha256", "seconds a run"], lines)


def _markdown(headings: list[str], lines: list[list[str]]) -> str:
    shown = [headings, ["---"] * len(headings), *([cell.replace("|", "/") for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)
