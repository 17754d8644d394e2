"""Device memory through PyCUDA, for those who have it and ask for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from engines.cuda import BACKENDS, Bytes, CaptureError, Cuda, CudaPython, import_backend
from engines.devices import device_error
from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory, one_line


class PyCuda(Cuda):
    """PyCUDA in the primary context of the device, held as long as this object lives. It has no CUDA graphs."""

    name = "pycuda"

    def __init__(self, device: int, driver: ModuleType | None = None) -> None:
        """`driver`: the module pycuda.driver. Raises EngineError where it is not installed, or has no such device."""
        super().__init__()
        self._cuda: Any = driver or import_backend("pycuda.driver", "pycuda", "pycuda")
        self._device = device
        self._call("cuInit", self._cuda.init)
        chosen = self._call("cuDeviceGet", self._cuda.Device, device)
        self._context = self._call("cuDevicePrimaryCtxRetain", chosen.retain_primary_context)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent", self._context.push)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent", self._cuda.Context.pop)

    def allocate(self, size: int) -> int:
        memory = self._call("cuMemAlloc", self._cuda.mem_alloc, size)
        self._given.callback(self._call, "cuMemFree", memory.free)  # and keeps it from being freed before
        return int(memory)

    def pinned(self, size: int) -> Bytes:
        values: Bytes = self._call("cuMemHostAlloc", self._cuda.pagelocked_empty, size, np.uint8)
        self._given.callback(self._call, "cuMemFreeHost", values.base.free)  # type: ignore[union-attr]
        return values

    def stream(self) -> Any:
        return self._kept(self._call("cuStreamCreate", self._cuda.Stream, 1))  # CU_STREAM_NON_BLOCKING

    def event(self) -> Any:
        flags = self._cuda.event_flags
        return self._kept(self._call("cuEventCreate", self._cuda.Event, flags.DISABLE_TIMING | flags.BLOCKING_SYNC))

    def handle(self, stream: Any) -> int:
        return int(stream.handle)

    def upload(self, address: int, values: Bytes, stream: Any) -> None:
        self._call("cuMemcpyHtoDAsync", self._cuda.memcpy_htod_async, address, values, stream)

    def download(self, values: Bytes, address: int, stream: Any) -> None:
        self._call("cuMemcpyDtoHAsync", self._cuda.memcpy_dtoh_async, values, address, stream)

    def record(self, event: Any, stream: Any) -> None:
        self._call("cuEventRecord", event.record, stream)

    def wait(self, stream: Any, event: Any) -> None:
        self._call("cuStreamWaitEvent", stream.wait_for_event, event)

    def synchronize(self, event: Any) -> None:
        self._call("cuEventSynchronize", event.synchronize)

    def finish(self, stream: Any) -> None:
        self._call("cuStreamSynchronize", stream.synchronize)

    def capture(self, stream: Any, start: Callable[[], bool]) -> Any:
        raise CaptureError("pycuda has no CUDA graphs; cuda-python has")

    def launch(self, graph: Any, stream: Any) -> None:
        raise NotImplementedError("there are no graphs to launch: `capture` gives none")

    def drop(self, graph: Any) -> None:
        raise NotImplementedError("there are no graphs to drop: `capture` gives none")

    def _kept(self, thing: Any) -> Any:
        """PyCUDA frees streams and events with their last reference, which must be within the context."""
        held = [thing]
        self._given.callback(held.clear)
        return thing

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Gives what a function of PyCUDA returns. Raises EngineError or its subclass for its error."""
        try:
            return function(*arguments)
        except self._cuda.Error as error:
            message = f"cuda:{self._device}: {name}: {one_line(error)}"
            if isinstance(error, self._cuda.MemoryError):
                raise OutOfDeviceMemory(message) from error
            if isinstance(error, self._cuda.LaunchError):
                raise DeviceLost(message) from error
            raise device_error(message) from error


def open_cuda(backend: str, device: int) -> Cuda:
    """Gives the backend `cuda-python` or `pycuda` on one device. Raises EngineError where it cannot be used."""
    if backend not in BACKENDS:
        raise EngineError(f"memory {backend}; expected {' or '.join(BACKENDS)}")
    if backend == "cuda-python":
        return CudaPython(device)
    return PyCuda(device)
