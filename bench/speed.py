"""How many times real time a separation runs, from file to files, and which part of it takes how much.

python -m bench.speed [--model MODEL] [--runtime auto] [--device auto] [--rounds 5] [--cores 2] [--seconds 60]

Without a model it is the one that `ft separate` takes. The song is the example, repeated. `engine alone` runs the same
windows through the same engine and does nothing else; both run in turn. Shares are of processor time, so that parts
which run beside each other still sum to one.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import soundfile

from bench.context import EXAMPLE
from bench.machine import load_average, use_cores
from bench.memory import repeat_example
from bench.rows import Model, read_model
from bench.runners import Array, Runner, Spec, engine_facts
from bench.worker import Worker, in_turn
from engines.machine import cpu_name
from ft.separate.stream import window_inputs

Item = TypeVar("Item")
Found = dict[str, Any]

STAGES = {
    "resample": ("StreamingResampler",),
    "fft": ("StreamingStft", "StreamingIstft"),
}
"""Streams of ft.dsp by what they do."""
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
        from ft.audio import source as audio
        from ft.separate import stream as song_stream
        from ft.songs import writer as stem_files

        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._reader = 0.0
        with ExitStack() as stack:
            for stage, names in STAGES.items():
                for name in names:
                    for method in ("push", "finish"):
                        self._wrap(stack, getattr(dsp, name), method, stage)
            for method in ("write", "commit"):
                self._wrap(stack, stem_files.StemWriter, method, "write")
            blocks, cut = audio.AudioSource.blocks, song_stream.cut_windows
            _replace(stack, audio.AudioSource, "blocks", lambda *args: self._clocked(blocks(*args), "decode"))
            _replace(stack, song_stream, "cut_windows", lambda *args: self._clocked(cut(*args), None))
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

    def _wrap(self, stack: ExitStack, owner: type, method: str, stage: str) -> None:
        original = getattr(owner, method)

        def clocked(*args: Any) -> Any:
            start = time.thread_time()
            result = original(*args)
            self._add(stage, time.thread_time() - start)
            return result

        _replace(stack, owner, method, clocked)

    def _clocked(self, items: Iterable[Item], stage: str | None) -> Iterator[Item]:
        """Passes items on; what making them takes is the stage's, or without one the reading thread's."""
        iterator = iter(items)
        while True:
            start = time.thread_time()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._add(stage, time.thread_time() - start)
            yield item

    def _add(self, stage: str | None, seconds: float) -> None:
        with self._lock:
            if stage is None:
                self._reader += seconds
            else:
                self.seconds[stage] += seconds


def _replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Sets an attribute until the stack closes."""
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


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


def make_song(folder: Path, seconds: int, rate: int = 44100) -> Path:
    """Writes the example, repeated, as a file of that rate."""
    path = folder / f"song-{seconds}-{rate}.flac"
    repeat_example(path, seconds)
    if rate != soundfile.info(EXAMPLE / "mixture.flac").samplerate:
        import soxr

        samples, own = soundfile.read(path, dtype="float32", always_2d=True)
        soundfile.write(path, np.clip(soxr.resample(samples, own, rate), -1, 1), rate, "PCM_16")
    return path


def end_to_end(model: Model | None, song: Path, rounds: int, *, runtime: str = "auto", device: str = "auto") -> Found:
    """Gives a row of file to files, beside the engine alone on the same windows.

    Args:
        model: None is what `load_engine` takes then; the row has the name of its file.
    Raises:
        WorkerError: the engine cannot be used, or failed.
    """
    spec = Spec("song", "" if model is None else model.path, runtime=runtime, device=device, song=str(song))
    info = soundfile.info(song)
    with Worker(spec) as whole, Worker(Spec(**{**vars(spec), "kind": "windows"})) as alone:
        facts = whole.ask("open")
        alone.ask("open")
        answers: list[Found] = []

        def separate() -> float:
            answers.append(whole.ask("run"))
            return float(answers[-1]["seconds"])

        separate()  # warms up, as does the first run of the other
        alone.seconds(warm=0)
        times = in_turn({"whole": separate, "alone": lambda: alone.seconds(warm=0)}, rounds)
        peak = whole.ask("memory")["peak_mb"]
    median = {name: statistics.median(values) for name, values in times.items()}
    names = answers[-1]["shares"]
    return {
        "model": Path(facts["model"]).name if model is None else model.name,
        "engine": facts["name"],
        "version": facts["version"],
        "precision": facts["precision"],
        "device": facts["device"],
        "sample_rate": info.samplerate,
        "audio_seconds": round(info.duration, 2),
        "seconds": round(median["whole"], 4),
        "engine_seconds": round(median["alone"], 4),
        "ratio_to_engine": round(median["whole"] / median["alone"], 3),
        "times_real_time": round(info.duration / median["whole"], 2),
        "range": [round(info.duration / value, 2) for value in (max(times["whole"]), min(times["whole"]))],
        "shares": {name: round(statistics.median(a["shares"][name] for a in answers[1:]), 4) for name in names},
        "open_seconds": round(facts["seconds"], 3),
        "peak_ram_mb": round(peak),
        "rounds": rounds,
    }


def as_lines(rows: Sequence[Found]) -> Iterator[str]:
    """Gives a table for the terminal."""
    yield f"{'file to files':44}{'x real time':>12}{'to engine':>10}   decode resample  fft network write  rest"
    for row in rows:
        name = f"{row['model']} {row['engine']} {row['precision']} {row['device']} {row['sample_rate'] / 1000:g} kHz"
        parts = "".join(f"{row['shares'][part]:>8.1%}" for part in row["shares"])
        yield f"{name:44}{row['times_real_time']:>12.1f}{row['ratio_to_engine']:>10.2f}{parts}"


@click.command()
@click.option("--model", "--engine", "model", help="A model file. [default: default, the shipped one]")
@click.option("--runtime", default="auto", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--cores", default=2, show_default=True)
@click.option("--seconds", default=60, show_default=True)
def main(model: str | None, runtime: str, device: str, rounds: int, cores: int, seconds: int) -> None:
    """Prints the table, then the same as JSON."""
    use_cores(cores)
    with tempfile.TemporaryDirectory() as folder:
        song = make_song(Path(folder), seconds)
        row = end_to_end(None if model is None else read_model(model), song, rounds, runtime=runtime, device=device)
    for line in as_lines([row]):
        print(line)
    machine = f"load of the machine {load_average()}; {cpu_name()}, {cores} cores"
    print(f"model opened in {row['open_seconds']:.2f} s; {machine}")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
