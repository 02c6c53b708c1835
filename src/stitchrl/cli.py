"""The command `stitchrl`: verbs only. Each verb's module is imported when it is called, so that help needs neither PyTorch nor Gymnasium."""

from __future__ import annotations

import difflib
import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from stitchrl.core.errors import ConfigError, DivergenceError, StitchError
from stitchrl.core.version import VERSION

# verb -> module and function; a verb's first line of help stands in its function's docstring
VERBS = {
    "quickstart": (
        "quickstart",
        "quickstart",
        "the main job on an embedded log: inspect, train four algorithms, compare belief with truth, report",
    ),
    "data list": ("data", "list_datasets", "built-in datasets, made on first use without any download"),
    "data show": ("data", "show", "size, spaces, columns and origin of a dataset"),
    "data collect": ("data", "collect", "an environment and a behaviour policy become a dataset"),
    "data convert": ("data", "convert", "read one format, write another"),
    "data validate": ("data", "validate", "what is wrong in a log, by episode, step and column; exit code 1 if anything is"),
    "data report": ("data", "report", "returns, coverage, quality and advice, as text, JSON and HTML"),
    "train": ("train", "train", "train an algorithm on a log, many seeds at once, into a run directory"),
    "finetune": ("finetune", "finetune", "go on with a run in an environment, its log beside what its policy gathers"),
    "evaluate": ("evaluate", "evaluate", "roll a run's policies out in an environment"),
    "plan": ("plan", "plan", "draw what a policy that plans would do where episodes begin"),
    "select": (
        "select",
        "select",
        "rank policies by a log alone, with what choosing the best is worth and what k online trials would bring",
    ),
    "trust": ("trust", "trust", "may this policy be used, judged from a log alone; exit code 3 if not, 4 if the log cannot tell"),
    "compare": ("compare", "compare", "runs side by side: last and best scores, IQM with intervals"),
    "benchmark run": (
        "benchmark",
        "run",
        "train and score a suite of standard logs, generated here: smoke, standard, sequences, antmaze, atari, full",
    ),
    "benchmark table": ("benchmark", "table", "the benchmark's tables, made from its raw lines alone"),
    "plot": ("compare", "plot", "learning curves, final scores, performance profiles"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one verb; exits with 2 for a user's mistake, 4 for a divergence, 130 or 143 for a signal."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            sys.exit(_dispatch(arguments))
    except StitchError as error:
        if debug:
            raise
        words = str(error)
        print(words if words.startswith("stitchrl ") else f"stitchrl: {words}", file=sys.stderr)
        sys.exit(4 if isinstance(error, DivergenceError) else 2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:  # a path that cannot be read or written, a full disk
        if debug:
            raise
        where = f"{str(error.filename)[:300]}: " if error.filename else ""
        print(f"stitchrl: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except MemoryError:
        print(
            "stitchrl: out of memory; use fewer seeds, a smaller batch, or a memory-mapped dataset (stitchrl data convert)", file=sys.stderr
        )
        sys.exit(1)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(VERSION)
        return 0
    grouped = arguments[0] in {verb.partition(" ")[0] for verb in VERBS if " " in verb}  # data, benchmark: their verbs have two words
    if grouped and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(_help(f"{arguments[0]} "))
        return 0
    length = 2 if grouped else 1
    verb, rest = " ".join(arguments[:length]), arguments[length:]
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        raise ConfigError(f"unknown command '{verb}'. {f'Did you mean {close[0]!r}?' if close else 'See stitchrl --help.'}")
    module, function, _ = VERBS[verb]
    result: int | None = getattr(importlib.import_module(f"stitchrl.verbs.{module}"), function)(rest)
    return result or 0


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    print(f"stitchrl: warning: {message}", file=sys.stderr)


def _help(prefix: str = "") -> str:
    shown = {verb: text for verb, (_, _, text) in VERBS.items() if verb.startswith(prefix)}
    width = max(map(len, shown))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in shown.items()]
    head = (
        "stitchrl: from a fixed log, the best policy it can support\n\nusage: stitchrl VERB …   (stitchrl VERB --help tells its options)\n"
    )
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
