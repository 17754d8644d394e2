"""A GPU that is none: the CUDA runtime and TensorRT as Python objects, with the order of things kept.

Work on a stream is done as late as possible: only when somebody waits for it, and then only as much as the events ask
for. A copy or a computation that does not wait for what it needs therefore gives wrong numbers, as it may on a GPU.

What is undefined on a GPU fails here: a graph whose execution context was changed since the capture, a capture of a
context that has not run as it is, and scratch memory that is used on two streams.
"""

# ruff: noqa: N801, N802, N815

from __future__ import annotations

import ctypes
import enum
import types
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

OUT_OF_MEMORY, ILLEGAL_ADDRESS, CAPTURE_INVALIDATED = 2, 700, 901


class Handle(int):
    """A stream, an event or a graph: an int, as the bindings' objects turn into one."""


class FakeCuda(types.ModuleType):
    """What engines.cuda takes of `cuda.bindings.runtime`."""

    cudaStreamNonBlocking, cudaEventBlockingSync, cudaEventDisableTiming = 1, 1, 2

    class cudaMemcpyKind(enum.IntEnum):
        cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost = 1, 2

    class cudaStreamCaptureMode(enum.IntEnum):
        cudaStreamCaptureModeThreadLocal = 1

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.calls: list[tuple[Any, ...]] = []
        self.fail: dict[str, int] = {}
        """Name of a function -> error code it gives."""
        self.memory: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.done: Counter[int] = Counter()
        self.events: dict[int, tuple[int, int]] = {}
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.scratch: dict[int, int] = {}
        """Address of scratch memory -> the stream that uses it."""
        self.captured: list[int] = []
        """Which execution context each capture was of."""
        self.device = 3
        self._number = 100

    def count(self, *names: str) -> int:
        return sum(call[0] in names for call in self.calls)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def _allocate(self, size: int) -> int:
        """Filled with what is no number, so that reading what nothing was written to shows."""
        memory = (ctypes.c_uint8 * size).from_buffer_copy(b"\xff" * size)
        self.memory[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found

        def called(*arguments: Any) -> tuple[Any, ...]:
            if name not in ("cudaGetErrorString", "cudaGetLastError", "cudaSetDevice", "cudaGetDevice"):
                self.calls.append((name, *arguments))
            if code := self.fail.get(name):
                return (code, None)
            value = found(*arguments)
            return (0,) if value is None else (0, value)

        return called

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        scratch = getattr(work, "scratch", None)
        if scratch is not None and stream not in self.capturing:
            assert self.scratch.setdefault(scratch, stream) == stream, "scratch memory is used on two streams"
        self.capturing.get(stream, self.streams[stream]).append(work)

    def drain(self, stream: int, until: int) -> None:
        while self.done[stream] < until:
            work = self.streams[stream][self.done[stream]]
            self.done[stream] += 1
            work()

    def view(self, address: int, size: int) -> np.ndarray:
        """The bytes at an address within something that was allocated and not freed."""
        for start, memory in self.memory.items():
            if start <= address and address + size <= start + len(memory):
                return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        raise AssertionError(f"{size} bytes at {address} are not allocated")

    def _new(self) -> Handle:
        self._number += 1
        return Handle(self._number)

    def cudaGetErrorString(self, code: int) -> bytes:
        return {2: b"out of memory", 700: b"an illegal memory access was encountered"}.get(code, b"failed")

    def cudaGetLastError(self) -> None:
        pass

    def cudaGetDevice(self) -> int:
        return self.device

    def cudaSetDevice(self, device: int) -> None:
        self.device = device

    def cudaMalloc(self, size: int) -> int:
        return self._allocate(size)

    def cudaHostAlloc(self, size: int, flags: int) -> int:
        return self._allocate(size)

    def cudaFree(self, address: int) -> None:
        del self.memory[address]
        self.scratch.pop(address, None)

    def cudaFreeHost(self, address: int) -> None:
        del self.memory[address]

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        stream = self._new()
        self.streams[stream] = []
        return stream

    def cudaStreamDestroy(self, stream: int) -> None:
        del self.streams[stream]

    def cudaEventCreateWithFlags(self, flags: int) -> int:
        event = self._new()
        self.events[event] = (0, 0)
        return event

    def cudaEventDestroy(self, event: int) -> None:
        del self.events[event]

    def cudaMemcpyAsync(self, to: int, start: int, size: int, kind: int, stream: int) -> None:
        target, source = self.view(to, size), self.view(start, size)
        self.enqueue(stream, lambda: np.copyto(target, source))

    def cudaEventRecord(self, event: int, stream: int) -> None:
        self.events[event] = (stream, len(self.streams[stream]))

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:
        other, until = self.events[event]
        self.enqueue(stream, lambda: self.drain(other, until))

    def cudaEventSynchronize(self, event: int) -> None:
        self.drain(*self.events[event])

    def cudaStreamSynchronize(self, stream: int) -> None:
        self.drain(stream, len(self.streams[stream]))

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> None:
        self.capturing[stream] = []

    def cudaStreamEndCapture(self, stream: int) -> int:
        graph = self._new()
        self.graphs[graph] = self.capturing.pop(stream)
        return graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> int:
        ready = self._new()
        self.graphs[ready] = self.graphs[graph]
        return ready

    def cudaGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def cudaGraphExecDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def cudaGraphLaunch(self, graph: int, stream: int) -> None:
        for work in self.graphs[graph]:
            self.enqueue(stream, work)


def fake_tensorrt(cuda: FakeCuda, compute: Callable[[np.ndarray], np.ndarray], profiles: list[tuple[Any, Any]]) -> Any:
    """A module like `tensorrt` whose plans compute a mask with `compute`.

    Args:
        profiles: smallest and largest shape of `magnitude` in each.
    """
    module: Any = types.ModuleType("tensorrt")
    module.__version__ = "11.0.0.1"

    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def __init__(self) -> None:
            pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]
    module.ILogger = ILogger
    module.TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
    module.DataType = enum.Enum("DataType", ["FLOAT", "HALF"])
    module.ExecutionContextAllocationStrategy = enum.Enum("Strategy", ["STATIC", "USER_MANAGED"])
    module.refuses: list[str] = []  # messages with which execute_async_v3 fails, one after the other

    class Context:
        def __init__(self, engine: Any) -> None:
            self.engine = engine  # which lives as long as any of its contexts
            self.profile, self.shape, self.addresses, self.scratch = -1, (), {}, 0
            # How often it was changed, and that number when it last ran; work on a stream keeps no context alive.
            self.state = types.SimpleNamespace(changes=0, ran=-1)

        def set_device_memory(self, address: int, size: int) -> None:
            cuda.view(address, size)
            self.scratch = address
            self.state.changes += 1

        def set_optimization_profile_async(self, index: int, stream: int) -> bool:
            assert stream in cuda.streams
            self.profile = index
            self.state.changes += 1
            return True

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            self.state.changes += 1
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            least, most = profiles[self.profile]
            self.shape = tuple(shape)
            self.state.changes += 1
            return all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.shape

        def execute_async_v3(self, stream: int) -> bool:
            cuda.calls.append(("execute_async_v3", self.profile, self.shape))
            if module.refuses:
                module.log.log(Severity.ERROR, module.refuses.pop(0))
                return False
            assert self.scratch in cuda.memory
            size = int(np.prod(self.shape)) * 4
            source, target = (cuda.view(self.addresses[name], size) for name in ("magnitude", "mask"))
            shape, captured, state, changes = self.shape, stream in cuda.capturing, self.state, self.state.changes
            if captured:
                assert state.ran == changes, "captured before it ran with these shapes and addresses"
                cuda.captured.append(id(self))
            state.ran = changes

            def work() -> None:
                assert not captured or state.changes == changes, "a graph of a context that was changed"
                target[:] = (
                    compute(source.view(np.float32).reshape(shape)).astype(np.float32).reshape(-1).view(np.uint8)
                )

            work.scratch = self.scratch  # type: ignore[attr-defined]
            cuda.enqueue(stream, work)
            return True

    class Kernels:
        """The runtime cache of TensorRT-RTX: what it compiled."""

        values = b""

        def deserialize(self, values: bytes) -> None:
            self.values = values

        def serialize(self) -> bytes:
            cuda.calls.append(("compiled", not self.values))
            return self.values or b"kernels"

    class Settings:
        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            self.strategy = strategy

        def create_runtime_cache(self) -> Kernels:
            return Kernels()

        def set_runtime_cache(self, cache: Kernels) -> bool:
            self.cache = cache
            return True

    class Engine:
        num_io_tensors, device_memory_size_v2 = 2, 4096

        def get_tensor_name(self, index: int) -> str:
            return ("magnitude", "mask")[index]

        def get_tensor_mode(self, name: str) -> Any:
            return module.TensorIOMode.INPUT if name == "magnitude" else module.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return module.DataType.FLOAT

        def create_execution_context(self, strategy: Any) -> Any:
            cuda.calls.append(("create_execution_context", strategy))
            assert getattr(strategy, "strategy", strategy) is module.ExecutionContextAllocationStrategy.USER_MANAGED
            return Context(self)

        def __del__(self) -> None:
            cuda.calls.append(("engine freed",))

        def create_runtime_config(self) -> Any:
            return Settings()

    class Runtime:
        def __init__(self, log: Any) -> None:
            module.log = log

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            if data != b"an engine":
                module.log.log(Severity.ERROR, "magic tag does not match")
                return None
            return Engine()

    module.Runtime = Runtime
    return module
