"""The report of one run (report.html): what was trained on what, how it went, how well it does, and what speaks against believing it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from stitchrl.core.alarms import Alarm
from stitchrl.core.files import write_atomically
from stitchrl.core.intervals import Interval
from stitchrl.report import plots
from stitchrl.report.asked_page import asked_section
from stitchrl.report.card import card, limits
from stitchrl.report.page import Section, box, figure, figures, page, paragraph, table, tiles
from stitchrl.report.plan_views import plans_section, read_plans
from stitchrl.report.records_reader import Run, read_run
from stitchrl.report.summary import (
    Measure,
    best_evaluation,
    by_task,
    common_digits,
    flatten,
    interval_text,
    measure_of,
    online_episodes,
    score,
    short_number,
    spread_text,
    task_of,
    unbroken,
)

_PANELS = 24  # training metrics drawn; the rest are named
_ROWS = 40  # evaluations listed


def run_page(run: Path | str | Run) -> str:
    """The whole HTML page, made from the run's files alone; works for a run that is still going, or was killed."""
    read = run if isinstance(run, Run) else read_run(run)
    measure = measure_of([read])
    sections = [Section("Result", _result(read, measure))]
    if read.evaluations:
        sections.append(Section("Evaluations", _evaluations(read, measure)))
    if (asked := asked_section(read.path)) is not None:
        sections.append(asked)
    if (plans := read_plans(read.path)) is not None:
        sections.append(plans_section(plans))
    if any(e.believed_value is not None for e in read.evaluations):
        sections.append(Section("Believed and true value", _believed(read)))
    if read.alarms is not None:
        sections.append(Section("Alarms in training", _alarms(read.alarms)))
    if read.metrics:
        sections.append(Section("Training", _metrics(read)))
    sections += [Section("Data", _data(read)), Section("Settings", _settings(read))]
    seeds = f"{len(read.seeds)} seed{'s' if len(read.seeds) != 1 else ''}" if read.seeds else "seeds unknown"
    lead = paragraph(f"{task_of(read)} · {seeds} · run {read.name}", "soft")
    return page(f"{read.algorithm} on {read.data_name}", sections, lead)


def write_run_report(path: Path | str) -> list[Path]:
    """The files written into the run directory: report.html and card.md, each whole or not at all."""
    read = read_run(path)
    written = []
    for name, text in (("report.html", run_page(read)), ("card.md", card(read))):
        write_atomically(read.path / name, text.encode())
        written.append(read.path / name)
    return written


def _unit(measure: Measure) -> str:
    return "normalised score" if measure == "normalized" else "return"


def _result(run: Run, measure: Measure) -> str:
    judged = (run.path / "trust.json").exists()
    weak = "".join(box("warning", "Limits", *(line.removeprefix("- ") for line in limits(run, judged)), ""))
    if not run.evaluations:
        return box("note", "Never evaluated in an environment", "The curves below show training only.") + weak
    last = score(run.evaluations[-1], measure)
    digits = common_digits(last.iqm.estimate, last.iqm.low, last.iqm.high)
    shown: list[tuple[str, object]] = [
        (f"last: {_unit(measure)}, IQM over seeds{_ends(last.iqm)}", short_number(last.iqm.estimate, digits)),
        (f"last: mean over seeds{_deviation(last.deviation, digits)}", short_number(last.mean, digits)),
    ]
    if last.success is not None:
        shown.append(("last: success", f"{100 * last.success.estimate:.0f} %"))
    if told := by_task(run.evaluations[-1]):
        shown.append(("last: success, task by task", told))
    if last.exact_value is not None:
        shown.append(("exact value", short_number(last.exact_value)))
    if last.believed_value is not None:
        shown.append(("value its critic believes", short_number(last.believed_value)))
    counted = "steps in the environment" if "parent" in run.config else "gradient steps"
    shown += [(counted, f"{last.step:,}"), ("seeds × episodes", f"{last.seeds} × {last.episodes}"), ("training", _time(run))]
    best = best_evaluation(run, measure)
    text = ""
    if best is not None and best.step != last.step:
        found = score(best, measure)
        text = paragraph(
            f"Its best checkpoint, at step {found.step:,}, scored {interval_text(found.iqm)}. It was chosen by looking at the "
            f"environment ({len(run.evaluations)} evaluations, {online_episodes(run):,} episodes), which offline work cannot do: "
            "judge the method by its last checkpoint."
        )
    return tiles(shown) + text + weak


def _ends(value: Interval) -> str:
    digits = common_digits(value.estimate, value.low, value.high)
    low, high = short_number(value.low, digits), short_number(value.high, digits)
    return f"; {100 * value.level:g} %: {low} to {high}" if math.isfinite(value.low) else ""


def _deviation(value: float, digits: int) -> str:
    return f"; std {short_number(value, digits)}" if math.isfinite(value) else ""


