"""Logs of several behaviours as one dataset that tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset, concatenate


def joined(logs: Sequence[Dataset], **metadata: Any) -> Dataset:
    """Returns the logs one after another, `infos/policy_id` telling which is which where there are several.

    The metadata are the first one's with those given on top. Raises DataError where spaces or columns differ.
    """
    whole = concatenate(logs)
    columns = dict(whole.columns)
    if len(logs) > 1:
        columns["infos/policy_id"] = np.repeat(np.arange(len(logs)), [len(log) for log in logs])
    return Dataset(whole.spec, columns, whole.offsets, whole.final_observations, logs[0].metadata | metadata)
