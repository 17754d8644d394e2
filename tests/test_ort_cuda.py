"""ONNX Runtime on a GPU, with a runtime made of Python that counts what is taken and says what ran."""

import dataclasses
import types
from typing import Any

import numpy as np
import pytest

import engines.devices
import engines.ort
from engines.devices import Gpu, Gpus
from engines.ort import OrtEngine
from engines.ort_cuda import KEPT_SHAPES, CudaRunner
from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory

WINDOW = (2, 20)


class FakeRuntime:
    """The parts of the module onnxruntime that a runner touches; its network halves the input."""

    def __init__(self) -> None:
        self.allocated: list[tuple[int, ...]] = []
        self.sessions: list[Any] = []
        self.ran: list[tuple[tuple[int, ...], str]] = []
        self.errors: list[Exception] = []
        runtime = self

        class OrtValue:
            def __init__(self, shape):
                runtime.allocated.append(tuple(shape))
                self.array = np.zeros(shape, np.float32)

            @classmethod
            def ortvalue_from_shape_and_type(cls, shape, kind, device, number):
                assert (kind, device, number) == (np.float32, "cuda", 3)
                return cls(shape)

            def update_inplace(self, array):
                assert array.flags.c_contiguous
                self.array[:] = array

            def numpy(self):
                return self.array.copy()

        class RunOptions(dict):
            add_run_config_entry = dict.__setitem__

        self.OrtValue, self.RunOptions = OrtValue, RunOptions

    def open(self, graph: bool) -> Any:
        session = FakeSession(self, graph)
        self.sessions.append(session)
        return session


class FakeSession:
    def __init__(self, runtime: FakeRuntime, graph: bool) -> None:
        self.runtime, self.graph = runtime, graph

    def io_binding(self):
        binding = types.SimpleNamespace(inputs={}, outputs={}, synchronize_outputs=lambda: None)
        binding.bind_ortvalue_input = binding.inputs.__setitem__
        binding.bind_ortvalue_output = binding.outputs.__setitem__
        return binding

    def run_with_iobinding(self, binding, options):
        value = binding.inputs["magnitude"]
        graph = options["gpu_graph_id"]
        assert self.graph or graph == "-1"
        self.runtime.ran.append((value.array.shape, graph))
        if self.runtime.errors:
            raise self.runtime.errors.pop(0)
        binding.outputs["mask"].array[:] = value.array / 2


@pytest.fixture
def runtime():
    return FakeRuntime()


def run(runner: CudaRunner, batch: int, frames: int, seed: int = 0) -> None:
    values = np.random.default_rng(seed).random((batch, 2, 8, frames), dtype=np.float32)
    result = runner.run("mask", {"magnitude": values}, values.shape)
    np.testing.assert_array_equal(result, values / 2)


def test_memory_is_taken_once_per_shape_and_only_the_window_has_a_graph(runtime):
    runner = CudaRunner(runtime.open, runtime, 3, WINDOW)
    for seed in range(5):
        run(runner, *WINDOW, seed)
    run(runner, 1, 7)
    run(runner, *WINDOW)
    window, tail = (2, 2, 8, 20), (1, 2, 8, 7)
    assert runtime.allocated == [window, window, tail, tail]
    assert runtime.ran == [(window, "1")] * 5 + [(tail, "-1"), (window, "1")]
    assert len(runtime.sessions) == 1


def test_tails_of_many_lengths_share_their_memory_and_leave_the_windows_alone(runtime):
    runner = CudaRunner(runtime.open, runtime, 3, WINDOW)
    run(runner, *WINDOW)
    for frames in range(1, 9):
        run(runner, 1, frames)
    assert len(runner._bound) == KEPT_SHAPES
    before = len(runtime.allocated)
    run(runner, *WINDOW)
    assert len(runtime.allocated) == before


def test_without_a_known_window_there_is_no_graph(runtime):
    runner = CudaRunner(runtime.open, runtime, 3, None)
    run(runner, *WINDOW)
    assert [session.graph for session in runtime.sessions] == [False] and runtime.ran[0][1] == "-1"


def test_a_model_that_no_graph_can_hold_runs_without_one(runtime, monkeypatch):
    lines = warnings(monkeypatch)

    def refuses(graph):
        if graph:
            raise EngineError("This session cannot use the graph capture feature")
        return runtime.open(graph)

    runner = CudaRunner(refuses, runtime, 3, WINDOW)
    run(runner, *WINDOW)
    assert runtime.ran[-1][1] == "-1" and len(lines) == 1 and "cannot use the graph capture" in lines[0]


