"""Named settings and data as Python functions, each citing its source: the only tables of hyper-parameters."""
