"""FX nodes to operator calls: shapes, types, names and places in the source; bodies of branches and loops; tensors inside
objects, and code that names a device which is not there.

Running the tracers is harness.capture.
"""
