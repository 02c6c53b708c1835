"""Mazes are compiled from a file that their packages write and leave behind, OGBench's with its descriptor open: here both go at once.

A run that is judged often opens thousands of mazes; it would fill /tmp and end at the limit of open files.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_ONE = threading.Lock()  # `tempfile` is changed for the whole process


@contextmanager
def cleared() -> Iterator[None]:
    """Within it, what this thread makes by `tempfile.mkstemp`, and all that `tempfile` makes, lies in a folder of its own; afterwards the
    folder is gone, and those descriptors that were left open."""
    opened: list[tuple[int, str]] = []
    with _ONE, tempfile.TemporaryDirectory(prefix="stitchrl-maze-") as directory:
        directory_before, mkstemp, here = tempfile.tempdir, tempfile.mkstemp, threading.get_ident()

        def remembered(*args: Any, **kwargs: Any) -> tuple[int, str]:
            descriptor, path = mkstemp(*args, **kwargs)
            if threading.get_ident() == here:
                opened.append((descriptor, path))
            return descriptor, path

        tempfile.tempdir, tempfile.mkstemp = directory, remembered  # type: ignore[assignment]
        try:
            yield
        finally:
            tempfile.tempdir, tempfile.mkstemp = directory_before, mkstemp
            for descriptor, path in opened:
                with suppress(OSError):  # closed by who opened it
                    if os.path.samestat(os.fstat(descriptor), os.stat(path)):  # else its number is another file's by now
                        os.close(descriptor)
