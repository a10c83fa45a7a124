"""Many cases: their order, worker processes, and going on after an interruption. Timing one case is measuring."""
