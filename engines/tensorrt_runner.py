"""Runs a deserialized plan: everything is taken when it is opened, and a window takes nothing more.

    upload stream    | copy 1 | copy 2 |        | copy 3 |
    compute stream            |   batch 1   |   batch 2   |   batch 3   |
    download stream                         | copy 1 |    | copy 2 |

Two sets of buffers, on the host and on the device, are used in turn, so that the copies of one batch hide behind the
computing of another. Events say when what one stream needs from another is there.

A CUDA graph holds only as long as nothing is changed in the execution context it was captured from. So each set has a
context of its own for the window, which is bound once to the set's memory, run, captured, and never touched again.
Smaller batches, the tail of a song, share one more context, which is bound anew for each of them and has no graph.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from engines.base import Array
from engines.cuda import Bytes, CaptureError, Cuda
from engines.devices import device_error
from engines.plan import Profile, Shape
from engines.tensorrt_library import log_of
from ft.errors import EngineError

logger = logging.getLogger(__name__)

SETS = 2
ITEM = np.dtype(np.float32).itemsize


@dataclass
class _Buffers:
    """One set: a place on the host and on the device for each tensor, and what says how far its batch is."""

    context: Any
    """Execution context of the window, bound to these places."""
    host: dict[str, Bytes]
    device: dict[str, int]
    uploaded: Any
    computed: Any
    downloaded: Any
    graph: Any = None
    """Holds the launches of the window in `context`."""
    ticket: Ticket | None = None


class Ticket:
    """A batch on its way; `result` waits for it."""

    def __init__(self, runner: PlanRunner, buffers: _Buffers, shape: Shape) -> None:
        self._runner, self._buffers, self._shape = runner, buffers, shape
        self._values: Array | None = None
        self._error: EngineError | None = None

    def result(self) -> Array:
        """Gives the output, in memory of its own. Raises EngineError, DeviceLost or OutOfDeviceMemory."""
        self._runner.settle(self)
        if self._error is not None:
            raise self._error
        assert self._values is not None
        return self._values

    def fill(self, cuda: Cuda) -> None:
        """Waits, copies the output out of the buffers and leaves them to the next batch."""
        self._buffers.ticket = None
        try:
            cuda.synchronize(self._buffers.downloaded)
        except EngineError as error:
            self._error = error
            return
        (values,) = (self._buffers.host[name] for name in self._runner.outputs)
        size = int(np.prod(self._shape)) * ITEM
        self._values = values[:size].view(np.float32).reshape(self._shape).copy()

    @property
    def settled(self) -> bool:
        return self._values is not None or self._error is not None


class PlanRunner:
    """One plan on one device. `submit` starts a batch; at most `SETS` of them are on their way.

    Any threads may submit: one that needs buffers another one's batch is in waits for that batch, and for no thread.
    """

    def __init__(
        self,
        module: ModuleType,
        engine: Any,
        make_context: Callable[[], Any],
        cuda: Cuda,
        profiles: Sequence[Profile],
    ) -> None:
        """Takes all memory and makes all contexts; called within `cuda.current()`.

        Args:
            module: The TensorRT.
            engine: What it deserialized.
            make_context: Gives an execution context of the engine whose memory the user manages, or None.
            cuda: Device memory; its owner closes it.
            profiles: As the manifest says them, in the order of the plan; the first has one shape.
        Raises:
            OutOfDeviceMemory, DeviceLost, EngineError.
        """
        self._module, self._cuda, self._profiles = module, cuda, profiles
        self._log = log_of(module)
        self._lock = threading.RLock()
        self._closed = False
        self.owner: Any = None
        """The TensorRT runtime, which must outlive its engine."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        input_mode = module.TensorIOMode.INPUT
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == input_mode]
        self.outputs = [name for name in names if name not in self._inputs]
        if other := [name for name in names if engine.get_tensor_dtype(name) != module.DataType.FLOAT]:
            raise EngineError(f"the plan's {other[0]} is not float32, as `ft export` writes it; build the plan again")
        self._upload, self._compute, self._download = cuda.stream(), cuda.stream(), cuda.stream()
        # One piece for the activations of all contexts, which is right only because all of them compute on one stream,
        # graphs included, and so one after the other.
        self._scratch_size = int(engine.device_memory_size_v2)
        self._scratch = cuda.allocate(max(self._scratch_size, 1))
        windows = [self._context(make_context(), 0) for _ in range(SETS)]
        self._tails = {index: self._context(make_context(), index) for index in range(1, len(profiles))}
        sizes = self._largest({0: windows[0], **self._tails})
        self._sets = [self._buffers(context, sizes) for context in windows]
        self._next = 0
        self._warm_up()

    def submit(self, batch: Mapping[str, Array]) -> Ticket:
        """Starts a batch of one array per input.

        Raises:
            EngineError: no profile takes these shapes, or it could not be started.
        """
        shapes = {name: batch[name].shape for name in self._inputs}
        profile = self._profile(shapes)
        with self._lock, self._cuda.current():
            if self._closed:
                raise EngineError("the plan was closed while it was in use")
            buffers = self._sets[self._next]
            self._next = (self._next + 1) % SETS
            if buffers.ticket is not None:
                buffers.ticket.fill(self._cuda)
            for name in self._inputs:
                source = np.ascontiguousarray(batch[name], np.float32)
                staged = buffers.host[name][: source.nbytes]
                staged[:] = source.reshape(-1).view(np.uint8)
                self._cuda.upload(buffers.device[name], staged, self._upload)
            self._cuda.record(buffers.uploaded, self._upload)
            self._cuda.wait(self._compute, buffers.uploaded)
            shape = self._start(profile, shapes, buffers)
            self._cuda.record(buffers.computed, self._compute)
            self._cuda.wait(self._download, buffers.computed)
            for name in self.outputs:
                self._cuda.download(
                    buffers.host[name][: int(np.prod(shape)) * ITEM], buffers.device[name], self._download
                )
            self._cuda.record(buffers.downloaded, self._download)
            buffers.ticket = Ticket(self, buffers, shape)
            return buffers.ticket

    def settle(self, ticket: Ticket) -> None:
        """Waits for a batch; does nothing where its buffers had to be given to another one already."""
        with self._lock:
            if not ticket.settled:
                with self._cuda.current():
                    ticket.fill(self._cuda)

    def close(self) -> None:
        """Waits for what runs, whose results stay; lets go of contexts and graphs. Called within `cuda.current()`."""
        with self._lock:
            self._closed = True
            for buffers in self._sets:
                if buffers.ticket is not None:
                    buffers.ticket.fill(self._cuda)
            try:
                for stream in (self._upload, self._compute, self._download):
                    self._cuda.finish(stream)
                self._drop_graphs()
            finally:
                for buffers in self._sets:
                    buffers.context = None  # a result that nobody asked for still holds its buffers
                self._tails.clear()
                self.owner = None

    def _context(self, context: Any, index: int) -> Any:
        """`context` with memory for its activations, set to one profile."""
        if context is None:
            raise self._failure("cannot make an execution context")
        context.set_device_memory(self._scratch, self._scratch_size)
        if not context.set_optimization_profile_async(index, self._cuda.handle(self._compute)):
            raise self._failure(f"refuses the profile {self._profiles[index].name}")
        self._cuda.finish(self._compute)
        return context

    def _largest(self, contexts: Mapping[int, Any]) -> dict[str, int]:
        """Bytes of each tensor at the largest shape of any profile."""
        sizes = dict.fromkeys([*self._inputs, *self.outputs], 0)
        for index, context in contexts.items():
            shapes = {name: self._profiles[index].inputs[name][2] for name in self._inputs}
            self._set_shapes(context, shapes)
            for name in sizes:
                shape = shapes.get(name) or tuple(context.get_tensor_shape(name))
                sizes[name] = max(sizes[name], int(np.prod(shape)) * ITEM)
        return sizes

    def _buffers(self, context: Any, sizes: Mapping[str, int]) -> _Buffers:
        cuda = self._cuda
        host = {name: cuda.pinned(size) for name, size in sizes.items()}
        device = {name: cuda.allocate(size) for name, size in sizes.items()}
        return _Buffers(context, host, device, cuda.event(), cuda.event(), cuda.event())

    def _warm_up(self) -> None:
        """Binds and runs the window of each set, on silence, and makes graphs of both where that can be done."""
        shapes = {name: self._profiles[0].inputs[name][2] for name in self._inputs}
        for buffers in self._sets:
            for name in self._inputs:
                buffers.host[name][:] = 0
                self._cuda.upload(buffers.device[name], buffers.host[name], self._compute)
            self._bind(buffers.context, shapes, buffers)
            self._enqueue(buffers.context)  # settles what depends on the shapes, which a graph must not hold
            self._cuda.finish(self._compute)
        for buffers in self._sets:
            try:
                buffers.graph = self._capture(buffers.context)
            except CaptureError as error:
                logger.info("running without CUDA graphs: %s", error)
                self._log.take_errors()
                self._drop_graphs()
                return

    def _drop_graphs(self) -> None:
        for buffers in self._sets:
            if buffers.graph is not None:
                self._cuda.drop(buffers.graph)
                buffers.graph = None

    def _profile(self, shapes: Mapping[str, Shape]) -> int:
        for index, profile in enumerate(self._profiles):
            if profile.takes(shapes):
                return index
        most = {name: limits[2] for name, limits in self._profiles[-1].inputs.items()}
        name = next(name for name in shapes if shapes[name] != most[name])
        raise EngineError(
            f"the plan takes {name} of up to {most[name]}, {tuple(shapes[name])} was given; use smaller windows or "
            "batches, or build the plan with another `batch` or `segment_seconds`"
        )

    def _start(self, profile: int, shapes: Mapping[str, Shape], buffers: _Buffers) -> Shape:
        """Starts computing on the compute stream. Gives the shape of the output."""
        if profile > 0:
            self._bind(self._tails[profile], shapes, buffers)
            self._enqueue(self._tails[profile])
            return self._output_shape(self._tails[profile])
        if buffers.graph is not None:
            self._cuda.launch(buffers.graph, self._compute)
        else:
            self._enqueue(buffers.context)
        return self._output_shape(buffers.context)

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._cuda.handle(self._compute)):
            raise self._failure("failed")

    def _capture(self, context: Any) -> Any:
        """Gives a graph of what the context, which has run as it is bound, does. Raises CaptureError."""
        handle = self._cuda.handle(self._compute)
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(handle):
            raise CaptureError(f"{self._module.__name__} says that this plan cannot be captured")
        return self._cuda.capture(self._compute, lambda: context.execute_async_v3(handle))

    def _bind(self, context: Any, shapes: Mapping[str, Shape], buffers: _Buffers) -> None:
        for name, address in buffers.device.items():
            if not context.set_tensor_address(name, address):
                raise self._failure(f"refuses the address of {name}")
        self._set_shapes(context, shapes)

    def _set_shapes(self, context: Any, shapes: Mapping[str, Shape]) -> None:
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._failure(f"refuses {name} of {shape}")

    def _output_shape(self, context: Any) -> Shape:
        (output,) = self.outputs
        return tuple(context.get_tensor_shape(output))

    def _failure(self, what: str) -> EngineError:
        return device_error(f"{self._module.__name__} {what}: {self._log.take_errors()}")
