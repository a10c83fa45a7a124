"""Which operator calls share a launch, by runtime.

Nothing here measures; comparing with Inductor is harness.runtimes.
"""
