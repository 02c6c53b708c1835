"""Errors a user can cause and repair. Each message says what, where, found, expected, and what to do."""


class StitchError(ValueError):
    """A mistake in the input, the settings or the files; shown without a traceback."""


class DataError(StitchError):
    """The data are wrong: names file, episode, step and column where they are known."""


class ConfigError(StitchError):
    """The settings are unknown or inconsistent: names the nearest valid one where there is one."""


class CheckpointError(StitchError):
    """A run directory, checkpoint or saved policy is damaged, in use, or not the one expected."""


class DivergenceError(StitchError):
    """Training met a loss that is not finite; raised before the optimizer step that would have used it."""
