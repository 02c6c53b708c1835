"""Learning from images: by the same engine as from numbers, and to a known answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stitchrl import algorithms
from stitchrl.agent import load
from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.frame_sampling import StreamedFrames
from stitchrl.data.frame_stacks import FrameStacks, stack_frames
from stitchrl.data.sampling import rows_of
from stitchrl.evaluation.judge import Evaluation, Judge
from stitchrl.evaluation.seen_by_policy import seen_by
from stitchrl.experiment import plan, run_experiment
from stitchrl.training import seeds
from stitchrl.training.learner import Learner, Training

CPU = torch.device("cpu")
NAMES = ("bc", "cql", "iql", "decision_transformer")
SETTINGS: dict[str, dict[str, Any]] = {
    "decision_transformer": {"context": 3, "width": 16, "layers": 1, "return_scale": 6.0, "learning_rate": 3e-3, "warmup_steps": 5}
}


def log(episodes: int = 12, length: int = 6) -> Dataset:
    """A light on the left or on the right of every frame; action 0 earns 1 where it is left, action 1 where it is right, 2 never."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(episodes):
        right = rng.integers(2, size=length + 1)
        frames = rng.integers(30, size=(length + 1, 36, 36)).astype(np.uint8)
        for t, side in enumerate(right):
            frames[t, 14:22, 22 * side + 4 : 22 * side + 12] = 255
        actions = np.where(rng.random(length) < 0.7, right[:-1], 2)
        rewards = (actions == right[:-1]).astype(np.float32)
        found.append({"observations": frames, "actions": actions, "rewards": rewards, "terminals": False})
    return stack_frames(Dataset.from_episodes(found, Spec(Box((36, 36), (0.0,), (255.0,), "uint8"), Discrete(3))), 2)


def learner(name: str, numbers: tuple[int, ...] = (0,), streamed: bool = False, **training: Any) -> Learner:
    algorithm, kind = algorithms.find(name)
    dataset = log()
    config = kind(**SETTINGS.get(name, {"hidden": (16,)}))
    rows: Any = rows_of(dataset, algorithm.batch_of(config), [], CPU, 1 << 30)
    if streamed:
        rows = StreamedFrames(rows.table, CPU)
    settings = Training(**{"steps": 40, "batch_size": 8, "compile": "off", **training})
    return Learner(algorithm, config, dataset.spec, rows, numbers, settings, CPU)


def advance(made: Learner, steps: int) -> dict[str, torch.Tensor]:
    for _ in range(steps):
        made.advance()
    made.check()
    return {name: tensor.detach().clone() for name, tensor in made.update.tensors().items()}


@pytest.mark.parametrize("name", ["bc", "cql", "decision_transformer"])
def test_seeds_together_are_seeds_apart(name: str) -> None:
    together = learner(name, (3, 5), precision="float64")
    advance(together, 2)
    for i, seed in enumerate((3, 5)):
        alone = learner(name, (seed,), precision="float64")
        advance(alone, 2)
        mine, theirs = alone.parameters_of(0), together.parameters_of(i)
        assert all(torch.allclose(mine[k], theirs[k], atol=1e-10) for k in mine)


@pytest.mark.parametrize("name", ["bc", "cql"])
def test_a_resumed_and_a_streamed_run_are_the_run_bit_for_bit(name: str) -> None:
    whole = learner(name)
    first = advance(whole, 3)
    saved, resumed = whole.tensors(), learner(name)
    saved = {k: v.clone() for k, v in saved.items()}
    last = advance(whole, 4)
    resumed.restore(saved, 3)
    again, streamed = advance(resumed, 4), advance(learner(name, streamed=True), 7)
    assert all(torch.equal(again[k], last[k]) and torch.equal(streamed[k], last[k]) for k in last)
    assert any(not torch.equal(first[k], last[k]) for k in last)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_reaches_the_convolutions_of_its_own_network(name: str) -> None:
    made = learner(name)
    made.advance()
    moved = [k for k, v in made.update.first.items() if "encoder" in k and bool(v.abs().sum() > 0)]
    networks = made.template.networks
    assert {k.split(".")[0] for k in moved} == set(networks)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the compiler's own imports
@pytest.mark.parametrize("numbers", [(0,), (0, 1)])
def test_a_step_is_one_graph(numbers: tuple[int, ...]) -> None:
    torch.compiler.reset()
    torch._dynamo.config.trace_autograd_ops = True
    made = learner("cql", numbers)
    made._block = made.blocks.draw()
    table, index, noise = made._block.step(0)
    due = made.update.due(0)
    totals = {name: torch.zeros_like(v).reshape(-1) for name, v in made.update.evaluate(due, table, index, noise).items()}
    plain, compiled = learner("cql", numbers), torch.compile(made._take, fullgraph=True, backend="eager")
    compiled(due, totals, table, index, noise)
    plain.advance()
    ours, theirs = made.update.tensors(), plain.update.tensors()
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-6) for k in ours)


@pytest.mark.parametrize("name", ["bc", "cql", "decision_transformer"])
def test_it_learns_what_the_light_says(name: str) -> None:
    made = learner(name, steps=60, batch_size=32)
    advance(made, 60)
    dataset = log()
    seen = np.asarray(dataset.observations)
    right = seen[:, -1, 18, 30] == 255
    policy = made.template.policy()
    chosen = seeds.act(policy, made.template, made.parameters_of(0), torch.from_numpy(seen), None).numpy()
    assert (chosen == right).mean() > 0.95


def test_what_is_believed_of_images_is_read_in_pieces() -> None:
    made, dataset, sizes = learner("cql"), log(), []
    made.template.critic.mlp.encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    seen = torch.from_numpy(np.asarray(dataset.observations))
    found = seeds.believed_value(made.template, made.parameters_of(0), seen)
    assert sizes == [32, 32, 8]
    with torch.no_grad(), seeds.holding(made.template, made.parameters_of(0)):
        assert found == pytest.approx(float(made.template.believed_value(seen).mean()), rel=1e-6)
    assert seeds.believed_value(learner("bc").template, learner("bc").parameters_of(0), seen) is None
    judge = Judge(Evaluation(), dataset, None, {}, made.template.config, [0])
    assert isinstance(judge.starts, FrameStacks)  # positions alone
    assert np.array_equal(np.asarray(judge.starts), seen[::6])


def test_a_run_saves_a_policy_that_reads_bytes(tmp_path: Path) -> None:
    made = plan("cql", settings={"hidden": (8,)}, training=Training(steps=3, batch_size=4, compile="off"))
    run_experiment(made, log(), path=tmp_path / "run", source="made up")
    agent, seen = load(tmp_path / "run"), np.asarray(log().observations[:5])
    chosen = agent.predict(seen)
    assert chosen.shape == (5,)
    assert np.array_equal(agent.predict(seen.astype(np.int64)), chosen)
    with pytest.raises(DataError, match="real numbers"):
        agent.predict(seen / 255)
    with pytest.raises(DataError, match=r"expected the 0 … 255 of uint8"):
        agent.predict(seen.astype(np.int64) + 300)
    with pytest.raises(DataError, match="Roll it out instead"):  # at once, not after hours of flattened pixels
        seen_by(agent, log())
