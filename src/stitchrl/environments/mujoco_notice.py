"""MuJoCo's warnings, each told once: by itself it prints one for every environment, and keeps them in a file of the working directory."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_told: set[str] = set()


def once(entry_point: Any) -> None:
    """Has warnings told once a process from here on, where an environment's `module:Class` brings MuJoCo; a listener that is there stays."""
    if isinstance(entry_point, str) and "mujoco" in entry_point:
        import_module(entry_point.partition(":")[0])
    mujoco = sys.modules.get("mujoco")
    if mujoco is not None and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_tell)


def _tell(message: str) -> None:
    if message not in _told:
        _told.add(message)
        print(f"MuJoCo: {message}", file=sys.stderr, flush=True)
