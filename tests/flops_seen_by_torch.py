"""torch's own count of a model's flops, on fake tensors: nothing is computed, and sizes that depend on data are as captured."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shmoo.harness.capture.traced import FakeCall
from shmoo.harness.module import Built


def flops_seen_by_torch(built: Built) -> int:
    """What `FlopCounterMode` counts of a call.

    It knows neither the fused attention layer of eager evaluation nor the CPU's attention kernel, so their parts are run instead.
    """
    call = FakeCall(built.model, built.args, built.kwargs)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call(*call.values)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()
