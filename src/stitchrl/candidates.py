"""Which of these trained policies to use, by a log alone: runs become candidates with their critics' scores and their history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

from stitchrl.agent import Agent, load
from stitchrl.core.errors import ConfigError, StitchError
from stitchrl.core.files import read_json
from stitchrl.data.dataset import Dataset
from stitchrl.data.finite_values import check_rewards_told
from stitchrl.data.identity import KnownBy, known_as
from stitchrl.evaluation.critic_scores import CriticScores, critic_scores
from stitchrl.evaluation.crossfit import check_target
from stitchrl.evaluation.estimates import estimates
from stitchrl.evaluation.evidence import AgentTarget, Clock, Target
from stitchrl.evaluation.judge import check_fits
from stitchrl.evaluation.seen_by_policy import check_categories, seen_by
from stitchrl.evaluation.selection import Estimates, Provenance, Selection, select
from stitchrl.experiment import split_held_out
from stitchrl.report.records_reader import read_run
from stitchrl.report.summary import online_episodes

OF_CRITICS = ("believed", "td_error")


@final
@dataclass(frozen=True)
class Asked:
    """What is asked of policies and a log. discount: None, that of the runs. against_recorded: also tell how the ranking agrees with what the runs'
    evaluations recorded, which the ranking itself never reads. quick: fewer bootstrap draws, one seed and fewer steps of fitted values."""

    selector: str = "default"
    top: int = 3
    discount: float | None = None
    clock: Clock = "continues"
    sampled: bool = False
    quick: bool = False
    against_recorded: bool = False
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"select: top is {self.top}; expected at least 1")
        if self.discount is not None and not 0 <= self.discount <= 1:
            raise ConfigError(f"select: discount is {self.discount}; expected a number from 0 to 1")


def select_runs(
    runs: Sequence[str | Path | Agent], dataset: Dataset, asked: Asked, *, source: str = "in memory", estimate: Estimates | None = None
) -> Selection:
    """Returns the policies of runs (each seed is a candidate) and the logged behaviour, ranked by a log.

    Where all runs learned from this log and held out the same share of it, those episodes judge. `estimate` gives all estimates of one policy.
    Raises ConfigError, DataError, CheckpointError.
    """
    if not runs:
        raise ConfigError("select: there is nothing to select from; name at least one run directory")
    agents = [one if isinstance(one, Agent) else load(Path(one)) for one in runs]
    known_by = KnownBy(dataset)
    judged_on, notes = _held_out(runs, dataset, known_by)
    for agent in agents:
        check_categories(agent.categories, judged_on)
    log = seen_by(agents[0], judged_on)
    check_rewards_told(log, "every estimate", "")
    discount = _discount(asked, agents, log)
    names, known_by = _names(runs, agents), known_by if judged_on is dataset else KnownBy(judged_on)
    read = []
    for one, agent, name in zip(runs, agents, names, strict=True):
        read.append(_candidates(one, agent, name, log, known_by, asked, discount, source, notes))
    made = select(
        [t for found in read for t in found.targets], log, estimate or partial(estimates, quick=asked.quick), discount=discount,
        selector=asked.selector, others={name: [v for found in read for v in found.scores[name]] for name in OF_CRITICS},
        clock=asked.clock, level=asked.level, seed=asked.seed, top=asked.top,
        provenance=[p for found in read for p in found.provenance],
        truth=[v for found in read for v in found.recorded] if asked.against_recorded else None,
    )  # fmt: skip
    data = {"source": source, "fingerprint": known_by.fingerprint(), "episodes": judged_on.episodes}
    return replace(made, notes=(*notes, *made.notes), data=data)


@final
@dataclass(frozen=True)
class _Read:
    """The candidates of one run: as many of each as it has seeds."""

    targets: list[Target]
    scores: dict[str, list[float | None]]
    provenance: list[Provenance]
    recorded: list[float | None]


def _candidates(
    run: str | Path | Agent,
    agent: Agent,
    name: str,
    log: Dataset,
    known_by: KnownBy,
    asked: Asked,
    discount: float,
    source: str,
    notes: list[str],
) -> _Read:
    """`log` as the policies see it; `known_by`: it as it was read, by which a run knows it."""
    check_fits(agent.spec, log.spec, f"the log {source}")
    targets: list[Target] = []
    for seed in agent.seeds:
        target = AgentTarget(agent, seed, sampled=asked.sampled)
        target.name = f"{name}, seed {seed}"
        check_target(log, target)
        targets.append(target)
    nothing: list[float | None] = [None] * len(agent.seeds)
    critic, history, recorded = CriticScores(None, None), Provenance(name), None
    if isinstance(run, Agent):
        if asked.selector in OF_CRITICS:
            raise ConfigError(f"select: selector '{asked.selector}' reads a run's checkpoint; '{name}' is a policy without its run")
    else:
        try:
            critic = critic_scores(Path(run), agent, log)
        except StitchError as error:
            if asked.selector in OF_CRITICS:
                raise
            notes.append(f"{name}: no scores of the critic: {error}")  # they are only compared with
        history, recorded = _history(Path(run), known_by, discount)
    scores = {"believed": [*(critic.believed or nothing)], "td_error": [*(critic.td_error or nothing)]}
    return _Read(targets, scores, [history] * len(targets), recorded or nothing)


def _names(runs: Sequence[str | Path | Agent], agents: Sequence[Agent]) -> list[str]:
    """One for each run, all different: the directory's last part where that is enough; of policies in memory their algorithm and place."""
    short = [agent.name if isinstance(one, Agent) else Path(one).name for one, agent in zip(runs, agents, strict=True)]
    names = []
    for i, (one, name) in enumerate(zip(runs, short, strict=True)):
        twice = short.count(name) > 1
        names.append(name if not twice else f"{name} ({i + 1})" if isinstance(one, Agent) else str(one))
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"select: '{again}' is named twice; name each run once")
    return names


