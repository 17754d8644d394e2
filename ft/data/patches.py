"""Patch files, in which the original keeps its training data: pieces of spectrograms, one in each `.npz`.

`X` is complex64 (2, n_fft // 2 + 1, frames), the mixture of a pair or music alone; `Y`, of pairs only, the instrumental
in the same shape; `c` a number, the largest magnitude of the whole song. Frames are those of a centred STFT with a
Hann window, mirrored at the song's ends. What the files do not say stands in the name of their folder:
`cs2048_sr44100_hl1024_nf2048_of0_PAIRS` are pieces of 2048 frames, 44100 Hz, hop 1024, n_fft 2048, offset 0.

For training a piece becomes the waveform of which it is the STFT, so that everything made for waveforms works on it:
the sum of two waveforms has the sum of their complex spectra, of which the original speaks. Frames that stand beside
silence with which a song was filled up to a whole piece are no STFT of anything; of them the nearest waveform is taken.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ft.config import ModelConfig, Spectrogram
from ft.dsp import StreamingStft, window_of
from ft.errors import DataError, one_line
from ft.files import atomic_write

Array = NDArray[np.float32]
Spec = NDArray[np.complex64]

SUFFIX = ".npz"
LEAST_WEIGHT = 1e-5
"""An inverse divides by no smaller sum of squared windows over a sample; only the outermost samples have less."""
_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError, NotImplementedError)
_FOLDER = re.compile(r"cs(\d+)_sr(\d+)_hl(\d+)_nf(\d+)_of(\d+)")


@dataclass(frozen=True)
class PatchInfo:
    """What a patch file holds, read from its headers alone."""

    frames: int
    bins: int
    peak: float
    is_pair: bool


@dataclass(frozen=True)
class PatchPart:
    """Which array of a patch file is meant, and its hop, which the file does not know."""

    array: Literal["X", "Y"]
    hop_length: int


@dataclass(frozen=True)
class PatchGrid:
    """How a song of so many frames is cut: patch j is [j * roi, j * roi + size) of the song with silence around it."""

    frames: int
    size: int
    offset: int = 0
    """Frames by which neighbours overlap on each side."""

    @property
    def roi(self) -> int:
        return self.size - 2 * self.offset

    @property
    def count(self) -> int:
        return -(-self.frames // self.roi)

    @property
    def padding(self) -> tuple[int, int]:
        """Frames of silence before and behind; a whole patch more where the song ends with one.

        >>> PatchGrid(1000, 256).padding, PatchGrid(1024, 256).padding
        ((0, 24), (0, 256))
        """
        return self.offset, self.roi - self.frames % self.roi + self.offset


def folder_name(front: Spectrogram, sample_rate: int, size: int, offset: int, suffix: str) -> str:
    """
    >>> folder_name(Spectrogram(), 44100, 2048, 0, "_PAIRS")
    'cs2048_sr44100_hl1024_nf2048_of0_PAIRS'
    """
    return f"cs{size}_sr{sample_rate}_hl{front.hop_length}_nf{front.n_fft}_of{offset}{suffix}"


def read_patch_info(path: Path) -> PatchInfo:
    """Gives what a patch file holds, without its spectra. Raises DataError for what is none."""
    try:
        with _opened(path) as file:
            names = set(file.files)
            peak = _number(file["c"])
        with zipfile.ZipFile(path) as archive:
            headers = {name: _header(archive, name) for name in names & {"X", "Y"}}
    except _ERRORS as error:
        raise DataError(f"{path}: not a patch file ({one_line(error)}); expected an .npz with X and c") from error
    for name in ("X", "Y") if "Y" in names else ("X",):
        shape, kind = headers.get(name, ((), None))
        if len(shape) != 3 or shape[0] != 2 or shape != headers["X"][0] or kind is None or kind.kind != "c":
            raise DataError(
                f"{path}: {name} is {'missing' if kind is None else f'{kind} {shape}'}; expected complex64 "
                "(2, bins, frames), and X and Y alike"
            )
    if not (np.isfinite(peak) and peak > 0):
        raise DataError(f"{path}: c is {peak}; expected the largest magnitude of the song, above 0")
    _, bins, frames = headers["X"][0]
    return PatchInfo(frames, bins, peak, "Y" in names)


def _number(array: NDArray[Any]) -> float:
    """Gives the one real number of an array. Raises ValueError for others."""
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise ValueError(f"c is {array.dtype} {array.shape} and not a number")
    return float(array.item())


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Gives the arrays of a file, none of which may be pickled objects; those would run code when they are read."""
    with path.open("rb") as raw, np.lib.npyio.NpzFile(raw, allow_pickle=False) as file:
        yield file


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
    return shape, kind


