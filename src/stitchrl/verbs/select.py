"""`stitchrl select RUN… --data D`: which of these policies to use, judged from a log alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import tyro

from stitchrl.core.errors import ConfigError, StitchError
from stitchrl.core.settings import Natural, OpenFraction
from stitchrl.data.sources.tables import TableSchema
from stitchrl.verbs.flags import parse

if TYPE_CHECKING:
    from stitchrl.agent import Agent
    from stitchrl.data.dataset import Dataset
    from stitchrl.evaluation.evidence import Target
    from stitchrl.evaluation.selection import Estimates, Provenance, Selection

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
    from stitchrl.agent import load
    from stitchrl.core.files import write_json
    from stitchrl.evaluation.evidence import in_spaces_of
    from stitchrl.evaluation.selection import select as choose
    from stitchrl.recipes import datasets
    from stitchrl.report.selection_page import selection_page
    from stitchrl.verbs.data import table_options

    if not a.runs:
        raise ConfigError(f"{PROG}: name at least one run directory")
    if a.top < 1:
        raise ConfigError(f"{PROG}: --top is {a.top}; expected at least 1")
    agents = [load(path) for path in a.runs]
    dataset = _held_out(a, in_spaces_of(agents[0].spec, datasets.load(a.data, **table_options(a.schema, a.table))))
    discount = _discount(a, agents, dataset)
    read = [_candidates(path, agent, dataset, a, discount) for path, agent in zip(a.runs, agents, strict=True)]
    targets = [t for found in read for t in found.targets]
    made = choose(
        targets, dataset, _told(estimate, len(targets)), discount=discount, selector=a.selector,
        others={name: [v for found in read for v in found.scores[name]] for name in ("believed", "td_error")},
        clock=a.clock, level=a.level, seed=a.seed, top=a.top,
        provenance=[p for found in read for p in found.provenance],
        truth=[v for found in read for v in found.recorded] if a.against_recorded else None,
    )  # fmt: skip
    described = made.to_json() | {"data": {"source": a.data, "fingerprint": dataset.fingerprint(), "episodes": dataset.episodes}}
    if a.json is not None:
        write_json(a.json, described)
    if a.html is not None:
        a.html.write_text(selection_page(described), encoding="utf-8")
    return made


def _held_out(a: Select, dataset: Dataset) -> Dataset:
    """The episodes that all runs kept out of their training, where they learned from this log and kept the same share; else the log."""
    from stitchrl.core.files import read_json
    from stitchrl.experiment import split_held_out

    shares = set()
    for path in a.runs:
        config = read_json(path / "config.json") if (path / "policy").is_dir() else {}
        same = config.get("data", {}).get("fingerprint") == dataset.fingerprint()
        shares.add(float(config.get("preprocessing", {}).get("held_out", 0.0)) if same else 0.0)
    share = min(shares)
    if len(shares) > 1 or not share:
        return dataset
    print(f"{PROG}: judged by the {share:.0%} of the episodes that these runs held out", file=sys.stderr)
    return split_held_out(dataset, share)[1]


@final
@dataclass(frozen=True)
class _Read:
    """The candidates of one run: as many of each as it has seeds."""

    targets: list[Target]
    scores: dict[str, list[float | None]]
    provenance: list[Provenance]
    recorded: list[float | None]


def _candidates(path: Path, agent: Agent, dataset: Dataset, a: Select, discount: float) -> _Read:
    from stitchrl.evaluation.critic_scores import CriticScores, critic_scores
    from stitchrl.evaluation.evidence import AgentTarget
    from stitchrl.evaluation.judge import check_fits

    check_fits(agent.spec, dataset.spec, f"the log {a.data}")
    targets: list[Target] = []
    for seed in agent.seeds:
        target = AgentTarget(agent, seed, sampled=a.sampled)
        target.name = f"{path if sum(p.name == path.name for p in a.runs) > 1 else path.name}, seed {seed}"
        targets.append(target)
    try:
        critic = critic_scores(path, agent, dataset)
    except StitchError as error:
        if a.selector in ("believed", "td_error"):
            raise
        critic = CriticScores(None, None)  # only compared with, where there is a checkpoint
        print(f"{PROG}: no scores of the critic: {error}", file=sys.stderr)
    nothing: list[float | None] = [None] * len(agent.seeds)
    provenance, recorded = _history(path, dataset, discount)
    return _Read(
        targets, {"believed": [*(critic.believed or nothing)], "td_error": [*(critic.td_error or nothing)]}, [provenance] * len(targets),
        recorded or nothing,
    )  # fmt: skip


def _history(path: Path, dataset: Dataset, discount: float) -> tuple[Provenance, list[float | None] | None]:
    """What the run's files tell of its use of the environment, and the last values recorded there by this discount, one for each seed."""
    from stitchrl.evaluation.selection import Provenance
    from stitchrl.report.records_reader import read_run
    from stitchrl.report.summary import online_episodes

    if not (path / "config.json").is_file() or not (path / "policy").is_dir():
        return Provenance(str(path)), None  # a saved policy alone: nothing is known of how it came about
    run = read_run(path)
    fingerprint = run.data.get("fingerprint")
    same = None if fingerprint is None else fingerprint == dataset.fingerprint()
    offline = "environment" in run.config and run.config["environment"] is None
    if not run.evaluations:  # an environment is named and no evaluation is recorded: its file may be gone
        return Provenance(str(path), 0 if offline else None, 0, same), None
    last = run.evaluations[-1]
    # recorded by the discount of the algorithm; exact values of one that has none by the task's, its returns by 1
    own = (run.config.get("settings") or {}).get("discount")
    values = None
    if own == discount and last.exact_value is not None:
        values = last.exact_value
    elif own == discount and last.discounted_returns is not None:
        values = last.discounted_returns.mean(1)
    elif discount == 1:
        values = last.returns.mean(1)
    provenance = Provenance(str(path), online_episodes(run), len(run.evaluations), same)
    return provenance, None if values is None else [float(v) for v in values]


