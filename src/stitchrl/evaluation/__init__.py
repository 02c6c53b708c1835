"""Evaluation: rollouts, and estimates of what a policy is worth without running it."""
