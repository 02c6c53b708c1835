"""Adam, schedules, clipping and averages against PyTorch's own and against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam
from stitchrl.training import optimization

GO, HALT = torch.tensor(0.0), torch.tensor(1.0)


def start(dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in ((3, 4), (4,), ())]


def written_out(
    adam: Adam, parameters: list[Tensor], gradients: list[Tensor], moments: tuple[list[Tensor], list[Tensor]], count: Tensor
) -> None:
    """Takes the step that a compiled run takes, without compiling it."""
    real = torch.compiler.is_compiling
    torch.compiler.is_compiling = lambda: True  # type: ignore[assignment]
    try:
        optimization.adam_step(adam, parameters, gradients, *moments, count, 100, GO)
    finally:
        torch.compiler.is_compiling = real


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("compiled", [False, True], ids=["fused", "written out"])
@pytest.mark.parametrize(
    ("weight_decay", "decay", "kind"),
    [(0.0, "decoupled", torch.optim.Adam), (0.1, "decoupled", torch.optim.AdamW), (0.1, "gradient", torch.optim.Adam)],
)
def test_adam_is_pytorchs(
    dtype: torch.dtype, compiled: bool, weight_decay: float, decay: Literal["decoupled", "gradient"], kind: type[torch.optim.Optimizer]
) -> None:
    adam = Adam(1e-2, betas=(0.8, 0.95), epsilon=1e-5, weight_decay=weight_decay, decay=decay)
    ours, theirs = start(dtype), [p.requires_grad_() for p in start(dtype)]
    first, second = ([torch.zeros_like(p) for p in ours] for _ in range(2))
    count = torch.zeros(())
    settings: dict[str, Any] = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": weight_decay}
    oracle = kind(theirs, **settings)
    for step in range(60):
        gradients = start(dtype, seed=step + 1)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        oracle.step()
        if compiled:
            written_out(adam, ours, gradients, (first, second), count)
        else:
            optimization.adam_step(adam, ours, gradients, first, second, count, 100, GO)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other.detach(), rtol=tolerance, atol=tolerance)
    assert count == 60


def test_a_transposed_gradient_moves_the_weights_it_is_of() -> None:
    # a product with a weight's transpose, as EDAC's, has a gradient in that layout; the fused optimizer alone would read it in order of memory
    values = [torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(3, 4)]
    gradient = torch.arange(12.0).reshape(4, 3).T
    optimization.adam_step(Adam(1e-2), *([x] for x in (values[0], gradient, values[1], values[2])), torch.zeros(()), 100, GO)
    torch.testing.assert_close(values[1], 0.1 * gradient)


def test_the_first_adam_step_is_one_learning_rate_against_the_sign() -> None:
    # m = 0.1 g, v = 0.001 g², corrected to g and g²: a step of rate · g / (|g| + eps)
    parameters, gradients = [torch.tensor([1.0, 1.0], dtype=torch.float64)], [torch.tensor([4.0, -0.5], dtype=torch.float64)]
    moments = [torch.zeros(2, dtype=torch.float64)], [torch.zeros(2, dtype=torch.float64)]
    optimization.adam_step(Adam(0.125), parameters, gradients, *moments, torch.zeros(()), 1, GO)
    torch.testing.assert_close(parameters[0], torch.tensor([0.875, 1.125], dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("bad", [1.0, math.nan, math.inf])
def test_a_halted_step_changes_nothing(bad: float) -> None:
    parameters, count = start(torch.float32), torch.tensor(3.0)
    moments = [torch.ones_like(p) for p in parameters], [torch.ones_like(p) for p in parameters]
    gradients = [torch.full_like(p, bad) for p in parameters]
    optimization.adam_step(Adam(weight_decay=0.1), parameters, gradients, *moments, count, 10, HALT)
    averages = start(torch.float32, seed=9)
    optimization.average_step(averages, gradients, 0.5, HALT)
    for now, before in zip([*parameters, *averages], [*start(torch.float32), *start(torch.float32, seed=9)], strict=True):
        assert torch.equal(now, before)
    assert all((m == 1).all() for group in moments for m in group)
    assert count == 3


def test_schedules() -> None:
    def rates(adam: Adam, counts: list[float], updates: int) -> list[float]:
        return [optimization.learning_rate(adam, torch.tensor(c), updates).item() for c in counts]

    assert rates(Adam(2.0), [0, 7, 1000], 10) == [2, 2, 2]
    # 2 · (1 + cos(pi · count / 10)) / 2
    assert rates(Adam(2.0, schedule="cosine"), [0, 5, 10, 20], 10) == pytest.approx([2, 1, 0, 0], abs=1e-6)
    third = 2 * 0.5 * (1 + math.cos(math.pi * 3 / 10))
    assert rates(Adam(2.0, schedule="cosine"), [3], 10) == pytest.approx([third])
    assert rates(Adam(2.0, warmup_steps=4), [0, 1, 3, 4, 9], 10) == pytest.approx([0.5, 1.0, 2.0, 2.0, 2.0])
    assert rates(Adam(2.0, warmup_steps=4, schedule="cosine"), [0, 5], 10) == pytest.approx([0.5, 1.0])


def test_the_cosine_is_pytorchs() -> None:
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=3e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for count in range(50):
        assert optimization.learning_rate(Adam(3e-4, schedule="cosine"), torch.tensor(float(count)), 50).item() == pytest.approx(
            scheduler.get_last_lr()[0], rel=1e-4, abs=1e-10
        )
        optimizer.step()
        scheduler.step()


def test_each_seed_is_clipped_by_itself() -> None:
    # norms 5 and 10 against the limit 8: the first stays, the second is scaled by 0.8
    gradients = [torch.tensor([[3.0, 0.0], [6.0, 0.0]]), torch.tensor([[[4.0]], [[8.0]]])]
    norms = optimization.gradient_norms(gradients, 2)
    torch.testing.assert_close(norms, torch.tensor([5.0, 10.0]))
    first, second = optimization.clip(gradients, norms, 8.0)
    torch.testing.assert_close(first, torch.tensor([[3.0, 0.0], [4.8, 0.0]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(second, torch.tensor([[[4.0]], [[6.4]]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_is_pytorchs(limit: float) -> None:
    gradients = start(torch.float64)
    theirs = [torch.zeros_like(g).requires_grad_() for g in gradients]
    for parameter, gradient in zip(theirs, gradients, strict=True):
        parameter.grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
    norms = optimization.gradient_norms(gradients, 1)
    torch.testing.assert_close(norms, norm.reshape(1))
    for mine, other in zip(optimization.clip(gradients, norms, limit), theirs, strict=True):
        assert other.grad is not None
        torch.testing.assert_close(mine, other.grad)


def test_averages_move_by_their_rate() -> None:
    averages, sources = [torch.tensor([0.0, 4.0])], [torch.tensor([8.0, 0.0])]
    optimization.average_step(averages, sources, 0.25, GO)
    assert averages[0].tolist() == [2.0, 3.0]
    optimization.average_step(averages, sources, 1.0, GO)
    assert averages[0].tolist() == [8.0, 0.0]
