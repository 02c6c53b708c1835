"""`stitchrl evaluate RUN`: what a run's policies earn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import tyro

from stitchrl.core.errors import CheckpointError, ConfigError
from stitchrl.core.files import read_json, write_json
from stitchrl.core.settings import Natural, check_settings
from stitchrl.verbs.flags import parse


@final
@dataclass(frozen=True)
class Evaluate:
    run: Annotated[Path, tyro.conf.Positional]
    """a run directory or a saved policy"""
    env: str = "auto"
    """auto: the environment that the run names"""
    episodes: int = 100
    """for each seed"""
    sampled: bool = False
    """draw actions from the policy instead of taking its mode or mean"""
    discount: float = 1.0
    seed: Natural = 20_000
    parallel: int = 10
    processes: int | None = None
    json: Path | None = None
    """write every episode here"""


def evaluate(arguments: Sequence[str]) -> int:
    """Rolls a run's policies out."""
    a = parse(Evaluate, arguments, "stitchrl evaluate", "Roll a run's policies out in an environment.")
    check_settings(a, "stitchrl evaluate")
    from stitchrl.agent import load
    from stitchrl.core.intervals import interquartile_mean
    from stitchrl.evaluation.judge import check_task
    from stitchrl.evaluation.playing import play
    from stitchrl.evaluation.references import reference_for

    agent = load(a.run)
    environment, options, reference_data = _environment(a)
    check_task(agent.spec, environment, options)
    result = play(
        agent, environment, sampled=a.sampled, episodes=a.episodes, seed=a.seed, discount=a.discount, parallel=a.parallel,
        processes=a.processes, environment_options=options,
    )  # fmt: skip
    line = result.record(step=0, seconds=0.0, environment=environment, reference=reference_for(environment, reference_data))
    per_seed = result.returns.mean(1)
    words = [
        f"return {per_seed.mean():.4g} (IQM {float(interquartile_mean(per_seed)):.4g}; seeds {', '.join(f'{x:.4g}' for x in per_seed)})"
    ]
    if line["normalized"]:
        scores = [sum(v) / len(v) for v in line["normalized"]]
        words.append(f"normalised score {sum(scores) / len(scores):.4g}")
    if result.successes is not None:
        words.append(f"success {100 * result.successes.mean():.1f} %")
    print(f"{a.run} in {environment}: {'; '.join(words)}; {a.episodes} episodes a seed, mean length {result.lengths.mean():.4g}")
    if a.json is not None:
        write_json(a.json, line)
    return 0


def _environment(a: Evaluate) -> tuple[str, dict[str, object], dict[str, object]]:
    config = read_json(a.run / "config.json") if (a.run / "config.json").is_file() else {}
    recorded = (config.get("environment") if isinstance(config, dict) else None) or {}
    if not isinstance(config, dict) or not isinstance(recorded, dict):
        raise CheckpointError(f"{a.run}/config.json: not a run's; expected an object of settings")
    metadata = {"reference": (config.get("data") or {}).get("reference")}
    if a.env not in ("auto", recorded.get("id")):
        return a.env, {}, {}
    if not recorded:
        raise ConfigError(f"{a.run}: the run names no environment; give one with --env")
    return str(recorded["id"]), dict(recorded.get("options") or {}), metadata
