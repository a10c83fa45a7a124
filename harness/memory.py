"""Peak memory of one call: from the allocator on CUDA, from the profiler's allocation events on CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from shmoo.harness.capture.introspect import leaves


def resident_bytes(model: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> float:
    """Bytes of weights and arguments, which are there before the call; memory that is shared counts once."""
    tensors = [leaf for leaf in leaves([list(args), kwargs]) if isinstance(leaf, torch.Tensor)]
    if isinstance(model, torch.nn.Module):
        tensors += [*model.parameters(), *model.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return float(sum(storages.values()))


def peak_cpu_bytes(call: Callable[[], object], resident: float) -> tuple[float | None, str]:
    """`resident` and the most the call has allocated beyond it at any moment, or why that is not known.

    Counted is what goes through torch's CPU allocator; buffers that a library maps for itself are not seen.
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
    """The largest running sum of allocations (positive) and releases (negative), 0 at least."""
    held = highest = 0.0
    for change in changes:
        held += change
        highest = max(highest, held)
    return highest


def peak_cuda_bytes(call: Callable[[], object], device: str) -> tuple[float | None, str]:
    """The most the caching allocator had handed out during the call, weights and arguments included."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device)), ""
