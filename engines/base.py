"""The contract of all engines: NumPy in, NumPy out.

    with load_engine("model.onnx") as engine:
        result = engine.run({"x": x})
        for result in engine.map(batches):  # in order; the next one is prepared while one is computed
            ...

An engine takes arrays by name and gives one array; `EngineInfo.reads` and `gives` say their names, shapes and bounds.
What they mean is the model's affair (`ft.config.ModelConfig`).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import math
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ft.config import IO, ModelConfig, TensorSpec
from ft.errors import EngineError, NotFinite

logger = logging.getLogger("engines")

Array = NDArray[np.float32]
Inputs = Mapping[str, Array]
"""Arrays of float32 by the names of their tensors."""

IN_FLIGHT = 2
"""Batches that `map` holds at once where nothing else is said: one computed, one waiting."""

ROUNDING = 1e-3
"""How far beyond its bounds the arithmetic of low precision may bring a result."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine takes and where it computes."""

    name: str
    """The runtime, e.g. onnxruntime."""
    model: str
    """The file, as it was given."""
    device: str
    """E.g. cpu."""
    precision: str
    """What the model was exported in, e.g. fp32, fp16, bf16, int8."""
    config: ModelConfig
    io: str = IO[0]
    """What goes in (`ft.config.IO`)."""
    version: str = ""
    """The runtime's version."""
    reason: str = ""
    """Why this runtime and device were taken, for the log."""

    @property
    def reads(self) -> tuple[TensorSpec, ...]:
        """The tensors that go in."""
        return self.config.tensors(self.io)[0]

    @property
    def gives(self) -> TensorSpec:
        """The tensor that comes out."""
        return self.config.tensors(self.io)[1]

    def size(self, inputs: Inputs) -> tuple[int, int]:
        """Gives the items of a batch and the size of its free axis."""
        first = inputs[self.reads[0].name]
        return len(first), first.shape[-1]


