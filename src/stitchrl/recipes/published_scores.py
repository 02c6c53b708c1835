"""Published scores of the benchmark's kinds of logs: facts to stand beside ours, of other data and a hundred times more steps.

Source: the tables Gym-MuJoCo, Maze2d and Antmaze in the README of CORL (Tarasov et al., 2022, arXiv:2210.07105): D4RL's normalised scores
after a million steps (last) and the best of all evaluations, mean and standard deviation over four seeds. The logs are D4RL's (Fu et al.,
2020, arXiv:2004.07219); ours are generated here, by other agents, in Gymnasium's later environments. Planners and diffusion, which CORL has
not: Trajectory Transformer's from its authors' README (15 runs), the others from CleanDiffuser's table 1 (Dong et al., 2024,
arXiv:2406.09509; one trained model, 150 episodes), each with its standard error. Reaching goals: OGBench's table 2 (Park et al., 2024,
arXiv:2410.20092): percent of episodes that reach the five tasks' goals after a million steps of batches of 1,024 on a million logged ones, mean
and standard deviation over eight seeds.
"""

from __future__ import annotations

from collections.abc import Iterable

SOURCE = (
    "CORL's tables (arXiv:2210.07105): D4RL's logs, a million steps, mean ± standard deviation over four seeds; Trajectory Transformer: its "
    "authors', ± standard error of 15 runs; Decision Diffuser, diffusion Q-learning, IDQL: CleanDiffuser's (arXiv:2406.09509), ± standard error "
    "of 150 episodes"
)
GOAL_SOURCE = (
    "OGBench's table 2 (arXiv:2410.20092): its own logs, ten times as long, a million steps of batches of 1,024, percent of episodes that reach "
    "the five tasks' goals, mean ± standard deviation over eight seeds"
)
METHODS = ("bc", "filtered_bc", "td3_bc", "awac", "cql", "iql", "rebrac", "sac_n", "edac", "decision_transformer")

