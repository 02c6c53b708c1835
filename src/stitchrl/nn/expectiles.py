"""The two sides of an asymmetric loss."""

from __future__ import annotations

import torch
from torch import Tensor


def sides(above: Tensor, level: float, like: Tensor) -> Tensor:
    """Returns `level` where `above`, else 1 - `level`, in the precision of `like`, all of one shape; `torch.where` of two numbers has float32's."""
    return torch.full_like(like, 1 - level).masked_fill(above, level)
