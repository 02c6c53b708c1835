"""Steps of a Decision Transformer and its acting, served line by line in the environment of whichever library is measured.

Started as `python sequence_served.py LIBRARY [--steps 100000]`, LIBRARY one of ours, d3rlpy, transformers. Commands on stdin, one JSON line each:

    ready                 {"library", "version", "torch", "weights"}
    learn VARIANT N       {"wall", "processor"}: seconds of N gradient steps, sampling included; built, compiled and warmed up before that
    act VARIANT COUNT N   the same of N decisions in each of COUNT environments, their windows of 20 steps full
    quit                  {}

VARIANT: plain, or of ours also compiled, no-dropout and compiled-no-dropout. 17 observations, 6 actions, context 20, width 128, three
layers, one head, ReLU, dropout 0.1 on tokens, attention and residuals, batch 64, AdamW with its gradient clipped at 0.25; one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from synthetic_transitions import ACTIONS, EPISODE, OBSERVATIONS, synthetic_columns

BATCH, CONTEXT, WIDTH, LAYERS = 64, 20, 128, 3
Take = Callable[[int], None]
Reply = dict[str, Any]


class Ours:
    """StitchRL."""

    def __init__(self, steps: int) -> None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
        from stitchrl.core.version import VERSION
        from stitchrl.data.dataset import Dataset

        self.version, self.dataset = VERSION, Dataset.from_flat(**synthetic_columns(steps))  # type: ignore[arg-type]
        self.weights = 0

    def _learner(self, variant: str) -> Any:
        import torch

        from stitchrl import algorithms
        from stitchrl.data.sampling import rows_of
        from stitchrl.training.learner import Learner, Training

        algorithm, kind = algorithms.find("decision_transformer")
        config = kind(dropout=0.0 if variant.endswith("no-dropout") else 0.1)
        training = Training(steps=1_000_000, batch_size=BATCH, compile="on" if variant.startswith("compiled") else "off")
        rows = rows_of(self.dataset, algorithm.batch_of(config), [], torch.device("cpu"), 1 << 40)
        made = Learner(algorithm, config, self.dataset.spec, rows, [0], training, torch.device("cpu"))
        self.weights = sum(p.numel() for p in made.template.parameters() if p.requires_grad)
        return made

    def learning(self, variant: str) -> Take:
        learner = self._learner(variant)

        def take(count: int) -> None:
            for _ in range(count):
                learner.advance()

        return take

    def acting(self, variant: str, count: int) -> Take:
        import numpy as np

        from stitchrl.agent import Agent

        learner = self._learner(variant)
        agent = Agent("decision_transformer", learner.template, learner.update.parameters, self.dataset.spec, [], [0])
        s, r = np.ones((1, count, OBSERVATIONS), np.float32), np.ones((1, count), np.float32)

        def take(steps: int) -> None:
            for _ in range(steps):
                agent.act(s, r)

        take(CONTEXT + 1)
        return take


class D3rlpy:
    """d3rlpy's DecisionTransformer, with the settings of its own reproduction of the paper."""

    def __init__(self, steps: int) -> None:
        import d3rlpy

        self.version, self.weights = d3rlpy.__version__, 0
        self.buffer = d3rlpy.dataset.MDPDataset(**synthetic_columns(steps), action_size=ACTIONS)

    def _made(self) -> Any:
        import d3rlpy

        optimizer = d3rlpy.optimizers.GPTAdamWFactory(weight_decay=1e-4, clip_grad_norm=0.25)
        encoder = d3rlpy.models.VectorEncoderFactory([WIDTH], exclude_last_activation=True)
        config = d3rlpy.algos.DecisionTransformerConfig(
            batch_size=BATCH, learning_rate=1e-4, optim_factory=optimizer, encoder_factory=encoder, context_size=CONTEXT, num_heads=1,
            num_layers=LAYERS, max_timestep=EPISODE + 1, activation_type="relu",
        )  # fmt: skip
        made = config.create(device="cpu:0")
        made.create_impl((OBSERVATIONS,), ACTIONS)
        self.weights = sum(p.numel() for p in made.impl.modules.transformer.parameters())
        return made

    def learning(self, variant: str) -> Take:
        made = self._made()

        def take(count: int) -> None:
            for _ in range(count):
                made.update(self.buffer.sample_trajectory_batch(BATCH, CONTEXT))

        return take

    def acting(self, variant: str, count: int) -> Take:
        import numpy as np

        if count > 1:
            raise ValueError("its wrapper for acting holds one environment")
        player, s = self._made().as_stateful_wrapper(target_return=1000), np.ones(OBSERVATIONS, np.float32)

        def take(steps: int) -> None:
            for _ in range(steps):
                player.predict(s, 1.0)

        take(CONTEXT + 1)
        return take