# our log, then mean and standard deviation of each of METHODS
_LAST = """
halfcheetah/medium 42.4 0.19 42.46 0.7 48.1 0.18 50.02 0.27 47.04 0.22 48.31 0.22 64.04 0.68 68.2 1.28 67.7 1.04 42.2 0.26
halfcheetah/medium-replay 35.66 2.33 23.59 6.95 44.84 0.59 45.13 0.88 45.04 0.27 44.46 0.22 51.18 0.31 60.7 1.01 62.06 1.1 38.91 0.5
halfcheetah/medium-expert 55.95 7.35 90.1 2.45 90.78 6.04 95 0.61 95.63 0.42 94.74 0.52 103.8 2.95 98.96 9.31 104.76 0.64 91.55 0.95
hopper/medium 53.51 1.76 55.48 7.3 60.37 3.49 63.02 4.56 59.08 3.77 67.53 3.78 102.29 0.17 40.82 9.91 101.7 0.28 65.1 1.61
hopper/medium-replay 29.81 2.07 70.42 8.66 64.42 21.52 98.88 2.07 95.11 5.27 97.43 6.39 94.98 6.53 100.33 0.78 99.66 0.81 81.77 6.87
hopper/medium-expert 52.3 4.01 111.16 1.03 101.17 9.07 101.9 6.22 99.26 10.91 107.42 7.8 109.45 2.34 101.31 11.63 105.19 10.08 110.44 0.33
walker2d/medium 63.23 16.24 67.34 5.17 82.71 4.78 68.52 27.19 80.75 3.28 80.91 3.17 85.82 0.77 87.47 0.66 93.36 1.38 67.63 2.54
walker2d/medium-replay 21.8 10.15 54.35 6.34 85.62 4.01 80.62 3.58 73.09 13.22 82.15 3.03 84.25 2.25 78.99 0.5 87.1 2.78 59.86 2.73
walker2d/medium-expert 98.96 15.98 108.7 0.25 110.03 0.36 111.44 1.62 109.56 0.39 111.72 0.86 111.86 0.43 114.93 0.41 114.75 0.74 107.11 0.96
pointmaze/umaze 0.36 8.69 12.18 4.29 29.41 12.31 65.65 5.34 -8.9 6.11 42.11 0.58 106.87 22.16 130.59 16.52 95.26 6.39 18.08 25.42
pointmaze/medium 0.79 3.25 14.25 2.33 59.45 36.25 84.63 35.54 86.11 9.68 34.85 2.72 105.11 31.67 88.61 18.72 57.04 3.45 31.71 26.33
pointmaze/large 2.26 4.39 11.32 5.1 97.1 25.41 215.5 3.11 23.75 36.7 61.72 3.5 78.33 61.77 204.76 1.19 95.6 22.92 35.66 28.2
antmaze/umaze-play 55.25 4.15 65.75 5.26 70.75 39.18 56.75 9.09 92.75 1.92 77 5.52 97.75 1.48 0 0 0 0 57 9.82
antmaze/umaze-diverse 47.25 4.09 44 1 44.75 11.61 54.75 8.01 37.25 3.7 54.25 5.54 83.5 7.02 0 0 0 0 51.75 0.43
antmaze/medium-play 0 0 2 0.71 0.25 0.43 0 0 65.75 11.61 65.75 11.71 89.5 3.35 0 0 0 0 0 0
antmaze/medium-diverse 0.75 0.83 5.75 9.39 0.25 0.43 0 0 67.25 3.56 73.75 5.45 83.5 8.2 0 0 0 0 0 0
antmaze/large-play 0 0 0 0 0 0 0 0 20.75 7.26 42 4.53 52.25 29.01 0 0 0 0 0 0
antmaze/large-diverse 0 0 0.75 0.83 0 0 0 0 20.5 13.24 30.25 3.63 64 5.43 0 0 0 0 0 0
"""
_BEST = """
halfcheetah/medium 43.6 0.14 43.9 0.13 48.93 0.11 50.81 0.15 47.62 0.03 48.84 0.07 65.62 0.46 72.21 0.31 69.72 0.92 42.73 0.1
halfcheetah/medium-replay 40.52 0.19 42.27 0.46 45.84 0.26 46.47 0.26 46.43 0.19 45.35 0.08 52.22 0.31 67.29 0.34 66.55 1.05 40.31 0.28
halfcheetah/medium-expert 79.69 3.1 94.11 0.22 96.59 0.87 96.83 0.23 97.04 0.17 95.38 0.17 108.89 1.2 111.73 0.47 110.62 1.04 93.4 0.21
hopper/medium 69.04 2.9 73.84 0.37 70.44 1.18 95.42 3.67 70.8 1.98 80.46 3.09 103.19 0.16 101.79 0.2 103.26 0.14 69.42 3.64
hopper/medium-replay 68.88 10.33 90.57 2.07 98.12 1.16 101.47 0.23 101.63 0.55 102.69 0.96 102.57 0.45 103.83 0.53 103.28 0.49 88.74 3.02
hopper/medium-expert 90.63 10.98 113.13 0.16 113.22 0.43 113.26 0.49 112.84 0.66 113.18 0.38 113.16 0.43 111.24 0.15 111.8 0.11 111.18 0.21
walker2d/medium 80.64 0.91 82.05 0.93 86.91 0.28 85.86 3.76 84.77 0.2 87.58 0.48 87.79 0.19 90.17 0.54 95.78 1.07 74.7 0.56
walker2d/medium-replay 48.41 7.61 76.09 0.4 91.17 0.72 86.7 0.94 89.39 0.88 89.94 0.93 91.11 0.63 85.18 1.63 89.69 1.39 68.22 1.2
walker2d/medium-expert 109.95 0.62 109.9 0.09 112.21 0.06 113.4 2.22 111.63 0.38 113.06 0.53 112.49 0.18 116.93 0.42 116.52 0.75 108.71 0.34
pointmaze/umaze 16.09 0.87 22.49 1.52 99.33 16.16 136.96 10.89 92.05 13.66 50.92 4.23 162.28 1.79 153.12 6.49 149.88 1.97 63.83 17.35
pointmaze/medium 19.16 1.24 27.64 1.87 150.93 3.89 152.73 20.78 128.66 5.44 122.69 30 150.12 4.48 93.8 14.66 154.41 1.58 68.14 12.25
pointmaze/large 20.75 6.66 41.83 3.64 197.64 5.26 227.31 1.47 157.51 7.32 162.25 44.18 197.55 5.82 207.51 0.96 182.52 2.68 50.25 19.34
antmaze/umaze-play 68.5 2.29 77.5 1.5 98.5 0.87 70.75 8.84 94.75 0.83 84 4.06 100 0 0 0 42.5 28.61 64.5 2.06
antmaze/umaze-diverse 64.75 4.32 63.5 2.18 71.25 5.76 81.5 4.27 53.75 2.05 79.5 3.35 96.75 2.28 0 0 0 0 60.5 2.29
antmaze/medium-play 4.5 1.12 6.25 2.38 3.75 1.3 25 10.7 80.5 3.35 78.5 3.84 93.5 2.6 0 0 0 0 0.75 0.43
antmaze/medium-diverse 4.75 1.09 16.5 5.59 5.5 1.5 10.75 5.31 71 4.53 83.5 1.8 91.75 2.05 0 0 0 0 0.5 0.5
antmaze/large-play 0.5 0.5 13.5 9.76 1.25 0.43 0.5 0.5 34.75 5.85 53.5 2.5 68.75 13.9 0 0 0 0 0 0
antmaze/large-diverse 0.75 0.43 6.25 1.79 0.25 0.43 0 0 36.25 3.34 53 3 69.5 7.26 0 0 0 0 0 0
"""
# our log, then mean and standard error of each of LATER_METHODS: the last policy's
LATER_METHODS = ("trajectory_transformer", "decision_diffuser", "diffusion_ql", "idql")
_LATER = """
halfcheetah/medium 46.9 0.4 45.3 0.3 52.3 0.2 51.5 0.1
halfcheetah/medium-replay 41.9 2.5 42.9 0.1 47.9 0 46.5 0.3
halfcheetah/medium-expert 95 0.2 88.9 1.9 95.5 0.1 91.3 0.6
hopper/medium 61.1 3.6 98.2 0.1 96.5 1.3 70.1 2
hopper/medium-replay 91.5 3.6 99.2 0.2 101.6 0 99.4 0.1
hopper/medium-expert 110 2.7 110.4 0.6 111.1 0.4 110.1 0.7
walker2d/medium 79 2.8 79.6 0.9 86.8 0 88.1 0.4
walker2d/medium-replay 82.6 6.9 75.6 0.6 98.2 0.1 89.1 2.4
walker2d/medium-expert 101.9 6.8 108.4 0.1 111.6 0 110.6 0
"""
# our log, then mean and standard deviation of each of GOAL_METHODS
GOAL_METHODS = ("gcbc", "gcivl", "gciql", "qrl", "crl", "hiql")
_GOALS = """
pointmaze/navigate 9 6 63 6 53 8 82 5 29 7 79 5
pointmaze/stitch 23 18 70 14 21 9 80 12 0 1 74 6
pointmaze/large-navigate 29 6 45 5 34 3 86 9 39 7 58 5
pointmaze/large-stitch 7 5 12 6 31 2 84 15 0 0 13 6
antmaze/medium-navigate 29 4 72 8 71 4 88 3 95 1 96 1
antmaze/medium-stitch 45 11 44 6 29 6 59 7 53 6 94 1
antmaze/medium-explore 2 1 19 3 13 2 1 1 3 2 37 10
antmaze/large-explore 0 0 10 3 0 0 0 0 0 0 4 5
antmaze/large-navigate 24 2 16 5 34 4 75 6 83 4 91 2
antmaze/large-stitch 3 3 18 2 7 2 18 2 11 2 67 5
"""


