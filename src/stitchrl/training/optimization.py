"""Optimizer, learning-rate schedules, clipping and moving averages, on stacked parameters and in place.

One elementwise optimizer serves any number of seeds. Every quantity that changes from step to step is a tensor on the
device, so that a step can be compiled or captured as a graph and never asks the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam

Tensors = Sequence[Tensor]


def learning_rate(adam: Adam, count: Tensor, updates: int) -> Tensor:
    """Returns the rate `[]` of the update after `count` ones, of `updates` in the whole run."""
    rate = torch.full_like(count, adam.learning_rate)
    if adam.schedule == "cosine":
        rate = rate * 0.5 * (1 + torch.cos(math.pi * (count / max(updates, 1)).clamp_max(1.0)))
    if adam.warmup_steps:
        rate = rate * ((count + 1) / adam.warmup_steps).clamp_max(1.0)
    return rate


def gradient_norms(gradients: Tensors, seeds: int) -> Tensor:
    """Returns the Euclidean norm of one network's whole gradient, `[S]` (`[1]` for one seed)."""
    if seeds == 1:
        if torch.compiler.is_compiling():
            norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        else:
            norm = torch.stack(torch._foreach_norm(list(gradients))).square().sum().sqrt()
        return norm.unsqueeze(0)
    return torch.stack([g.reshape(seeds, -1).square().sum(1) for g in gradients]).sum(0).sqrt()


def clip(gradients: Tensors, norms: Tensor, limit: float) -> list[Tensor]:
    """Returns gradients scaled so that no seed's norm exceeds `limit`."""
    factor = (limit / (norms + 1e-6)).clamp_max(1.0)  # [S]
    return [g * (factor.view(-1, *[1] * (g.ndim - 1)) if len(factor) > 1 else factor.squeeze(0)) for g in gradients]


def adam_step(
    adam: Adam, parameters: Tensors, gradients: Tensors, first: Tensors, second: Tensors, count: Tensor, updates: int, halted: Tensor
) -> None:
    """Updates parameters, moments and the count in place; changes nothing where `halted` is 1."""
    beta1, beta2 = adam.betas
    decoupled = adam.weight_decay if adam.decay == "decoupled" else 0.0
    if adam.decay == "gradient" and adam.weight_decay:
        gradients = [g + adam.weight_decay * p for g, p in zip(gradients, parameters, strict=True)]
    # a rate of float32 is wrong in its eighth figure, which a float64 run would show; on CUDA the fused optimizer reads float32
    rate = learning_rate(adam, count if count.is_cuda else count.double(), updates)
    count.add_(1 - halted)
    if not torch.compiler.is_compiling():
        # it reads memory in order, whatever the strides (PyTorch 2.13, CPU): a transposed gradient would move the wrong weights
        torch._fused_adamw_(
            list(parameters), [g.contiguous() for g in gradients], list(first), list(second), [], [count] * len(parameters),
            lr=rate, beta1=beta1, beta2=beta2, weight_decay=decoupled, eps=adam.epsilon, amsgrad=False, maximize=False, found_inf=halted,
        )  # fmt: skip
        return
    go = halted == 0
    exact = count.double()  # in float32, 1 - 0.999 is wrong in its fifth figure; the fused optimizer reckons in float64
    correction1, correction2 = 1 - beta1**exact, (1 - beta2**exact).sqrt()
    for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
        new_m = torch.lerp(m, g, 1 - beta1)
        new_v = beta2 * v + (1 - beta2) * g * g
        decayed = p * (1 - rate * decoupled) if decoupled else p
        new_p = decayed - rate * (new_m / correction1) / (new_v.sqrt() / correction2 + adam.epsilon)
        for old, new in ((m, new_m), (v, new_v), (p, new_p)):
            old.copy_(torch.where(go, new, old))


def average_step(averages: Tensors, sources: Tensors, rate: float, halted: Tensor) -> None:
    """Moves each average towards its source by `rate` (Polyak), in place; changes nothing where `halted` is 1."""
    if torch.compiler.is_compiling() or halted.is_cuda:
        weight = rate * (1 - halted)
        for average, source in zip(averages, sources, strict=True):
            average.lerp_(source, weight.to(average.dtype))
    elif not halted:
        torch._foreach_lerp_(list(averages), list(sources), rate)
