"""Batches through an engine, going on where a device lets one down.

A batch that does not fit into the device's memory is run again in halves. After a device was lost, the song it was
working on has failed, and the next one runs on another engine where one is allowed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from engines.base import Array, Batch, Engine, WaveformBatch
from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory

logger = logging.getLogger(__name__)

Label = TypeVar("Label")


class Runner:
    """Owns the choice of the batch size and of the engine, not the engine itself."""

    def __init__(self, engine: Engine, batch_size: int, another: Callable[[], Engine] | None = None) -> None:
        """
        Args:
            engine: open.
            batch_size: inputs that run at once; lowered where the device has no memory for them.
            another: gives a closed engine for the same model in place of one whose device was lost; None allows none.
        """
        self.engine = engine
        self.batch_size = batch_size
        self._another = another
        self._lost = False

    def ready(self) -> None:
        """Replaces an engine whose device was lost.

        Raises:
            DeviceLost: the device was lost and no other engine is allowed or can be opened.
        """
        if not self._lost:
            return
        if self._another is None:
            raise DeviceLost("the GPU was lost at an earlier song; start again, or use --device auto to go on without")
        lost, self._another = self._another, None
        try:
            engine = lost()
            engine.open()
        except EngineError as error:
            raise DeviceLost(f"the GPU was lost at an earlier song, and nothing can go on instead: {error}") from error
        info = engine.describe()
        logger.warning("the GPU was lost; going on with %s on %s", info.name, info.device)
        try:
            self.engine.close()
        except EngineError as error:
            logger.debug("closing the engine of a lost device: %s", error)
        self.engine, self._lost = engine, False

    def run(self, inputs: Iterable[tuple[Label, Batch]]) -> Iterator[tuple[Label, Array]]:
        """The result of each input, in order. Inputs of one shape that follow each other run together.

        `inputs` is read in the caller's thread, each of them once, a batch ahead of the engine.

        Args:
            inputs: pairs of anything and an input of the engine with at least one item.
        Raises:
            OutOfDeviceMemory: not even one input fits.
            DeviceLost: the device was lost, now or before.
            EngineError: the engine failed.
        """
        self.ready()
        source = iter(inputs)
        waiting: deque[tuple[Label, Batch]] = deque()
        running: deque[list[tuple[Label, Batch]]] = deque()
        while True:
            try:
                for result in self.engine.map(self._batches(source, waiting, running)):
                    batch = running.popleft()
                    for (label, _), part in zip(batch, np.split(result, len(batch)), strict=True):
                        yield label, part
                return
            except OutOfDeviceMemory as error:
                self._halve(len(running[0]), error)
            except DeviceLost:
                self._lost = True
                raise
            # What has no result yet goes back to the front, in its order.
            waiting.extendleft(item for batch in reversed(running) for item in reversed(batch))
            running.clear()

    def _halve(self, failed: int, error: OutOfDeviceMemory) -> None:
        if failed == 1:
            raise OutOfDeviceMemory(
                f"{error}; one window alone does not fit: use a smaller --window-seconds, or --device cpu"
            ) from error
        self.batch_size = failed // 2
        logger.warning("no memory for %d windows at once; going on with %d", failed, self.batch_size)

    def _batches(
        self,
        source: Iterator[tuple[Label, Batch]],
        waiting: deque[tuple[Label, Batch]],
        running: deque[list[tuple[Label, Batch]]],
    ) -> Iterator[Batch]:
        """Inputs of one shape joined; what a batch is made of goes to `running`. `waiting` holds what was read."""
        while True:
            while len(waiting) < self.batch_size and (item := next(source, None)) is not None:
                waiting.append(item)
                if _shape(item[1]) != _shape(waiting[0][1]):
                    break
            if not waiting:
                return
            batch = [waiting.popleft()]
            while waiting and len(batch) < self.batch_size and _shape(waiting[0][1]) == _shape(batch[0][1]):
                batch.append(waiting.popleft())
            running.append(batch)
            yield _join([value for _, value in batch])


def _shape(value: Batch) -> tuple[int, ...]:
    return value.waveform.shape if isinstance(value, WaveformBatch) else value.shape


def _join(values: list[Batch]) -> Batch:
    """One batch of all, contiguous; a single magnitude that can be written to is not copied."""
    if isinstance(values[0], WaveformBatch):
        return WaveformBatch(*map(np.concatenate, zip(*values, strict=True)))
    return np.require(values[0], requirements=["C", "W"]) if len(values) == 1 else np.concatenate(values)
