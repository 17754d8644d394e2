"""What each augmentation costs for a stereo crop of 6 s on one core: `python -m bench.augmentation`.

Each row is the processor's time, and the least of several rounds, so that other work on the machine adds little to it.
Multiplied by its probability, and by two where vocals and instrumental are each treated for itself, it is what an item
pays on average.
"""

from __future__ import annotations

import functools
import time
import timeit
from collections.abc import Callable

import click
import numpy as np
import soundfile

from ft.data import augment
from ft.data.augment import Waveform
from ft.data.augment_codec import CODECS, through_codec
from ft.data.augment_dynamics import compressor_gain, soft_clip_gain
from ft.data.augment_filters import equalise
from ft.data.augment_parts import Parts, Stretch, stretch
from ft.files import example_folder
from ft.train_config import Augment

RATE = 44100
SECONDS = 6.0


def rows(waveform: Waveform) -> dict[str, Callable[[], object]]:
    """Gives what is measured, by name; `waveform` (channels, samples) has a second more than the crop."""
    rng = np.random.default_rng(0)
    samples = int(SECONDS * RATE)
    crop = np.ascontiguousarray(waveform[:, :samples])
    choir = Parts(Augment(choir=1.0, choir_voices=1), RATE)
    work: dict[str, Callable[[], object]] = {
        "vocal_speed, instrumental_speed": lambda: augment.change_speed(waveform, 1.1, samples),
        "filter_db": lambda: augment.random_filter(rng, crop, 4.0, RATE),
        "reverb": lambda: augment.reverberate(rng, crop, RATE),
        "pan": lambda: augment.pan(rng, crop, 0.3),
        "gain, swap_channels, polarity": lambda: -crop[::-1] * np.float32(0.5),
        "pitch": lambda: stretch(crop, Stretch(semitones=2), samples, RATE),
        "tempo": lambda: stretch(waveform, Stretch(tempo=1.1), samples, RATE),
        "equaliser": lambda: equalise(rng, crop, 9.0, RATE),
        "choir, each copy": lambda: choir.choir(rng, crop),
        "compress": lambda: crop * compressor_gain(crop, 0.0, 4.0, RATE),
        "clip": lambda: crop * soft_clip_gain(crop, 6.0),
    }
    for name, (_, _, levels) in CODECS.items():
        work[f"codec, mixture_codec: {name}"] = functools.partial(through_codec, crop, name, sum(levels) / 2, RATE)
    return work


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """Measures processor time, the least of so many runs, after one that is not counted."""
    work()
    return 1000 * min(timeit.repeat(work, timer=time.process_time, number=1, repeat=rounds))


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
def main(rounds: int) -> None:
    """Print the cost of each augmentation."""
    import torch

    torch.set_num_threads(1)
    waveform, rate = soundfile.read(
        example_folder() / "mixture.flac", dtype="float32", frames=int(RATE * (SECONDS + 1))
    )
    if rate != RATE:
        raise SystemExit(f"the example has {rate} Hz; expected {RATE}")
    click.echo(f"{'augment:':<34}{'ms':>8}   for {SECONDS:g} s of stereo, one core, best of {rounds}")
    for name, work in rows(np.ascontiguousarray(waveform.T)).items():
        click.echo(f"{name:<34}{milliseconds(work, rounds):8.1f}")


if __name__ == "__main__":
    main()
