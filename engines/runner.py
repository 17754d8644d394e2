"""Batches through an engine, going on where a device lets one down.

A batch that does not fit into the device's memory, when the engine is opened or when it runs, is halved. After a device
was lost, the song it was working on has failed, and the next one runs on another engine where one is allowed.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from engines.base import IN_FLIGHT, Array, Engine, Inputs
from ft.errors import DeviceLost, EngineError, FtError, OutOfDeviceMemory

logger = logging.getLogger(__name__)

Label = TypeVar("Label")

ANY_DEVICE = "use `device` auto to go on without it"
OTHER_MODEL = "use `model` MODEL.onnx with `device` auto, and no TensorRT, to go on without it"
"""What lets the songs after the loss of a GPU run; the second where TensorRT, which needs one, was asked for."""


class Runner:
    """Owns the choice of the batch size and of the engine, not the engine itself. Threads may share it."""

    def __init__(
        self,
        engine: Engine,
        batch_size: int,
        another: Callable[[], Engine] | None = None,
        advice: str = ANY_DEVICE,
    ) -> None:
        """
        Args:
            engine: open.
            batch_size: inputs that run at once; lowered where the device has no memory for them.
            another: gives a closed engine for the same model in place of one whose device was lost; None allows none.
            advice: what else can be done after a loss, where no other engine is allowed.
        """
        self.engine = engine
        self.batch_size = batch_size
        self._another = another
        self._prospect = f"start again, or {advice}"
        self._lost: str | None = None
        """Why the device was lost; None where it was not."""
        self._lock = threading.Lock()
        """Held while any of these is changed."""

    def ready(self) -> None:
        """Replaces an engine whose device was lost.

        Raises:
            DeviceLost: the device was lost and no other engine is allowed or can be opened.
        """
        with self._lock:
            if self._lost is not None:
                self._replace()

    def _replace(self) -> None:
        if self._another is None:
            raise self._nothing_left()
        another, self._another = self._another, None
        try:
            engine = _opened(another)
        except FtError as error:
            self._prospect = f"nothing can go on instead: {error}"
            raise self._nothing_left() from error
        info = engine.describe()
        logger.warning("the GPU was lost; going on with %s on %s (%s)", info.name, info.device, info.precision)
        try:
            self.engine.close()
        except EngineError as error:
            logger.debug("closing the engine of a lost device: %s", error)
        self.engine, self._lost = engine, None

    def _nothing_left(self) -> DeviceLost:
        return DeviceLost(f"the GPU was lost at an earlier song ({self._lost}); {self._prospect}")

    def run(self, inputs: Iterable[tuple[Label, Inputs]], eager: bool = False) -> Iterator[tuple[Label, Array]]:
        """The result of each input, in order. Inputs of one shape that follow each other run together.

        `inputs` is read in the caller's thread, each of them once, a batch ahead of the engine.

        Args:
            inputs: pairs of anything and an input of the engine with at least one item.
            eager: whether each result is given before the next input is read, for inputs that come in as they are
                played. Each of them runs alone then, and nothing is read while the engine computes.
        Raises:
            OutOfDeviceMemory: not even one input fits.
            DeviceLost: the device was lost, now or before.
            EngineError: the engine failed.
        """
        self.ready()
        engine = self.engine
        source = iter(inputs)
        waiting: deque[tuple[Label, Inputs]] = deque()
        running: deque[list[tuple[Label, Inputs]]] = deque()
        while True:
            try:
                batches = self._batches(source, waiting, running, eager)
                for result in engine.map(batches, 1 if eager else IN_FLIGHT):
                    batch = running.popleft()
                    for (label, _), part in zip(batch, np.split(result, len(batch)), strict=True):
                        yield label, part
                return
            except OutOfDeviceMemory as error:
                with self._lock:
                    if len(running[0]) <= self.batch_size:  # else another thread has lowered it meanwhile
                        self.batch_size = _halved(len(running[0]), error)
            except EngineError as error:
                with self._lock:
                    if self.engine is not engine:  # another thread has met the loss before, and replaced the engine
                        raise DeviceLost(f"the GPU was lost while it worked on this song ({error})") from error
                    if isinstance(error, DeviceLost):
                        self._lost = str(error)
                raise
            # What has no result yet goes back to the front, in its order.
            waiting.extendleft(item for batch in reversed(running) for item in reversed(batch))
            running.clear()

    def _batches(
        self,
        source: Iterator[tuple[Label, Inputs]],
        waiting: deque[tuple[Label, Inputs]],
        running: deque[list[tuple[Label, Inputs]]],
        eager: bool,
    ) -> Iterator[Inputs]:
        """Inputs of one shape joined; what a batch is made of goes to `running`. `waiting` holds what was read."""
        while True:
            size = 1 if eager else self.batch_size
            while len(waiting) < size and (item := next(source, None)) is not None:
                waiting.append(item)
                if _shape(item[1]) != _shape(waiting[0][1]):
                    break
            if not waiting:
                return
            batch = [waiting.popleft()]
            while waiting and len(batch) < size and _shape(waiting[0][1]) == _shape(batch[0][1]):
                batch.append(waiting.popleft())
            running.append(batch)
            yield _join([value for _, value in batch])


def open_runner(
    load: Callable[[int, str], Engine], batch_size: int, device: str, fixed: bool = False, gpu_only: bool = False
) -> Runner:
    """A runner of an engine for as many inputs at once as its device has memory for.

    Args:
        load: gives a closed engine made for so many inputs at once, on a device (auto, cpu, cuda or cuda:N).
        batch_size: inputs at once to begin with; halved, with a warning, as long as there is no memory for them.
        device: for the engine; under auto one on the CPU takes its place where it is lost.
        fixed: whether what an engine takes when it is opened stands in its file, so that a smaller batch is no help.
        gpu_only: whether there is no such engine for the CPU.
    Raises:
        OutOfDeviceMemory: not even one input fits, or not what stands in the file.
        FtError: `load` or the opening failed.
    """
    while True:
        try:
            engine = _opened(functools.partial(load, batch_size, device))
            break
        except OutOfDeviceMemory as error:
            if fixed:
                raise
            batch_size = _halved(batch_size, error)
    if gpu_only:
        return Runner(engine, batch_size, advice=OTHER_MODEL)
    return Runner(engine, batch_size, functools.partial(load, batch_size, "cpu") if device == "auto" else None)


def _opened(load: Callable[[], Engine]) -> Engine:
    """A function of its own, so that nothing holds what failed, and its memory, while the next one is loaded."""
    engine = load()
    engine.open()
    return engine


def _halved(failed: int, error: OutOfDeviceMemory) -> int:
    """The next size of a batch to try. Raises OutOfDeviceMemory where there is none."""
    if failed == 1:
        raise OutOfDeviceMemory(
            f"{error}; one window alone does not fit: use a smaller `segment_seconds`, or an .onnx with `device` cpu"
        ) from error
    logger.warning("no memory for %d windows at once; going on with %d", failed, failed // 2)
    return failed // 2


def _shape(inputs: Inputs) -> list[tuple[int, ...]]:
    return [value.shape for value in inputs.values()]


def _join(batches: list[Inputs]) -> Inputs:
    """One batch of all, contiguous; single arrays that can be written to are not copied."""
    if len(batches) == 1:
        return {name: np.require(value, requirements=["C", "W"]) for name, value in batches[0].items()}
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
