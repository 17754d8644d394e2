"""Peak memory of `ft separate`, child processes included, on two minutes and on an hour of sound.

python -m bench.memory [--model MODEL] [--format flac] [--seconds 120 --seconds 28800]

Without a model it is the one that `ft separate` takes. The sound is the example, repeated; the length of what
comes out is checked. Linux only (it reads /proc). An hour takes about 4 GB in the temporary folder, eight hours 35 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import soundfile

from bench.context import EXAMPLE

LIMIT_MB = 700
LIMIT_RATIO = 1.15


def repeat_example(path: Path, seconds: int) -> None:
    """Writes the example again and again until there are `seconds` of it."""
    block, sample_rate = soundfile.read(EXAMPLE / "mixture.flac", dtype="int16", always_2d=True)
    missing = seconds * sample_rate
    with soundfile.SoundFile(path, "w", sample_rate, block.shape[1], "PCM_16") as file:
        while missing > 0:
            file.write(block[:missing])
            missing -= len(block)


def peak_mb(command: list[str]) -> float:
    """Gives the largest sum of the resident memory of a process and all below it, read 20 times a second."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_resident(pid) for pid in _tree(process.pid)))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return peak / 1e6


def _tree(pid: int) -> list[int]:
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text(encoding="ascii").split()
        except OSError:  # the thread has ended
            continue
        for child in children:
            found += _tree(int(child))
    return found


def _resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # the process has ended
        return 0
    values = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    # A single process is asked for its own high-water mark, so that nothing falls between two looks.
    return max((int(value.split()[0]) * 1024 for value in values.values()), default=0)


@click.command()
@click.option("--model", "--engine", "model", help="A model file. [default: default, the shipped one]")
@click.option("--format", "format_", help="Of the stems. [default: wav]")
@click.option("--seconds", "lengths", multiple=True, default=(120, 3600), show_default=True, type=int)
def main(model: str | None, format_: str | None, lengths: tuple[int, ...]) -> None:
    """Prints the peak for each length and the ratio of the longest to the shortest."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in sorted(lengths):
            song = Path(folder) / f"{seconds}.flac"
            repeat_example(song, seconds)
            command = [sys.executable, "-m", "ft", "separate", str(song), "-o", folder]
            command += [] if format_ is None else ["--format", format_]
            command += [] if model is None else ["--model", model]
            start = time.perf_counter()
            peaks.append(peak_mb(command))
            took = time.perf_counter() - start
            expected = soundfile.info(song).frames
            song.unlink()
            made = ""
            for file in (Path(folder) / str(seconds)).glob(f"*.{format_ or 'wav'}"):
                found = soundfile.info(file)
                if found.frames != expected:
                    raise SystemExit(f"{file.name}: {found.frames} samples, expected {expected}")
                made = f", {found.format} of {file.stat().st_size / 1e9:.2f} GB"
                file.unlink()
            speed = f"{seconds / took:.0f} times real time"
            print(f"{seconds:>6} s of audio: {peaks[-1]:.0f} MB (limit {LIMIT_MB}), {speed}{made}")
    ratio = peaks[-1] / peaks[0]
    print(f"ratio {ratio:.3f} (limit {LIMIT_RATIO})")
    print(json.dumps({"seconds": sorted(lengths), "peak_mb": np.round(peaks, 1).tolist(), "ratio": round(ratio, 4)}))
    if ratio > LIMIT_RATIO or max(peaks) > LIMIT_MB:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
