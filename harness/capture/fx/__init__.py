"""FX nodes -> operator calls: shapes, types, names and source lines; bodies of branches and loops; guards around a capture.

Running the tracers belongs in harness/capture.
"""
