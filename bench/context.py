"""Vocals SDR of the example against the context on both sides of a window: what justifies the default.

python -m bench.context [--model MODEL] [--segment-seconds 12] [--overlap 0.05]

Without a model it is the shipped one in fp32, also where `ft separate` takes that in int8: what the context does is not
to be mixed with what rounding does.

The default context is one from which doubling changes the SDR by less than 0.05 dB, as does every doubling above it.
`frames run` is the cost: frames that ran through the network per frame of the song.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

import click

from engines import load_engine
from engines.base import Array, Engine, Inputs
from ft.audio.open import read_audio
from ft.config import Segment
from ft.dsp import frame_count
from ft.files import FP32_MODEL, example_folder
from ft.metrics import sdr
from ft.separate import Separator

EXAMPLE = example_folder()
CONTEXTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
ENOUGH_DB = 0.05


def rows(
    engine: Engine, segment_seconds: float, overlap: float, contexts: Iterable[float]
) -> Iterator[dict[str, float]]:
    """SDR of the vocals and frames run for each context that leaves half of a window."""
    mixture, sample_rate = read_audio(EXAMPLE / "mixture.flac")
    target, _ = read_audio(EXAMPLE / "vocals.flac")
    config = engine.describe().config
    frames = frame_count(round(mixture.shape[1] * config.sample_rate / sample_rate), config.front.hop_length)
    for context in contexts:
        if 4 * context > segment_seconds:
            return
        separator = Separator(engine, segment_seconds=segment_seconds, context_seconds=context, overlap=overlap)
        with counted_frames(engine) as counted:
            stems = separator.separate(mixture, sample_rate)
        yield {
            "context_seconds": context,
            "sdr_vocals": sdr(stems["vocals"], target),
            "frames_run": sum(counted) / frames,
            "frames_run_long_song": separator.plan.cost,
        }


def enough(found: list[dict[str, float]]) -> float | None:
    """Gives the smallest context from which no doubling changes the SDR by `ENOUGH_DB` or more; None where none is."""
    answer = None
    doubled = [row for row in found if row["context_seconds"] > 0]
    for row, twice in reversed(list(itertools.pairwise(doubled))):
        if abs(twice["sdr_vocals"] - row["sdr_vocals"]) >= ENOUGH_DB:
            break
        answer = row["context_seconds"]
    return answer


@contextmanager
def counted_frames(engine: Engine) -> Iterator[list[int]]:
    """Fills a list with the frames of each batch that an engine is given in the block."""
    frames: list[int] = []
    infer = engine._infer

    def count(inputs: Inputs) -> Array:
        frames.append(math.prod(engine.describe().size(inputs)))
        return infer(inputs)

    with mock.patch.object(engine, "_infer", count):
        yield frames


@click.command()
@click.option("--model", "--engine", "model", default=FP32_MODEL, show_default=True)
@click.option("--segment-seconds", default=Segment.seconds, show_default=True)
@click.option("--overlap", default=Segment.overlap, show_default=True)
def main(model: str, segment_seconds: float, overlap: float) -> None:
    """Prints the table, then the same as JSON."""
    print(f"window {segment_seconds:g} s, overlap {overlap:g}; default context {Segment.context:g} s")
    print(f"{'context s':>10}{'SDR dB':>9}{'doubling':>10}{'frames run':>12}{'long song':>11}")
    found: list[dict[str, float]] = []
    with load_engine(model) as engine:
        for row in rows(engine, segment_seconds, overlap, CONTEXTS):
            found.append(row)
            change = f"{row['sdr_vocals'] - found[-2]['sdr_vocals']:+.3f}" if len(found) > 2 else ""
            print(
                f"{row['context_seconds']:>10g}{row['sdr_vocals']:>9.3f}{change:>10}{row['frames_run']:>12.3f}"
                f"{row['frames_run_long_song']:>11.3f}"
            )
    print(f"context from which doubling changes less than {ENOUGH_DB} dB: {enough(found)} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
