"""Many seeds in one process: their parameters stacked on a leading axis `[S]`, their losses mapped over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from stitchrl.core.algorithm import Algorithm, Due, Losses, Metrics
from stitchrl.core.frame_batch import PackedRows
from stitchrl.core.policy import Policy
from stitchrl.core.spec import is_image

_IMAGES_AT_ONCE = 32  # convolutions unfold each many times over


def stack(algorithms: Sequence[Algorithm], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns all parameters by name as `[S, …]`; one seed has no leading axis, so that it costs no more than it must."""
    states = [dict(algorithm.named_parameters()) for algorithm in algorithms]
    if len(states) == 1:
        return {name: p.detach().to(device, dtype).clone() for name, p in states[0].items()}
    return {name: torch.stack([state[name].detach() for state in states]).to(device, dtype) for name in states[0]}


def unstack(parameters: Mapping[str, Tensor], seed: int, count: int) -> dict[str, Tensor]:
    """Returns one seed's parameters (views) of `count` stacked ones."""
    return dict(parameters) if count == 1 else {name: p[seed] for name, p in parameters.items()}


def losses(
    template: Algorithm, parameters: Mapping[str, Tensor], rows: PackedRows, noise: Mapping[str, Tensor], due: Due, count: int
) -> tuple[Losses, Metrics]:
    """Returns the losses and metrics of all seeds, each `[S]` (`[]` for one seed), from rows `[S, B, width]` and noise `[S, …]`."""

    def one(p: Mapping[str, Tensor], x: PackedRows, z: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        result: tuple[Losses, Metrics] = functional_call(template, dict(p), (x, z, due))
        return result

    return one(parameters, rows, noise) if count == 1 else vmap(one)(parameters, rows, noise)


@torch.no_grad()
def believed_value(template: Algorithm, parameters: Mapping[str, Tensor], observations: Tensor) -> float | None:
    """Returns the mean value that one seed believes its policy has at observations `[B, *O]`; None for an algorithm without one.

    Images are read in pieces.
    """
    with holding(template, parameters):
        if not is_image(template.spec.observation):
            values = template.believed_value(observations)
        else:
            pieces = [template.believed_value(piece) for piece in observations.split(_IMAGES_AT_ONCE)]
            known = [piece for piece in pieces if piece is not None]
            values = torch.cat(known) if known else None
    return None if values is None else float(values.mean())


@torch.no_grad()
def act(policy: Policy, template: Algorithm, parameters: Mapping[str, Tensor], observations: Tensor, noise: Tensor | None) -> Tensor:
    """Returns one seed's actions at observations `[B, *O]`; `policy` is the template's own."""
    with holding(template, parameters):
        actions: Tensor = policy(observations, noise)
    return actions


@contextmanager
def holding(template: Algorithm, parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Lets the template's modules hold one seed's parameters for a while, for calls that are not losses."""
    own = dict(template.named_parameters())
    before = {name: own[name].data for name in own}
    try:
        for name, value in parameters.items():
            own[name].data = value.detach()
        yield
    finally:
        for name, value in before.items():
            own[name].data = value
