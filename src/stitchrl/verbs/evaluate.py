"""`stitchrl evaluate RUN`: what a run's policies earn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import tyro

from stitchrl.core.errors import ConfigError
from stitchrl.core.files import check_writable, write_json
from stitchrl.core.settings import Count, Fraction, Natural, check_settings
from stitchrl.verbs.flags import named_values, options_told, parse

if TYPE_CHECKING:
    from stitchrl.agent import Agent


@final
@dataclass(frozen=True)
class Evaluate:
    run: Annotated[Path, tyro.conf.Positional]
    """a run directory or a saved policy"""
    env: str = "auto"
    """auto: the environment that the run was evaluated in, or else its log's own; MODULE:ID imports your own MODULE first"""
    env_options: tuple[str, ...] = ()
    """of that environment, in place of those that the run keeps for it: name=value, such as max_episode_steps=500"""
    episodes: Count = 100
    """for each seed"""
    sampled: bool = False
    """draw actions from the policy instead of taking its mode or mean; plans, diffusion, flows and BCQ are always drawn anew"""
    epsilon: Fraction | None = None
    """share of integer actions that are taken uniformly at random instead (DQN: 0.05)"""
    discount: Fraction = 1.0
    seed: Natural = 20_000
    parallel: Count = 10
    """episodes side by side; a policy that draws draws for all of them at once, so that another number is another draw"""
    processes: Count | None = None
    targets: tuple[str, ...] = ()
    """returns to ask a return-conditioned policy for, each in the same episodes, in the task's units; auto: six over the range of the log"""
    settings: tuple[str, ...] = ()
    """of the algorithm, changed for acting with the weights as they are: name=value, such as planning=none or sampling_steps=20"""
    json: Path | None = None
    """write every episode here"""


def evaluate(arguments: Sequence[str]) -> int:
    """Rolls a run's policies out."""
    a = parse(Evaluate, arguments, "stitchrl evaluate", "Roll a run's policies out in an environment.")
    check_settings(a, "stitchrl evaluate")
    if "--targets" in arguments and not a.targets:
        raise ConfigError("--targets names none; give returns to ask for, or auto")
    if a.json is not None:
        check_writable(a.json, "--json")
    import numpy as np

    from stitchrl.agent import load
    from stitchrl.core.intervals import interval
    from stitchrl.evaluation.acting_settings import acting_with
    from stitchrl.evaluation.judge import check_task
    from stitchrl.evaluation.playing import play
    from stitchrl.evaluation.recorded_task import task_of

    agent = load(a.run)
    if a.settings:
        agent = acting_with(agent, named_values(a.settings, "--settings"))
    environment, options, reference = task_of(a.run, None if a.env == "auto" else a.env, options_told(a.env_options))
    check_task(agent, environment, options)
    if a.targets:
        return _ask(a, agent, environment, options)
    result = play(
        agent, environment, sampled=a.sampled, epsilon=a.epsilon, episodes=a.episodes, seed=a.seed, discount=a.discount,
        parallel=a.parallel, processes=a.processes, environment_options=options,
    )  # fmt: skip
    line = result.record(step=0, seconds=0.0, environment=environment, reference=reference)
    per_seed, found = result.returns.mean(1), interval([result.returns], generator=np.random.default_rng(0))
    over = "seeds and episodes" if len(per_seed) > 1 else "episodes"
    spread = f", 95 % over {over} [{found.low:.4g}, {found.high:.4g}]" if result.returns.size > 1 else ""
    words = [f"return {per_seed.mean():.4g} (IQM {found.estimate:.4g}{spread}; seeds {', '.join(f'{x:.4g}' for x in per_seed)})"]
    if a.discount != 1:
        words.append(f"discounted by {a.discount:g} {result.discounted_returns.mean():.4g}")
    if line["normalized"]:
        scores = [sum(v) / len(v) for v in line["normalized"]]
        words.append(f"normalised score {sum(scores) / len(scores):.4g}")
    if result.successes is not None:
        by_task = result.success_by_task()
        told = "" if by_task is None else f" (task by task {', '.join(f'{100 * x:.3g}' for x in by_task.mean(0))})"
        words.append(f"success {100 * result.successes.mean():.1f} %{told}")
    print(f"{_who(a, environment)}: {'; '.join(words)}; {a.episodes} episodes a seed, mean length {result.lengths.mean():.4g}")
    if a.json is not None:
        write_json(a.json, line | _conditions(a))
    return 0


def _ask(a: Evaluate, agent: Agent, environment: str, options: dict[str, object]) -> int:
    """Asks for each target; a run's directory keeps the numbers and draws them in its report."""
    from stitchrl.evaluation.asked_returns import asked_returns
    from stitchrl.report.asked_page import FILE
    from stitchrl.report.run import write_run_report

    if a.epsilon:
        raise ConfigError(f"--epsilon is {a.epsilon:g} and has no effect with --targets, whose policies act on what they did; leave it out")
    if a.discount != 1:
        raise ConfigError(f"--discount is {a.discount:g} and has no effect with --targets, which are undiscounted returns; leave it out")
    found = asked_returns(
        agent, environment, _targets(a.targets), episodes=a.episodes, sampled=a.sampled, parallel=a.parallel, seed=a.seed,
        processes=a.processes, environment_options=options,
    )  # fmt: skip
    record = found.record(environment) | _conditions(a)
    words = ", ".join(f"{asked:.4g} -> {mean:.4g}" for asked, mean in zip(found.asked, found.returns.mean((0, 2)), strict=True))
    logged = "" if found.logged is None else f"; episodes of the log: {found.logged[0]:.4g} to {found.logged[1]:.4g}"
    print(f"{_who(a, environment)}: asked for -> obtained {words}; {a.episodes} episodes a seed and target{logged}")
    if (a.run / "policy").is_dir():
        write_json(a.run / FILE, record)
        write_run_report(a.run)
    if a.json is not None:
        write_json(a.json, record)
    return 0


def _who(a: Evaluate, environment: str) -> str:
    """Whose returns they are, and in what."""
    from stitchrl.evaluation.acting_settings import in_words

    return f"{a.run}{in_words(a.settings)} in {environment}{in_words(a.env_options)}"


def _conditions(a: Evaluate) -> dict[str, Any]:
    """What decides a rollout of these policies beside its episodes."""
    told = {"seed": a.seed, "sampled": a.sampled, "parallel": a.parallel, "settings": named_values(a.settings, "--settings")}
    told |= {"environment_options": options} if (options := options_told(a.env_options)) else {}
    told |= {"discount": a.discount} if a.discount != 1 else {}
    return told | ({"epsilon": a.epsilon} if a.epsilon else {})


def _targets(words: tuple[str, ...]) -> list[float] | None:
    if words == ("auto",):
        return None
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ConfigError(f"--targets is {' '.join(words)}; expected returns in the task's units, or auto alone") from None
