"""The comparison of runs as one HTML page: scores, curves, profiles, chances of improvement, and what weakens them."""

from __future__ import annotations

from stitchrl.core.errors import DataError
from stitchrl.report import plots
from stitchrl.report.comparison import Comparison
from stitchrl.report.page import Section, box, figure, figures, page, paragraph, table
from stitchrl.report.summary import interval_text, task_of, unbroken


def comparison_page(comparison: Comparison) -> str:
    """The whole HTML page."""
    unit = comparison.unit[:1].upper() + comparison.unit[1:]
    level = f"{100 * comparison.level:g} %"
    about = f"{unit}. A seed's score is its mean over episodes; IQM and {level} interval are over seeds."
    warnings = box("warning", "Before believing it", *comparison.warnings, "") if comparison.warnings else ""
    tables = "".join(_table(comparison, task) for task in comparison.tasks)
    sections = [Section("Scores", paragraph(about) + tables + warnings)]
    drawn = _figures(comparison)
    if drawn:
        sections.append(Section("Curves", drawn))
    if comparison.aggregates:
        rows = [[a.method, a.tasks, a.scores, interval_text(a.iqm)] for a in comparison.aggregates]
        sections.append(
            Section("Over tasks", table(["method", "tasks", "scores", "IQM of normalised scores"], rows) + _profile(comparison))
        )
    if comparison.improvements:
        lines = [[f"{i.method} beats {i.other}", i.tasks, interval_text(i.probability)] for i in comparison.improvements]
        text = paragraph("The chance that a run of one beats a run of the other on the same task; 0.50 is a draw.")
        sections.append(Section("Chances of improvement", text + table(["", "tasks", "probability"], lines)))
    lines = [[row.label, row.task, str(row.run.data.get("fingerprint") or "unknown")[:16], str(row.run.path)] for row in comparison.rows]
    sections.append(Section("Runs", table(["run", "task", "data sha256", "directory"], lines)))
    methods = list(dict.fromkeys(row.method for row in comparison.rows))
    title = f"{' · '.join(methods)}" if len(methods) <= 4 else f"{len(methods)} methods"
    return page(f"Comparison: {title}", sections)


def _table(comparison: Comparison, task: str) -> str:
    headings, cells = comparison.table(task)
    return table(headings, [[line[0], *map(unbroken, line[1:])] for line in cells], task)


def _figures(comparison: Comparison) -> str:
    """For each task, learning curves and final scores."""
    shown = [run for run in comparison.runs if run.evaluations]
    looks = plots.looks_of(comparison.runs)
    drawn = []
    for task in dict.fromkeys(task_of(run) for run in shown):
        here = [run for run in shown if task_of(run) == task]
        if any(len(run.evaluations) > 1 for run in here):  # one point is no curve
            curve = plots.svg(plots.learning_curves(here, comparison.measure, looks))
            drawn.append(figure(curve, "Line: mean over seeds. Band: from the lowest seed to the highest.", f"Learning curves on {task}"))
        scores = plots.svg(plots.final_scores(here, comparison.measure, comparison.level, looks, note=False))
        about = f"Last checkpoint: IQM over seeds, {100 * comparison.level:g} % interval. Small dots: seeds. Hollow: best checkpoint."
        drawn.append(figure(scores, about, f"Final scores with intervals on {task}"))
    return figures(drawn) if drawn else ""


def _profile(comparison: Comparison) -> str:
    try:
        drawn = plots.draw(comparison.runs, "profiles")
    except DataError:
        return ""
    return figure(plots.svg(drawn), "Share of runs that reach at least τ; bands: 95 %.", "Performance profiles over tasks")
