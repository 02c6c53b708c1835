"""The model card of a run (card.md): what was learned from which data, how well it is known to do, and what it is not for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stitchrl.report.page import plain
from stitchrl.report.records_reader import Run, read_run
from stitchrl.report.summary import (
    COVERAGE,
    FEW_SEEDS,
    Score,
    alarm_lines,
    best_evaluation,
    by_task,
    interval_text,
    measure_of,
    online_episodes,
    score,
    short_number,
    spread_text,
)


def card(run: Path | str | Run) -> str:
    """The card as Markdown, made from the run's files alone (trust.json too, where the run has been judged)."""
    read = run if isinstance(run, Run) else read_run(run)
    trust = _trust(read.path / "trust.json")
    parts = [
        f"# {_code(read.algorithm)} on {_code(read.data_name)}",
        "",
        "Made by StitchRL from the files of this run; `stitchrl` writes it again whenever they change.",
        "",
        *_section("Data", _data(read)),
        *_section("Training", _training(read)),
        *_section("Results", _results(read)),
        *_section("Trust", trust),
        *_section("Intended use", _intended(read)),
        *_section("Limits", limits(read, judged=(read.path / "trust.json").exists())),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _data(run: Run) -> list[str]:
    transforms = run.data.get("transforms") or []
    lines = [f"- name: {_code(run.data_name)}"]
    if run.data.get("source"):
        lines.append(f"- source: {_code(run.data['source'])}")
    lines.append(f"- sha256 of the data: {_code(run.data.get('fingerprint') or 'unknown')}")
    lines.append(f"- transforms: {_code(json.dumps(transforms, ensure_ascii=False)) if transforms else 'none'}")
    return lines


def _training(run: Run) -> list[str]:
    seeds = ", ".join(map(str, run.seeds)) or "unknown"
    lines = [f"- algorithm: {_code(run.algorithm)}, StitchRL {run.config.get('version', 'version unknown')}", f"- seeds: {seeds}"]
    if recipe := run.config.get("recipe"):
        lines.append(f"- recipe: {_code(recipe)}, published settings; what was told in their place is among those below")
    lines += [f"- {name}: {_code(value)}" for name, value in run.training.items()]
    lines += [f"- changed at step {step:,}: {'; '.join(map(_code, changed))}" for step, changed in run.changes]
    if parent := run.config.get("parent"):
        began = f"went on from {_code(parent.get('path'))} (its step {parent.get('step'):,})"
        lines.append(f"- online phase: {began} in {_code(run.environment)}; steps are each seed's in that environment")
        lines.append(f"- online settings: {_code(json.dumps(run.config.get('online'), ensure_ascii=False))}")
    if goals := run.config.get("goals"):
        drawn = _code(json.dumps(goals, ensure_ascii=False))
        lines.append(f"- goals: by hindsight, so that the policy reads an observation with a goal beside it; drawn by {drawn}")
    settings = run.config.get("settings")
    if settings:
        lines += ["- settings:", "", "```json", json.dumps(settings, indent=1, ensure_ascii=False), "```"]
    return lines


def _results(run: Run) -> list[str]:
    if not run.evaluations:
        return ["This run was never evaluated in an environment. Nothing here says how well its policy acts."]
    measure = measure_of([run])
    unit = "normalised score" if measure == "normalized" else "return"
    last = score(run.evaluations[-1], measure)
    best = best_evaluation(run, measure)
    lines = [
        f"In {_code(run.environment)}, {last.seeds} seeds × {last.episodes} episodes; {unit}, IQM over seeds with its 95 % interval.",
        "",
        f"| | step | {unit}, IQM | mean ± std over seeds | success |",
        "|---|---:|---:|---:|---:|",
        _row("last checkpoint", last),
    ]
    if best is not None:
        lines.append(_row("best checkpoint (chosen by looking: optimistic)", score(best, measure)))
    lines.append("")
    if told := by_task(run.evaluations[-1]):
        lines.append(f"- success of the last, task by task: {told}")
    if last.exact_value is not None:
        lines.append(f"- exact value of the policy: {short_number(last.exact_value)} (discounted, computed, not sampled)")
    if last.believed_value is not None:
        lines.append(f"- value its own critic believed: {short_number(last.believed_value)} (discounted)")
    count = len(run.evaluations)
    all_of = " in all: those of evaluations, those it learned from, and those of the run before it" if "parent" in run.config else " in all"
    lines.append(f"- online evaluations used: {count} (one at each of {count} checkpoints), {online_episodes(run):,} episodes{all_of}")
    return lines


def _row(name: str, s: Score) -> str:
    return f"| {name} | {s.step:,} | {interval_text(s.iqm)} | {spread_text(s.mean, s.deviation)} | {interval_text(s.success)} |"


def _trust(file: Path) -> list[str]:
    """What `stitchrl trust` found, if it was run; its whole result stays in trust.json."""
    if not file.exists():
        return ["Not judged offline: `stitchrl trust` was not run on this run."]
    try:
        verdict = json.loads(file.read_text(encoding="utf-8")).get("verdict")
    except (ValueError, AttributeError, OSError):
        return ["`trust.json` is there but cannot be read; run `stitchrl trust` again."]
    if isinstance(verdict, dict):
        verdict = verdict.get("sentence") or verdict.get("word") or json.dumps(verdict)
    return [f"Verdict of `stitchrl trust`: {verdict or 'none given'}. The estimates behind it are in `trust.json`."]


def _intended(run: Run) -> list[str]:
    where = f" and in {_code(run.environment)}" if run.environment else ""
    return [
        f"Acting on observations like those in {_code(run.data_name)}{where}: for research, and for comparison with other methods.",
        "Anything that acts on people, money or machines needs its own evaluation first, and a person who answers for it.",
    ]


def limits(run: Run, judged: bool) -> list[str]:
    """What is known to be weak about this run's evidence, one Markdown bullet each."""
    found = ["The policy has seen only what its log holds; where its actions lead away from the log, nothing vouches for it."]
    if "parent" in run.config:
        found = [
            f"The policy also learned from its own steps in {_code(run.environment)}: it is no offline result, nor to be compared as one."
        ]
    if not run.evaluations:
        found.append("No online evaluation: there is no measured return at all.")
    else:
        last = score(run.evaluations[-1], measure_of([run]))
        if last.seeds == 1:
            found.append("One seed: the interval covers the noise of episodes, not that of training.")
        elif last.seeds < FEW_SEEDS:
            found.append(f"{last.seeds} seeds: where seeds differ much, their 95 % interval covers only about {COVERAGE[last.seeds]} %.")
        planned = run.training.get("steps")
        if isinstance(planned, int) and last.step < planned:
            found.append(f"Stopped or still running: last evaluated at step {last.step:,} of {planned:,}.")
        true = last.exact_value if last.exact_value is not None else _earned(run)
        if last.believed_value is not None and true is not None and last.believed_value > true + 0.2 * abs(true):
            found.append(f"Its critic overestimates: it believes {short_number(last.believed_value)} where {short_number(true)} is true.")
    found += [plain(line) for line in alarm_lines(run)]
    if not judged:
        found.append("No off-policy estimate has been made of it.")
    found += [f"In its files: {note}." for note in run.notes]
    return [f"- {line}" for line in found]


def _earned(run: Run) -> float | None:
    discounted = run.evaluations[-1].discounted_returns
    return None if discounted is None else float(discounted.mean())


def _code(value: Any) -> str:
    """The value as inline code; what would end it, or hide, in a name from a file is replaced."""
    return f"`{plain(value).replace('`', chr(39)).replace('|', '/')}`"
