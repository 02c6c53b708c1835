"""What a divergence leaves behind: the batch that it met, and where the run can go on."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

from stitchrl.core.errors import DivergenceError
from stitchrl.core.files import write_atomically, write_json
from stitchrl.core.frame_batch import named
from stitchrl.training import checkpoint
from stitchrl.training.learner import Learner


def crash_report(path: Path, learner: Learner, error: DivergenceError, environment_step: int | None = None) -> None:
    """Writes crash_report.json and the batch beside it; where they cannot be written it warns, since the divergence is what is to be told.

    `step` is the learner's; of a fine-tuning, which counts steps of its environment, `environment_step` is by when it was noticed.
    """
    from safetensors.torch import save

    rows, index = learner.last_batch()
    batch = {k: v.cpu().contiguous() for k, v in (named(rows) | {"index": index}).items()}
    report = {
        "error": str(error),
        "step": learner.step,
        **({} if environment_step is None else {"environment_step": environment_step}),
        "seeds": list(learner.seeds),
        "batch": "crash_batch.safetensors",
        "time": time.time(),
        "command": sys.argv,
    }
    try:
        write_atomically(path / "crash_batch.safetensors", save(batch))
        report["last_checkpoint"] = max(checkpoint.steps(path / "checkpoints"), default=None)
        write_json(path / "crash_report.json", report)
    except OSError as failed:
        warnings.warn(f"{path}: the report of the divergence could not be written ({failed.strerror or failed})", stacklevel=2)
