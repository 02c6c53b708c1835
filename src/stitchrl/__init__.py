"""StitchRL learns the best policy that a fixed log of experience can support, and says how far to trust it."""

__version__ = "0.1.0"
