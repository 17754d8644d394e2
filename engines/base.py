"""The contract of all engines: NumPy in, NumPy out.

    with load_engine("model.onnx") as engine:
        mask = engine.run(magnitude)
        for mask in engine.map(magnitudes):  # in order; the next one is prepared while one is computed
            ...

An engine takes `magnitude` (batch, channels, bins, frames), float32 in 0..1, and gives a `mask` of that shape in 0..1,
how much of each value belongs to the stem that the configuration calls `mask_stem`. Where `EngineInfo.io` is `waveform`
it takes a `WaveformBatch` instead and gives the `stems` (batch, stems, channels, samples) themselves, as described in
export/waveform.py.
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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ft.config import ModelConfig
from ft.errors import EngineError

logger = logging.getLogger("engines")

Array = NDArray[np.float32]
Io = Literal["magnitude", "waveform"]

IN_FLIGHT = 2
"""Batches that `map` holds at once where nothing else is said: one computed, one waiting."""

ROUNDING = 1e-3
"""How far above 1 or below 0 the arithmetic of low precision may bring a mask."""


class WaveformBatch(NamedTuple):
    """What a model with `io` `waveform` takes."""

    waveform: Array
    """(batch, channels, samples), float32; a multiple of the hop of samples, and not fewer than one frame covers."""
    scale: Array
    """(batch,) float32: the peak of each item's spectrogram; 0 or less takes that of the item itself."""


Batch = Array | WaveformBatch


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
    io: Io = "magnitude"
    """What goes in: magnitudes, for a mask, or waveforms, for stems."""
    version: str = ""
    """Of the runtime."""
    reason: str = ""
    """Why this runtime and device were taken, for the log."""

    @property
    def shape(self) -> tuple[str, int, int, str]:
        """Shape of the input and of the output of a `magnitude` model; any number of items and of frames."""
        return ("batch", self.config.audio.channels, self.config.audio.bins, "frames")


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

    def run(self, batch: Batch) -> Array:
        """The mask (batch, channels, bins, frames) of one `magnitude` of that shape, or the stems of one waveform.

        Raises:
            EngineError: not open, a wrong input, a failure while computing, or a result that is not finite.
        """
        (result,) = self.map([batch])
        return result

    def map(self, batches: Iterable[Batch], in_flight: int = IN_FLIGHT) -> Iterator[Array]:
        """The masks or stems of all batches, in order, computed beside the caller's thread.

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
    def _starting(self) -> Iterator[Callable[[Batch], Callable[[], Array]]]:
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
    def _infer(self, batch: Array) -> Array:
        """The mask of a checked batch. Raises EngineError."""

    def _infer_waveform(self, batch: WaveformBatch) -> Array:
        """The stems (batch, stems, channels, samples) of a checked batch. Raises EngineError."""
        info = self.describe()
        raise EngineError(f"{info.name} does not run models that take waveforms; use onnxruntime for {info.model}")

    def _checked(self, batch: Batch) -> Array:
        """The checked result of a batch. Raises EngineError."""
        self._check_input(batch)
        with contextlib.nullcontext() if self.reentrant else self._turn:
            self._check_open()
            result = self._infer_waveform(batch) if isinstance(batch, WaveformBatch) else self._infer(batch)
        return self._check_result(batch, result)

    def _check_open(self) -> None:
        """Raises EngineError where the engine is closed."""
        if not self._open:
            raise EngineError(f"{type(self).__name__} is not open; use `with` around it")

    def _check_input(self, batch: Batch) -> None:
        """Raises EngineError where the model does not take such a batch."""
        info = self.describe()
        if (info.io == "waveform") != isinstance(batch, WaveformBatch):
            raise EngineError(f"{info.name}: {info.model} takes a {info.io}; something else was given")
        if isinstance(batch, WaveformBatch):
            _check_waveform(info, batch)
        elif batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1:3] != info.shape[1:3] or 0 in batch.shape:
            raise EngineError(
                f"{info.name}: input of shape {batch.shape} and type {batch.dtype}; expected (batch, {info.shape[1]} "
                f"channels, {info.shape[2]} bins, frames) of float32, none of them 0"
            )

    def _check_result(self, batch: Batch, result: Array) -> Array:
        """`result`, where it is what the model should give for `batch`. Raises EngineError."""
        info = self.describe()
        if isinstance(batch, WaveformBatch):
            items, channels, samples = batch.waveform.shape
            expected = (items, len(info.config.stems), channels, samples)
            if result.shape != expected:
                raise EngineError(f"{info.name}: {info.model} gave shape {result.shape}; expected stems of {expected}")
            _finite_range(info, result)
            return result
        if result.shape != batch.shape:
            raise EngineError(f"{info.name}: {info.model} gave shape {result.shape} for an input of {batch.shape}")
        low, high = _finite_range(info, result)
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise EngineError(
                f"{info.name}: {info.model} gave values from {low:.3g} to {high:.3g}; expected a mask in 0..1"
            )
        return result


def _check_waveform(info: EngineInfo, batch: WaveformBatch) -> None:
    waveform, scale = batch
    channels, hop, least = info.config.audio.channels, info.config.audio.hop_length, info.config.audio.covered
    items, samples = waveform.shape[0], waveform.shape[-1]
    if (
        (waveform.dtype, scale.dtype) != (np.float32, np.float32)
        or (waveform.shape, scale.shape) != ((items, channels, samples), (items,))
        or items == 0
        or samples % hop
        or samples < least
    ):
        raise EngineError(
            f"{info.name}: waveform of shape {waveform.shape} ({waveform.dtype}) and scale of shape {scale.shape} "
            f"({scale.dtype}); expected (batch, {channels} channels, samples) and (batch,) of float32, samples a "
            f"multiple of {hop} of at least {least}"
        )


def _finite_range(info: EngineInfo, values: Array) -> tuple[float, float]:
    """The lowest and the highest of the values. Raises EngineError where one is not finite."""
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise EngineError(
            f"{info.name} ({info.precision} on {info.device}): {info.model} gave values that are not finite; "
            "use another precision or engine"
        )
    return low, high


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
