"""From the name of a model to its graphs: requests, modes, phases of language models, and the cache of captures.

Building a model belongs in workloads; tracing one in capture.
"""
