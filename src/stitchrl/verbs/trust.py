"""`stitchrl trust RUN --data D`: may this policy be used, judged from a log alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, final

import tyro

from stitchrl.core.errors import ConfigError
from stitchrl.core.files import check_writable, read_json
from stitchrl.core.settings import Natural, OpenFraction
from stitchrl.data.sources.tables import TableSchema
from stitchrl.verbs.flags import parse

PROG = "stitchrl trust"
QUESTION = (
    "seed",
    "sampled",
    "discount",
    "clock",
    "level",
    "random_seed",
    "quick",
    "subgroups",
    "loggers",
    "return_range",
    "largest_weight",
    "before",
)
_FILES = ("--html", "--json", "--csv")


@final
@dataclass(frozen=True)
class TrustFlags:
    run: Annotated[Path, tyro.conf.Positional]
    """a run directory or a saved policy"""
    data: str | None = None
    """the log to judge by, better one that the run was not trained on: a built-in dataset, a file or a directory; must be given"""
    schema: Path | None = None
    """JSON or TOML file with the columns of a table"""
    table: TableSchema = field(default_factory=TableSchema)
    """the same as flags"""
    html: Path | None = None
    """default RUN/trust.html where RUN is a run directory"""
    json: Path | None = None
    """default RUN/trust.json where RUN is a run directory"""
    csv: Path | None = None
    """directory for the numbers of every figure, a CSV file each; made where there is none"""
    before: Path | None = None
    """another run or saved policy, judged on the same episodes: its verdict beside this one's, and the paired difference"""
    seed: int | None = None
    """which of the run's seeds; None: its first"""
    sampled: bool = False
    """judge the policy that draws its actions instead of taking the mode or mean"""
    discount: float | None = None
    """None: that of the run"""
    clock: Literal["auto", "continues", "ends"] = "auto"
    """what a timeout is: a cut in an episode that goes on, or its end; auto: as the log looks"""
    level: OpenFraction = 0.95
    """of the intervals"""
    subgroups: tuple[str, ...] = ()
    """columns of the log whose values are groups, each with a difference of its own"""
    loggers: str = "infos/policy_id"
    """column that tells which of several policies acted"""
    return_range: tuple[float, float] | None = None
    """least and most that an episode's discounted rewards can sum to, for bounds that need it"""
    largest_weight: float | None = None
    """most that a whole episode's importance weight can be, for bounds that need it"""
    random_seed: Natural = 0
    """of every draw made; the same gives the same JSON"""
    quick: bool = False
    """leave out the long self-checks"""


def trust(arguments: Sequence[str]) -> int:
    """Prints the verdict and writes the report; returns 0 for supported, 3 for not supported, 4 for not estimable."""
    a = parse(
        TrustFlags, arguments, PROG, "May this policy be used? Exit code 0: supported (with limits), 3: not supported, 4: not estimable."
    )
    from stitchrl import api
    from stitchrl.core.settings import check_settings
    from stitchrl.recipes import datasets
    from stitchrl.verbs.data import table_options

    check_settings(a, PROG)
    for policy in (a.run, a.before):
        if policy is not None and not policy.exists():
            raise ConfigError(f"{policy}: no such run directory or saved policy")
    files_of(a)  # a mistake in them is told before the work
    if a.data is None:
        raise ConfigError(f"{PROG}: --data is missing: the log to judge by{_learned_from(a.run)}. See {PROG} --help.")
    judged = api.trust(a.run, datasets.load(a.data, **table_options(a.schema, a.table)), command=command(arguments), **question(a))
    return tell(a, judged.record, judged.seconds)


def question(a: TrustFlags) -> dict[str, Any]:
    """Returns the flags that say what is asked, by their names in `stitchrl.api.trust`."""
    return {name: getattr(a, name) for name in QUESTION}


def tell(a: TrustFlags, record: dict[str, Any], seconds: dict[str, float]) -> int:
    """Prints the text, writes the page and the JSON, and returns the verdict's exit code."""
    from stitchrl.core.files import write_atomically, write_json
    from stitchrl.report.trust_page import trust_page, trust_text
    from stitchrl.report.trust_tables import figure_tables

    html, json = files_of(a)
    print(trust_text(record, seconds))
    if json is not None:
        write_json(json, record)
    if html is not None:
        write_atomically(html, trust_page(record, seconds).encode())
    for file in (html, json):
        if file is not None:
            print(file)
    if a.csv is not None:
        a.csv.mkdir(exist_ok=True)
        for name, text in figure_tables(record).items():
            write_atomically(a.csv / f"{name}.csv", text.encode())
        print(a.csv)
    return int(record["verdict"]["exit_code"])


def command(arguments: Sequence[str]) -> str:
    """Returns the command as it is recorded: without the files to write, which change nothing in the report."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument.partition("=")[0] not in _FILES:
            kept.append(argument)
        skip = not skip and argument in _FILES  # the next one is the file
    return shlex.join(["stitchrl", "trust", *kept])


def _learned_from(run: Path) -> str:
    """Returns the hint which log a run directory learned from; empty for a saved policy, whose log is not recorded."""
    config = read_json(run / "config.json") if (run / "config.json").is_file() else None
    data = config.get("data") if isinstance(config, dict) else None
    source = data.get("source") if isinstance(data, dict) else None
    return f"; {run} learned from '{source}', and a log that it has not seen tells more" if source else ""


def files_of(a: TrustFlags) -> tuple[Path | None, Path | None]:
    """Returns the page and the JSON to write: those asked for; in a run directory both. Raises ConfigError where there is no such place."""
    home = a.run if (a.run / "config.json").is_file() and (a.run / "policy").is_dir() else None
    html = a.html if a.html is not None or home is None else home / "trust.html"
    json = a.json if a.json is not None or home is None else home / "trust.json"
    for flag, file in (("--html", html), ("--json", json)):
        if file is not None:
            check_writable(file, flag)
    if a.csv is not None:  # the directory for the files of all figures
        check_writable(a.csv, "--csv", directory=True, parents=False)
    return html, json
