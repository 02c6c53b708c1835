"""What a divergence leaves behind: the batch that it met, and where the run can go on."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from stitchrl.core.errors import DivergenceError
from stitchrl.core.files import write_json
from stitchrl.core.frame_batch import named
from stitchrl.training import checkpoint
from stitchrl.training.learner import Learner


def crash_report(path: Path, learner: Learner, error: DivergenceError) -> None:
    """Writes crash_report.json and the batch beside it."""
    from safetensors.torch import save_file

    rows, index = learner.last_batch()
    save_file({k: v.cpu().contiguous() for k, v in (named(rows) | {"index": index}).items()}, path / "crash_batch.safetensors")
    report = {
        "error": str(error),
        "step": learner.step,
        "seeds": list(learner.seeds),
        "batch": "crash_batch.safetensors",
        "time": time.time(),
    }
    report["last_checkpoint"] = max(checkpoint.steps(path / "checkpoints"), default=None)
    write_json(path / "crash_report.json", report | {"command": sys.argv})
