"""`stitchrl select RUN… --data D`: which of these policies to use, judged from a log alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import tyro

from stitchrl.core.errors import ConfigError
from stitchrl.core.settings import Natural, OpenFraction
from stitchrl.data.sources.tables import TableSchema
from stitchrl.verbs.flags import parse

if TYPE_CHECKING:
    from stitchrl.data.dataset import Dataset
    from stitchrl.evaluation.evidence import Target
    from stitchrl.evaluation.selection import Estimates, Selection

PROG = "stitchrl select"


@final
@dataclass(frozen=True)
class Select:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """run directories; each of a run's seeds is a candidate"""
    data: str
    """the log to judge by, better one that no run was trained on: a built-in dataset, a file or a directory"""
    schema: Path | None = None
    """JSON or TOML file with the columns of a table"""
    table: TableSchema = field(default_factory=TableSchema)
    """the same as flags"""
    selector: str = "default"
    """default, an estimator's name, lower (end of the default's interval), lower:NAME, likeness, believed, td_error"""
    top: int = 3
    """how many candidates could be tried in the environment"""
    discount: float | None = None
    """None: that of the runs"""
    clock: Literal["continues", "ends"] = "continues"
    """what a timeout is: a cut in an episode that goes on, or its end"""
    sampled: bool = False
    """judge policies that draw their actions instead of taking the mode or mean"""
    quick: bool = False
    """fewer bootstrap draws, one seed and fewer steps of fitted values"""
    against_recorded: bool = False
    """also tell how the ranking agrees with what the runs' evaluations recorded; the ranking itself never reads them"""
    level: OpenFraction = 0.95
    """of the intervals"""
    seed: Natural = 0
    json: Path | None = None
    html: Path | None = None


def select(arguments: Sequence[str]) -> int:
    """Ranks policies by a log."""
    a = parse(
        Select, arguments, PROG, "Rank trained policies by a log alone: estimates with intervals, and what choosing the best is worth."
    )
    from stitchrl.core.settings import check_settings
    from stitchrl.evaluation.estimates import estimates

    check_settings(a, PROG)
    print(selected_text(run_selection(a, partial(estimates, quick=a.quick))))
    return 0


def run_selection(a: Select, estimate: Estimates) -> Selection:
    """Returns the selection that the flags ask for and writes its files; `estimate` gives all estimates of one policy."""
    from stitchrl.candidates import Asked, select_runs
    from stitchrl.core.files import check_writable, write_atomically, write_json
    from stitchrl.recipes import datasets
    from stitchrl.report.selection_page import selection_page
    from stitchrl.verbs.data import table_options

    if not a.runs:
        raise ConfigError(f"{PROG}: name at least one run directory")
    check_writable(a.json, "--json")
    check_writable(a.html, "--html")
    asked = Asked(a.selector, a.top, a.discount, a.clock, a.sampled, a.quick, a.against_recorded, a.level, a.seed)
    dataset = datasets.load(a.data, **table_options(a.schema, a.table))
    made = select_runs(a.runs, dataset, asked, source=a.data, estimate=_told(estimate))
    described = made.to_json()
    if a.json is not None:
        write_json(a.json, described)
    if a.html is not None:
        write_atomically(a.html, selection_page(described).encode())
    return made


def _told(estimate: Estimates) -> Estimates:
    """The same estimates; which candidate is at work is told where someone watches."""
    done = 0

    def told(dataset: Dataset, target: Target, **settings: Any) -> Any:
        nonlocal done
        done += 1
        if sys.stderr.isatty():
            print(f"estimating {done}: {target.name}", file=sys.stderr)
        return estimate(dataset, target, **settings)

    return told


def selected_text(selection: Selection) -> str:
    """Returns what the terminal shows."""
    from stitchrl.report.selection_page import INFORMATION, curve_rows, provenance_words, ranking_rows, refused_rows, verdict_words

    described = selection.to_json()
    lines = _columns(["", "candidate", selection.selector, "estimate", "minus logged", "first in"], ranking_rows(described))
    if refused := refused_rows(described):
        lines += ["", "Not ranked, in the order given (what is said of them is information, no ranking):"]
        lines += _columns(["candidate", *INFORMATION], [row[:-1] for row in refused])
        lines += [f"  {name}: {reason}" for name, *_, reason in refused]
    words = [*verdict_words(described), provenance_words(described)]
    curve = [f"{k:>4}  {random:>10}  {ordered:>14}" for k, random, ordered in curve_rows(described)]
    if curve:
        source = described["expected_online_performance"]["from"]
        words.append(f"If you can afford k online trials, the best one tried is worth (from {source}):")
        words += ["   k   at random   in this order", *curve]
    notes = [f"note: {note}" for note in described["notes"]]
    return "\n".join([*lines, "", *words, *([""] if notes else []), *notes])


def _columns(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table with columns of one width."""
    widths = [max(len(row[k]) for row in (titles, *rows)) for k in range(len(titles))]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in (titles, *rows)]
