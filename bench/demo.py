"""Separates the example song with the shipped model, and says how well and how fast.

python -m bench.demo
"""

from __future__ import annotations

from pathlib import Path

import soundfile

from engines.machine import cpu_name
from ft.files import example_folder
from ft.metrics import sdr
from ft.plots import save_spectrograms
from ft.separate import Separator
from ft.songs import separate_file

EXAMPLE = example_folder()
OUTPUT = Path("separated")


def main() -> None:
    mixture_file = EXAMPLE / "mixture.flac"
    with Separator(force=True) as separator:
        result = separate_file(separator, mixture_file, OUTPUT / "caesium")
    for file in result.files.values():
        print(file)
    waveforms = {"mixture": mixture_file, **result.files}
    arrays = {name: soundfile.read(file, dtype="float32", always_2d=True)[0].T for name, file in waveforms.items()}
    sample_rate = soundfile.info(mixture_file).samplerate
    print(save_spectrograms(OUTPUT / "caesium" / "spectrograms.png", arrays, sample_rate))
    where = cpu_name() if result.device == "cpu" else result.device
    speed = f"{result.x_realtime:.1f} times real time ({result.engine}, {result.precision}, {where})"
    print(f"{result.audio_seconds:.1f} s of audio in {result.wall_seconds:.2f} s: {speed}")
    for stem in result.files:
        target = soundfile.read(EXAMPLE / f"{stem}.flac", dtype="float32", always_2d=True)[0].T
        before, after = sdr(arrays["mixture"], target), sdr(arrays[stem], target)
        print(f"SDR of {stem:12} {after:6.2f} dB (the mixture itself: {before:.2f} dB)")


if __name__ == "__main__":
    main()
