"""Logs of experience: the dataset, its sources, how it is sampled, changed, measured and examined."""
