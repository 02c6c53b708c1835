"""The actors of goal-conditioned methods, on what else than vectors is seen."""

from __future__ import annotations

import torch

from stitchrl.core.spec import Box, Spec
from stitchrl.nn.goal_networks import clipped_actor


def test_a_clipped_actor_reads_matrices() -> None:
    torch.manual_seed(0)
    actor = clipped_actor(Spec(Box((4, 3)), Box((2,), (-1.0, -1.0), (1.0, 1.0))), (8,), "actor_loss", "another")
    seen = torch.randn(5, 4, 3)
    torch.manual_seed(0)
    flat = clipped_actor(Spec(Box((12,)), Box((2,), (-1.0, -1.0), (1.0, 1.0))), (8,), "actor_loss", "another")
    assert actor(seen).shape == (5, 2) and torch.equal(actor(seen), flat(seen.flatten(1)))
    assert actor.log_likelihoods(seen, torch.zeros(5, 2)).shape == (5,)