def _discount(a: Select, agents: Sequence[Agent], dataset: Dataset) -> float:
    if a.discount is not None:
        if not 0 <= a.discount <= 1:
            raise ConfigError(f"{PROG}: --discount is {a.discount}; expected a number from 0 to 1")
        return a.discount
    own = sorted({float(agent.config.discount) for agent in agents if hasattr(agent.config, "discount")})
    if len(own) > 1:
        raise ConfigError(
            f"{PROG}: the runs were trained with discounts {', '.join(map(str, own))}; say with --discount by which to judge all"
        )
    return own[0] if own else float(dataset.metadata.get("discount") or 0.99)


def _told(estimate: Estimates, count: int) -> Estimates:
    """The same estimates; which candidate is at work is told where someone watches."""
    done = 0

    def told(dataset: Dataset, target: Target, **settings: Any) -> Any:
        nonlocal done
        done += 1
        if sys.stderr.isatty():
            print(f"estimating {done}/{count}: {target.name}", file=sys.stderr)
        return estimate(dataset, target, **settings)

    return told


def selected_text(selection: Selection) -> str:
    """Returns what the terminal shows."""
    from stitchrl.report.selection_page import curve_rows, provenance_words, ranking_rows, verdict_words

    described = selection.to_json()
    ranked = [
        ["not estimable" if cell.startswith("not estimable") else cell for cell in row] for row in ranking_rows(described)
    ]  # why: below
    rows = [["", "candidate", selection.selector, "estimate", "minus logged", "first in"], *ranked]
    widths = [max(len(row[k]) for row in rows) for k in range(6)]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    words = [*verdict_words(described), provenance_words(described)]
    curve = [f"{k:>4}  {random:>10}  {ordered:>14}" for k, random, ordered in curve_rows(described)]
    if curve:
        source = described["expected_online_performance"]["from"]
        words.append(f"If you can afford k online trials, the best one tried is worth (from {source}):")
        words += ["   k   at random   in this order", *curve]
    notes = [f"note: {note}" for note in described["notes"]]
    return "\n".join([*lines, "", *words, *([""] if notes else []), *notes])
