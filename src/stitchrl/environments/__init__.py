"""Environments: tasks that are solved exactly, one door to all others, and behaviours that make logs."""
