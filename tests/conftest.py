"""What holds for every test: one thread, no display, no network back-ends; set before anything imports torch."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # pytest-xdist already fills the cores; golden losses are recorded on one thread
os.environ["MPLBACKEND"] = "Agg"
os.environ["NO_COLOR"] = "1"
os.environ.setdefault("MUJOCO_GL", "disabled")
os.environ["WANDB_MODE"] = "disabled"

from hypothesis import settings  # noqa: E402  (after the environment is set)

# A busy machine is no failure, so no deadline. In CI the same examples are drawn each time.
settings.register_profile("stitchrl", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("stitchrl")


def pytest_configure(config: Any) -> None:
    """Where hashes of built-in logs are not promised, another one is no fault of the test that loads it."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        config.addinivalue_line("filterwarnings", "ignore:.*made here has the hash:UserWarning")
