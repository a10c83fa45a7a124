"""Peak memory of one call: from the allocator on CUDA, from the profiler's allocation events on CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import torch

from shmoo.harness.capture.fx.introspect import leaves


def resident_bytes(model: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> float:
    """Bytes of weights and arguments, which exist before the call; shared memory counts once."""
    tensors = [leaf for leaf in leaves([list(args), kwargs]) if isinstance(leaf, torch.Tensor)]
    if isinstance(model, torch.nn.Module):
        tensors += [*model.parameters(), *model.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return float(sum(storages.values()))


def peak_cpu_bytes(call: Callable[[], object], resident: float) -> tuple[float | None, str]:
    """Peak bytes, `resident` plus the call's largest allocation at any moment; or `None` and the reason.

    Counts what torch's CPU allocator hands out, but no buffers that a library maps for itself.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as session:
        call()
    results = getattr(session.profiler, "kineto_results", None)
    if results is None:
        return None, "this torch's profiler gives no allocation events"
    events = sorted((event for event in results.events() if event.name() == "[memory]"), key=lambda event: event.start_ns())
    return resident + highest_sum(event.nbytes() for event in events), ""


def highest_sum(changes: Iterable[float]) -> float:
    """The largest running sum of allocations (positive) and releases (negative), at least 0."""
    return max(accumulate(changes, initial=0.0))


def peak_cuda_bytes(call: Callable[[], object], device: str) -> tuple[float | None, str]:
    """Peak bytes that the caching allocator handed out during the call, weights and arguments included."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device)), ""
