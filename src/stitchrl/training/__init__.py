"""The engine: what every algorithm shares. It names no algorithm."""
