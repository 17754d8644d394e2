"""A mixture and its instrumental from different files: the delay between them, and both cut to the same samples.

The delay is that of the whole song: cross-spectra of long blocks are added up, weighted by the coherence that they show
(SCOT; Carter, Nuttall and Cable, "The smoothed coherence transform", Proc. IEEE 61, 1973), so that neither the vocals
nor the loudest frequencies decide. Sign and level are taken where the mixture is most alike the instrumental, which is
where nobody sings. Memory does not grow with the song.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ft.audio.open import open_source
from ft.dsp import BlockQueue, StreamingResampler
from ft.errors import DataError

Array = NDArray[np.float32]

SAMPLE_RATE = 44100
SHARPNESS = 10.0
"""A delay stands out if its value is so many times the root mean square of all; the highest of noise is about 5."""
SECTION = 1 << 17
"""Samples in each of which the delay is looked at again."""
SECTION_DELAY = 4096
WINDOW = 1 << 14
"""Samples in each of which levels are compared."""
SAME_GAIN_DB = 0.1
LONGEST_DELAY = 5.0
"""Seconds; what is looked for where nothing else is asked."""
LARGEST_RESIDUAL_DB = -15.0
SIDES_HEARD = 1e-4
"""Share of the energy of a file, -40 dB, from which what is beside its middle counts."""
QUIET_DB = -40.0
"""Windows of less than this, against the loudest, say nothing about levels."""


@dataclass(frozen=True)
class Pair:
    """Files that are meant to be a mixture and its instrumental."""

    song: str
    mixture: Path
    instrumental: Path


@dataclass(frozen=True)
class Alignment:
    """How an instrumental lies in its mixture, at `SAMPLE_RATE`."""

    delay: int
    """Samples by which the mixture is late; those are left out at its beginning, or -delay at the instrumental's."""
    gain: float
    """Factor on the instrumental; negative where one of the two is upside down."""
    residual_db: float
    """Level of mixture - gain * instrumental against the mixture, in the window where it is lowest."""

    @property
    def gain_db(self) -> float:
        return float(20 * np.log10(abs(self.gain)))

    def __str__(self) -> str:
        text = f"delay {self.delay} samples, {self.residual_db:.0f} dB left where it is quietest"
        if abs(self.gain) != 1:
            text += f", instrumental brought to the level of the mixture ({self.gain_db:+.2f} dB)"
        return text + (", its polarity turned" if self.gain < 0 else "")


def stereo_blocks(path: Path, sample_rate: int = SAMPLE_RATE) -> Iterator[Array]:
    """Gives the sound of a file in blocks (2, samples); mono in both channels. Raises AudioError."""
    with open_source(path) as source, closing(source.blocks()) as blocks:
        resampler = StreamingResampler(source.info.sample_rate, sample_rate, source.info.channels)
        for block in blocks:
            yield _stereo(resampler.push(block))
        yield _stereo(resampler.finish())


def _stereo(block: Array) -> Array:
    return np.repeat(block, 2, axis=0) if len(block) == 1 else block


def chunks(blocks: Iterable[Array], size: int, skip: int = 0) -> Iterator[Array]:
    """Blocks (channels, samples) cut into others of `size` samples, but for the last; the first `skip` are left out."""
    held = BlockQueue()
    for block in blocks:
        left_out = min(skip, block.shape[1])
        held.append(block[:, left_out:])
        skip -= left_out
        while held.size >= size:
            yield held.take(size)
    if held.size:
        yield held.take(held.size)


def find_alignment(pair: Pair, max_delay: float = LONGEST_DELAY, residual_db: float = LARGEST_RESIDUAL_DB) -> Alignment:
    """Delay, polarity and gain between the files of a pair, exact to the sample.

    Args:
        max_delay: seconds; delays beyond it are not looked for.
        residual_db: what may be left of the mixture, where it is quietest, after the instrumental was subtracted.
    Raises:
        DataError: the two do not fit; the reason is named.
        AudioError: one cannot be read.
    """
    _check_sides(pair)
    delay = _delay(pair, round(max_delay * SAMPLE_RATE))
    gain, left = _gain(_levels(pair, delay))
    if left > residual_db:
        raise DataError(
            f"{pair.song}: {left:.0f} dB of the mixture are left where they are quietest, once the instrumental was "
            f"subtracted; expected {residual_db:g} or less. Another mastering or take? `residual_db` allows it"
        )
    return Alignment(delay, gain, left)


def _check_sides(pair: Pair) -> None:
    """Raises DataError where one file has a left and a right and the other one channel.

    What is beside the middle of the music would be taken for vocals.
    """
    channels = {}
    for path in (pair.mixture, pair.instrumental):
        with open_source(path) as source:
            channels[path] = source.info.channels
    mono, stereo = sorted(channels, key=lambda path: channels[path])
    if channels[mono] == channels[stereo]:
        return
    energy = np.zeros(2)
    for block in stereo_blocks(stereo):
        energy += [np.square(block.sum(axis=0)).sum(), np.square(block[0] - block[1]).sum()]
    if energy[1] > SIDES_HEARD * energy.sum():
        raise DataError(f"{pair.song}: {mono.name} is mono and {stereo.name} stereo; expected two of one kind")


def aligned_blocks(pair: Pair, alignment: Alignment, size: int = 1 << 16) -> Iterator[tuple[Array, Array]]:
    """Mixture and instrumental in blocks (2, samples) of the same samples, as long as there are both of them."""
    mixture = chunks(stereo_blocks(pair.mixture), size, max(alignment.delay, 0))
    instrumental = chunks(stereo_blocks(pair.instrumental), size, max(-alignment.delay, 0))
    for left, right in zip(mixture, instrumental, strict=False):
        samples = min(left.shape[1], right.shape[1])
        yield left[:, :samples], right[:, :samples] * np.float32(alignment.gain)


