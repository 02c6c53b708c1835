"""Numbers as tokens: each dimension is cut into bins, a token is the number of a bin, and stands for the bin's value.

Quantile bins hold equal shares of the log, uniform ones are equally wide. A value that alone fills a share (a reward of 0 on nearly all
steps, a constant) has a bin of its own, and a dimension of few values one for each: these are read back exactly.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

Kind = Literal["quantile", "uniform"]
EVERY = slice(None)


@final
class Discretization(nn.Module):
    """`dimensions` real numbers, each with `bins` tokens: constants, which `measure` takes from a log; until then [-1, 1] in equal parts.

    Bin b holds edges[b - 1] <= x < edges[b]; the first and the last have no outer edge, so that each number has a token. Where a dimension
    needs fewer bins its last edge is repeated: the tokens between are never used.
    """

    def __init__(self, dimensions: int, bins: int) -> None:
        super().__init__()
        ends = torch.linspace(-1, 1, bins + 1)
        self.edges = nn.Parameter(ends[1:-1].expand(dimensions, -1).clone(), requires_grad=False)  # [D, bins - 1]
        self.values = nn.Parameter(((ends[1:] + ends[:-1]) / 2).expand(dimensions, -1).clone(), requires_grad=False)  # [D, bins]

    @torch.no_grad()
    def measure(self, x: Tensor, kind: Kind) -> None:
        """Fills the edges and values in place from a log of numbers `[M, D]`, M >= 1."""
        for d, column in enumerate(x.unbind(1)):
            edges, values = bins_of(column, self.values.shape[1], kind)
            self.edges[d].copy_(edges)
            self.values[d].copy_(values)

    def tokens(self, x: Tensor, at: slice = EVERY) -> Tensor:
        """Returns int64 `[*batch, D]` of numbers `[*batch, D]` of the dimensions `at`: how many edges each has reached."""
        return (x.unsqueeze(-1) >= self.edges[at]).sum(-1)

    def numbers(self, tokens: Tensor, at: slice = EVERY) -> Tensor:
        """Returns `[*batch, D]`, what tokens `[*batch, D]` of the dimensions `at` stand for."""
        return self.values[at].expand(*tokens.shape, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def bins_of(x: Tensor, bins: int, kind: Kind) -> tuple[Tensor, Tensor]:
    """Returns edges `[bins - 1]` and values `[bins]`, in the log's dtype, of numbers `[M]`, whatever their order.

    Of quantile bins the value is the mean of the numbers within, of uniform ones the middle; where numbers differ in at most `bins` ways
    each of them, and no others.
    """
    distinct, counts = x.sort().values.unique_consecutive(return_counts=True)
    if kind == "uniform" and len(distinct) > bins:
        low, high = distinct[0].double(), distinct[-1].double()
        ends = low + (high - low) * torch.arange(bins + 1, dtype=torch.float64, device=x.device) / bins
        return ends[1:-1].to(x.dtype), ((ends[1:] + ends[:-1]) / 2).to(x.dtype)
    starts = torch.arange(len(distinct), device=x.device) if len(distinct) <= bins else _starts(counts, bins)
    below, above = distinct[starts[1:] - 1], distinct[starts[1:]]
    middle = ((below.double() + above.double()) / 2).to(x.dtype)
    edges = torch.where(middle > below, middle, above)  # neighbouring floats have nothing between them
    mass = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    bounds = torch.cat([starts, starts.new_full((1,), len(distinct))])
    sums = torch.cat([torch.zeros(1, dtype=torch.float64, device=x.device), (distinct.double() * counts).cumsum(0)])
    values = ((sums[bounds[1:]] - sums[bounds[:-1]]) / (mass[bounds[1:]] - mass[bounds[:-1]])).to(x.dtype)
    # the mean of one value is that value, which a difference of sums need not give to the last bit
    values = torch.where(bounds[1:] - bounds[:-1] == 1, distinct[starts], values)
    # rounding must not carry a mean out of its bin
    values = values.clamp(distinct[bounds[:-1]], distinct[bounds[1:] - 1])
    last_edge = edges[-1:] if len(edges) else distinct[:1]
    missing = bins - len(values)
    return torch.cat([edges, last_edge.expand(missing)]), torch.cat([values, values[-1:].expand(missing)])


def _starts(counts: Tensor, bins: int) -> Tensor:
    """Returns int64 `[<= bins]`: at which of the distinct values (more than `bins` of them, with their counts) each bin begins.

    A value as heavy as an even share of all is alone in its bin; of the others each bin takes an even share of what is left. Where heavy
    values cut the others into so many pieces that the bins run out, the last takes all that is left.
    """
    distinct = len(counts)
    heavy = counts * bins >= counts.sum()
    ends = torch.cat([torch.nonzero(heavy).flatten(), counts.new_full((1,), distinct)]).tolist()  # where a run of light values must stop
    light = torch.cat([counts.new_zeros(1), counts.masked_fill(heavy, 0).cumsum(0)])
    total = int(light[-1])
    starts: list[int] = []
    start = 0
    while start < distinct and len(starts) < bins:
        starts.append(start)
        if start == ends[0]:
            ends.pop(0)
            start += 1
            continue
        done, left = int(light[start]), bins - len(starts) + 1 - (len(ends) - 1)
        share = done + (total - done) / max(left, 1)
        after = int(torch.searchsorted(light, share))  # the first at which so much is reached, or one before, if that is nearer
        nearer = after - 1 if after - 1 > start and share - int(light[after - 1]) < int(light[after]) - share else after
        start = min(max(nearer, start + 1), ends[0])
    return torch.tensor(starts, device=counts.device)
