"""The benchmark's suites: which logs, which methods, how many steps, and what a run costs. Read by `stitchrl benchmark`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, final

from stitchrl import algorithms
from stitchrl.core.errors import ConfigError
from stitchrl.core.goals import drawing_of
from stitchrl.core.settings import nearest
from stitchrl.core.windows import Windows
from stitchrl.evaluation.judge import Evaluation
from stitchrl.experiment import Plan, plan
from stitchrl.recipes import datasets, published, published_goals, sepsis_comparison
from stitchrl.recipes.published import Recipe
from stitchrl.training.learner import Training

LOCOMOTION = ("halfcheetah", "hopper", "walker2d")
REAL_METHODS = ("bc", "filtered_bc", "td3_bc", "iql")
MORE_REAL_METHODS = (*REAL_METHODS, "awac", "rebrac")
SMALL_METHODS = (*MORE_REAL_METHODS, "bcq", "cql", "cal_ql", "edac", "sac_n", "fql", "sac")
INTEGER_METHODS = ("bc", "q_learning", "bcq", "cql", "iql")
GAMES = ("breakout/mixed", "breakout/expert", "pong/mixed", "pong/expert")
GOAL_METHODS = ("gcbc", "gcivl", "gciql", "hiql", "qrl", "crl")

# Milliseconds of a step of two layers of 256, one thread, not compiled: measured by benchmarks/speed (RESULTS.md); AWAC's, ReBRAC's and
# GCBC's (GELU costs a core more than ReLU) from benchmarks/scores/standard. A method's own, else its algorithm's; others: the default.
_MILLISECONDS = {"bc": 1.9, "gcbc": 3.0, "td3_bc": 7.0, "iql": 8.9, "cql": 101.0, "awac": 8.0, "rebrac": 8.0, "hiql": 22.0, "qrl": 22.0}
_OTHER_MILLISECONDS = 15.0
_START_SECONDS = 4.0  # of a run's process, with what it reads and the report of its end


@final
@dataclass(frozen=True)
class Size:
    """What a method learns with here in place of its own settings: what a CPU can do. None: as the task says."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    batch_size: int | None = None
    episodes: int | None = None
    evaluations: int | None = None
    milliseconds: float | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Task:
    """One log in a suite. `settings` go on top of a method's own where the method has such a setting: small networks for small tasks;
    `sizes` on top of that, of one method."""

    dataset: str
    methods: tuple[str, ...]
    steps: int
    integer_actions: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluations: int = 5
    episodes: int = 10
    evaluation_seconds: float = 3.0
    milliseconds: float | None = None  # of a step, whatever the method
    sizes: Mapping[str, Size] = field(default_factory=dict)
    epsilon: float | None = None  # of evaluations, for all but who acts on what it did before
    batch_size: int | None = 256  # None: a method's own

    def size(self, method: str) -> Size:
        """Returns what a method learns with here."""
        return self.sizes.get(method, Size())


@final
@dataclass(frozen=True)
class Suite:
    """Tasks, and how often each is learned anew."""

    name: str
    description: str
    tasks: tuple[Task, ...]
    seeds: int


def suite(name: str) -> Suite:
    """Returns a suite by name; raises ConfigError naming the nearest."""
    known = {"smoke": _smoke, "standard": _standard, "sequences": _sequences, "antmaze": _antmaze, "atari": _atari, "full": _full}
    if name not in known:
        raise ConfigError(f"unknown suite '{name}'.{nearest(name, list(known))}")
    return known[name]()


def _smoke() -> Suite:
    small, real, integer = {"hidden": (64, 64)}, ("bc", "td3_bc", "iql"), ("bc", "q_learning", "iql")
    tasks = (
        Task("gridworld/mixed", integer, 1_000, True, small, 2, 20, 0.5, 1.5),
        Task("cartpole/mixed", integer, 2_000, True, small, 2, 10, 2.0, 1.5),
        Task("pendulum/mixed", real, 2_000, False, small, 2, 20, 2.0, 3.0),
    )
    return Suite("smoke", "three small tasks, minutes: does it all still learn", tasks, seeds=2)


