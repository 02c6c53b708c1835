"""The floor of a gradient step: its minimal list of matrix products alone, on buffers that exist already.

No library can take a step of these networks in less: everything else (gathering the batch, biases, activations, losses, the optimizer,
target averages) is left out. Counted, for a batch B of 256, 17 observations, 6 actions, two hidden layers of 256:

    network with a loss of its own   forward, gradients of all weights, gradients of the inputs of all layers but the first
    target or next-state value       forward
    critic under an actor's loss     forward, gradients of all inputs, in the first layer of the action alone; no weights
    bc              actor learns
    td3_bc          2 critics learn, 2 target critics, target actor; every second step also: actor learns under 1 critic
    iql             value, actor and 2 critics learn; 2 target critics at s, value at s'
    cql             2 critics learn from 31 actions a state (10 uniform, 10 of the policy at s, 10 at s', the logged one; the first layer's
                    observation part once a state), 2 target critics, actor learns under 2 critics, actor at s' (once a state)
    discrete_cql    1 critic learns; critic and target critic at s'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

BATCH, OBSERVATIONS, ACTIONS = 256, 17, 6
HIDDEN = (256, 256)
SAMPLED = 31  # of CQL, with the logged one
Product = tuple[str, int, int, int]  # what it is, and the sizes of [m, k] @ [k, n]


def _forward(sizes: list[int], rows: int = BATCH) -> list[Product]:
    return [("forward", rows, i, o) for i, o in zip(sizes[:-1], sizes[1:], strict=True)]


def _learning(sizes: list[int], rows: int = BATCH) -> list[Product]:
    weights = [("weights", i, rows, o) for i, o in zip(sizes[:-1], sizes[1:], strict=True)]
    inputs = [("inputs", rows, o, i) for i, o in zip(sizes[1:-1], sizes[2:], strict=True)]
    return _forward(sizes, rows) + weights + inputs


def _under_an_actor(sizes: list[int]) -> list[Product]:
    inner = [("inputs", BATCH, o, i) for i, o in zip(sizes[1:-1], sizes[2:], strict=True)]
    return [*_forward(sizes), *inner, ("inputs", BATCH, sizes[1], ACTIONS)]


def products(algorithm: str) -> list[list[Product]]:
    """Returns the matrix products of each step of the algorithm's cycle; raises ValueError for an unknown algorithm."""
    critic = [OBSERVATIONS + ACTIONS, *HIDDEN, 1]
    actor = [OBSERVATIONS, *HIDDEN, ACTIONS]
    value = [OBSERVATIONS, *HIDDEN, 1]
    if algorithm == "bc":
        return [_learning(actor)]
    if algorithm == "td3_bc":
        critics = _learning(critic) * 2 + _forward(critic) * 2 + _forward(actor)
        return [critics, critics + _learning(actor) + _under_an_actor(critic)]
    if algorithm == "iql":
        return [_learning(value) + _learning(actor) + _learning(critic) * 2 + _forward(critic) * 2 + _forward(value)]
    if algorithm == "cql":
        stochastic = [OBSERVATIONS, *HIDDEN, 2 * ACTIONS]
        shared = [("forward", BATCH, OBSERVATIONS, HIDDEN[0]), ("weights", OBSERVATIONS, BATCH, HIDDEN[0])]
        learning = _learning([ACTIONS, *HIDDEN, 1], SAMPLED * BATCH) + shared
        return [learning * 2 + _forward(critic) * 2 + _learning(stochastic) + _under_an_actor(critic) * 2 + _forward(stochastic)]
    if algorithm == "discrete_cql":
        return [_learning(actor) + _forward(actor) * 2]
    raise ValueError(f"found: floor {algorithm}; expected bc, td3_bc, iql, cql or discrete_cql")


def operations(algorithm: str) -> float:
    """Returns the floating-point operations of one step, averaged over the algorithm's cycle."""
    cycle = products(algorithm)
    return sum(2.0 * m * k * n for step in cycle for _, m, k, n in step) / len(cycle)


def build(algorithm: str, device: str = "cpu") -> Callable[[int], None]:
    """Returns a function that takes so many steps of nothing but these products; on CUDA each step of the cycle is one captured graph."""
    import torch

    def operand(rows: int, columns: int, transposed: bool) -> Any:
        return torch.randn(columns, rows, device=device).t() if transposed else torch.randn(rows, columns, device=device)

    # as a step has them: in X.t() @ G and G @ W.t() one side is stored the other way round
    cycle = [
        [(operand(m, k, kind == "weights"), operand(k, n, kind == "inputs"), torch.empty(m, n, device=device)) for kind, m, k, n in step]
        for step in products(algorithm)
    ]

    def plain(step: list[tuple[Any, Any, Any]]) -> None:
        for left, right, out in step:
            torch.mm(left, right, out=out)

    calls: list[Callable[[], None]] = [lambda step=step: plain(step) for step in cycle]  # type: ignore[misc]
    if device != "cpu":
        calls = [_captured(call) for call in calls]

    def take(count: int) -> None:
        for k in range(count):
            calls[k % len(calls)]()

    return take


def _captured(call: Callable[[], None]) -> Callable[[], None]:
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
