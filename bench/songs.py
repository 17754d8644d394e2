"""Whole songs through `ft separate` in a process of their own, and which part of it takes how much."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from bench.runners import Array, Runner, Spec, engine_facts
from ft.separate.stream import window_inputs

Found = dict[str, Any]

PARTS = ("decode", "resample", "fft", "network", "write", "rest")


class StageClock:
    """Processor time by part of a separation. One song at a time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._reader = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Clocks what a `Separator` does in the block; the figures are in `seconds` afterwards and sum to all of it.

        The network's is what neither the caller's thread nor the reading one took.
        """
        from ft import dsp
        from ft.audio.source import AudioSource
        from ft.separate import stream
        from ft.songs.writer import StemWriter

        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._reader = 0.0
        streams = {
            dsp.StreamingResampler: ("resample", "push"),
            dsp.StreamingStft: ("fft", "push"),
            dsp.StreamingIstft: ("fft", "push"),
            StemWriter: ("write", "write"),
        }
        with ExitStack() as stack:
            for owner, (stage, method) in streams.items():
                for name in (method, "finish"):
                    clocked = self._clocked_call(getattr(owner, name), stage)
                    stack.enter_context(mock.patch.object(owner, name, clocked))
            for place, name, part in ((AudioSource, "blocks", "decode"), (stream, "cut_windows", None)):
                stack.enter_context(mock.patch.object(place, name, self._clocked_items(getattr(place, name), part)))
            whole, caller = time.process_time(), time.thread_time()
            yield
            whole, caller = time.process_time() - whole, time.thread_time() - caller
        stages = sum(self.seconds.values())
        self.seconds["network"] = max(whole - caller - self._reader, 0.0)
        self.seconds["rest"] = max(caller + self._reader - stages, 0.0)

    def shares(self) -> dict[str, float]:
        """Gives the share that each stage has of all processor time."""
        total = sum(self.seconds.values()) or 1.0
        return {name: round(seconds / total, 4) for name, seconds in self.seconds.items()}

    def _clocked_call(self, call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def clocked(*args: Any) -> Any:
            start = time.thread_time()
            result = call(*args)
            self._add(stage, time.thread_time() - start)
            return result

        return clocked

    def _clocked_items(self, make: Callable[..., Iterable[Any]], stage: str | None) -> Callable[..., Iterator[Any]]:
        """Passes items on; what making them takes is the stage's, or without one the reading thread's."""

        def clocked(*args: Any) -> Iterator[Any]:
            iterator = iter(make(*args))
            while True:
                start = time.thread_time()
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                finally:
                    self._add(stage, time.thread_time() - start)
                yield item

        return clocked

    def _add(self, stage: str | None, seconds: float) -> None:
        with self._lock:
            if stage is None:
                self._reader += seconds
            else:
                self.seconds[stage] += seconds


class SongRunner(Runner):
    """`ft separate` on a song, with the model open."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.folder = tempfile.TemporaryDirectory()

    def open(self) -> Found:
        from ft.separate import Separator

        spec = self.spec
        self.separator = Separator(spec.model or None, runtime=spec.runtime, device=spec.device, force=True)
        self.clock = StageClock()
        return engine_facts(self.separator.engine)

    def run(self, batch: Array | None) -> Array | None:
        from ft.songs import separate_file

        with self.clock.running():
            result = separate_file(self.separator, Path(self.spec.song), self.folder.name)
        self.result = result
        return None

    def details(self) -> Found:
        """`gain` is what the stems in `files` were multiplied by."""
        files = {stem: str(file) for stem, file in self.result.files.items()}
        return {"shares": self.clock.shares(), "files": files, "gain": self.result.gain}

    def close(self) -> None:
        self.folder.cleanup()


class WindowsRunner(SongRunner):
    """The engine of `ft separate` on the windows of a song, and nothing else."""

    def open(self) -> Found:
        from ft.audio.open import audio_info, read_blocks
        from ft.windows import cut_windows

        facts = super().open()
        song = Path(self.spec.song)
        rate, (model,) = audio_info(song).sample_rate, self.separator.song_stream().models
        (level,) = self.separator.levels(read_blocks(song), rate)
        front = model.front(rate)
        windows = cut_windows(front.frames(read_blocks(song)), *model.grids)
        self.batches = [inputs for _, inputs in window_inputs(windows, front, level)]
        return facts

    def run(self, batch: Array | None) -> Array | None:
        for _ in self.separator.engine.map(self.batches):
            pass
        return None

    def details(self) -> Found:
        return {}