# What methods have besides `hidden`, where a task is small.
_SMALL_SIZES = {
    "bcq": Size({"autoencoder_hidden": (128, 128)}, evaluations=1),
    "qrl": Size({"latent": 64, "components": 8}),
    "crl": Size({"latent": 64}),
}


def _standard() -> Suite:
    replays = [Task(f"{task}/medium-replay", MORE_REAL_METHODS, 10_000) for task in LOCOMOTION]  # mixed logs, where methods differ most
    experts = Task("hopper/medium-expert", REAL_METHODS, 10_000)
    # every method that learns real-valued actions, on a task small enough for the dearest of them
    small = Task("pendulum/mixed", SMALL_METHODS, 6_000, False, {"hidden": (64, 64)}, 3, 20, 2.0, 5.0, _SMALL_SIZES)
    maze = Task("pointmaze/umaze", REAL_METHODS, 10_000, evaluation_seconds=4.0)
    # a goal's value comes from one step further with each round of its target's average: in so few steps that must be ten times as fast
    near = {"hidden": (128, 128), "target_rate": 0.05}
    goals = Task("pointmaze/navigate", GOAL_METHODS, 10_000, False, near, 1, 25, 8.0, sizes=_SMALL_SIZES)
    sepsis = Task("icu-sepsis/mixed", INTEGER_METHODS, 5_000, True, {"hidden": (64,), "discount": 1.0}, 5, 50, 1.0, 1.5)
    drivers = Task("highway/mixed", INTEGER_METHODS, 5_000, True, {"hidden": (128, 128)}, 1, 100, 75.0, 2.5)
    # no AntMaze: after so few steps all methods are alike there (`_antmaze` has more)
    text = "control, mazes, goals, ICU-Sepsis and driving, a hundredth of the papers' steps: under two hours on two cores"
    return Suite("standard", text, (*replays, experts, small, maze, goals, sepsis, drivers), seeds=3)


