"""Run directories for the report tests, written by hand as training writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def write_run(
    directory: Path,
    *,
    algorithm: str = "iql",
    final: float = 80.0,
    seeds: int = 4,
    episodes: int = 10,
    steps: int = 100_000,
    evaluations: int = 10,
    data: str = "mujoco/hopper/medium-v0",
    environment: str = "Hopper-v5",
    fingerprint: str = "3f5a" * 16,
    normalized: bool = True,
    settings: dict[str, Any] | None = None,
    exact: bool = False,
    believed: bool = True,
    successes: bool = False,
    seed: int = 0,
    dip: float = 0.0,
) -> Path:
    """A run whose score rises to `final` (normalised), each seed by itself; `dip`: what it loses after its peak at 60 %."""
    random = np.random.default_rng([seed, seeds])
    directory.mkdir(parents=True)
    config = {
        "format": 1,
        "version": "0.1.0",
        "algorithm": algorithm,
        "settings": settings or {"discount": 0.99, "expectile": 0.7, "inverse_temperature": 3.0, "hidden": [256, 256]},
        "training": {"steps": steps, "batch_size": 256, "learning_rate": 3e-4},
        "data": {"source": f"minari:{data}", "name": data, "fingerprint": fingerprint, "transforms": [{"kind": "normalize_observations"}]},
        "environment": {"id": environment},
        "seeds": list(range(seeds)),
    }
    (directory / "config.json").write_text(json.dumps(config))
    offsets = random.normal(0, 6, seeds)
    with (directory / "metrics.jsonl").open("w") as file:
        for step in range(steps // 200, steps + 1, steps // 200):
            t = step / steps
            line: dict[str, Any] = {"step": step, "seconds": step / 900, "steps_per_second": 900 + 30 * random.normal()}
            for name, low, high in (
                ("loss/value", 0.1, 3.0),
                ("loss/critic", 0.5, 900.0),
                ("loss/actor", -1.0, 4.0),
                ("metric/advantage", -0.2, 0.3),
            ):
                line[name] = (low + (high - low) * np.exp(-6 * t) * np.exp(0.15 * random.normal(size=seeds))).tolist()
            file.write(json.dumps(line) + "\n")
    with (directory / "evaluations.jsonl").open("w") as file:
        for k in range(1, evaluations + 1):
            t = k / evaluations
            level = final * (1 - np.exp(-5 * t)) - dip * max(0.0, t - 0.6) / 0.4
            scores = level + offsets[:, None] * t + random.normal(0, 5, (seeds, episodes))
            returns = -20.272305 + scores / 100 * (3234.3 + 20.272305)
            discounted = 2.5 * scores + random.normal(0, 2, scores.shape)
            line = {
                "step": steps * k // evaluations,
                "seconds": 110.0 * k,
                "environment": environment,
                "episodes": episodes,
                "returns": returns.tolist(),
                "discounted_returns": discounted.tolist(),
                "lengths": random.integers(300, 1000, scores.shape).tolist(),
                "successes": (scores > 0.9 * final).astype(int).tolist() if successes else None,
                "normalized": scores.tolist() if normalized else None,
                "exact_value": (2.5 * level + offsets).tolist() if exact else None,
                "believed_value": (2.6 * level + 20 + offsets).tolist() if believed else None,
            }
            file.write(json.dumps(line) + "\n")
    return directory


@pytest.fixture(name="write_run")
def _write_run() -> Callable[..., Path]:
    return write_run
