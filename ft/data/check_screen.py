"""Whether there are vocals in what should be an instrumental, as far as a model hears them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ft.audio.open import open_source
from ft.separate import Separator

Array = NDArray[np.float32]

EXCERPT_SECONDS = 10.0
WINDOW_SECONDS = 0.5
SILENCE_DB = -60.0
"""Level of the mixture, in dB of full scale, below which a window holds none."""
FLOOR_DB = -100.0
"""What no level is below."""


def vocals_level(separator: Separator, path: Path, seconds: float, sample: float | None, share: float) -> float:
    """Gives the level that the predicted vocals exceed in more than a `share` of the time, in dB of the mixture.

    Args:
        separator: of a model that gives vocals.
        seconds: of the file.
        sample: seconds to listen to, in excerpts of 10 s that are spread evenly over the file and heard one behind the
            other; None for all of it.
    Raises:
        AudioError: the file can no longer be read.
        EngineError: the engine failed.
    """
    with open_source(path) as source:
        rate = source.info.sample_rate
    excerpts = excerpts_of(seconds, sample)
    heard = separator.levels(_blocks(path, excerpts), rate)
    size = max(round(rate * WINDOW_SECONDS), 1)
    rest: dict[str, Array] = {}
    levels = []
    for stems in separator.stream(_blocks(path, excerpts), rate, heard):
        if rest:
            stems = {stem: np.concatenate((rest[stem], block), axis=1) for stem, block in stems.items()}
        whole = stems["vocals"].shape[1] // size * size
        rest = {stem: block[:, whole:] for stem, block in stems.items()}
        mixture = np.sum([block[:, :whole] for block in stems.values()], axis=0)
        of_vocals, of_mixture = _power(stems["vocals"][:, :whole], size), _power(mixture, size)
        loud = of_mixture > 10 ** (SILENCE_DB / 10)
        ratio = np.divide(of_vocals, of_mixture, out=np.zeros_like(of_mixture), where=loud)
        levels.append(10 * np.log10(np.maximum(ratio, 10 ** (FLOOR_DB / 10))))
    falling = np.sort(np.concatenate(levels))[::-1] if levels else np.zeros(0)
    return float(falling[int(share * len(falling))]) if len(falling) else FLOOR_DB


def excerpts_of(seconds: float, sample: float | None) -> list[tuple[float, float | None]]:
    """Begin and length of what is listened to of a file, in seconds; a length of None goes to its end.

    >>> excerpts_of(100.0, 20.0)
    [(20.0, 10.0), (70.0, 10.0)]
    >>> excerpts_of(15.0, 20.0), excerpts_of(600.0, None)
    ([(0.0, None)], [(0.0, None)])
    """
    if sample is None or sample >= seconds:
        return [(0.0, None)]
    count = max(round(sample / EXCERPT_SECONDS), 1)
    length = sample / count
    return [((number + 0.5) * seconds / count - length / 2, length) for number in range(count)]


def _blocks(path: Path, excerpts: list[tuple[float, float | None]]) -> Iterator[Array]:
    for start, length in excerpts:
        with open_source(path, start=start, duration=length) as source, closing(source.blocks()) as blocks:
            yield from blocks


def _power(waveform: Array, size: int) -> NDArray[np.float64]:
    """Mean square of each window of `size` samples over all channels."""
    windows = waveform.reshape(len(waveform), -1, size)
    power: NDArray[np.float64] = np.einsum("cws,cws->w", windows, windows, dtype=np.float64)
    return power / (size * len(waveform))
