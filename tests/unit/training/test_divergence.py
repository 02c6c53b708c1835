"""Steps that would spoil the weights: found before they are taken, and told with network, seed and step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.errors import DivergenceError
from stitchrl.core.policy import Policy
from stitchrl.core.spec import Box, Spec
from stitchrl.data.sampling import DeviceRows
from stitchrl.nn.mlp import Scalar
from stitchrl.training.blocks import BLOCK_STEPS
from stitchrl.training.crash_report import crash_report
from stitchrl.training.learner import Learner, Training
from stitchrl.training.trainer import train

SPEC = Spec(Box((1,)), Box((1,), (-1.0,), (1.0,)))


@final
@dataclass(frozen=True)
class RootConfig:
    clip_norm: float | None = None


@final
class Root(Algorithm):
    """Two numbers: `square` has the loss x · value², `root` the loss sqrt(max(r, 0) · value²), whose slope at r = 0 is NaN."""

    batch = Transitions()

    def __init__(self, config: RootConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.square, self.root = Scalar(1.0), Scalar(1.0)
        self.optimizers = dict.fromkeys(("square", "root"), Adam(0.01, clip_norm=config.clip_norm))

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, _, r, _, _ = batch
        found = {"square": s.mean() * self.square().square(), "root": (r.clamp_min(0).mean() * self.root().square()).sqrt()}
        return {name: found[name] for name in due & {"square", "root"}}, {}

    def policy(self) -> Policy:
        raise NotImplementedError


def learner(rewards: float = 1.0, seeds: tuple[int, ...] = (7,), clip_norm: float | None = None, **training: Any) -> Learner:
    rows = torch.ones(4, 5)
    rows[:, 2] = rewards
    settings = Training(**{"steps": 200, "batch_size": 2, "compile": "off", **training})
    return Learner(Root, RootConfig(clip_norm), SPEC, DeviceRows(rows), seeds, settings, torch.device("cpu"))


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("seeds", [(7,), (7, 9)])
def test_a_gradient_that_is_not_finite_under_a_finite_loss(seeds: tuple[int, ...], clip_norm: float | None) -> None:
    it = learner(seeds=seeds, clip_norm=clip_norm)
    for _ in range(5):
        it.advance()
    it.check()
    before = {name: value.clone() for name, value in it.update.tensors().items()}
    it.blocks.rows.table[:, 2] = 0.0  # type: ignore[attr-defined]
    for _ in range(3):
        it.advance()
    for name, value in it.update.tensors().items():
        assert torch.equal(value, before[name]), name
    of = "7" if len(seeds) == 1 else "7, 9"
    with pytest.raises(DivergenceError, match=rf"step 5: gradient/root of seed {of} \(the losses are finite\) is not finite"):
        it.check()
    assert it.step == 5


def test_a_halt_is_noticed_at_the_latest_when_the_next_block_begins() -> None:
    it = learner()
    it.advance()
    it.blocks.rows.table[:, 2] = 0.0  # type: ignore[attr-defined]
    for _ in range(BLOCK_STEPS - 1):
        it.advance()
    with pytest.raises(DivergenceError, match="step 1:"):
        it.advance()


def test_a_halted_learner_goes_on_from_a_checkpoint() -> None:
    it = learner()
    for _ in range(3):
        it.advance()
    saved = {name: value.clone() for name, value in it.tensors().items()}
    it.blocks.rows.table[:, 2] = 0.0  # type: ignore[attr-defined]
    it.advance()
    with pytest.raises(DivergenceError):
        it.check()
    it.blocks.rows.table[:, 2] = 1.0  # type: ignore[attr-defined]
    it.restore(saved, 3)
    it.advance()
    it.check()
    assert it.update.taken == 4


def test_the_sequential_order_says_that_earlier_networks_may_have_moved() -> None:
    it = learner(order="sequential")
    it.blocks.rows.table[:, 2] = 0.0  # type: ignore[attr-defined]
    it.advance()
    assert it.update.parameters["square.value"] != 1 and it.update.parameters["root.value"] == 1
    with pytest.raises(DivergenceError, match="but for networks that move before it"):
        it.check()


@pytest.mark.parametrize("cadence", [{"log_every": 1}, {"save_every": 1}, {}])
def test_nothing_is_logged_saved_or_evaluated_after_a_step_that_failed(cadence: dict[str, int]) -> None:
    it = learner(**{"log_every": 1000, "save_every": 1000, **cadence})
    seen: list[tuple[str, int]] = []
    for _ in range(4):
        it.advance()
    it.blocks.rows.table[:, 2] = 0.0  # type: ignore[attr-defined]
    with pytest.raises(DivergenceError, match="step 4:"):
        train(
            it,
            log=lambda step, speed, metrics: seen.append(("log", step)),
            save=lambda step: seen.append(("save", step)),
            evaluate=lambda step: seen.append(("evaluate", step)),
            evaluate_every=0 if cadence else 1,
            stop=lambda: False,
        )
    assert seen == []


def test_a_report_is_whole_or_warned_of_in_place_of_the_divergence(tmp_path: Path) -> None:
    it = learner()
    it.blocks.rows.table[:, 2] = 0.0  # type: ignore[attr-defined]
    it.advance()
    with pytest.raises(DivergenceError) as caught:
        it.check()
    crash_report(tmp_path, it, caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["crash_batch.safetensors", "crash_report.json"]
    assert load_file(tmp_path / "crash_batch.safetensors")["index"].tolist() == it.last_batch()[1].tolist()
    for file in list(tmp_path.iterdir()):
        file.unlink()
    (tmp_path / "crash_batch.safetensors").mkdir()  # cannot be replaced by a file, as nothing can be written on a full disk
    with pytest.warns(UserWarning, match="the report of the divergence could not be written"):
        crash_report(tmp_path, it, caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["crash_batch.safetensors"]
