"""Logs of Pendulum and CartPole under agents trained by our own online learners (benchmarks/behaviours/train.py made their policies)."""

from __future__ import annotations

from functools import partial

from stitchrl.data.dataset import Dataset
from stitchrl.recipes.dataset_recipe import DatasetRecipe
from stitchrl.recipes.fingerprints import FINGERPRINTS, GYMNASIUM, ROLLED_OUT

# Mean returns of random actions (500 episodes) and of the shipped expert (100; benchmarks/behaviours/results.jsonl).
_REFERENCES = {"pendulum": {"random": -1224.3, "expert": -170.3}, "cartpole": {"random": 22.4, "expert": 497.7}}
_ENVIRONMENTS = {"pendulum": "Pendulum-v1", "cartpole": "CartPole-v1"}
_MIXTURES = {"medium": {"medium": 1.0}, "mixed": {"expert": 0.2, "medium": 0.4, "random": 0.4}, "expert": {"expert": 1.0}}
_TEXTS = {
    "medium": "an agent stopped halfway, acting with noise",
    "mixed": "an expert, an agent stopped halfway, and chance, one an episode",
    "expert": "a trained agent, acting with noise: imitation suffices",
}
_STEPS = {
    ("pendulum", "medium"): 40_000,
    ("pendulum", "mixed"): 40_000,
    ("pendulum", "expert"): 40_000,
    ("cartpole", "medium"): 47_370,
    ("cartpole", "mixed"): 42_126,
    ("cartpole", "expert"): 146_069,
}
_EPISODES = {"pendulum": 200, "cartpole": 300}


def recipes() -> list[DatasetRecipe]:
    """Returns `pendulum/{medium,mixed,expert}` and `cartpole/{medium,mixed,expert}`."""
    return [
        DatasetRecipe(
            f"{task}/{level}",
            f"{environment.split('-')[0]}: {_TEXTS[level]}.",
            environment,
            steps=_STEPS[task, level],
            episodes=_EPISODES[task],
            seconds=10,
            reference=_REFERENCES[task],
            make=partial(_make, task, level, 301 + i),
            fingerprint=FINGERPRINTS.get(f"{task}/{level}"),
            versions=GYMNASIUM,
            revision=ROLLED_OUT,
        )
        for task, environment in _ENVIRONMENTS.items()
        for i, level in enumerate(_MIXTURES)
    ]


def _make(task: str, level: str, seed: int) -> Dataset:
    from stitchrl.environments.behaviours import MixtureBehaviour, NoisyBehaviour
    from stitchrl.environments.collect import collect
    from stitchrl.environments.make import make, spec_of
    from stitchrl.environments.same_sines import same_sines
    from stitchrl.recipes.named_behaviours import behaviour

    environment = make(_ENVIRONMENTS[task])
    spec = spec_of(environment)
    noise = {"epsilon": 0.1} if task == "cartpole" else {"sigma": 0.3}
    parts = []
    for name, share in _MIXTURES[level].items():
        inner = behaviour(name if name == "random" else f"{task}-{name}", spec, environment)
        parts.append((share, inner if name == "random" else NoisyBehaviour(inner, spec, **noise)))
    environment.close()
    mixture = MixtureBehaviour(parts)
    with same_sines():
        return collect(
            _ENVIRONMENTS[task], mixture, episodes=_EPISODES[task], seed=seed, name=f"{task}/{level}", reference=_REFERENCES[task]
        )
