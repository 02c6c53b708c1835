"""A learner: an algorithm's seeds, the blocks they read and the step that moves them, able to stop and go on bit for bit."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Algorithm, Due, build
from stitchrl.core.errors import CheckpointError, DivergenceError
from stitchrl.core.frame_batch import PackedRows, Table, gather
from stitchrl.core.settings import Count
from stitchrl.core.spec import Spec
from stitchrl.core.windows import WindowBatch, Windows
from stitchrl.data.goal_rows import GoalRows
from stitchrl.data.sampling import Rows
from stitchrl.data.window_rows import WindowRows
from stitchrl.nn.vision import Encoder
from stitchrl.training import compilation, seeds
from stitchrl.training.blocks import BLOCK_STEPS, Block, Blocks
from stitchrl.training.update import Order, Update


@final
@dataclass(frozen=True)
class Training:
    """Settings of the engine, the same for every algorithm."""

    steps: Count = 100_000
    """gradient steps; of `finetune`: each seed's steps in the environment, which the three intervals below count too"""
    batch_size: Count = 256
    order: Order = "joint"
    """joint: one backward pass for all networks; sequential: one network after another, as many authors' code"""
    compile: compilation.Mode = "auto"
    """compile the step: auto does so where the run is long enough to win back the time it takes"""
    device: str = "auto"
    """cpu, cuda, cuda:1 …; auto takes CUDA where there is one"""
    threads: Count | None = None
    """CPU threads; None: chosen by the size of a step"""
    precision: Literal["float32", "float64"] = "float32"
    log_every: Count = 1_000
    """steps between two lines of metrics"""
    save_every: Count = 10_000
    """steps between two checkpoints"""
    keep_checkpoints: Count = 2


