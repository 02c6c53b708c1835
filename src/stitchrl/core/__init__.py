"""What every other part speaks in: spaces, batches, the interface of an algorithm, policies, records, errors."""
