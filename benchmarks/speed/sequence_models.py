"""A Decision Transformer's steps and its acting beside d3rlpy's and that of `transformers`, interleaved in one run on this machine.

    python benchmarks/speed/sequence_models.py --peers .venv-peers/bin/python [--rounds 10] [--minutes 20]
    python benchmarks/speed/sequence_models.py --table        # SEQUENCES.md from raw/sequences.jsonl alone

Every round gives each variant one short window, in an order drawn anew; what is reported is the median over rounds of the ratio within a round.
The processor's time of the measured process is what is compared, as the machine may be shared; the wall clock stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from side_by_side import Served

HERE = Path(__file__).resolve().parent
RAW, PAGE = HERE / "raw" / "sequences.jsonl", HERE / "SEQUENCES.md"
LEARN = [("ours", "compiled"), ("ours", "plain"), ("ours", "no-dropout"), ("d3rlpy", "plain"), ("transformers", "plain")]
ACT = [("ours", 1), ("ours", 10), ("ours", 100), ("transformers", 1), ("transformers", 10), ("transformers", 100), ("d3rlpy", 1)]
WORDS = {
    ("ours", "compiled"): "ours, compiled",
    ("ours", "plain"): "ours, not compiled",
    ("ours", "no-dropout"): "ours, not compiled, without dropout",
    ("d3rlpy", "plain"): "d3rlpy",
    ("transformers", "plain"): "transformers",
}
Line = dict[str, Any]


def measure(arguments: argparse.Namespace) -> None:
    """Returns nothing; appends what was measured to the raw file, window by window."""
    run, until = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), time.monotonic() + 60 * arguments.minutes
    draw = random.Random(0)
    environment = {"OMP_NUM_THREADS": "1"}

    def write(kind: str, **values: Any) -> None:
        with RAW.open("a") as stream:
            stream.write(json.dumps({"run": run, "kind": kind} | values) + "\n")

    with ExitStack() as stack:
        messages = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "messages.txt"
        served: dict[str, Served] = {}
        for name in ("ours", "d3rlpy", "transformers"):
            python = sys.executable if name == "ours" else str(arguments.peers)
            served[name] = Served([python, str(HERE / "sequence_served.py"), name], environment | {"PYTHONPATH": ""}, messages)
            stack.callback(served[name].close)
        versions = {name: one.ask("ready") for name, one in served.items()}
        commit = subprocess.run(["git", "-C", str(HERE), "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "system": platform.platform()}
        write("run", date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), commit=commit, machine=machine, versions=versions)
        windows = [("learn", library, variant, f"learn {variant}", 2) for library, variant in LEARN]
        windows += [("act", library, str(count), f"act plain {count}", 20 if count < 100 else 4) for library, count in ACT]
        if not arguments.compile:
            windows = [w for w in windows if w[2] != "compiled"]
        for kind, library, variant, line, _ in windows:
            started = time.monotonic()
            reply = served[library].ask(f"{line} 1")
            write("prepared", what=kind, library=library, variant=variant, seconds=time.monotonic() - started, weights=reply["weights"])
            print(f"[{time.strftime('%H:%M:%S')}] {kind} {library} {variant}: ready after {time.monotonic() - started:.0f} s", flush=True)
        for k in range(arguments.rounds):
            if time.monotonic() > until:
                break
            for kind, library, variant, line, steps in draw.sample(windows, len(windows)):
                reply = served[library].ask(f"{line} {steps}")
                times = {"wall": reply["wall"], "processor": reply["processor"]}
                write("window", what=kind, library=library, variant=variant, round=k, steps=steps, load=os.getloadavg()[0], **times)
            print(f"[{time.strftime('%H:%M:%S')}] round {k + 1} of {arguments.rounds}, load {os.getloadavg()[0]:.1f}", flush=True)


def table() -> str:
    """Returns SEQUENCES.md from the newest run in the raw file."""
    lines: list[Line] = [json.loads(text) for text in RAW.read_text().splitlines()]
    run = [line for line in lines if line["kind"] == "run"][-1]
    mine = [line for line in lines if line["run"] == run["run"]]
    weights = {(p["library"], p["variant"]): p["weights"] for p in mine if p["kind"] == "prepared"}
    rates: dict[tuple[str, str, str], dict[int, tuple[float, float]]] = {}
    for line in mine:
        if line["kind"] == "window":
            found = rates.setdefault((line["what"], line["library"], line["variant"]), {})
            found[line["round"]] = line["steps"] / line["processor"], line["steps"] / line["wall"]
    loads = [line["load"] for line in mine if line["kind"] == "window"]
    versions = ", ".join(f"{v['library'].replace('ours', 'stitchrl')} {v['version']}" for v in run["versions"].values())
    ours = run["versions"]["ours"]
    page = [
        "# Sequence models, side by side",
        "",
        "Written by `sequence_models.py --table` from `raw/sequences.jsonl`; do not edit. Medians over rounds; ratios are medians of the ratios",
        "within a round, with quartiles, of the **processor's time** of the measured process: the machine was shared. The wall clock beside it",
        "says what was left of the machine.",
        "",
        f"{run['date']}; {run['machine']['cores']} cores, load {min(loads):.0f} to {max(loads):.0f}, one thread each; {versions}, all on torch",
        f"{ours['torch']}; commit {run['commit'][:10]}. 100,000 synthetic steps in episodes of 1,000 (17 observations, 6 actions), context 20,",
        "width 128, three layers, one head, ReLU, dropout 0.1 (tokens, attention, residuals), batch 64, AdamW with its gradient clipped; sampling",
        "included.",
        "",
        "## Learning",
        "",
        "|  | weights | steps a processor second | wall steps/s | × d3rlpy | × transformers | rounds |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in LEARN:
        if (found := rates.get(("learn", *key))) is not None:
            others = [_ratio(found, rates["learn", other, "plain"]) for other in ("d3rlpy", "transformers")]
            processor, wall = (statistics.median(pair[i] for pair in found.values()) for i in (0, 1))
            page.append(f"| {WORDS[key]} | {weights[key]:,} | {processor:.2f} | {wall:.2f} | {others[0]} | {others[1]} | {len(found)} |")
    page += [
        "",
        "## Acting",
        "",
        "Decisions over all environments; windows of 20 steps are full and read anew at each step; no environment is stepped. *transformers*: its",
        "model's forward on windows that exist already, which a user has to keep by hand. d3rlpy's wrapper holds one environment.",
        "",
        "|  | environments | actions a processor second | wall actions/s | × d3rlpy, one environment | × transformers, as many |",
        "|---|---|---|---|---|---|",
    ]
    for library, count in ACT:
        found = rates["act", library, str(count)]
        processor, wall = (count * statistics.median(pair[i] for pair in found.values()) for i in (0, 1))
        one = _ratio(found, rates["act", "d3rlpy", "1"], count)
        page.append(
            f"| {library} | {count} | {processor:,.0f} | {wall:,.0f} | {one} | {_ratio(found, rates['act', 'transformers', str(count)])} |"
        )
    return "\n".join(page) + "\n"


def _ratio(these: dict[int, tuple[float, float]], those: dict[int, tuple[float, float]], times: float = 1.0) -> str:
    ratios = sorted(times * these[k][0] / those[k][0] for k in these if k in those)
    if these is those:
        return f"{times:g}"
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="a Python that has d3rlpy and transformers")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=20.0, help="no round begins after them")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--table", action="store_true", help="only write the page from what was measured")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.peers is None:
            parser.error("--peers names the Python that has d3rlpy and transformers")
        measure(arguments)
    PAGE.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
