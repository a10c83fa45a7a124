"""FX nodes to operator calls: shapes, types, names and places in the source; bodies of branches and loops; code that names an
absent device. Running the tracers is harness.capture."""