def _delay(pair: Pair, longest: int) -> int:
    """Gives the delay of the whole song. Raises DataError where none stands out."""
    margin = 1 << max(longest - 1, 1).bit_length()
    size, n_fft = 2 * margin, 4 * margin
    cross = np.zeros(2 * margin + 1, np.complex128)
    energies = np.zeros((2, 2 * margin + 1))
    mixture = chunks(stereo_blocks(pair.mixture), size)
    instrumental = _with_margins(chunks(stereo_blocks(pair.instrumental), size), size, margin)
    for block, wide in zip_longest(mixture, instrumental, fillvalue=np.zeros((2, 0), np.float32)):
        first, second = np.fft.rfft(block, n_fft), np.fft.rfft(wide, n_fft)
        cross += (first.conj() * second).sum(axis=0)
        energies += [(np.abs(spec) ** 2).sum(axis=0) for spec in (first, second)]
    if not energies.any(axis=1).all():
        raise DataError(f"{pair.song}: silent, the mixture or the instrumental; expected sound in both")
    # Value k belongs to an instrumental that is read k - margin samples later than the mixture.
    values = np.fft.irfft(_weighted(cross, energies), n_fft)[: 2 * margin + 1][::-1]
    values = values[margin - longest : margin + longest + 1]
    best = int(np.abs(values).argmax())
    if abs(values[best]) < SHARPNESS * np.sqrt(np.mean(values**2)):
        raise DataError(
            f"{pair.song}: no delay of up to {longest / SAMPLE_RATE:g} s stands out; another song, another take or "
            "speed, or a longer delay (`max_delay`)"
        )
    return best - longest


def _weighted(cross: NDArray[np.complex128], energies: NDArray[np.float64]) -> NDArray[np.complex128]:
    weight = np.sqrt(energies[0] * energies[1])
    return np.divide(cross, weight, out=np.zeros_like(cross), where=weight > 1e-12 * weight.max(initial=0))


def _with_margins(blocks: Iterator[Array], size: int, margin: int) -> Iterator[Array]:
    """Each block with `margin` samples of its neighbours on both sides."""
    before, block = np.zeros((2, margin), np.float32), next(blocks, np.zeros((2, 0), np.float32))
    while block.shape[1]:
        after = next(blocks, np.zeros((2, 0), np.float32))
        yield np.concatenate((before, block, after[:, :margin]), axis=1)
        before, block = block[:, -margin:], after


def _levels(pair: Pair, delay: int) -> NDArray[np.float64]:
    """(3, windows): energies of mixture and instrumental, and their product, in each window of the aligned pair.

    Raises:
        DataError: the delay changes within the song.
    """
    found: list[NDArray[np.float64]] = []
    shifts: list[int] = []
    for mixture, instrumental in aligned_blocks(pair, Alignment(delay, 1.0, 0.0), SECTION):
        if (shift := _shift(mixture, instrumental)) is not None:
            shifts.append(shift)
        count = mixture.shape[1] // WINDOW
        windows = [part[:, : count * WINDOW].reshape(2, count, WINDOW) for part in (mixture, instrumental)]
        products = ((0, 0), (1, 1), (0, 1))
        found.append(np.array([np.einsum("cws,cws->w", windows[a], windows[b], dtype=np.float64) for a, b in products]))
    moved = [shift for shift in shifts if shift]
    if len(moved) > len(shifts) / 10:
        raise DataError(
            f"{pair.song}: the delay is {delay} samples and changes within the song by {min(shifts)} to {max(shifts)}; "
            "expected the same edit at the same speed"
        )
    levels = np.concatenate(found, axis=1) if found else np.zeros((3, 0))
    if not (levels[:2] > 0).all(axis=0).any():
        raise DataError(f"{pair.song}: less than {WINDOW / SAMPLE_RATE:.1f} s in which both are heard")
    return levels


def _shift(mixture: Array, instrumental: Array) -> int | None:
    """Finds by how much more the mixture is late in this section; None where nothing stands out."""
    first, second = (np.fft.rfft(part, 2 * SECTION) for part in (mixture, instrumental))
    cross = (first.conj() * second).sum(axis=0)
    values = np.fft.irfft(_weighted(cross, np.array([(np.abs(s) ** 2).sum(axis=0) for s in (first, second)])))
    values = np.roll(values, SECTION_DELAY)[: 2 * SECTION_DELAY + 1][::-1]
    best = int(np.abs(values).argmax())
    return best - SECTION_DELAY if abs(values[best]) > SHARPNESS * np.sqrt(np.mean(values**2)) else None


def _gain(levels: NDArray[np.float64]) -> tuple[float, float]:
    """Gain of the instrumental, and the level in dB that is left of the mixture in the window where least is left."""
    loud = (levels[:2] > levels[:2].max(axis=1, keepdims=True) * 10 ** (QUIET_DB / 10)).all(axis=0)
    mixture, instrumental, product = levels[:, loud] if loud.any() else levels[:, (levels[:2] > 0).all(axis=0)]
    likeness = np.abs(product) / np.sqrt(mixture * instrumental)
    alike = np.argsort(likeness)[-max(1, len(likeness) // 20) :]
    gain = float(np.median(product[alike] / instrumental[alike]))
    if abs(20 * np.log10(max(abs(gain), 1e-9))) < SAME_GAIN_DB:
        gain = float(np.sign(gain))
    left = (mixture - 2 * gain * product + gain**2 * instrumental) / mixture
    return gain, float(10 * np.log10(max(left.min(), 1e-12)))
