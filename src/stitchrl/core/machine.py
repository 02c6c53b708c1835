"""What this process may use of the machine."""

from __future__ import annotations

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processor time, and of the period that they are for


def cores(quota: Path = QUOTA) -> int:
    """Returns how many processors this process may keep busy: under `taskset` or in a container fewer than the machine has."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return min(available, max(1, int(allowed) // int(period)))
    except (OSError, ValueError):  # none, or "max"
        return available
