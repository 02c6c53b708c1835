"""gymnasium-robotics tells everyone who imports it that Adroit's rewards changed: news for those who open Adroit, noise for the mazes."""

from __future__ import annotations


def only_for(id: str) -> None:
    """Keeps the notice from being printed by the import that follows, unless the environment `id` is one of those it is about."""
    if id.startswith("Adroit"):
        return
    try:
        from farama_notifications import notifications
    except ModuleNotFoundError:
        return
    notifications.pop("gymnasium_robotics", None)