@final
class Learner:
    """S seeds of one algorithm that learn from the same rows, each with its own weights, batches and noise."""

    def __init__(
        self,
        algorithm: type[Algorithm],
        config: Any,
        spec: Spec,
        rows: Rows,
        seed_numbers: Sequence[int],
        training: Training,
        device: torch.device,
        block_steps: int = BLOCK_STEPS,
    ) -> None:
        self.seeds = tuple(seed_numbers)
        self.training = training
        self.device = device
        dtype = getattr(torch, training.precision)
        copies = [build(algorithm, config, spec, seed) for seed in self.seeds]
        self.template = copies[0]
        if isinstance(rows, GoalRows | WindowRows):
            self.template.batch = rows.kind
        if isinstance(rows, WindowRows):
            measure(copies, rows)
        self.update = Update(copies, steps=training.steps, order=training.order, device=device, dtype=dtype)
        noise = self.template.noise(training.batch_size)
        self.blocks = Blocks(rows, noise, training.batch_size, self.seeds, device, dtype, block_steps)
        self.compiled, self.compile_reason = compilation.choose(training.compile, training.steps, device)
        compilation.keep_freed_memory()
        self.step = 0
        self._block: Block | None = None
        self._totals: dict[Due, dict[str, Tensor]] = {}
        self._steps: dict[Due, compilation.Step] = {}
        self._counts: Counter[Due] = Counter()

    def advance(self) -> None:
        """Takes one step; asks nothing of the device but once a block, whether it still goes well."""
        k = self.step % self.blocks.steps
        if self._block is None or k == 0:
            self.check()
            self._block = self.blocks.draw()
        table, index, noise = self._block.step(k)
        due = self.update.due(self.step)
        if due not in self._steps:
            if due not in self._totals:
                values = self.update.evaluate(due, table, index, noise)
                # of one axis also for one seed: a compiled step does not write to a float64 input without axes (PyTorch 2.13)
                self._totals[due] = {name: torch.zeros_like(value).reshape(-1) for name, value in values.items()}
            step = functools.partial(self._take, due, self._totals[due])
            self._steps[due] = compilation.prepare(step, compiled=self.compiled, device=self.device)
        self._steps[due](table, index, noise)
        self._counts[due] += 1
        self.step += 1

    def _take(self, due: Due, totals: Mapping[str, Tensor], table: Table, index: Tensor, noise: Mapping[str, Tensor]) -> None:
        self.update(due, table, index, noise, totals)

    def check(self) -> None:
        """Raises DivergenceError if a loss or gradient was not finite; the parameters are those before that step."""
        if not bool(self.update.halted):
            return
        step = int(self.update.taken)
        assert self._block is not None
        table, index, noise = self._block.step(step % self.blocks.steps)
        due = self.update.due(step)
        losses = self.update.evaluate(due, table, index, noise)
        cause = self._not_finite(losses)
        if not cause:
            cause = self._not_finite(self.update.gradient_norms(due, table, index, noise)) + " (the losses are finite)"
        self.step = step
        moved = "" if self.training.order == "joint" else ", but for networks that move before it in a step"
        raise DivergenceError(
            f"step {step:,}: {cause} is not finite; the step was not taken and the weights are those before it{moved}. "
            f"Look at the data with `stitchrl data validate`, lower the learning rate, or scale the rewards"
        )

    def _not_finite(self, values: Mapping[str, Tensor]) -> str:
        """`a, b of seed 3, 4`; empty where all are finite."""
        wrong = {name: ~torch.isfinite(value.reshape(-1)) for name, value in values.items() if not bool(torch.isfinite(value).all())}
        which = sorted({self.seeds[i] for bad in wrong.values() for i in bad.nonzero().flatten().tolist()})
        return f"{', '.join(sorted(wrong))} of seed {', '.join(map(str, which))}" if wrong else ""

    def last_batch(self) -> tuple[PackedRows, Tensor]:
        """Returns the packed rows of the present step's batch and their numbers in the log."""
        assert self._block is not None
        k = self.step % self.blocks.steps
        table, index, _ = self._block.step(k)
        return gather(table, index, torch.float32), self.blocks.rows.numbers(self._block.drawn[k])

    def read_metrics(self) -> dict[str, list[float]]:
        """Returns the mean of each loss and metric since the last call, one number a seed, and starts anew."""
        self.check()
        sums: dict[str, Tensor] = {}
        counts: Counter[str] = Counter()
        for due, totals in sorted(self._totals.items(), key=lambda item: sorted(item[0])):  # the same order after a resume
            for name, total in totals.items():
                if self._counts[due]:
                    sums[name] = sums.get(name, 0) + total.reshape(-1)
                    counts[name] += self._counts[due]
                total.zero_()
        self._counts.clear()
        return {name: (total / counts[name]).tolist() for name, total in sorted(sums.items())}

    def tensors(self) -> dict[str, Tensor]:
        """Returns everything that a step changes or reads, by name; with `step`, enough to go on bit for bit."""
        totals = {
            f"totals/{'+'.join(sorted(due))}/{name}": value for due, named in self._totals.items() for name, value in named.items()
        }  # so that the first metrics after a resume are those of the uninterrupted run
        counts = {f"totals/{'+'.join(sorted(due))}/count": torch.tensor(count) for due, count in self._counts.items()}
        return self.update.tensors() | self.blocks.tensors() | totals | counts

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Goes on from saved tensors; raises CheckpointError where one is missing, of another shape, not finite, or has no place here."""
        mine = self.update.tensors()
        if left := [name for name in tensors if name.startswith("parameters/") and name not in mine]:
            raise CheckpointError(f"the checkpoint has '{left[0]}', which these settings' networks lack; it was made by other settings")
        with torch.no_grad():
            for name, own in mine.items():
                if name not in tensors:
                    raise CheckpointError(f"the checkpoint has no '{name}'; it was made by another algorithm or other settings")
                if tensors[name].shape != own.shape:
                    raise CheckpointError(f"the checkpoint's '{name}' has shape {list(tensors[name].shape)}; expected {list(own.shape)}")
                if tensors[name].dtype != own.dtype:
                    raise CheckpointError(
                        f"the checkpoint's '{name}' is {tensors[name].dtype}; expected {own.dtype}: the precision was another"
                    )
                if own.is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
                    raise CheckpointError(f"the checkpoint's '{name}' holds numbers that are not finite")
                own.copy_(tensors[name])
        missing = [name for name in self.blocks.tensors() if name not in tensors]
        if missing:
            raise CheckpointError(f"the checkpoint has no '{missing[0]}': the run cannot be continued exactly")
        self.blocks.restore(dict(tensors))
        self.update.halted.zero_()
        self.step = step
        if step:  # the block that the last step was of, also where it was that block's last
            self._block = self.blocks.draw()
        self._restore_totals(tensors)

    def _restore_totals(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in tensors.items():
            match name.split("/", 2):
                case ["totals", due, "count"]:
                    self._counts[frozenset(due.split("+"))] = int(value)
                case ["totals", due, metric]:
                    self._totals.setdefault(frozenset(due.split("+")), {})[metric] = value.to(self.device)

    def parameters_of(self, seed: int) -> dict[str, Tensor]:
        """Returns the parameters (views) of the i-th seed by name."""
        return seeds.unstack(self.update.parameters, seed, len(self.seeds))


@torch.no_grad()
def measure(copies: Sequence[Algorithm], rows: WindowRows) -> None:
    """Has each seed's algorithm fill its constants from the log."""
    if type(copies[0]).measure is Algorithm.measure:
        return
    log = WindowBatch._make(None if x is None else x.cpu() for x in rows.sample())
    for copy in copies:
        copy.measure(log)
        for target, source in copy.targets.items():  # still a copy, of its constants too
            copy.get_submodule(target).load_state_dict(copy.get_submodule(source).state_dict())


def operations(learner: Learner) -> float:
    """About how many floating-point operations a step takes: 6 for each weight and row, and more rows where actions are sampled or in windows."""
    weights = sum(p.numel() for name, p in learner.update.parameters.items() if not name.startswith(tuple(learner.template.targets)))
    if isinstance(kind := learner.template.batch, Windows):
        return 6.0 * weights * learner.training.batch_size * kind.length
    repeats = max(
        (kind.shape[0] for kind in learner.template.noise(learner.training.batch_size).values() if len(kind.shape) == 3), default=1
    )
    weights += sum(module.operations for module in learner.template.modules() if isinstance(module, Encoder))
    return 6.0 * weights * learner.training.batch_size * (1 + 3 * (repeats - 1))
