"""An offline phase and the online one after it, as a curve shows them and as provenance counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.report.plots import _both_phases, learning_curves
from stitchrl.report.records_reader import Curve, Evaluation, Run
from stitchrl.report.summary import online_episodes


def evaluation(step: int, value: float, environment: str = "here", seeds: int = 2) -> Evaluation:
    return Evaluation(step=step, seconds=1.0, environment=environment, returns=np.full((seeds, 3), value))


def run(offline: list[Evaluation], **config: Any) -> Run:
    online = [evaluation(0, 2.0), evaluation(10, 3.0)]
    return Run(Path("run"), {"algorithm": "iql", **config}, {}, online, offline=offline)


PARENT: dict[str, Any] = {"parent": {"path": "before", "step": 100, "online_episodes": 12}}


def test_the_offline_phase_lies_below_zero() -> None:
    """Its last evaluation is the online phase's first; those of another task or of other seeds are no part of the curve."""
    before = [evaluation(50, 1.0), evaluation(60, 9.0, "elsewhere"), evaluation(70, 9.0, seeds=1), evaluation(100, 2.0)]
    steps, shown = _both_phases(run(before, **PARENT), "return")
    assert steps == [-50, 0, 10] and [float(e.returns[0, 0]) for e in shown] == [1.0, 2.0, 3.0]
    axes = learning_curves([run(before, **PARENT)]).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [-50, 0, 10] and "environment" in axes.get_xlabel()  # type: ignore[union-attr]


def test_a_run_without_a_parent_is_drawn_as_ever() -> None:
    assert _both_phases(run([]), "return")[0] == [0, 10]
    assert learning_curves([run([])]).axes[0].get_xlabel() == "gradient steps"


def test_all_episodes_are_counted() -> None:
    """2 evaluations of 2 x 3, 7 and 8 episodes learned from, and 12 before."""
    one = run([], **PARENT)
    one.metrics["online/episodes"] = Curve(np.array([5.0, 10.0]), np.array([[3.0, 4.0], [7.0, 8.0]]))
    assert online_episodes(one) == 12 + 15 + 12 and online_episodes(run([])) == 12