def _time(run: Run) -> str:
    seconds = run.metrics["seconds"].values[-1, 0] if "seconds" in run.metrics else run.evaluations[-1].seconds
    if math.isnan(seconds):
        return "–"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _evaluations(run: Run, measure: Measure) -> str:
    last = run.evaluations[-1]
    drawn = []
    if len(run.evaluations) > 1:  # one point is no curve
        alt = f"{_unit(measure)} at {len(run.evaluations)} checkpoints, ending at {last.returns.mean():.4g} mean return at step {last.step}"
        curve = plots.svg(plots.learning_curves([run], measure))
        drawn.append(figure(curve, "Line: mean over seeds. Band: from the lowest seed to the highest.", alt))
    about = "Last checkpoint: IQM over seeds and its 95 % interval. Small dots: seeds. Hollow: best checkpoint."
    drawn.append(figure(plots.svg(plots.final_scores([run], measure, note=False)), about, "Final score with its interval"))
    every = max(1, -(-len(run.evaluations) // _ROWS))
    kept = run.evaluations[::-1][::every]
    rows = [score(e, measure) for e in kept]
    columns: list[tuple[str, list[Any]]] = [
        ("step", [r.step for r in rows]),
        (f"{_unit(measure)}: IQM [95 %]", [interval_text(r.iqm) for r in rows]),
        ("mean ± std over seeds", [spread_text(r.mean, r.deviation) for r in rows]),
        ("return", [short_number(r.mean_return) for r in rows]),
        ("success", [interval_text(r.success) for r in rows]),
        ("exact value", [short_number(r.exact_value) for r in rows]),
        ("believed value", [short_number(r.believed_value) for r in rows]),
        ("episode length", ["–" if e.lengths is None else short_number(float(e.lengths.mean())) for e in kept]),
    ]
    columns = [
        (name, [unbroken(c) if isinstance(c, str) else c for c in cells]) for name, cells in columns if any(cell != "–" for cell in cells)
    ]
    note = paragraph(f"Every {every}th evaluation is listed, from the last.", "soft") if every > 1 else ""
    body = table(
        [name for name, _ in columns], list(zip(*(cells for _, cells in columns), strict=True)), f"in {last.environment}, latest first"
    )
    return figures(drawn) + note + body


def _believed(run: Run) -> str:
    known = [e for e in run.evaluations if e.believed_value is not None]
    exact = all(e.exact_value is not None for e in known)
    truth = "its exact value, computed from the task" if exact else "what episodes earned, discounted"
    if len(known) == 1:
        values = known[0].exact_value if exact else known[0].discounted_returns
        true = "unknown" if values is None else short_number(float(values.mean()))
        believed = score(known[0], "return").believed_value
        return paragraph(f"Its own critic believes the start is worth {short_number(believed)}; {truth}: {true}.")
    alt = "The value the critic believes the start has, and the true one, over training"
    return figure(plots.svg(plots.believed_and_true(run)), f"What its own critic believes the start is worth, against {truth}.", alt)


def _alarms(alarms: list[Alarm]) -> str:
    if not alarms:
        return paragraph("None: the run doctor looked at every line of metrics and found nothing wrong.")
    rows = []
    for a in alarms:
        until = "still stands" if a.cleared is None else f"cleared at {a.cleared:,}"
        when = f"from {a.step:,}, {until}" + (f" ({a.times} times)" if a.times > 1 else "")
        rows.append([a.name.replace("_", " "), when, ", ".join(map(str, a.seeds)), a.seen, a.advice])
    return table(["alarm", "steps", "seeds", "as it first rose", "try"], rows, "what the run doctor said during training")


def _metrics(run: Run) -> str:
    shown = plots.shown_metrics(run)
    drawn = []
    for name, curve in list(shown.items())[:_PANELS]:
        text = plots.svg(plots.metric_curves({name: curve}, titles=False))
        drawn.append(figure(text, name, f"{name} over training"))
    left = list(shown)[_PANELS:]
    about = paragraph("Thick: mean over seeds. Faint: each seed.", "soft")
    return about + figures(drawn) + (paragraph(f"Not drawn, but in metrics.jsonl: {', '.join(left)}.", "soft") if left else "")


def _data(run: Run) -> str:
    rows = [[name, _cell(value)] for name, value in run.data.items()]
    return table(["", ""], rows, "what the policy learned from") if rows else paragraph("Nothing is recorded about the data.")


def _settings(run: Run) -> str:
    parts = []
    for title in ("settings", "goals", "training", "preprocessing", "online", "evaluation", "environment", "versions"):
        value = run.config.get(title)
        rows = list(flatten(value).items()) if isinstance(value, dict) else []
        if rows:
            parts.append(table(["", ""], [[name, _cell(v)] for name, v in rows], run.algorithm if title == "settings" else title))
    if run.changes:
        changes = [[f"{step:,}", "; ".join(changed)] for step, changed in run.changes]
        parts.append(table(["at step", ""], changes, "changed on the way; above is what it was at the end"))
    seeds = ", ".join(map(str, run.seeds)) or "unknown"
    recipe = f"; recipe {run.config['recipe']}, with what was told in place of its settings" if run.config.get("recipe") else ""
    parts.append(paragraph(f"StitchRL {run.config.get('version', 'version unknown')}; seeds {seeds}{recipe}.", "soft"))
    return "".join(parts)


def _cell(value: Any) -> Any:
    """Numbers exactly as they are in the file, not rounded for reading."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
