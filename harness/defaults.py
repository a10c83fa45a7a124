"""Defaults that the command line and the Python interface share; free of imports, so that help stays quick."""

from __future__ import annotations

LOCAL = "cpu_local"
"""Name of the CPU of this machine: the calibrated profile where there is one, else its description only."""
ONE_OF_EACH_FAMILY = (LOCAL, "gpu_a100_80g", "tpu_v4", "kpu_t256")
"""Architectures to set side by side where none is named."""
VISITS, MOST_VISITS = 3, 8
"""Visits to every case, and at most to one that stays uncertain."""
