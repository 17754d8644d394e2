"""Stem files: written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from ft.audio import BLOCK_SAMPLES, peak_of, reason
from ft.errors import AudioError
from ft.options import BitDepth

Array = NDArray[np.float32]

_STEPS = {"16": 1 << 15, "24": 1 << 23}
"""Quantisation steps from 0 to full scale."""
_WAV_LIMIT = 0xFFFF_FFFF - (1 << 16)
"""Bytes of sound that fit into a WAV file; longer ones become RF64, which has the same name and larger fields."""


class StemWriter:
    """Writes the stems of one song as WAV files that get their names together, when all of them are whole.

    Whether an integer format would clip is known only at the end, and then all stems get one gain. So the sound first
    grows as raw float32 in `<stem>.wav.part`, 4 bytes a sample; `commit` reads it once more and makes the files. Memory
    does not grow with length, and nothing is computed twice. Left without `commit`, nothing remains.
    """

    def __init__(
        self, folder: Path, stems: Sequence[str], channels: int, sample_rate: int, bit_depth: BitDepth
    ) -> None:
        self.folder = folder
        self.files = {stem: folder / f"{stem}.wav" for stem in stems}
        self.channels, self.sample_rate, self.bit_depth = channels, sample_rate, bit_depth
        self.gain = 1.0
        self.peaks = dict.fromkeys(stems, 0.0)
        self._parts = {stem: folder / f"{stem}.wav.part" for stem in stems}
        self._finals = {stem: folder / f"{stem}.wav.final.part" for stem in stems}
        self._handles: dict[str, BinaryIO] = {}
        self._samples = 0
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        try:
            self._made = _make_folder(self.folder)
            self._handles = {stem: path.open("w+b") for stem, path in self._parts.items()}
        except OSError as error:
            self._clean()
            raise AudioError(f"{self.folder}: cannot write there: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clean()

    def write(self, stems: Mapping[str, Array]) -> None:
        """Appends one block (channels, samples) of each stem. Raises AudioError."""
        for stem, block in stems.items():
            self.peaks[stem] = max(self.peaks[stem], peak_of(block))
            try:
                self._handles[stem].write(np.ascontiguousarray(block.T, dtype=np.float32).data)
            except OSError as error:
                raise AudioError(f"{self._parts[stem]}: cannot write: {error.strerror}") from error
        self._samples += block.shape[1]

    def commit(self) -> None:
        """Makes the files and gives them their names; `gain` is then what they were multiplied by."""
        peak = max(self.peaks.values())
        if self.bit_depth != "float" and peak > 1:
            self.gain = 1 / peak
        try:
            for stem, file in self._handles.items():
                file.flush()
                file.seek(0)
                self._convert(file, self._finals[stem])
            for stem, path in self.files.items():
                self._finals[stem].replace(path)
        except (OSError, soundfile.LibsndfileError) as error:
            raise AudioError(f"{self.files[stem]}: cannot write: {reason(error)}") from error

    def _convert(self, file: BinaryIO, path: Path) -> None:
        subtype = "FLOAT" if self.bit_depth == "float" else f"PCM_{self.bit_depth}"
        bytes_per_sample = 4 if self.bit_depth == "float" else int(self.bit_depth) // 8
        size = self._samples * self.channels * bytes_per_sample
        format_ = "RF64" if size > _WAV_LIMIT else "WAV"
        settings = {"samplerate": self.sample_rate, "channels": self.channels, "subtype": subtype, "format": format_}
        with path.open("w+b") as target, soundfile.SoundFile(target, "w", **settings) as sound:
            while len(block := np.fromfile(file, np.float32, BLOCK_SAMPLES * self.channels)):
                block *= np.float32(self.gain)
                sound.write(_quantised(block, self.bit_depth).reshape(-1, self.channels))

    def _clean(self) -> None:
        with ExitStack() as stack:
            for path in (*self._made, *self._parts.values(), *self._finals.values()):
                stack.callback(_remove, path)
            for file in self._handles.values():
                stack.callback(file.close)


def _quantised(block: Array, bit_depth: BitDepth) -> NDArray[np.float32 | np.int16 | np.int32]:
    """Values as libsndfile takes them, rounded to the nearest step.

    libsndfile itself would scale by one step less than it reads with, and so change the level.
    """
    if bit_depth == "float":
        return block
    steps = _STEPS[bit_depth]
    values = np.clip(np.rint(block.astype(np.float64) * steps), -steps, steps - 1)
    if bit_depth == "16":
        return values.astype(np.int16)
    return values.astype(np.int32) << 8


def _make_folder(folder: Path) -> list[Path]:
    """Creates a folder and those above it; gives what it created, outermost first."""
    missing = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove(path: Path) -> None:
    """Removes a file, or a folder where it is empty."""
    with suppress(OSError):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
