"""One step of learning: losses, one backward pass, optimizers and target averages, in place, without asking the host.

`joint` sums all losses that are due into one backward pass, as single-file implementations do; `sequential` updates one network
after another in the order in which the algorithm defines them, each with the ones before it already moved, as many authors' code does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Algorithm, Due
from stitchrl.core.frame_batch import PackedRows, Table, gather
from stitchrl.training import optimization, seeds

Order = Literal["joint", "sequential"]


@final
class Update:
    """The state that learning changes, all of it tensors, and the function that changes it."""

    def __init__(self, algorithms: Sequence[Algorithm], *, steps: int, order: Order, device: torch.device, dtype: torch.dtype) -> None:
        self.template = algorithms[0]
        self.count = len(algorithms)
        self.order = order
        self.steps = steps
        self.dtype = dtype
        self.parameters = seeds.stack(algorithms, device, dtype)
        self.networks = self.template.networks
        self._constants = {name for name, parameter in self.template.named_parameters() if not parameter.requires_grad}
        for network in self.networks:
            for parameter in self.of(network):
                parameter.requires_grad_()
        learned = [name for name, p in self.parameters.items() if p.requires_grad]
        self.first = {name: torch.zeros_like(self.parameters[name], requires_grad=False) for name in learned}
        self.second = {name: torch.zeros_like(self.parameters[name], requires_grad=False) for name in learned}
        # float32 whatever the parameters: the fused optimizer asks for it, and it counts exactly to 16 million
        self.counts = {network: torch.zeros((), device=device) for network in self.networks}
        self.halted = torch.zeros((), device=device)
        self.taken = torch.zeros((), device=device, dtype=torch.int64)

    def of(self, network: str, state: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Returns what one network learns, or that network's part of another state with its names; constants are left out."""
        state = self.parameters if state is None else state
        return [tensor for name, tensor in state.items() if name.startswith(network + ".") and name not in self._constants]

    def due(self, step: int) -> Due:
        """Returns the networks and targets whose turn it is at a step, counted from 0."""
        every = self.template.update_every
        names = (*self.networks, *self.template.targets)
        return frozenset(name for name in names if (step + 1) % every.get(name, 1) == 0)

    def tensors(self) -> dict[str, Tensor]:
        """Returns all state by name: what a checkpoint holds."""
        groups = {"parameters": self.parameters, "first_moments": self.first, "second_moments": self.second, "counts": self.counts}
        named = {f"{group}/{name}": tensor for group, state in groups.items() for name, tensor in state.items()}
        return named | {"taken": self.taken}

    def __call__(self, due: Due, table: Table, index: Tensor, noise: Mapping[str, Tensor], totals: Mapping[str, Tensor]) -> None:
        """Takes one step on the rows at `index [S, B]`, and adds losses and metrics to `totals`; a loss that is not finite halts all later ones."""
        rows = self._rows(table, index)
        found: dict[str, Tensor] = {}
        if self.order == "joint":
            self._step(due, [name for name in self.networks if name in due], rows, noise, found)
        else:
            for network in self.networks:
                if network in due:
                    self._step(frozenset([network]), [network], rows, noise, found)
        with torch.no_grad():
            for target, source in self.template.targets.items():
                if target in due:
                    optimization.average_step(self.of(target), self.of(source), self.template.target_rate, self.halted)
            self.taken.add_((self.halted == 0).long())
            for name, value in found.items():
                totals[name].add_(value)

    def _step(self, due: Due, networks: list[str], rows: PackedRows, noise: Mapping[str, Tensor], found: dict[str, Tensor]) -> None:
        losses, metrics = seeds.losses(self.template, self.parameters, rows, noise, due, self.count)
        total = torch.stack([loss.sum() for loss in losses.values()]).sum()
        parameters = [p for network in networks for p in self.of(network)]
        gradients = torch.autograd.grad(total, parameters)
        with torch.no_grad():
            by_network: dict[str, list[Tensor]] = {}
            start = 0
            for network in networks:
                stop = start + len(self.of(network))
                by_network[network] = list(gradients[start:stop])
                start = stop
            norms = {network: optimization.gradient_norms(g, self.count) for network, g in by_network.items()}
            finite = torch.isfinite(total + torch.stack(list(norms.values())).sum())
            self.halted.copy_(torch.maximum(self.halted, (~finite).to(self.halted.dtype)))
            for network, g in by_network.items():
                adam = self.template.optimizers[network]
                clipped = g if adam.clip_norm is None else optimization.clip(g, norms[network], adam.clip_norm)
                updates = self.steps // self.template.update_every.get(network, 1)
                moments = self.of(network, self.first), self.of(network, self.second)
                optimization.adam_step(adam, self.of(network), clipped, *moments, self.counts[network], updates, self.halted)
        for name, value in losses.items():
            found[f"loss/{name}"] = value.detach()
        for name, value in metrics.items():
            found[f"metric/{name}"] = value.detach()

    def _rows(self, table: Table, index: Tensor) -> PackedRows:
        """`[S, B, width]`; the table is float32 whatever the parameters."""
        return gather(table, index, self.dtype)

    def evaluate(self, due: Due, table: Table, index: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns what a step with `due` would report, by name, and changes nothing."""
        with torch.no_grad():
            losses, metrics = seeds.losses(self.template, self.parameters, self._rows(table, index), noise, due, self.count)
        return {f"loss/{k}": v for k, v in losses.items()} | {f"metric/{k}": v for k, v in metrics.items()}

    def gradient_norms(self, due: Due, table: Table, index: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the norm `[S]` of each due network's gradient as `gradient/network`, and changes nothing."""
        losses, _ = seeds.losses(self.template, self.parameters, self._rows(table, index), noise, due, self.count)
        norms = {}
        for network, loss in losses.items():
            gradients = torch.autograd.grad(loss.sum(), self.of(network), retain_graph=True)
            norms[f"gradient/{network}"] = optimization.gradient_norms(gradients, self.count).detach()
        return norms