def published(dataset: str, *, best: bool = False) -> tuple[str, dict[str, tuple[float, float]]] | None:
    """Returns the published log of a log's kind, and (mean, deviation) by method; None where there is none."""
    reached = _row(_GOALS, dataset, GOAL_METHODS)
    if reached is not None:  # OGBench tells no best
        size = "" if "-" in dataset else "medium-"
        return None if best else (f"{dataset.replace('/', f'-{size}')}-v0", reached)
    found = _row(_BEST if best else _LAST, dataset, METHODS)
    if found is None:
        return None
    version = "-v1" if dataset.startswith("pointmaze") else "-v2"
    theirs = dataset.replace("pointmaze", "maze2d").replace("umaze-play", "umaze").replace("/", "-") + version
    return theirs, found | ({} if best else _row(_LATER, dataset, LATER_METHODS) or {})


def source_of(datasets: Iterable[str]) -> str:
    """Returns where the published scores of these logs' kinds are from, whichever methods are shown."""
    goals = {_row(_GOALS, dataset, GOAL_METHODS) is not None for dataset in datasets if published(dataset) is not None}
    return ". ".join(source for source, shown in ((SOURCE, False in goals), (GOAL_SOURCE, True in goals)) if shown)


def _row(table: str, dataset: str, methods: tuple[str, ...]) -> dict[str, tuple[float, float]] | None:
    for line in table.splitlines():
        name, *numbers = line.split() or [""]
        if name == dataset:
            return dict(zip(methods, zip(map(float, numbers[::2]), map(float, numbers[1::2]), strict=True), strict=True))
    return None
