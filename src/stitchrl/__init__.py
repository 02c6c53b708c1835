"""StitchRL learns the best policy that a fixed log of experience can support, and says how far to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stitchrl.core.version import VERSION as __version__

if TYPE_CHECKING:
    from stitchrl.api import asked_returns, evaluate, finetune, load, load_policy, plan, select, train, trust

__all__ = ["__version__", "asked_returns", "evaluate", "finetune", "load", "load_policy", "plan", "select", "train", "trust"]


def __getattr__(name: str) -> Any:
    """Loads the Python face when it is first used, so that `import stitchrl` stays light; algorithms too: stitchrl.IQL, stitchrl.CQL, …"""
    if name.startswith("_"):
        raise AttributeError(name)
    from importlib import import_module

    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    from stitchrl import api

    if name in __all__:
        return getattr(api, name)
    found = api.estimator_named(name)
    if found is None:
        raise AttributeError(f"module 'stitchrl' has no attribute '{name}'")
    return found
