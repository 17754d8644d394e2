"""ONNX models in OpenVINO, on the CPU: one more runtime without loss, and the one for int8 and bf16.

The shape of the streaming window is compiled for itself, since known shapes run a few per cent faster. Compiling takes
seconds, so that every other shape shares one model with free shapes instead of having one for each song's tail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engines.base import Array, Inputs
from engines.devices import Device, device_error, parse_device
from engines.model_file import FileEngine, read_info
from engines.ort import graph_problem
from ft.errors import EngineError, one_line

if TYPE_CHECKING:
    import openvino

_FIRST_SIZE = 16
MISSING = "pip install 'frame-transformer[openvino]'"


class OpenvinoEngine(FileEngine):
    """Runs a model that `ft export` wrote, in the precision that the file states (float32 stays float32)."""

    _core: openvino.Core | None = None
    _window: Any = None
    _any_shape: Any = None

    def _load(self) -> None:
        if parse_device(self.device)[0] == "cuda":
            raise EngineError(
                f"device {self.device}: OpenVINO runs on the CPU only; use `device` cpu or another `runtime`"
            )
        try:
            import openvino
        except ImportError as error:
            raise EngineError(f"openvino is not installed; {MISSING}") from error
        info = read_info(self.model, "openvino", openvino.__version__.partition("-")[0])
        self._core = openvino.Core()
        # Left to itself OpenVINO computes every model in bf16 on a CPU that has it. What an int8 file leaves in float32
        # loses less by bf16 than the rest by int8 (0.1 to 1 dB), gains a tenth of the time, and is judged so.
        self._hint, reason = "f32", ""
        if info.precision in ("bf16", "int8"):
            if "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                self._hint = "bf16"
            elif info.precision == "bf16":
                reason = "computed in fp32, since this CPU has no bf16"
        if (problem := graph_problem(self.model)) is not None:
            raise EngineError(f"{self.model}: damaged: {problem}")
        self._info = self._placed(info, Device("cpu", reason))
        self._read_model()  # finds what is wrong with the file; compiling waits until a shape is known to be used

    def _unload(self) -> None:
        super()._unload()
        self._window = self._any_shape = self._core = None

    def _infer(self, inputs: Inputs) -> Array:
        info = self.describe()
        given = [np.ascontiguousarray(inputs[spec.name]) for spec in info.reads]
        try:
            if info.size(inputs) == self._usual(info):
                request = self._window = self._window or self._compile([value.shape for value in given])
            else:
                request = self._any_shape = self._any_shape or self._compile_any_shape()
            result = request.infer(given, share_inputs=True, share_outputs=True)
            # A copy: the output lies in memory that the next batch is written to.
            return np.array(result[0], dtype=np.float32)
        except (RuntimeError, ValueError) as error:
            raise device_error(f"{self.model}: OpenVINO failed: {one_line(error)}") from error

    def _compile_any_shape(self) -> openvino.InferRequest:
        """The model with free shapes, run once.

        Where the very first input is one of 1 frame, OpenVINO 2026.4 gives wrong results for longer ones from then on
        (relative error 0.3); an input of more frames before it keeps them right.
        """
        request = self._compile(None)
        reads = self.describe().reads
        size = reads[0].least + _FIRST_SIZE * reads[0].multiple
        request.infer([np.zeros(spec.sized(1, size), np.float32) for spec in reads])
        return request

    def _read_model(self) -> openvino.Model:
        assert self._core is not None
        try:
            return self._core.read_model(self.model)
        except (RuntimeError, ValueError) as error:  # ValueError: its own message has bytes that are no text
            raise EngineError(f"{self.model}: OpenVINO cannot open it: {one_line(error)}") from error

    def _compile(self, shapes: list[tuple[int, ...]] | None) -> openvino.InferRequest:
        assert self._core is not None
        model = self._read_model()
        settings = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            # Threads bound to cores wait where another thread of the program, or another process, holds theirs.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            if shapes is not None:
                model.reshape({model.input(index): list(shape) for index, shape in enumerate(shapes)})
            return self._core.compile_model(model, "CPU", settings).create_infer_request()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{self.model}: OpenVINO cannot compile it: {one_line(error)}") from error