def test_a_capture_that_fails_is_run_again_without_a_graph(runtime, monkeypatch):
    lines = warnings(monkeypatch)
    runner = CudaRunner(runtime.open, runtime, 3, WINDOW)
    runtime.errors = [RuntimeError("operation not permitted when stream is capturing")]
    run(runner, *WINDOW)
    run(runner, *WINDOW)
    assert [graph for _, graph in runtime.ran] == ["1", "-1", "-1"]
    assert [session.graph for session in runtime.sessions] == [True, False] and len(lines) == 1


@pytest.mark.parametrize("text", ["CUDA failure 2: out of memory", "CUDA failure 719: unspecified launch failure"])
def test_trouble_of_the_device_is_no_reason_to_drop_the_graph(runtime, text):
    runner = CudaRunner(runtime.open, runtime, 3, WINDOW)
    run(runner, 1, 5)
    runtime.errors = [RuntimeError(text)]
    with pytest.raises(RuntimeError, match=text):
        run(runner, *WINDOW)
    assert not runner._bound  # its memory is given back before a smaller batch is tried
    assert len(runtime.sessions) == 1
    run(runner, 1, 20)
    run(runner, *WINDOW)
    assert [graph for _, graph in runtime.ran if graph != "-1"] == ["1", "2"]  # the first points at freed memory


@pytest.mark.parametrize("error", [OutOfDeviceMemory, DeviceLost])
def test_a_device_without_memory_is_not_asked_again_for_a_session(runtime, error):
    asked = []

    def refuses(graph):
        asked.append(graph)
        raise error("gone")

    with pytest.raises(error):
        CudaRunner(refuses, runtime, 3, WINDOW)
    assert asked == [True]


def warnings(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("engines.ort_cuda.logger.warning", lambda text, *values: lines.append(text % values))
    return lines


@pytest.fixture
def one_gpu(monkeypatch):
    """A GPU that everybody believes in, until ONNX Runtime is asked to open a session on it."""
    monkeypatch.setattr(engines.devices, "find_gpus", lambda: Gpus((Gpu(0, "NVIDIA A100", (8, 0), 1),), "580", "13.0"))
    monkeypatch.setattr(engines.ort, "cuda_problem", lambda gpu=None: None)
    lines: list[str] = []
    monkeypatch.setattr(engines.devices.logger, "warning", lambda text, *values: lines.append(text % values))
    return lines


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_silently_went_to_the_cpu_is_not_taken_for_one_on_the_gpu(tiny_onnx, one_gpu):
    """The wheel for the CPU drops the provider that it lacks, as that for GPUs does where libraries are missing."""
    with pytest.raises(EngineError, match="did not start CUDA"):
        OrtEngine(tiny_onnx, device="cuda").open()
    assert one_gpu == []
    with OrtEngine(tiny_onnx) as engine:
        assert engine.describe().device == "cpu" and "did not start CUDA" in engine.describe().reason
        engine.run({"magnitude": np.zeros((1, 2, 64, 5), np.float32)})
    assert len(one_gpu) == 1 and one_gpu[0].endswith("running on the CPU")


@pytest.mark.parametrize("waveform", [False, True])
def test_the_session_is_asked_for_true_fp32_on_the_right_gpu(tiny_onnx, one_gpu, monkeypatch, waveform):
    asked = []

    class Runner:
        def __init__(self, open_session, runtime, device, windows):
            asked.append((device, windows))
            open_session(True)

    def open_session(self, runtime, options, providers, **settings):
        asked.append((providers[0], settings))
        return types.SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider"])

    monkeypatch.setattr("engines.ort_cuda.CudaRunner", Runner)
    monkeypatch.setattr(OrtEngine, "_open_session", open_session)
    if waveform:
        read = engines.ort.read_info
        monkeypatch.setattr(engines.ort, "read_info", lambda *values: dataclasses.replace(read(*values), io="waveform"))
    with OrtEngine(tiny_onnx, device="cuda:0", windows=(2, 30)) as engine:
        front = engine.describe().config.front
        assert engine.describe().device == "cuda:0" and "NVIDIA A100" in engine.describe().reason
    assert asked[0] == (0, (2, front.covered + 29 * front.hop_length if waveform else 30))
    (name, settings), more = asked[1]
    assert name == "CUDAExecutionProvider" and more == {"enable_fallback": False}
    assert settings["use_tf32"] == 0 and settings["device_id"] == 0 and settings["enable_cuda_graph"] == 1
