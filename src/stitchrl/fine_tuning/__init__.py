"""From a log to the world: a run goes on in an environment with the learner, the step and the loop it had."""
