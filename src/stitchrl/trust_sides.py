"""Policies that a log is to judge: each with the episodes that may judge it, and what is known of where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from stitchrl.agent import Agent
from stitchrl.core.files import read_json
from stitchrl.data.dataset import Dataset
from stitchrl.data.identity import KnownBy, known_as
from stitchrl.evaluation.crossfit import check_target
from stitchrl.evaluation.evidence import AgentTarget, Target
from stitchrl.evaluation.seen_by_policy import seen_by
from stitchrl.evaluation.trust_checks import Provenance
from stitchrl.evaluation.value_sanity import value_sanity
from stitchrl.experiment import split_held_out
from stitchrl.report.records_reader import read_run
from stitchrl.report.summary import online_episodes


@final
@dataclass(frozen=True)
class Side:
    """A policy to judge, the episodes that it learned from (where they are known to be others), and those that may judge it."""

    target: Target
    run: Path | None
    trained_on: Dataset | None
    judged_on: Dataset
    provenance: Provenance
    sanity: Mapping[str, Any]


def side_of(policy: str | Path | Agent, acting: Agent, dataset: Dataset, seed: int | None, sampled: bool) -> Side:
    """Returns a policy (of a run, of a saved policy, or in memory) as `acting` plays it, judged by a log. Raises DataError, ConfigError."""
    run = None if isinstance(policy, Agent) or not (Path(policy) / "policy").is_dir() else Path(policy)
    target, seen = AgentTarget(acting, seed, sampled=sampled), seen_by(acting, dataset)
    check_target(seen, target)
    config = read_json(run / "config.json") if run is not None else {}
    learned, rest, provenance = _origin(config, run, dataset)  # by its fingerprint: the log as it was read
    judged_on = seen if rest is dataset else seen_by(acting, rest)
    sanity = {} if run is None else {"sanity": value_sanity(run, seen)}
    return Side(target, run, None if learned is None else seen_by(acting, learned), judged_on, provenance, sanity)


def discount_of(dataset: Dataset) -> float:
    """Returns 1 for a log whose episodes end by themselves, else what the field uses for tasks that do not."""
    return 1.0 if bool(np.asarray(dataset.terminals)[dataset.offsets[1:] - 1].all()) else 0.99


def _origin(config: Mapping[str, Any], run: Path | None, dataset: Dataset) -> tuple[Dataset | None, Dataset, Provenance]:
    """The episodes a run learned from where they are known to be others, those to judge on, and where the policy comes from."""
    if run is None or "data" not in config:
        return None, dataset, Provenance("unknown", None)
    online = online_episodes(read_run(run))  # an online phase's: also those of the run before it; the steps it learned from are told too
    own = int(config["training"]["steps"]) if "online" in config else 0
    known, held_out = known_as(config["data"], KnownBy(dataset)), float(config.get("preprocessing", {}).get("held_out", 0.0))
    if known == "regrouped" and not held_out:
        known = "these"
    if known != "these" or not held_out:
        return None, dataset, Provenance(known, online, own)
    learned, rest = split_held_out(dataset, held_out)
    return learned, rest, Provenance("others", online, own)
