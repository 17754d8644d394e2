"""ONNX models in ONNX Runtime, on the CPU or through its CUDA provider.

Where the provider cannot load its libraries, ONNX Runtime logs that and runs on the CPU. Here it never does so unseen:
the libraries are tried before, and after that the session is asked for its providers.
"""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from engines.base import Array, EngineInfo, Inputs
from engines.devices import Device, Gpu, choose_device, device_error, instead_of_gpu
from engines.libraries import first_missing, needed_libraries
from engines.model_file import FileEngine, read_info
from ft.errors import EngineError, one_line

if TYPE_CHECKING:
    import onnxruntime

    from engines.ort_cuda import CudaRunner

logger = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"
CUDNN = "libcudnn.so.9"
INSTALL = "pip install 'frame-transformer[cpu]'"
INSTALL_GPU = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
_REMOVE = "pip uninstall -y onnxruntime onnxruntime-gpu"
CPU_BUILD, GPU_BUILD = f"{_REMOVE} && {INSTALL}", f"{_REMOVE} && {INSTALL_GPU}"
"""Both wheels own one folder, so that the one installed last wins and the removal of either breaks the other."""
_SPIN_MICROSECONDS = "50"
_SHORT_SPINNING = (1, 26)
"""The first version that knows `spin_duration_us`."""


class OrtEngine(FileEngine):
    """Runs a model that `ft export` wrote."""

    _session: onnxruntime.InferenceSession | None = None
    _cuda: CudaRunner | None = None

    @property
    def reentrant(self) -> bool:
        return self._cuda is None  # a session is; places on a GPU that are bound to one are not

    def _load(self) -> None:
        onnxruntime = import_onnxruntime()
        info = read_info(self.model, "onnxruntime", onnxruntime.__version__)
        device = choose_device(self.device, cuda_problem)
        if device.is_gpu:
            try:
                self._open_on_gpu(device, info)
            except EngineError as error:
                if self.device != "auto":
                    raise
                device = instead_of_gpu(str(error))
        if not device.is_gpu:
            if info.precision == "bf16":
                raise EngineError(
                    f"{self.model}: bf16, which ONNX Runtime does not compute on a CPU; use `runtime` openvino or torch"
                )
            self._session = self._open_on_cpu(onnxruntime)
        self._info = self._placed(info, device)

    def _unload(self) -> None:
        super()._unload()
        self._cuda = None  # before the session, whose memory it uses
        self._session = None

    def _infer(self, inputs: Inputs) -> Array:
        info = self.describe()
        session, cuda = self._session, self._cuda  # another thread may close the engine now
        if session is None:
            raise EngineError(f"{self.model}: the engine was closed while it was in use")
        try:
            if cuda is not None:
                return cuda.run(info.gives.name, dict(inputs), info.gives.sized(*info.size(inputs)))
            result: Array = session.run([info.gives.name], dict(inputs))[0]
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise device_error(f"{self.model}: ONNX Runtime failed: {one_line(error)}") from error
        return result

    def _open_on_cpu(self, runtime: ModuleType) -> onnxruntime.InferenceSession:
        options = _session_options(runtime, self.threads)
        # A thread that waits for the next operator spins for 50 us before it sleeps: long enough for most gaps, which
        # saves 15 % of the time, and short enough that decoding, FFT and writing lose nothing by it. A version that
        # does not know the limit would spin without end, and take the cores from them.
        short = tuple(map(int, runtime.__version__.split(".")[:2])) >= _SHORT_SPINNING
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if short else "0")
        if short:
            options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
        # The blocked layout pads convolutions of one channel to 16, which costs 15 % of the shipped model's time.
        # Both together, on two cores: 238 -> 196 ms for its window of 861 frames, 155 -> 129 ms for 45 M parameters.
        return self._open_session(runtime, options, ["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"])

    def _open_on_gpu(self, device: Device, info: EngineInfo) -> None:
        """Sets session and runner. Raises EngineError where the session does not compute on the GPU."""
        import onnxruntime

        from engines.ort_cuda import CudaRunner

        def open_session(graph: bool) -> onnxruntime.InferenceSession:
            settings = {
                "device_id": device.index,
                "use_tf32": 0,  # fp32 shall be fp32; who wants less takes an fp16 model
                "enable_cuda_graph": int(graph),
                "arena_extend_strategy": "kSameAsRequested",  # doubling takes memory that nothing uses
                "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search would run again for each new length
            }
            options = _session_options(onnxruntime, self.threads)
            if not logger.isEnabledFor(logging.DEBUG):
                onnxruntime.set_default_logger_severity(4)  # what it would print is raised below, in one line
            providers = [(CUDA, settings), "CPUExecutionProvider"]
            session = self._open_session(onnxruntime, options, providers, enable_fallback=False)
            if CUDA not in session.get_providers():
                raise EngineError(f"{self.model}: ONNX Runtime did not start CUDA; `ft doctor` says more")
            self._session = session
            return session

        self._cuda = CudaRunner(open_session, onnxruntime, device.index, self._usual(info))

    def _open_session(
        self, runtime: ModuleType, options: Any, providers: list[Any], **settings: Any
    ) -> onnxruntime.InferenceSession:
        try:
            return runtime.InferenceSession(str(self.model), options, providers=providers, **settings)
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise device_error(f"{self.model}: ONNX Runtime cannot open it: {one_line(error)}") from error


def import_onnxruntime() -> ModuleType:
    """The module. Raises EngineError where it is not installed, or where only a hollow folder is left of it."""
    try:
        import onnxruntime
    except ImportError as error:
        missing = error.name == "onnxruntime"
        what = "is not installed" if missing else f"is installed and cannot be imported ({one_line(error)})"
        raise EngineError(f"onnxruntime, which runs ONNX files, {what}; {INSTALL}") from error
    if not hasattr(onnxruntime, "InferenceSession"):  # what the removal of one of the two wheels leaves of the other
        raise EngineError(f"the folder of onnxruntime holds no program any more; {CPU_BUILD}")
    return onnxruntime


def graph_problem(model: Path) -> str | None:
    """Why ONNX Runtime takes a file for no valid graph; None where it does not, or where it is not installed.

    OpenVINO ends the process at some graphs that are none.
    """
    try:
        runtime = import_onnxruntime()
    except EngineError:
        return None
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = _session_options(runtime, 1)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except (errors.InvalidGraph, errors.InvalidProtobuf) as error:
        return one_line(error)
    except Exception as error:  # what it cannot compute, another runtime may
        logger.debug("%s: %s", model, one_line(error))
    return None


def _session_options(runtime: ModuleType, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A plan of all buffers at once takes a third more memory than giving each back to the arena, and is no faster.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # what it would print of an error is raised, in one line
    return options


def cuda_problem(gpu: Gpu | None = None) -> str | None:
    """Why ONNX Runtime cannot use a GPU, with the line that mends it; None where it can. No session is made."""
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} is a build for the CPU; {GPU_BUILD}"
    # Wheels of NVIDIA's libraries lie where the loader does not look; this loads them by their paths, and prints.
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    # The provider itself must not be loaded here: it looks for its host, which is there only in a session.
    needed = needed_libraries(Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so")
    # It asks for cuDNN only when it meets the first convolution, and then by name.
    missing = first_missing([*needed, *([CUDNN] if needed else [])])
    if missing is None:
        return None
    version = getattr(onnxruntime, "cuda_version", "") or "unknown"
    return f"onnxruntime-gpu {onnxruntime.__version__}, built for CUDA {version}, cannot load {missing}; {INSTALL_GPU}"
