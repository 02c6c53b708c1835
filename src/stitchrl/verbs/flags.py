"""Flags of a verb, read into a dataclass; a mistake in them is told in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import json
import re
import textwrap
from collections.abc import Sequence
from typing import Any, get_type_hints

from stitchrl.core.errors import ConfigError


def parse(kind: Any, arguments: Sequence[str], prog: str, description: str, default: Any = None) -> Any:
    """Returns a dataclass filled from flags; raises ConfigError in one line for an unknown flag, a missing or a malformed value."""
    import tyro

    given = [a.partition("=")[0].replace("_", "-") for a in arguments if a.startswith("--")]
    for name in _lists(kind if default is None else type(default)):
        if given.count(name) > 1:  # of other options the last one counts
            raise ConfigError(f"{prog}: {name} is given more than once; give it once, with all of its values")
    default = _with_schema(kind, arguments, default)
    complaint = io.StringIO()
    extra = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=prog, description=description, args=list(arguments), **extra)
    except SystemExit as exit:
        if not exit.code:
            raise
        raise ConfigError(_one_line(complaint.getvalue(), kind, arguments, prog, extra)) from None


def last_told(arguments: Sequence[str], flag: str) -> str | None:
    """Returns the word given to an option, of several the last; "" where none follows, None where the option is not given."""
    told = [i for i, word in enumerate(arguments) if word.partition("=")[0] == flag]
    if not told:
        return None
    _, equals, word = arguments[told[-1]].partition("=")
    word = word if equals else next(iter(arguments[told[-1] + 1 :]), "")
    return "" if word.startswith("--") else word


def named_values(words: Sequence[str], flag: str) -> dict[str, Any]:
    """Returns what a flag names as `name=value`; a value is JSON (`5`, `true`, `[[0, 4]]`) or else a word. Raises ConfigError."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise ConfigError(f"{flag} has '{word}'; expected name=value, such as horizon=5")
        name = name.replace("-", "_")
        if name in found:
            raise ConfigError(f"{flag} has {name} twice; name it once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def options_told(words: Sequence[str]) -> dict[str, Any] | None:
    """Returns the options of an environment that `--env-options` names; None where it is not given. Raises ConfigError."""
    return named_values(words, "--env-options") or None


def _with_schema(kind: Any, arguments: Sequence[str], default: Any) -> Any:
    """The default of a verb's flags where `--schema` names a file: its columns stand unless a flag says otherwise. Raises as reading it does."""
    from stitchrl.data.sources.tables import TableSchema

    file = last_told(arguments, "--schema")
    if not file or {"-h", "--help"} & set(arguments):
        return default
    if default is not None:
        return dataclasses.replace(default, table=TableSchema.from_file(file)) if hasattr(default, "table") else default
    return _blank(kind, file)


def _blank(kind: Any, file: str) -> Any:
    """A verb's flags, or a part of them, with the schema of a file where they have one; what has no default is missing."""
    import tyro

    from stitchrl.data.sources.tables import TableSchema

    made = {}
    for field in dataclasses.fields(kind):
        hint = get_type_hints(kind)[field.name]
        if hint is TableSchema:
            made[field.name] = TableSchema.from_file(file)
        elif field.default is field.default_factory is dataclasses.MISSING:
            made[field.name] = _blank(hint, file) if dataclasses.is_dataclass(hint) else tyro.MISSING
    return kind(**made)


def _one_line(complaint: str, kind: Any, arguments: Sequence[str], prog: str, extra: dict[str, Any]) -> str:
    known = _flags(kind, prog, extra)
    unknown = [a.split("=")[0] for a in arguments if a.startswith("--") and a.split("=")[0].replace("_", "-") not in known]
    if unknown:
        ends = [flag for flag in known if flag.rsplit(".", 1)[-1].lstrip("-") == unknown[0].rsplit(".", 1)[-1].lstrip("-")]
        begins = [flag for flag in known if unknown[0].startswith(flag) and "." not in unknown[0]]  # --environment of --env
        close = ends or begins or difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.4)
        return f"{prog}: unknown option {unknown[0]}." + (f" Did you mean {close[0]}?" if close else f" See {prog} --help.")
    said = _plain(complaint, kind)
    if alone := re.match(r"Unrecognized options: (\S+)", said):
        takes = ", ".join(flag for flag in known if flag != "--help" and not flag.startswith("--no-"))
        said = f"'{alone[1]}' follows no option that takes it; options are {textwrap.shorten(takes, 60, placeholder=' …')}"
    return f"{prog}: {said}. See {prog} --help."


def _flags(kind: Any, prog: str, extra: dict[str, Any]) -> list[str]:
    """All options that the help names, in its order."""
    import tyro

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        tyro.cli(kind, prog=prog, args=["--help"], **extra)
    return list(dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", shown.getvalue())))


def _lists(kind: Any) -> list[str]:
    """The verb's own options that take several values."""
    return ["--" + field.name.replace("_", "-") for field in dataclasses.fields(kind) if isinstance(field.default, tuple)]


def _positional(kind: Any) -> str:
    """The name of a verb's first argument that is no option, also one of a part of the verb's."""
    import tyro

    for name, hint in get_type_hints(kind, include_extras=True).items():
        if tyro.conf.Positional in getattr(hint, "__metadata__", ()):
            return name.upper()
        if dataclasses.is_dataclass(part := getattr(hint, "__origin__", hint)) and (found := _positional(part)):
            return found
    return ""


def _plain(complaint: str, kind: Any) -> str:
    """The sense of tyro's box: which options are missing, or which value is wrong and why."""
    words = re.sub(r"\s+", " ", re.sub(r"[╭╮╰╯│─]+|-{4,}|\x1b\[[0-9;]*m", " ", complaint)).strip()
    words = re.sub(r"(?:For full helptext, (?:run|see)|Argument helptext:|Got errors:|Perhaps you meant:).*$", "", words).strip()
    if words.startswith("Required options"):
        named = re.findall(r"(?m)^[\s│|]*(--[a-z][\w.-]*|[A-Z]{3,}\b)", complaint)
        missing = [name if name.startswith("--") else _positional(kind) for name in dict.fromkeys(named)]
        return f"{', '.join(missing) or words} is missing"
    return re.sub(r"^(?:Value error|Invalid choice|Parsing error|Missing argument|Unrecognized options)s? ", "", words).rstrip(" .")
