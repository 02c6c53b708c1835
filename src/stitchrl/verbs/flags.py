"""Flags of a verb, read into a dataclass; a mistake in them is told in one line."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Sequence
from typing import Any

from stitchrl.core.errors import ConfigError


def parse(kind: Any, arguments: Sequence[str], prog: str, description: str, default: Any = None) -> Any:
    """Returns a dataclass filled from flags; raises ConfigError in one line for an unknown flag, a missing or a malformed value."""
    import tyro

    complaint = io.StringIO()
    extra = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=prog, description=description, args=list(arguments), **extra)
    except SystemExit as exit:
        if not exit.code:
            raise
        raise ConfigError(_one_line(complaint.getvalue(), kind, arguments, prog, extra)) from None


def _one_line(complaint: str, kind: Any, arguments: Sequence[str], prog: str, extra: dict[str, Any]) -> str:
    import tyro

    known = [flag for flag in tyro.extras.get_parser(kind, **extra)._option_string_actions if flag.startswith("--")]
    unknown = [a.split("=")[0] for a in arguments if a.startswith("--") and a.split("=")[0].replace("_", "-") not in known]
    if unknown:
        ends = [flag for flag in known if flag.rsplit(".", 1)[-1].lstrip("-") == unknown[0].lstrip("-")]
        close = ends or difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.4)
        return f"{prog}: unknown option {unknown[0]}." + (f" Did you mean {close[0]}?" if close else f" See {prog} --help.")
    words = re.sub(r"[╭╮╰╯│─]+", " ", complaint)
    words = re.sub(r"\s+", " ", words).strip()
    words = re.sub(r"For full helptext, (?:run|see)[: ]*.*$", "", words).strip()
    return f"{prog}: {words} See {prog} --help."
