"""What runs a model: torch.compile back-ends, Inductor's real groups, and the profiler's trace. Timing is measuring."""
