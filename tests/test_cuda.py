"""The two backends of device memory, on drivers that only keep a record."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from fake_gpu import ILLEGAL_ADDRESS, OUT_OF_MEMORY, FakeCuda

from engines.cuda import CaptureError, CudaPython
from engines.cuda_pycuda import PyCuda, open_cuda
from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory


class FakePycuda(types.ModuleType):
    """What engines.cuda takes of `pycuda.driver`; every call must come within the context that was pushed."""

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.Error = type("Error", (Exception,), {})
        self.MemoryError = type("MemoryError", (self.Error,), {})
        self.LaunchError = type("LaunchError", (self.Error,), {})
        self.event_flags = types.SimpleNamespace(DISABLE_TIMING=2, BLOCKING_SYNC=1)
        self.record: list[str] = []
        self.pushed = 0
        self.raises: Exception | None = None
        self.pop_raises: Exception | None = None
        self.Context = types.SimpleNamespace(pop=self._pop)

    def init(self):
        self.record.append("init")

    def Device(self, index):  # noqa: N802
        context = types.SimpleNamespace(push=self._push)
        return types.SimpleNamespace(retain_primary_context=lambda: context)

    def _push(self):
        self.pushed += 1

    def _pop(self):
        self.pushed -= 1
        if self.pop_raises is not None:
            raise self.pop_raises

    def _used(self, name):
        assert self.pushed == 1, f"{name} outside of the context"
        self.record.append(name)
        if self.raises is not None:
            raise self.raises

    def mem_alloc(self, size):
        self._used("mem_alloc")
        driver = self

        class Allocation:
            def __int__(self):
                return 4096

            def free(self):
                driver._used("free")

        return Allocation()

    def pagelocked_empty(self, size, dtype):
        self._used("pagelocked_empty")
        driver = self

        class Allocation:
            memory = np.zeros(size, dtype)
            __array_interface__ = memory.__array_interface__

            def free(self):
                driver._used("free host")

        return np.asarray(Allocation())

    def Stream(self, flags):  # noqa: N802
        self._used("Stream")
        return types.SimpleNamespace(handle=77, synchronize=lambda: self._used("synchronize"))

    def Event(self, flags):  # noqa: N802
        self._used("Event")
        return types.SimpleNamespace(record=lambda stream: self._used("record"))


def test_pycuda_works_within_the_primary_context_and_leaves_it():
    driver = FakePycuda()
    cuda = PyCuda(0, driver)
    with cuda.current():
        assert cuda.allocate(100) == 4096
        assert cuda.pinned(8).nbytes == 8
        stream, event = cuda.stream(), cuda.event()
        assert cuda.handle(stream) == 77
        cuda.record(event, stream)
        cuda.finish(stream)
        with pytest.raises(CaptureError, match="pycuda has no CUDA graphs"):
            cuda.capture(stream, lambda: True)
    assert driver.pushed == 0
    cuda.close()
    assert driver.pushed == 0
    assert driver.record[-2:] == ["free host", "free"]


def test_a_lost_device_that_refuses_to_free_and_to_be_left_is_closed_nevertheless():
    driver = FakePycuda()
    cuda = PyCuda(0, driver)
    with cuda.current():
        cuda.allocate(100)
        cuda.pinned(8)
    driver.raises = driver.LaunchError("cuMemFree failed: unspecified launch failure")
    cuda.close()
    assert driver.record[-2:] == ["free host", "free"]  # the second too, although the first failed
    driver.pop_raises = driver.Error("cuCtxPopCurrent failed: an illegal memory access was encountered")
    cuda.close()
    with pytest.raises(DeviceLost, match=r"cuda:0: cuCtxPopCurrent: .*illegal memory access"), cuda.current():
        pass
    assert driver.pushed == 0


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("MemoryError", "cuMemAlloc failed: out of memory", OutOfDeviceMemory),
        ("LaunchError", "cuCtxSynchronize failed: unspecified launch failure", DeviceLost),
        ("Error", "cuMemAlloc failed: an illegal memory access was encountered", DeviceLost),
        ("Error", "cuMemAlloc failed: invalid argument", EngineError),
    ],
)
def test_errors_of_pycuda(kind, text, expected):
    driver = FakePycuda()
    cuda = PyCuda(1, driver)
    with cuda.current():
        driver.raises = getattr(driver, kind)(text)
        with pytest.raises(EngineError, match="cuda:1: cuMemAlloc: ") as caught:
            cuda.allocate(5)
        assert type(caught.value) is expected
        driver.raises = None


@pytest.mark.parametrize(
    ("code", "expected"), [(OUT_OF_MEMORY, OutOfDeviceMemory), (ILLEGAL_ADDRESS, DeviceLost), (1, EngineError)]
)
def test_errors_of_cuda_python(code, expected):
    runtime = FakeCuda()
    runtime.fail["cudaMalloc"] = code
    cuda = CudaPython(0, runtime)
    with cuda.current(), pytest.raises(EngineError, match=rf"cuda:0: cudaMalloc: .* \(CUDA error {code}\)") as caught:
        cuda.allocate(5)
    assert type(caught.value) is expected


def test_a_failed_capture_ends_the_capture():
    runtime = FakeCuda()
    cuda = CudaPython(0, runtime)
    with cuda.current():
        stream = cuda.stream()
        with pytest.raises(CaptureError, match="refused"):
            cuda.capture(stream, lambda: False)

        def breaks():
            raise EngineError("TensorRT says no")

        with pytest.raises(CaptureError, match="TensorRT says no"):
            cuda.capture(stream, breaks)
    assert not runtime.capturing and not runtime.graphs
    cuda.close()
    assert not runtime.streams


@pytest.mark.parametrize(("backend", "module"), [("cuda-python", "cuda.bindings.runtime"), ("pycuda", "pycuda.driver")])
def test_a_missing_backend_says_what_brings_it(monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=rf"{backend} cannot be used .*pip install 'frame-transformer\["):
        open_cuda(backend, 0)


def test_an_unknown_backend_is_refused():
    with pytest.raises(EngineError, match="memory cupy; expected cuda-python or pycuda"):
        open_cuda("cupy", 0)
