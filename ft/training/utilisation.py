"""How much of the device a run uses: matrix operations of a step, the device's own rate of them, and waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Value = TypeVar("Value")

CPU_SIZE, GPU_SIZE = 1024, 8192
"""Rows and columns of the product that the rate is measured with."""
SHORTEST = 0.1
"""Seconds that the measurement takes at least."""


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of products of square matrices: the best of what is measured in 0.1 s."""
    size = GPU_SIZE if device.type == "cuda" else CPU_SIZE
    generator = torch.Generator(device).manual_seed(0)  # the run's own random numbers are not touched
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    best, begun = 0.0, time.perf_counter()
    with torch.no_grad():
        torch.matmul(left, right)
        while time.perf_counter() - begun < SHORTEST:
            _finish(device)
            started = time.perf_counter()
            torch.matmul(left, right)
            _finish(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        3,
        torch.ops.aten._scaled_dot_product_flash_attention,
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        4,
        torch.ops.aten._scaled_dot_product_flash_attention_backward,
    ),
}
"""Attention that torch has no formula for: its number of operands, and that of which the formula holds for it."""


class CountFlops(TorchDispatchMode):
    """Counts the operations of matrix products, convolutions and attention while it is on, by torch's own formulas.

    `torch.utils.flop_counter.FlopCounterMode` does the same by module, for which it hooks into every one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.values = 0
        """Values that the counted operations read and write."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        elif (counted := _ON_CPU.get(func._overloadpacket)) is not None:
            operands, like = counted
            self.total += flop_registry[like](*args[:operands], out_val=result)
        else:
            return result
        tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
        self.values += sum(tensor.numel() for tensor in tensors)
        return result


@dataclass
class StepClock:
    """Time of the steps since the last line of the log, and how much of it went by waiting for a batch.

    On a GPU the host waits while the device may still be busy, so that its share is the most that the device waited.
    """

    seconds: float = 0.0
    waited: float = 0.0
    flops: float = 0.0
    steps: int = 0
    items: int = 0
    _started: float = field(default=0.0, repr=False)

    def start(self) -> None:
        """A step begins."""
        self._started = time.perf_counter()

    def next(self, batches: Iterator[Value]) -> Value:
        """Gives the next batch; waiting for it counts. Raises StopIteration."""
        started = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - started
        return batch

    def stop(self, items: int, flops: float) -> None:
        """The step has ended; it took in so many items and operations on this device."""
        self.seconds += time.perf_counter() - self._started
        self.steps, self.items, self.flops = self.steps + 1, self.items + items, self.flops + flops

    def values(self, rate: float) -> dict[str, float]:
        """Gives what is logged, where `rate` is the device's matrix rate per second."""
        seconds = max(self.seconds, 1e-9)
        return {
            "seconds_per_step": round(seconds / max(self.steps, 1), 4),
            "items_per_second": round(self.items / seconds, 2),
            "wait_share": round(self.waited / seconds, 4),
            "utilisation": round(self.flops / seconds / rate, 4) if rate else 0.0,
        }
