"""FX nodes to operator calls: shapes, types, names and places in the source.

Running the tracers is harness.capture.
"""
