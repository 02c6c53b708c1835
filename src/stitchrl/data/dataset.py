"""A log of experience: columns of steps, and the offsets at which its episodes begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from stitchrl.core.spec import Spec

REQUIRED = ("observations", "actions", "rewards", "terminals", "timeouts")


@final
@dataclass(frozen=True)
class Dataset:
    """Episodes of steps. Arrays may be in memory or memory-mapped; nothing here copies them unasked.

    columns: `observations [N, *O]`, `actions [N, *A]` (int64 `[N]` where discrete), `rewards [N]` float32, `terminals [N]`
        bool (the task ended), `timeouts [N]` bool (the clock did); optional `behaviour_log_probabilities [N]`,
        `groups [N]`, `goals [N, G]`, `infos/<name> [N, …]`.
    offsets: `[E + 1]` int64; episode e is rows offsets[e] … offsets[e + 1] - 1.
    final_observations: `[E, *O]`, what was seen after the last action of each episode.
    metadata: plain JSON values: name, environment, discount, reference returns, provenance.
    """

    spec: Spec
    columns: Mapping[str, np.ndarray]
    offsets: np.ndarray
    final_observations: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)
