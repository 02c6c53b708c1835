"""Small tasks whose optimum, and the value of any policy, is computed and not estimated."""
