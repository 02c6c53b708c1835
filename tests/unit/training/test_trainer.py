"""The loop and what it calls, when; blocks; signals."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from stitchrl.core.errors import CheckpointError, ConfigError
from stitchrl.core.randomness import Normal, Uniform
from stitchrl.data.sampling import DeviceRows
from stitchrl.training import compilation
from stitchrl.training.blocks import BLOCK_STEPS, Blocks
from stitchrl.training.trainer import listening, train
from tests.unit.training.test_divergence import learner

CPU = torch.device("cpu")


def run(calls: list[tuple[str, int]], stop_after: int = 10**9, evaluate_every: int = 0, **training: int) -> int:
    it = learner(**training)
    train(
        it,
        log=lambda step, speed, metrics: calls.append(("log", step)),
        save=lambda step: calls.append(("save", step)),
        evaluate=lambda step: calls.append(("evaluate", step)),
        evaluate_every=evaluate_every,
        stop=lambda: it.step >= stop_after,
    )
    return it.step


def test_metrics_checkpoints_and_evaluations_come_at_their_steps_and_at_the_last() -> None:
    calls: list[tuple[str, int]] = []
    assert run(calls, steps=10, log_every=4, save_every=3, evaluate_every=6) == 10
    assert [step for name, step in calls if name == "log"] == [4, 8, 10]
    assert [step for name, step in calls if name == "save"] == [3, 6, 9, 10]
    assert [step for name, step in calls if name == "evaluate"] == [6, 10]
    assert calls[-3:] == [("log", 10), ("save", 10), ("evaluate", 10)], "an evaluation that never ends loses no step"


def test_a_stop_saves_where_it_stands() -> None:
    calls: list[tuple[str, int]] = []
    assert run(calls, stop_after=7, steps=100, log_every=50, save_every=50) == 7
    assert calls == [("save", 7)]
    calls.clear()
    assert run(calls, stop_after=50, steps=50, log_every=50, save_every=50) == 50
    assert calls == [("log", 50), ("save", 50)]


def test_metrics_are_means_since_the_last_reading() -> None:
    it = learner(steps=10)
    values = []
    for _ in range(4):
        it.advance()
        values.append(it.read_metrics()["loss/square"][0])
    assert values[0] == 1.0 and values == sorted(values, reverse=True)  # value² from 1, moved by 0.01 a step
    assert values[1] == pytest.approx(0.99**2, rel=1e-4)
    other = learner(steps=10)
    for _ in range(4):
        other.advance()
    assert other.read_metrics()["loss/square"][0] == pytest.approx(sum(values) / 4)


def test_signals_are_heard_and_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listening() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and stop.signal == signal.SIGTERM
        with pytest.raises(SystemExit) as second:
            os.kill(os.getpid(), signal.SIGTERM)
        assert second.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def blocks(seeds: tuple[int, ...], batch_size: int = 8, **noise: Normal | Uniform) -> Blocks:
    return Blocks(DeviceRows(torch.arange(50.0).reshape(10, 5)), dict(noise), batch_size, seeds, CPU, torch.float32)


def test_each_seed_draws_what_it_draws_alone() -> None:
    together = blocks((4, 9), z=Normal((3,)), u=Uniform((2, 2)))
    alone = blocks((9,), z=Normal((3,)), u=Uniform((2, 2)))
    for _ in range(3):
        ours, theirs = together.draw(), alone.draw()
        assert ours.index.shape == (BLOCK_STEPS, 2, 8) and theirs.index.shape == (BLOCK_STEPS, 8)
        assert torch.equal(ours.index[:, 1], theirs.index)
        assert all(torch.equal(ours.noise[name][:, 1], theirs.noise[name]) for name in ("z", "u"))
        assert not torch.equal(ours.index[:, 0], ours.index[:, 1])


def test_what_noise_is_drawn_does_not_change_which_rows_are() -> None:
    assert torch.equal(blocks((4,), z=Normal((3,))).draw().index, blocks((4,)).draw().index)


def test_rows_are_drawn_uniformly() -> None:
    counts = torch.bincount(blocks((0,), batch_size=1000).draw().index.reshape(-1), minlength=10).double()
    expected = BLOCK_STEPS * 100
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_a_checkpoint_of_another_kind_of_device_is_refused() -> None:
    one = blocks((0,))
    tensors = {name: value[:16] for name, value in one.tensors().items()}
    with pytest.raises(CheckpointError, match="kind of device"):
        one.restore(tensors)


def test_a_checkpoint_that_does_not_fit_is_refused() -> None:
    saved = learner().tensors()
    with pytest.raises(CheckpointError, match=r"has no 'parameters/root.value'"):
        learner().restore({k: v for k, v in saved.items() if k != "parameters/root.value"}, 0)
    with pytest.raises(CheckpointError, match="shape"):
        learner(seeds=(1, 2)).restore(saved, 0)
    with pytest.raises(CheckpointError, match="precision"):
        learner(precision="float64").restore(saved, 0)
    with pytest.raises(CheckpointError, match="not finite"):
        learner().restore(saved | {"parameters/root.value": torch.tensor([float("nan")])}, 0)
    with pytest.raises(CheckpointError, match="cannot be continued exactly"):
        learner().restore({k: v for k, v in saved.items() if not k.startswith("generators/")}, 0)


def test_short_runs_on_a_cpu_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not compilation.choose("off", 10**9, CPU)[0]
    assert not compilation.choose("auto", compilation.WORTHWHILE_STEPS - 1, CPU)[0]
    monkeypatch.setenv("PATH", "")
    assert not compilation.choose("auto", 10**9, CPU)[0]
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        compilation.choose("on", 10, CPU)
