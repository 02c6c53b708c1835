"""The page of the quickstart: what each method believes of its policy beside what that policy is worth, from the runs' files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from stitchrl.core.intervals import interval
from stitchrl.report.page import COLOURS, Section, figure, page, paragraph, table
from stitchrl.report.records_reader import read_run

NAMES = {"bc": "Behaviour cloning", "q_learning": "Naive Q-learning", "cql": "CQL", "iql": "IQL"}


@final
@dataclass(frozen=True)
class Belief:
    """One method: exact values of its seeds' policies `[S]`, and what their learners believed `[S]`, if they have values at all."""

    name: str
    true: np.ndarray
    believed: np.ndarray | None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % bootstrap interval of the mean true value over seeds."""
        found = interval([self.true[:, None]], np.mean, generator=np.random.default_rng(0))
        return found.low, found.high


def read_beliefs(paths: Sequence[Path]) -> list[Belief]:
    """Returns the last evaluation of each run."""
    found = []
    for path in paths:
        run = read_run(path)
        last = run.evaluations[-1]
        assert last.exact_value is not None
        found.append(Belief(NAMES.get(run.algorithm, run.algorithm), last.exact_value, last.believed_value))
    return found


def belief_rows(beliefs: Sequence[Belief], random: float, log: float, best: float) -> tuple[list[str], list[list[str]]]:
    """Returns the heading and the rows of the table, lines of reference included, for terminal and page."""
    rows = [["random treatment", "–", f"{random:.3f}", f"{random - log:+.3f}"]]
    rows.append(["the log itself", "–", f"{log:.3f}", ""])
    for b in beliefs:
        believed = "–" if b.believed is None else f"{b.believed.mean():.3f}"
        rows.append([b.name, believed, f"{b.true.mean():.3f} ± {b.true.std():.3f}", f"{b.true.mean() - log:+.3f}"])
    rows.append(["best possible", "–", f"{best:.3f}", f"{best - log:+.3f}"])
    return ["policy", "believes", "is worth", "over the log"], rows


def story(beliefs: Sequence[Belief], log: float, most: float) -> list[str]:
    """Returns what the numbers say, each sentence only if they say it; `most` is the largest return there can be."""
    lines = []
    for b in beliefs:
        true = b.true.mean()
        against = "more than the log" if true > log + 0.002 else "less than the log" if true < log - 0.002 else "as much as the log"
        if b.believed is None:
            lines.append(f"{b.name} copies: it is worth {true:.3f}, {against} ({log:.3f}).")
            continue
        believed = b.believed.mean()
        wrong = "which no policy can have" if believed > most else "too much" if believed > true else "less than it is worth"
        lines.append(f"{b.name} believes {believed:.3f}, {wrong}, and is worth {true:.3f}: {against}.")
    return lines


def belief_page(
    beliefs: Sequence[Belief], random: float, log: float, best: float, most: float, data: dict[str, Any], runs: Sequence[Path]
) -> str:
    """Returns report.html of the quickstart."""
    heading, rows = belief_rows(beliefs, random, log, best)
    caption = (
        "Survival rate: what each method believes its policy reaches, and what it does reach (exact; mean ± standard deviation over seeds)"
    )
    links = paragraph("Runs, each with its own report: " + ", ".join(str(path) for path in runs))
    sections = [
        Section("What the numbers say", "".join(paragraph(line) for line in story(beliefs, log, most))),
        Section(
            "Belief and truth",
            table(heading, rows, caption) + figure(_figure(beliefs, random, log, best, most), caption, " ".join(map(" ".join, rows))),
        ),
        Section(
            "The log", table(["", ""], [[k, v] for k, v in data.items()], "ICU-Sepsis, a task estimated from real intensive-care records")
        ),
        Section("Runs", links),
    ]
    return page("From a log to a policy: what to believe", sections)


def _figure(beliefs: Sequence[Belief], random: float, log: float, best: float, most: float) -> str:
    from stitchrl.report.page import INK, drawing

    with drawing(7.2, 0.62 * len(beliefs) + 1.4) as drawn:
        axes = drawn.axes
        for row, b in enumerate(reversed(beliefs)):
            low, high = b.interval
            true = float(b.true.mean())
            axes.plot([low, high], [row, row], color=COLOURS[0], linewidth=3, solid_capstyle="round")
            axes.plot(true, row, "o", color=COLOURS[0], markersize=7, label="is worth (95 % interval over seeds)" if row == 0 else None)
            if b.believed is not None:
                believed = float(b.believed.mean())
                axes.annotate("", (believed, row), (true, row), arrowprops={"arrowstyle": "-", "color": COLOURS[1], "linestyle": ":"})
                axes.plot(believed, row, "D", color=COLOURS[1], markersize=7, label="believes" if row == 0 else None)
        for value, name in ((random, "random"), (log, "log"), (best, "best possible")):
            axes.axvline(value, color=INK, linewidth=0.8, linestyle="--")
            axes.text(value, len(beliefs) - 0.42, name, ha="right" if name == "random" else "left", va="bottom", fontsize=8, rotation=20)
        axes.axvspan(
            most,
            max(most * 1.02, *(float(b.believed.mean()) * 1.05 for b in beliefs if b.believed is not None)),
            color=COLOURS[1],
            alpha=0.12,
        )
        axes.set_yticks(range(len(beliefs)), [b.name for b in reversed(beliefs)])
        axes.set_ylim(-0.6, len(beliefs) - 0.4)
        axes.set_xlabel("survival rate (shaded: more than any policy can have)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2, frameon=False)
    return drawn.svg
