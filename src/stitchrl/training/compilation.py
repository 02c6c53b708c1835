"""How a step is run: as it is, compiled as one region, or (on CUDA) captured as a graph and replayed."""

from __future__ import annotations

import ctypes
import inspect
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor

from stitchrl.core.errors import ConfigError
from stitchrl.core.frame_batch import Table, address
from stitchrl.core.machine import cores

Mode = Literal["auto", "on", "off"]
Step = Callable[[Table, Tensor, Mapping[str, Tensor]], None]

# Compiling takes 10 to 60 s and saves about 4 ms a step of a two-layer critic: shorter runs would not win it back.
WORTHWHILE_STEPS = 20_000
WARM_STEPS = 3  # before a step is recorded


def choose(mode: Mode, steps: int, device: torch.device) -> tuple[bool, str]:
    """Returns whether to compile, and why. Depends on settings alone, so that a run and its repeat choose alike."""
    if mode == "off":
        return False, "switched off"
    if device.type == "cpu" and not (shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")):
        if mode == "on":
            raise ConfigError(
                "--compile on needs a C++ compiler at run time and neither g++ nor clang++ was found; install g++ or use --compile off"
            )
        return False, "no C++ compiler found"
    if mode == "auto" and device.type == "cpu" and steps < WORTHWHILE_STEPS:
        return False, f"{steps:,} steps are fewer than the {WORTHWHILE_STEPS:,} that win back the time to compile"
    return True, "on" if mode == "on" else "pays for this many steps"


def prepare(step: Step, *, compiled: bool, device: torch.device) -> Step:
    """Returns the step, compiled where asked, and on CUDA captured as a graph."""
    if compiled and device.type != "cuda":
        # gradients inside the compiled region: without this the graph would break at autograd.grad
        torch._dynamo.config.trace_autograd_ops = True
        torch._dynamo.config.recompile_limit = 64
        options: dict[str, Any] = {}
        if "isolate_recompiles" in inspect.signature(torch.compile).parameters:  # PyTorch 2.13 has it; without it all must be checked
            options = {"isolate_recompiles": True, "options": {"guard_filter_fn": _guards_of_inputs}}
        compiled_step: Step = torch.compile(step, fullgraph=True, **options)
        return compiled_step
    return GraphedStep(step) if compiled else step


def _guards_of_inputs(entries: Sequence[Any]) -> list[bool]:
    """Which of a compiled step's conditions are checked at each call: those on its inputs and on PyTorch's modes.

    The other 300 concern the learner that the step belongs to, which alone runs it (`isolate_recompiles`), and whose networks, settings
    and shapes never change; to check them took 6 % of a step of behaviour cloning.
    """
    return [entry.name == "" or entry.name.startswith(("args", "kwargs")) for entry in entries]


def threads(requested: int | None, floating_point_operations: float) -> int:
    """Returns the CPU threads for a step: one unless it is long enough that handing out its parts costs little."""
    if requested is not None:
        return requested
    return 1 if floating_point_operations < 5e9 else min(cores(), 8)


def keep_freed_memory() -> None:
    """Returns nothing; from now on this process keeps what it frees, up to 512 MB, in place of handing it to the kernel and back at each step.

    glibc's defaults fault in the same 16 MB buffers thousands of times a step (a quarter of CQL's time). Elsewhere it does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(-1, 512 << 20)  # M_TRIM_THRESHOLD
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the highest that glibc takes


@final
class GraphedStep:
    """A step on CUDA recorded once and replayed: one launch instead of hundreds. Inputs are copied to where the recording read them.

    A recording reads one table for ever: once a table lies elsewhere (streamed data, block by block), steps are run as they are.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warm = 0
        self.table: Table | None = None
        self.moves = False

    def __call__(self, table: Table, index: Tensor, noise: Mapping[str, Tensor]) -> None:
        if self.table is not None and address(table) != address(self.table):
            self.moves, self.graph = True, None
        self.table = table
        if self.moves:
            self.step(table, index, noise)
            return
        with torch.cuda.device(index.device):  # streams and recordings are of the current device, which need not be the run's
            if self.warm < WARM_STEPS:
                self._warm_up(table, index, noise)
                return
            if self.graph is None:
                self.graph = self._recorded(table, index, noise)
            self.index.copy_(index)
            for name, value in noise.items():
                self.noise[name].copy_(value)
            self.graph.replay()

    def _warm_up(self, table: Table, index: Tensor, noise: Mapping[str, Tensor]) -> None:
        """A real step, run plainly: it fills the allocator and the libraries' workspaces before the recording."""
        self.warm += 1
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step(table, index, noise)
        torch.cuda.current_stream().wait_stream(stream)

    def _recorded(self, table: Table, index: Tensor, noise: Mapping[str, Tensor]) -> torch.cuda.CUDAGraph:
        self.index, self.noise = index.clone(), {name: value.clone() for name, value in noise.items()}
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # records without running
            self.step(table, self.index, self.noise)
        return graph