def read_patch(path: Path, array: Literal["X", "Y"]) -> Spec:
    """One of the spectra (2, bins, frames) of a patch file. Nothing pickled into it is run. Raises DataError."""
    try:
        with _opened(path) as file:
            spec: Spec = file[array].astype(np.complex64, copy=False)
    except _ERRORS as error:
        raise DataError(f"{path}: {array} cannot be read ({one_line(error)}); restore it, then `resume`") from error
    return spec


def write_patch(path: Path, peak: float, mixture: Spec, instrumental: Spec | None = None, **more: Any) -> None:
    """Writes a patch file, whole or not at all.

    Args:
        mixture: `X`; `instrumental` is `Y`.
        more: further arrays or numbers.
    Raises:
        OSError: it cannot be written.
    """
    arrays = {"X": mixture.astype(np.complex64, copy=False), "c": np.float32(peak), **more}
    if instrumental is not None:
        arrays["Y"] = instrumental.astype(np.complex64, copy=False)
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def frames_of(blocks: Iterable[Array], n_fft: int, hop_length: int) -> Iterator[Spec]:
    """Frames (channels, bins, frames) of a waveform in blocks: 1 + samples // hop_length in all, as librosa counts."""
    transform: StreamingStft | None = None
    for block in blocks:
        transform = transform or StreamingStft(block.shape[0], n_fft, hop_length)
        yield transform.push(block).swapaxes(1, 2)
    if transform is not None:
        rest = transform.finish().swapaxes(1, 2)
        yield rest[:, :, :-1] if transform.samples % hop_length else rest


def cut_patches(frames: Iterable[Spec], grid: PatchGrid) -> Iterator[Spec]:
    """The patches (channels, bins, grid.size) of a spectrogram that comes in blocks of `grid.frames` frames in all."""
    held: Spec | None = None
    made = 0
    for block in frames:
        if held is None:
            held = np.zeros((*block.shape[:2], grid.padding[0]), np.complex64)
        held = np.concatenate((held, block), axis=2)
        while held.shape[2] >= grid.size and made < grid.count:
            yield held[:, :, : grid.size]
            held, made = held[:, :, grid.roi :], made + 1
    while held is not None and made < grid.count:
        yield np.pad(held[:, :, : grid.size], ((0, 0), (0, 0), (0, max(0, grid.size - held.shape[2]))))
        held, made = held[:, :, grid.roi :], made + 1


def waveform_of(spec: Spec, hop_length: int) -> Array:
    """Gives the waveform (channels, samples) whose STFT without centring is `spec` (channels, bins, frames).

    It has n_fft + (frames - 1) * hop_length samples. Least squares (Griffin and Lim, "Signal estimation from modified
    short-time Fourier transform", IEEE Trans. ASSP 32, 1984), so that a piece of an STFT is met to rounding errors.
    """
    channels, bins, frames = spec.shape
    n_fft = 2 * (bins - 1)
    window = window_of(n_fft)
    pieces = np.fft.irfft(spec.swapaxes(1, 2), n_fft).astype(np.float32, copy=False) * window
    total = np.zeros((channels, n_fft + (frames - 1) * hop_length), np.float32)
    weight = np.zeros(total.shape[1], np.float32)
    for frame in range(frames):
        part = slice(frame * hop_length, frame * hop_length + n_fft)
        total[:, part] += pieces[:, frame]
        weight[part] += window**2
    waveform: Array = np.divide(total, np.maximum(weight, LEAST_WEIGHT), dtype=np.float32)
    return waveform


def read_waveform(path: Path, part: PatchPart, start: int, samples: int) -> Array:
    """(2, samples) of a patch as sound, from the frame in which sample `start` lies; less where the patch ends."""
    spec = read_patch(path, part.array)
    n_fft, first = 2 * (spec.shape[1] - 1), start // part.hop_length
    frames = max(1, -(-(samples - n_fft) // part.hop_length) + 1)
    return waveform_of(spec[:, :, first : first + frames], part.hop_length)[:, :samples]


def check_geometry(path: Path, info: PatchInfo, config: ModelConfig) -> tuple[int, int]:
    """Gives the hop of a patch and the samples of the waveform that it stands for.

    Raises:
        DataError: it, or the name of its folder, tells of another STFT than the configuration's.
    """
    front = config.front
    if not isinstance(front, Spectrogram):
        raise DataError(f"{path}: a patch for a network of waveforms; patches train networks of their own STFT only")
    n_fft, hop_length, sample_rate = 2 * (info.bins - 1), front.hop_length, config.sample_rate
    if (named := _FOLDER.search(path.parent.name)) is not None:
        sample_rate, hop_length = int(named[2]), int(named[3])
    wanted = (config.sample_rate, front.n_fft, front.hop_length)
    if (sample_rate, n_fft, hop_length) != wanted:
        raise DataError(
            f"{path}: a patch of n_fft {n_fft}, hop_length {hop_length} at {sample_rate} Hz; the configuration has "
            f"{wanted[1]}, {wanted[2]} at {wanted[0]}. Patches train networks of their own STFT only"
        )
    return hop_length, front.samples(info.frames)