class Transformers:
    """The DecisionTransformerModel of `transformers`, on its GPT-2, in a plain loop: windows gathered from tensors in memory."""

    def __init__(self, steps: int) -> None:
        import torch
        import transformers

        columns = {name: torch.from_numpy(value) for name, value in synthetic_columns(steps).items()}
        rewards = columns["rewards"].view(-1, EPISODE)
        self.returns = rewards.flip(1).cumsum(1).flip(1).reshape(-1, 1) / 1000
        self.version, self.weights, self.columns, self.size = transformers.__version__, 0, columns, steps

    def _made(self) -> Any:
        from transformers import DecisionTransformerConfig, DecisionTransformerModel

        config = DecisionTransformerConfig(
            state_dim=OBSERVATIONS, act_dim=ACTIONS, hidden_size=WIDTH, max_ep_len=EPISODE, n_layer=LAYERS, n_head=1, n_inner=4 * WIDTH,
            activation_function="relu", n_positions=1024, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        made = DecisionTransformerModel(config)
        self.weights = sum(p.numel() for p in made.parameters())
        return made

    def _windows(self, starts: Any) -> tuple[Any, ...]:
        import torch

        rows = starts.unsqueeze(1) + torch.arange(CONTEXT)
        last = (starts // EPISODE + 1).unsqueeze(1) * EPISODE - 1
        present, rows = (rows <= last), torch.minimum(rows, last)  # padding on the right, as ours
        s, a = self.columns["observations"][rows], self.columns["actions"][rows]
        return s, a, self.returns[rows], rows % EPISODE, present

    def learning(self, variant: str) -> Take:
        import torch

        made = self._made().train()
        adam = torch.optim.AdamW(made.parameters(), lr=1e-4, weight_decay=1e-4)
        warm = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min((step + 1) / 10_000, 1))

        def take(count: int) -> None:
            for _ in range(count):
                s, a, returns, when, present = self._windows(torch.randint(self.size, (BATCH,)))
                found = made(s, a, None, returns, when, present.long(), return_dict=True).action_preds
                loss = (found - a).square().mean(-1)[present].mean()
                adam.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(made.parameters(), 0.25)
                adam.step()
                warm.step()

        return take

    def acting(self, variant: str, count: int) -> Take:
        import torch

        made = self._made().eval()
        s, a, returns, when, present = self._windows(torch.zeros(count, dtype=torch.int64))

        def take(steps: int) -> None:
            with torch.inference_mode():
                for _ in range(steps):
                    made(s, a, None, returns, when, present.long(), return_dict=True).action_preds[:, -1].numpy()

        return take


def main() -> None:
    """Returns nothing; answers commands until `quit` or the end of stdin, and keeps stdout for replies alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    libraries = {"ours": Ours, "d3rlpy": D3rlpy, "transformers": Transformers}
    parser.add_argument("library", choices=libraries)
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    library: Any = libraries[arguments.library](arguments.steps)
    takes: dict[str, Take] = {}

    def answer(line: str) -> Reply:
        match line.split():
            case ["ready"]:
                return {"library": arguments.library, "version": library.version, "torch": torch.__version__}
            case ["learn", variant, steps]:
                make: Callable[[], Take] = lambda: library.learning(variant)  # noqa: E731
            case ["act", variant, count, steps]:
                make = lambda: library.acting(variant, int(count))  # noqa: E731
            case _:
                raise ValueError(f"found: {line.strip()!r}; expected ready, learn, act or quit")
        name = line.rsplit(" ", 1)[0]
        if name not in takes:
            takes[name] = make()
            takes[name](2)
        wall, processor = time.perf_counter(), time.process_time()
        takes[name](int(steps))
        return {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor, "weights": library.weights}

    for line in sys.stdin:
        if line.strip() == "quit":
            break
        try:
            reply = answer(line)
        except Exception as error:  # one variant that fails must not end the others' measurement
            reply = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
