"""How many times real time a separation runs, from file to files, and what each part of it takes.

python -m bench.speed [--engine MODEL] [--rounds 5] [--cores 2] [--seconds 60]

The parts run alone on one core: how many times real time each would be if it were the whole. `without network` is the
whole chain with a mask of ones in place of the network. Figures are medians of the rounds, with the range. `one core`
is the same by processor time, which other work on the machine changes less.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from bench.memory import repeat_example
from engines import load_engine
from engines.base import Array, Engine, EngineInfo
from ft.audio import StemWriter, read_audio, read_blocks
from ft.config import ModelConfig
from ft.dsp import StreamingIstft, StreamingResampler, StreamingStft
from ft.separate import Separator

BLOCK = 1 << 16


class NoNetwork(Engine):
    """A mask of ones."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def describe(self) -> EngineInfo:
        return EngineInfo("none", "none", "cpu", "fp32", self.config)

    def _load(self) -> None:
        pass

    def _unload(self) -> None:
        pass

    def _infer(self, batch: Array) -> Array:
        return np.ones_like(batch)


def parts(song: Path, folder: Path, config: ModelConfig) -> dict[str, Callable[[], object]]:
    """What a separation does around the network, each part alone."""
    audio = config.audio
    mixture, rate = read_audio(song)
    channels = mixture.shape[0]
    blocks = [mixture[:, start : start + BLOCK] for start in range(0, mixture.shape[1], BLOCK)]
    forward = StreamingStft(channels, audio.n_fft, audio.hop_length)
    frames = [forward.push(block) for block in blocks]

    def transform() -> None:
        stft = StreamingStft(channels, audio.n_fft, audio.hop_length)
        for block in blocks:
            stft.push(block)

    def invert() -> None:
        istft = StreamingIstft(channels, audio.n_fft, audio.hop_length)
        for spec in frames:
            istft.push(spec)

    def resample() -> None:
        there, back = StreamingResampler(48000, 44100, channels), StreamingResampler(44100, 48000, channels)
        for block in blocks:
            back.push(there.push(block))

    def write() -> None:
        with StemWriter(folder / "parts", config.stems, channels, rate, "16") as writer:
            for block in blocks:
                writer.write(dict.fromkeys(config.stems, block))
            writer.commit()

    separator = Separator(NoNetwork(config))
    return {
        "decode": lambda: list(read_blocks(song)),
        "stft": transform,
        "inverse stft": invert,
        "resample 48 kHz in and back": resample,
        "write": write,
        "without network": lambda: separator.separate_file(song, folder / "none"),
    }


def measure(name: str, call: Callable[[], object], seconds: float, rounds: int) -> dict[str, object]:
    """Runs `call` once to warm up and then `rounds` times; prints a row and gives it."""
    call()
    speeds, processor = [], []
    for _ in range(rounds):
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        speeds.append(seconds / (time.perf_counter() - start))
        processor.append(seconds / (time.process_time() - start_cpu))
    median, median_cpu = statistics.median(speeds), statistics.median(processor)
    print(f"{name:<28}{median:>9.1f}{median_cpu:>10.1f}   {min(speeds):.1f} to {max(speeds):.1f}")
    return {
        "name": name,
        "times_real_time": round(median, 2),
        "times_real_time_one_core": round(median_cpu, 2),
        "rounds": rounds,
    }


def use_cores(count: int) -> None:
    """Lets this process run on `count` cores only, where the system can say so."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


@click.command()
@click.option("--engine", "model", default="default", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--cores", default=2, show_default=True)
@click.option("--seconds", default=60, show_default=True)
def main(model: str, rounds: int, cores: int, seconds: int) -> None:
    """Prints the table, then the same as JSON."""
    use_cores(cores)
    print(f"{'times real time':<28}{'median':>9}{'one core':>10}   range")
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        song = folder / "song.flac"
        repeat_example(song, seconds)
        start = time.perf_counter()
        with Separator(load_engine(model)) as separator:
            opened = time.perf_counter() - start
            info = separator.engine.describe()
            whole = f"{info.name}, file to files"
            found.append(measure(whole, lambda: separator.separate_file(song, folder / "out"), seconds, rounds))
        use_cores(1)
        for part, call in parts(song, folder, info.config).items():
            found.append(measure(part, call, seconds, rounds))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    machine = {"cores": cores, "machine": platform.machine(), "python": platform.python_version(), "load": load}
    print(f"model opened in {opened:.2f} s; load of the machine {load}")
    print(json.dumps({"model": info.model, "open_seconds": round(opened, 3), "rows": found, "machine": machine}))


if __name__ == "__main__":
    main()
