"""An ONNX Runtime session on a GPU: memory on the device taken once per shape, and a CUDA graph for the usual one."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from engines.base import Array
from engines.devices import device_error
from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory, one_line

logger = logging.getLogger(__name__)

KEPT_SHAPES = 2
"""Shapes whose memory is held: that of the windows, and that of the last tail."""
NO_GRAPH = "-1"


@dataclass
class _Bound:
    """Inputs and outputs of one shape, at fixed places on the device."""

    inputs: dict[str, Any]
    output: Any
    binding: Any
    graph: str


class CudaRunner:
    """Runs a session whose inputs and outputs stay at the same addresses.

    A CUDA graph needs just that: it is captured in the second run with the shape of the streaming window, and is
    replayed from then on in one launch. Other shapes run as usual.
    """

    def __init__(
        self,
        open_session: Callable[[bool], Any],
        runtime: ModuleType,
        device: int,
        windows: tuple[int, int] | None,
    ) -> None:
        """Opens the session.

        Args:
            open_session: gives a session on the GPU, with or without CUDA graphs.
            runtime: the module onnxruntime.
            device: number of the GPU.
            windows: first and last size of the input that gets a graph, (batch, frames) or (batch, samples); None for
                none.
        Raises:
            EngineError: the session cannot be opened even without a graph.
        """
        self._open_session = open_session
        self._runtime = runtime
        self._device = device
        self._windows = windows
        self._bound: OrderedDict[tuple[tuple[int, ...], ...], _Bound] = OrderedDict()
        # A number stands for one graph and the memory it points at; with new memory comes a new number.
        self._graph_ids = itertools.count(1)
        self._graph = windows is not None
        try:
            self._session = open_session(self._graph)
        except (OutOfDeviceMemory, DeviceLost):
            raise
        except EngineError as error:
            if not self._graph:
                raise
            self._without_graph(one_line(error))

    def run(self, output: str, inputs: dict[str, Array], shape: tuple[int, ...]) -> Array:
        """Gives the output of that shape, in new memory of the host. Errors of ONNX Runtime come as they are."""
        key = tuple(value.shape for value in inputs.values())
        try:
            return self._run(key, output, inputs, shape)
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            bound = self._bound.get(key)
            usual = type(device_error(str(error))) is EngineError
            if not usual or bound is None or bound.graph == NO_GRAPH:
                self._bound.clear()  # gives the memory back, so that a smaller batch finds some
                raise
            self._without_graph(one_line(error))
        return self._run(key, output, inputs, shape)

    def _run(
        self, key: tuple[tuple[int, ...], ...], output: str, inputs: dict[str, Array], shape: tuple[int, ...]
    ) -> Array:
        bound = self._bound.get(key)
        if bound is None:
            while len(self._bound) >= KEPT_SHAPES:
                self._forget_one()
            bound = self._bound[key] = self._bind(output, inputs, shape)
        self._bound.move_to_end(key)
        for name, value in inputs.items():
            bound.inputs[name].update_inplace(np.ascontiguousarray(value))
        options = self._runtime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", bound.graph)
        self._session.run_with_iobinding(bound.binding, options)
        bound.binding.synchronize_outputs()
        result: Array = bound.output.numpy()
        return result

    def _bind(self, output: str, inputs: dict[str, Array], shape: tuple[int, ...]) -> _Bound:
        def on_device(size: tuple[int, ...]) -> Any:
            return self._runtime.OrtValue.ortvalue_from_shape_and_type(size, np.float32, "cuda", self._device)

        values = {name: on_device(value.shape) for name, value in inputs.items()}
        result = on_device(shape)
        binding = self._session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(output, result)
        first = next(iter(inputs.values())).shape
        usual = self._graph and (first[0], first[-1]) == self._windows
        return _Bound(values, result, binding, str(next(self._graph_ids)) if usual else NO_GRAPH)

    def _forget_one(self) -> None:
        """Frees the shape used longest ago; never the one with a graph, which points at its memory."""
        key = next(key for key, bound in self._bound.items() if bound.graph == NO_GRAPH)
        del self._bound[key]

    def _without_graph(self, why_not: str) -> None:
        logger.warning("ONNX Runtime cannot make a CUDA graph of this model, which is slower: %s", why_not)
        self._graph = False
        self._bound.clear()
        self._session = self._open_session(False)
