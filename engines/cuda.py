"""Device memory, streams, events and CUDA graphs: what running a plan needs of CUDA, and no more.

Two backends with the same methods. `cuda-python` comes as a wheel and needs no compiler. `pycuda` is taken where it is
installed and asked for; it works in the device's primary context, as PyTorch and ONNX Runtime do, so that all of them
live in one process. Both free everything they gave in `close`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory, one_line

logger = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]
BACKENDS = ("cuda-python", "pycuda")
_OUT_OF_MEMORY = 2
_LOST = frozenset({46, 100, 214, 219, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999})
"""Errors of the CUDA runtime after which every other call in the process fails too, or there is no device at all."""


class CaptureError(Exception):
    """Work on a stream cannot become a CUDA graph; it runs without one."""


class Cuda(ABC):
    """One device. Everything but `current` is called within `current`, in any thread."""

    name: str

    def __init__(self) -> None:
        self._given = contextlib.ExitStack()

    @abstractmethod
    def current(self) -> contextlib.AbstractContextManager[None]:
        """Makes the device that of the calling thread, as long as the block lasts."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device. Raises OutOfDeviceMemory."""

    @abstractmethod
    def pinned(self, size: int) -> Bytes:
        """`size` bytes of host memory that copies can run from and to while the CPU goes on. Raises EngineError."""

    @abstractmethod
    def stream(self) -> Any:
        """Gives a stream that waits for no other one by itself."""

    @abstractmethod
    def event(self) -> Any:
        """Gives an event; a thread that waits for it sleeps."""

    @abstractmethod
    def handle(self, stream: Any) -> int:
        """The stream as TensorRT takes it."""

    @abstractmethod
    def upload(self, address: int, values: Bytes, stream: Any) -> None:
        """Starts a copy from pinned memory to the device."""

    @abstractmethod
    def download(self, values: Bytes, address: int, stream: Any) -> None:
        """Starts a copy from the device to pinned memory."""

    @abstractmethod
    def record(self, event: Any, stream: Any) -> None:
        """`event` happens when all that was started on `stream` is done."""

    @abstractmethod
    def wait(self, stream: Any, event: Any) -> None:
        """What is started on `stream` from now on waits for `event`."""

    @abstractmethod
    def synchronize(self, event: Any) -> None:
        """The calling thread waits for `event`. Raises DeviceLost, OutOfDeviceMemory or EngineError."""

    @abstractmethod
    def finish(self, stream: Any) -> None:
        """The calling thread waits for all that was started on `stream`. Raises as `synchronize` does."""

    @abstractmethod
    def capture(self, stream: Any, start: Callable[[], bool]) -> Any:
        """Gives a graph of what `start` starts on `stream`, which is not run. Raises CaptureError."""

    @abstractmethod
    def launch(self, graph: Any, stream: Any) -> None:
        """Runs a graph."""

    @abstractmethod
    def drop(self, graph: Any) -> None:
        """Frees a graph."""

    def close(self) -> None:
        """Frees all memory, streams and events. What a lost device refuses to free is gone anyway."""
        try:
            with self.current():
                self._given.close()
        except EngineError as error:
            logger.debug("%s: freeing failed: %s", self.name, error)


class CudaPython(Cuda):
    """The CUDA runtime through cuda-python; it uses the primary context of the device."""

    name = "cuda-python"

    def __init__(self, device: int, runtime: ModuleType | None = None) -> None:
        """`runtime`: the module cuda.bindings.runtime. Raises EngineError where it is not installed."""
        super().__init__()
        self._device = device
        self._cuda: Any = runtime or import_backend("cuda.bindings.runtime", "cuda-python", "tensorrt")
        kinds, modes = self._cuda.cudaMemcpyKind, self._cuda.cudaStreamCaptureMode
        self._to_device, self._to_host = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
        self._mode = modes.cudaStreamCaptureModeThreadLocal  # what other threads do meanwhile is no part of it

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        before = self._call("cudaGetDevice")
        self._call("cudaSetDevice", self._device)
        try:
            yield
        finally:
            if before != self._device:  # the thread is not ours, and PyTorch may count on its own device
                self._call("cudaSetDevice", before)

    def allocate(self, size: int) -> int:
        address = int(self._call("cudaMalloc", size))
        self._given.callback(self._call, "cudaFree", address)
        return address

    def pinned(self, size: int) -> Bytes:
        address = int(self._call("cudaHostAlloc", size, 0))
        self._given.callback(self._call, "cudaFreeHost", address)
        values: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return values

    def stream(self) -> Any:
        stream = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        self._given.callback(self._call, "cudaStreamDestroy", stream)
        return stream

    def event(self) -> Any:
        flags = self._cuda.cudaEventDisableTiming | self._cuda.cudaEventBlockingSync
        event = self._call("cudaEventCreateWithFlags", flags)
        self._given.callback(self._call, "cudaEventDestroy", event)
        return event

    def handle(self, stream: Any) -> int:
        return int(stream)

    def upload(self, address: int, values: Bytes, stream: Any) -> None:
        self._call("cudaMemcpyAsync", address, values.ctypes.data, values.nbytes, self._to_device, stream)

    def download(self, values: Bytes, address: int, stream: Any) -> None:
        self._call("cudaMemcpyAsync", values.ctypes.data, address, values.nbytes, self._to_host, stream)

    def record(self, event: Any, stream: Any) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize(self, event: Any) -> None:
        self._call("cudaEventSynchronize", event)

    def finish(self, stream: Any) -> None:
        self._call("cudaStreamSynchronize", stream)

    def capture(self, stream: Any, start: Callable[[], bool]) -> Any:
        graph = None
        try:
            self._call("cudaStreamBeginCapture", stream, self._mode)
            started = False
            try:
                started = start()
            finally:  # also where it failed: the stream would stay in capture
                graph = self._call("cudaStreamEndCapture", stream)
            if not started:
                raise CaptureError("TensorRT refused to be captured")
            return self._call("cudaGraphInstantiate", graph, 0)
        except (DeviceLost, OutOfDeviceMemory):
            raise
        except EngineError as error:
            self._cuda.cudaGetLastError()  # or the next call would report it again
            raise CaptureError(str(error)) from error
        finally:
            if graph is not None and int(graph):
                self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def drop(self, graph: Any) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Gives what a function of the runtime returns. Raises EngineError or its subclass for its error code."""
        code, *values = getattr(self._cuda, name)(*arguments)
        if int(code):
            text = self._cuda.cudaGetErrorString(code)[1]
            text = text.decode() if isinstance(text, bytes) else str(text)
            message = f"cuda:{self._device}: {name}: {text} (CUDA error {int(code)})"
            if int(code) == _OUT_OF_MEMORY:
                self._cuda.cudaGetLastError()
                raise OutOfDeviceMemory(message)
            raise (DeviceLost if int(code) in _LOST else EngineError)(message)
        return values[0] if values else None


def import_backend(module: str, package: str, extra: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EngineError(
            f"{package} cannot be used for device memory ({one_line(error)}); pip install 'frame-transformer[{extra}]'"
        ) from error
