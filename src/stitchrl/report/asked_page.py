"""The report's part on what a return-conditioned policy was asked for and what it obtained, from asked_returns.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.core.errors import CheckpointError
from stitchrl.core.intervals import interval, mean
from stitchrl.report.page import COLOURS, Section, drawing, figure, figures, paragraph, table
from stitchrl.report.summary import common_digits, short_number

FILE = "asked_returns.json"  # in a run's directory, written by `stitchrl evaluate --targets`


def asked_section(run: Path) -> Section | None:
    """Returns the section, or None where nothing was asked; raises CheckpointError where the file cannot be read."""
    file = run / FILE
    if not file.is_file():
        return None
    asked, returns, record = _read(file)
    intervals = [interval([returns[:, g]], mean, generator=np.random.default_rng(0)) for g in range(len(asked))]
    rows = []
    for target, found, episodes in zip(asked, intervals, np.moveaxis(returns, 1, 0), strict=True):
        digits = common_digits(found.estimate, found.low, found.high)
        ends = f"{short_number(found.low, digits)} to {short_number(found.high, digits)}" if math.isfinite(found.low) else "–"
        seeds = ", ".join(short_number(float(x)) for x in episodes.mean(1))
        rows.append([short_number(float(target)), short_number(found.estimate, digits), ends, seeds])
    about = paragraph(
        f"{record['environment']}{_otherwise(record)}: {returns.shape[2]} episodes of each seed for each target, all begun alike. "
        "On the dashed line a policy does what it is asked."
    )
    told = table(["asked for", "obtained, mean", "95 %", "seeds"], rows, "returns, undiscounted")
    return Section("Asked and obtained", about + figures([_curve(asked, returns, record)]) + told)


def _otherwise(record: dict[str, Any]) -> str:
    """How it was asked otherwise than the run is."""
    changed = [f"{name} {value}" for name, value in (record.get("settings") or {}).items()] + ["sampled actions"] * bool(
        record.get("sampled")
    )
    return f", with {', '.join(changed)}" if changed else ""


def _curve(asked: np.ndarray, returns: np.ndarray, record: dict[str, Any]) -> str:
    """Obtained against asked: the mean over seeds, each seed, and the range of the log's own returns."""
    order = np.argsort(asked)
    x, seeds = asked[order], returns.mean(2)[:, order]  # [G], [S, G]
    with drawing(width=5.4, height=3.8) as drawn:
        axes = drawn.axes
        axes.plot([x[0], x[-1]], [x[0], x[-1]], color="#888888", linestyle="--", linewidth=1.0, label="as asked")
        if record.get("logged"):
            axes.axvspan(*record["logged"], color=COLOURS[1], alpha=0.1, linewidth=0, label="returns in the log")
        for one in seeds:
            axes.plot(x, one, color=COLOURS[0], alpha=0.35, linewidth=0.9, marker=".", markersize=5)
        axes.plot(x, seeds.mean(0), color=COLOURS[0], linewidth=1.8, marker="o", markersize=4.5, label="obtained, mean over seeds")
        axes.set_xlabel("return asked for")
        axes.set_ylabel("return obtained")
        axes.legend(fontsize=8, frameon=False)
    alt = "; ".join(f"asked {a:.4g}, obtained {o:.4g}" for a, o in zip(x, seeds.mean(0), strict=True))
    return figure(drawn.svg, "What was obtained where each return was asked for. Faint: each seed.", alt)


def _read(file: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The targets `[G]`, the returns `[S, G, episodes]` and the whole record."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        asked, returns = np.array(record["asked"], np.float64), np.array(record["returns"], np.float64)
        logged = record["logged"]
        fits = returns.ndim == 3 and returns.shape[1:2] == asked.shape and returns.size > 0
        fits = fits and bool(np.isfinite(returns).all() and np.isfinite(asked).all()) and "environment" in record
        fits = fits and (logged is None or (len(logged) == 2 and all(math.isfinite(float(x)) for x in logged)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); run `stitchrl evaluate --targets` again") from error
    if not fits:
        raise CheckpointError(f"{file}: expected 'asked' [G], 'returns' [S, G, episodes] and 'logged' of two numbers or null, all finite")
    return asked, returns, record