# Sequence models and diffusion as far as a core gets in minutes: a tenth to a hundredth of their papers' networks and steps.
_SEQUENCES: dict[str, Size] = {
    "decision_transformer": Size(
        {"context": 10, "layers": 2, "dropout": 0.0, "learning_rate": 6e-4, "warmup_steps": 500, "target_return": None}, 8_000, 64,
        milliseconds=35.0,
    ),
    # few transitions in view and plans of few steps: what a state and an action are is learned before what is far
    "trajectory_transformer": Size(
        {
            "width": 64, "layers": 2, "heads": 2, "sequence": 2, "context": 2, "dropout": 0.0, "learning_rate": 2e-3, "warmup_steps": 100,
            "beam_width": 16, "horizon": 5,
        },
        8_000, 64, evaluations=1, milliseconds=60.0,
    ),
    "decision_diffuser": Size(
        {
            "network": "dit", "width": 64, "depth": 2, "heads": 4, "horizon": 8, "prediction": "v_prediction", "next_weight": 10.0,
            "discount": 0.997, "learning_rate": 1e-3, "target_rate": 0.005, "diffusion_steps": 100, "sampler": "dpm_solver++", "sampling_steps": 10,
        },
        12_000, 128, evaluations=1, milliseconds=45.0,
    ),
    # its critic must settle before the actor climbs it: smaller networks, more and larger steps, faster targets than the paper's two million,
    # and observations standardised, as CleanDiffuser's are and the authors' are not
    "diffusion_ql": Size(
        {"hidden": (128, 128, 128), "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "target_rate": 0.02},
        10_000, evaluations=2, milliseconds=30.0, preprocessing={"standardize_observations": True},
    ),
}  # fmt: skip
# A pendulum has three numbers to see and one to move: networks of a quarter of the width, a fifth of the steps in an episode.
_SMALL_SEQUENCES: dict[str, Size] = {
    "decision_transformer": Size(
        {
            "context": 10, "width": 64, "layers": 2, "dropout": 0.0, "learning_rate": 6e-4, "warmup_steps": 300, "target_return": None,
            "return_scale": 500.0, "longest_episode": 200,
        },
        4_000, 64, milliseconds=20.0,
    ),
    "trajectory_transformer": Size(
        {
            "width": 64, "layers": 2, "heads": 2, "sequence": 10, "warmup_steps": 300, "dropout": 0.0, "beam_width": 32, "horizon": 8,
            "context": 3, "learning_rate": 1e-3,
        },
        4_000, 64, evaluations=1, milliseconds=60.0,
    ),
    "decision_diffuser": Size(
        {
            "horizon": 16, "width": 32, "multipliers": (1, 2, 4), "diffusion_steps": 50, "sampler": "dpm_solver++", "sampling_steps": 10,
            "replan_every": 1, "hidden": (128, 128), "learning_rate": 1e-3,
        },
        6_000, 32, evaluations=1, milliseconds=40.0,
    ),
    "diffusion_ql": Size(
        {
            "hidden": (128, 128), "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "learning_schedule": "constant", "discount": 0.95,
        },
        6_000, evaluations=2, milliseconds=30.0,
    ),
    "idql": Size({"width": 128, "hidden": (128, 128)}, 6_000, evaluations=2, milliseconds=25.0),
}  # fmt: skip


def _sequences() -> Suite:
    methods = ("bc", "filtered_bc", *_SEQUENCES)
    levels = ("medium-expert", "medium-replay")
    tasks = [
        Task(f"{task}/{level}", methods, 10_000, sizes=_SEQUENCES) for level in levels for task in ("hopper", "walker2d", "halfcheetah")
    ]
    small = ("bc", "filtered_bc", "iql", *_SMALL_SEQUENCES)
    tasks.append(Task("pendulum/mixed", small, 6_000, episodes=20, sizes=_SMALL_SEQUENCES, milliseconds=3.0))
    return Suite("sequences", "sequence models and diffusion beside cloning, small networks: ten hours of one core", tuple(tasks), seeds=3)


def _antmaze() -> Suite:
    # Logged walks across the maze take about 590 steps (benchmarks/scores/antmaze), of which a discount of 0.99 leaves 0.003 and 0.995 leaves 0.05.
    farther = Size({"discount": 0.995})
    # the authors' 5e-5, 0.999 and 0.001 are for a million steps of D4RL's log; a penalty, to be tuned for each, weighs at 0.05 as TD3+BC's alpha does
    rebrac = Size({"discount": 0.995, "critic_learning_rate": 3e-4, "actor_penalty": 0.03})
    sizes = {"td3_bc": farther, "iql": farther, "rebrac": rebrac}
    plan: dict[str, Any] = {"evaluations": 4, "episodes": 50, "evaluation_seconds": 17.0, "sizes": sizes}
    tasks = (
        Task("antmaze/medium-diverse", ("bc", "td3_bc", "iql", "rebrac"), 100_000, **plan),
        Task("antmaze/large-diverse", ("bc", "td3_bc", "iql", "rebrac"), 100_000, **plan),
    )
    return Suite(
        "antmaze",
        "a reward that few logged walks meet, a tenth of the papers' steps: two hours of one core for each seed",
        tasks,
        seeds=2,
    )


def _atari() -> Suite:
    sizes = {
        # in so few steps: ten times the rate, and targets that follow, where three copies would look three steps ahead
        "cql": Size({"critic_learning_rate": 5e-4, "target_rate": 0.005, "target_every": None}, 6_000, milliseconds=75.0),
        "bcq": Size({"learning_rate": 6.25e-4, "target_rate": 0.005, "target_every": 1}, milliseconds=380.0),
        "iql": Size(batch_size=32, milliseconds=400.0),
        "q_learning": Size(batch_size=32, milliseconds=75.0),
        # shorter contexts and fewer of them than the paper's 30 and 128: a core reads 160 frames a step
        "decision_transformer": Size({"context": 10, "layers": 2, "dropout": 0.0, "target_return": None}, 2_000, 16, milliseconds=250.0),
    }
    plan: dict[str, Any] = {
        "settings": {"hidden": (512,)},
        "evaluations": 2,
        "evaluation_seconds": 30.0,
        "epsilon": 0.05,  # DQN's: without a ball Breakout stands still for who never serves
        "milliseconds": 110.0,
        "sizes": sizes,
    }
    tasks = [Task(name, ("bc", "filtered_bc", "cql", "decision_transformer"), 3_000, True, batch_size=None, **plan) for name in GAMES]
    return Suite(
        "atari", "games from stacked frames, a hundredth of the papers' steps: two hours of one core a seed", tuple(tasks), seeds=2
    )


def _full() -> Suite:
    methods = (*MORE_REAL_METHODS, "bcq", "cql", "edac", "sac_n", "fql")
    many: dict[str, Any] = {"steps": 1_000_000, "evaluations": 200, "batch_size": None}
    locomotion = [
        Task(f"{task}/{level}", methods, **many)
        for task in (*LOCOMOTION, "ant")
        for level in ("random", "medium", "medium-replay", "medium-expert", "expert")
    ]
    mazes = [Task(f"pointmaze/{size}", methods, **many, evaluation_seconds=6.0) for size in ("umaze", "medium", "large")]
    crossing = (*methods, "cal_ql")
    ants = [Task(name, crossing, 1_000_000, evaluations=10, episodes=100, evaluation_seconds=100.0, batch_size=None) for name in _ants("")]
    sepsis = [
        Task(f"icu-sepsis/{level}", INTEGER_METHODS, 100_000, True, {"hidden": (64,), "discount": 1.0}, 10, 100, 2.0, 1.5, batch_size=None)
        for level in ("mixed", "random")
    ]
    drivers = Task("highway/mixed", INTEGER_METHODS, 100_000, True, {}, 10, 100, 100.0, 3.0, batch_size=None)
    goals = [  # of each of OGBench's five tasks as many episodes as it plays
        Task(name, GOAL_METHODS, 1_000_000, evaluations=10, episodes=250, evaluation_seconds=300.0, batch_size=None)
        for name in published_goals.LOGS
    ]
    played: dict[str, Any] = {"evaluations": 10, "evaluation_seconds": 30.0, "epsilon": 0.05, "milliseconds": 110.0, "batch_size": None}
    games = [Task(name, ("bc", "filtered_bc", "bcq", "cql", "decision_transformer"), 1_000_000, True, **played) for name in GAMES]
    text = "control, mazes, goals and games for a million steps, as the papers, ICU-Sepsis and driving for 100,000: for GPUs"
    return Suite("full", text, (*locomotion, *mazes, *ants, *sepsis, drivers, *goals, *games), seeds=5)


def _ants(*sizes: str) -> list[str]:
    """AntMaze logs with a reward: D4RL's kinds."""
    starts = tuple(f"antmaze/{size}" for size in sizes)
    return sorted(name for name in datasets.available() if name.startswith(starts) and name.endswith(("-play", "-diverse")))


def recipe_of(method: str, task: Task) -> Recipe | None:
    """Returns the settings with which a method learns from a log: the most particular recipe there is, else the algorithm's defaults.

    A method is an algorithm, or a recipe of its own name (`filtered_bc`, `sac_n`). Recipes are looked for by the log's whole name
    (`rebrac:halfcheetah/medium`), its task (`edac:pointmaze`), its task and size (`fql_antmaze_large`), its family (`iql_locomotion`) and, for
    integer actions, `bcq_discrete`. None where a method is known by such recipes alone and has none for this log. Raises ConfigError for
    a name that is none.
    """
    known = published.recipes()
    name, _, level = task.dataset.partition("/")
    families = {"locomotion": (*LOCOMOTION, "ant", "pointmaze"), "atari": ("breakout", "pong")}
    family = next((one for one, members in families.items() if name in members), name)
    endings = (f":{task.dataset}", f":{name}", f"_{name}_{level.partition('-')[0]}", f"_{name}", f"_{family}")
    for full in (*(method + ending for ending in endings), *([f"{method}_discrete"] if task.integer_actions else []), method):
        if full in known:
            return known[full]()
    if method not in methods():
        raise ConfigError(f"unknown method '{method}'.{nearest(method, methods())}")
    if method not in algorithms.names():
        return None
    if name == "icu-sepsis" and method in sepsis_comparison.METHODS:
        settings, preprocessing = sepsis_comparison.METHODS[method]
        return Recipe(method, dict(settings), preprocessing)
    return Recipe(method)


def methods() -> list[str]:
    """Returns what may be named as a method: the algorithms, and the recipes that are methods of their own."""
    names = algorithms.names()
    tuned = [method for method, colon, _ in (name.partition(":") for name in published.recipes()) if colon]
    own = [name for name in published.recipes() if ":" not in name and not name.startswith(tuple(f"{known}_" for known in names))]
    return sorted({*names, *tuned, *own})


def plan_of(task: Task, method: str, seed: int, steps: int | None = None) -> Plan:
    """Returns the plan of one run: one seed of a method on a task. Raises ConfigError for a method or a number that is none."""
    size = task.size(method)
    count = (size.steps or task.steps) if steps is None else steps
    episodes, evaluations = size.episodes or task.episodes, size.evaluations or task.evaluations
    recipe = recipe_of(method, task)
    if recipe is None:
        raise ConfigError(f"'{method}' has no published settings for {task.dataset}; leave it out, or choose other logs")
    found, config = algorithms.find(recipe.algorithm)
    settings = dict(recipe.settings) | {name: value for name, value in task.settings.items() if name in config.__dataclass_fields__}
    settings |= size.settings
    batch_size = size.batch_size or task.batch_size or recipe.batch_size
    return plan(
        recipe.algorithm,
        settings=settings,
        seeds=[seed],
        training=Training(
            steps=count, batch_size=batch_size, threads=1, log_every=max(count // 10, 1), save_every=max(count // 10, 1), keep_checkpoints=1
        ),
        preprocessing=replace(recipe.preprocessing, **size.preprocessing),
        goals=recipe.goals,
        evaluation=Evaluation(
            every=max(count // evaluations, 1),
            episodes=episodes,
            parallel=episodes,
            processes=1,
            epsilon=None if isinstance(found.batch, Windows) else task.epsilon,
        ),
    )


def fits(task: Task, method: str) -> bool:
    """Returns whether a method learns actions such as the task's, and goals where its walks have goals, with settings that are known."""
    recipe = recipe_of(method, task)
    if recipe is None:
        return False
    kind, _ = algorithms.find(recipe.algorithm)
    goals = (recipe.goals or drawing_of(kind.batch)).hindsight
    return kind.action_space in ("any", "discrete" if task.integer_actions else "box") and goals == (task.dataset in published_goals.LOGS)


def seconds_of(task: Task, method: str, made: Plan | None = None) -> float:
    """Returns about how long one run of a method takes on one core of the machine that the speeds were measured on."""
    size, made = task.size(method), made or plan_of(task, method, 0)
    told = size.milliseconds if size.milliseconds is not None else task.milliseconds
    if told is None:  # as many times what was measured as there is more to multiply
        of_method = _MILLISECONDS.get(method) or _MILLISECONDS.get(made.algorithm, _OTHER_MILLISECONDS)
        told = of_method * weights_of(made) * max(made.training.batch_size / 256, 1.0)
    return _START_SECONDS + made.training.steps * told / 1000 + (size.evaluations or task.evaluations) * task.evaluation_seconds


def weights_of(made: Plan) -> float:
    """Returns how many times the weights of two critics of two layers of 256 a plan's networks have, about; at least 1."""
    settings = made.settings
    layers = max((getattr(settings, name, None) or () for name in ("hidden", "critic_hidden")), key=sum)
    one: float = sum(width * following for width, following in pairwise(layers)) / 256**2
    return max(one * max((getattr(settings, "ensemble", None) or 2) / 2, 1.0), 1.0)