def _held_out(runs: Sequence[str | Path | Agent], dataset: Dataset, known_by: KnownBy) -> tuple[Dataset, list[str]]:
    """The episodes that all runs kept out of their training, where they learned from this log and kept the same share; else the log."""
    shares = set()
    for one in runs:
        config = {} if isinstance(one, Agent) or not (Path(one) / "policy").is_dir() else read_json(Path(one) / "config.json")
        same = "data" in config and known_as(config["data"], known_by) == "these"
        shares.add(float(config.get("preprocessing", {}).get("held_out", 0.0)) if same else 0.0)
    share = min(shares)
    if len(shares) > 1 or not share:
        return dataset, []
    return split_held_out(dataset, share)[1], [f"judged by the {share:.0%} of the episodes that these runs held out"]


def _history(path: Path, known_by: KnownBy, discount: float) -> tuple[Provenance, list[float | None] | None]:
    """What the run's files tell of its use of the environment, and the last values recorded there by this discount, one for each seed."""
    if not (path / "config.json").is_file() or not (path / "policy").is_dir():
        return Provenance(str(path)), None  # a saved policy alone: nothing is known of how it came about
    run = read_run(path)
    known = "unknown" if run.data.get("fingerprint") is None else known_as(run.data, known_by)
    same = None if known == "unknown" else known != "another"
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
    parent = run.config.get("parent") or {}
    provenance = Provenance(
        str(path), online_episodes(run), len(run.evaluations), same, parent.get("path"), int(parent.get("online_episodes", 0))
    )
    return provenance, None if values is None else [float(v) for v in values]


def _discount(asked: Asked, agents: Sequence[Agent], dataset: Dataset) -> float:
    if asked.discount is not None:
        return asked.discount
    own = sorted({float(agent.config.discount) for agent in agents if hasattr(agent.config, "discount")})
    if len(own) > 1:
        raise ConfigError(f"select: the runs were trained with discounts {', '.join(map(str, own))}; say by which `discount` to judge all")
    return own[0] if own else float(dataset.metadata.get("discount") or 0.99)
