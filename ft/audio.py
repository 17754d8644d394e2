"""Audio files: reading in blocks, writing stems whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from ft.errors import AudioError

Array = NDArray[np.float32]
BitDepth = Literal["16", "24", "float"]

BLOCK_SAMPLES = 1 << 16
MAX_CHANNELS = 2
AUDIO_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".opus", ".oga"}
READABLE = "WAV, FLAC, OGG, MP3 or another format that libsndfile reads"

_SUBTYPES: dict[str, BitDepth] = {
    "PCM_24": "24",
    "PCM_32": "24",
    "FLOAT": "float",
    "DOUBLE": "float",
}
_STEPS = {"16": 1 << 15, "24": 1 << 23}
"""Quantisation steps from 0 to full scale."""
_WAV_LIMIT = 0xFFFF_FFFF - (1 << 16)
"""Bytes of sound that fit into a WAV file; longer ones become RF64, which has the same name and larger fields."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file says about itself."""

    path: Path
    sample_rate: int
    channels: int
    samples: int
    bit_depth: BitDepth
    """In which its stems are written: its own, or 16 where the format has none of these (MP3, OGG)."""

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


def audio_info(path: Path) -> AudioInfo:
    """The header of an audio file that can be separated.

    Raises:
        AudioError: missing, no audio, without samples, or of more than two channels.
    """
    with _open(path) as file:
        if file.channels > MAX_CHANNELS:
            raise AudioError(f"{path}: {file.channels} channels; expected 1 or 2. Mix it down first, e.g. ffmpeg -ac 2")
        if file.frames == 0:
            raise AudioError(f"{path}: holds no samples; expected at least one")
        bit_depth = _SUBTYPES.get(file.subtype, "16")
        return AudioInfo(path, file.samplerate, file.channels, file.frames, bit_depth)


def songs_in(paths: Sequence[Path]) -> list[Path]:
    """The files, and in place of a folder the audio files that lie directly in it, by name.

    Raises:
        AudioError: a folder without audio files.
    """
    songs: list[Path] = []
    for path in paths:
        if not path.is_dir():
            songs.append(path)
            continue
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in AUDIO_SUFFIXES and file.is_file())
        if not found:
            raise AudioError(f"{path}: no audio files in this folder; expected {READABLE}")
        songs += found
    return songs


def read_blocks(path: Path, samples: int = BLOCK_SAMPLES) -> Iterator[Array]:
    """The sound of a file in blocks (channels, samples), float32, full scale at 1.

    Raises:
        AudioError: the file cannot be read, is damaged on the way, or holds values that are not finite.
    """
    with _open(path) as file:
        position = 0
        while True:
            try:
                block = file.read(samples, dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise AudioError(
                    f"{path}: damaged after {position / file.samplerate:.1f} s: {_reason(error)}"
                ) from error
            if len(block) == 0:
                return
            if not np.isfinite(block).all():
                raise AudioError(f"{path}: values that are not finite after {position / file.samplerate:.1f} s")
            position += len(block)
            yield np.ascontiguousarray(block.T)


def read_audio(path: Path) -> tuple[Array, int]:
    """The whole file (channels, samples) and its sample rate. Raises AudioError."""
    info = audio_info(path)
    return np.concatenate(list(read_blocks(path)), axis=1), info.sample_rate


def peak_of(block: Array) -> float:
    """The largest absolute value; 0 of nothing."""
    return max(float(block.max(initial=0)), -float(block.min(initial=0)))


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
            raise AudioError(f"{self.files[stem]}: cannot write: {_reason(error)}") from error

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


def _open(path: Path) -> soundfile.SoundFile:
    if not path.exists():
        raise AudioError(f"{path}: no such file; expected {READABLE}")
    if not path.is_file():
        raise AudioError(f"{path}: not a file; expected {READABLE}")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless .raw file
        raise AudioError(
            f"{path}: not audio that can be read ({_reason(error)}); expected {READABLE}. "
            "Others can be converted first, e.g. ffmpeg -i FILE song.wav"
        ) from error


def _reason(error: Exception) -> str:
    """The cause alone, without the path that the callers name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, soundfile.LibsndfileError):
        return str(error.error_string).rstrip(".")
    return re.sub(r"\s+", " ", str(error)).rstrip(".")


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