class Engine(ABC):
    """Runs one model. Opened and closed with `with`; a subclass says how to open, to compute and to close.

    Several threads may use one engine at once, each for batches of its own. A lock is held for one batch and no longer,
    so that a thread may also read from two `map` in turn, or leave one before its end.
    """

    def __init__(self) -> None:
        self._open = False
        self._turn = threading.RLock()
        """Held while the engine is opened or closed and, unless it is `reentrant`, while it computes a batch."""

    @property
    def reentrant(self) -> bool:
        """Whether `_infer` may run in several threads at once, and while the engine is closed."""
        return False

    @abstractmethod
    def describe(self) -> EngineInfo:
        """What the engine takes and where it computes; the engine must be open."""

    def run(self, inputs: Inputs) -> Array:
        """Gives the result of one batch.

        Raises:
            EngineError: not open, a wrong input, a failure while computing, or a result that is not finite.
        """
        (result,) = self.map([inputs])
        return result

    def map(self, batches: Iterable[Inputs], in_flight: int = IN_FLIGHT) -> Iterator[Array]:
        """Gives the results of all batches, in order, computed beside the caller's thread.

        `batches` is read in the caller's thread.

        Args:
            in_flight: batches that are held at once. With 2 the next one is read while one is computed; with 1 it is
                read when the result before it was taken.
        Raises:
            EngineError: as `run` does, at the batch it concerns.
        """
        self._check_open()
        with self._starting() as start:
            started: deque[Callable[[], Array]] = deque()
            for batch in batches:
                started.append(start(batch))
                if len(started) == in_flight:
                    yield started.popleft()()
            while started:
                yield started.popleft()()

    @contextlib.contextmanager
    def _starting(self) -> Iterator[Callable[[Inputs], Callable[[], Array]]]:
        """What starts a batch and gives the function that waits for its checked result.

        Here a thread of its own computes; engines whose device works beside the CPU start the work there instead.
        Errors come from the second function.
        """
        worker = ThreadPoolExecutor(1, thread_name_prefix="engine")
        try:
            yield lambda batch: worker.submit(self._checked, batch).result
        finally:
            worker.shutdown(wait=True, cancel_futures=True)

    def open(self) -> None:
        """Loads the model and logs the choice; nothing happens where it is loaded. Raises EngineError."""
        with self._turn:
            if self._open:
                return
            self._load()
            self._open = True
            info = self.describe()
            if info.reason:
                computed = info.precision.partition(" ")[0]
                logger.info("%s %s on %s, %s (%s)", info.name, info.version, info.device, computed, info.reason)

    def close(self) -> None:
        """Frees the model; it can be opened again. What other threads have not computed by then fails."""
        with self._turn:
            if not self._open:
                return
            self._open = False
            self._unload()
        give_back_memory()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _load(self) -> None:
        """Makes the engine ready. Raises EngineError."""

    @abstractmethod
    def _unload(self) -> None:
        """Frees what `_load` took."""

    @abstractmethod
    def _infer(self, inputs: Inputs) -> Array:
        """Computes the result of checked inputs. Raises EngineError."""

    def _checked(self, inputs: Inputs) -> Array:
        """The checked result of a batch. Raises EngineError."""
        self._check_inputs(inputs)
        with contextlib.nullcontext() if self.reentrant else self._turn:
            self._check_open()
            result = self._infer(inputs)
        return self._check_result(inputs, result)

    def _check_open(self) -> None:
        """Raises EngineError where the engine is closed."""
        if not self._open:
            raise EngineError(f"{type(self).__name__} is not open; use `with` around it")

    def _check_inputs(self, inputs: Inputs) -> None:
        """Raises EngineError where the model does not take such a batch."""
        info = self.describe()
        names = [spec.name for spec in info.reads]
        if sorted(inputs) != sorted(names):
            raise EngineError(f"{info.name}: {info.model} takes {' and '.join(names)}; {', '.join(inputs)} was given")
        batch, size = info.size(inputs)
        for spec in info.reads:
            given = inputs[spec.name]
            if given.dtype != np.float32 or given.shape != spec.sized(batch, size) or not _fits(spec, given):
                free = f", {spec.shape[-1]} a multiple of {spec.multiple} of at least {spec.least}"
                raise EngineError(
                    f"{info.name}: {spec.name} of shape {given.shape} and type {given.dtype}; expected "
                    f"({', '.join(map(str, spec.shape))}) of float32{free if spec.multiple > 1 else ', none of them 0'}"
                )

    def _check_result(self, inputs: Inputs, result: Array) -> Array:
        """`result`, where it is what the model should give. Raises EngineError."""
        info, spec = self.describe(), self.describe().gives
        expected = spec.sized(*info.size(inputs))
        if result.shape != expected:
            raise EngineError(
                f"{info.name}: {info.model} gave {spec.name} of shape {result.shape}; expected {expected}"
            )
        low, high = float(result.min()), float(result.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NotFinite(
                f"{info.name} ({info.precision} on {info.device}): {info.model} gave values that are not finite; "
                "use another precision or engine"
            )
        least = -math.inf if spec.low is None else spec.low - ROUNDING
        most = math.inf if spec.high is None else spec.high + ROUNDING
        if low < least or high > most:
            raise EngineError(
                f"{info.name}: {info.model} gave values from {low:.3g} to {high:.3g}; expected {spec.name} in "
                f"{'any' if spec.low is None else f'{spec.low:g}'}..{'any' if spec.high is None else f'{spec.high:g}'}"
            )
        return result


def _fits(spec: TensorSpec, given: Array) -> bool:
    """Whether no axis is empty and the last one has a size that is taken."""
    return 0 not in given.shape and given.shape[-1] % spec.multiple == 0 and given.shape[-1] >= spec.least


def give_back_memory() -> None:
    """Hands memory that was freed back to the system, where the C library has a call for it (glibc).

    It keeps what it has for the next one to ask, otherwise: 130 MB after a song with the shipped model in ONNX Runtime,
    200 MB in PyTorch.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
