"""Audio files: what they say of themselves, and their sound in blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ft.errors import AudioError
from ft.options import BitDepth

Array = NDArray[np.float32]

BLOCK_SAMPLES = 1 << 16
MAX_CHANNELS = 2


def _suffixes(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


AUDIO_SUFFIXES = _suffixes(
    "8svx aif aifc aiff au avr bwf caf flac htk iff ircam mp2 mp3 nist oga ogg opus paf pvf raw rf64 sd2 sds sf snd "
    "sph svx voc w64 wav wave wve xi"
)
"""Of files that libsndfile reads by itself; .raw is named as what it cannot read alone."""
MEDIA_SUFFIXES = _suffixes(
    "3g2 3gp aac ac3 amr ape asf avi dff divx dsf dts eac3 f4v flv m2ts m4a m4b m4r m4v mka mkv mov mp4 mpc mpeg mpg "
    "ogv qt ra rm rmvb spx tak tta vob weba webm wma wmv wv"
)
"""Of files that FFmpeg reads, through PyAV. Not .ts and .mts, which are programs more often than films."""
READABLE = "WAV, FLAC, OGG, MP3 or another format that libsndfile reads"

_SUBTYPES: dict[str, BitDepth] = {
    "PCM_24": "24",
    "PCM_32": "24",
    "FLOAT": "float",
    "DOUBLE": "float",
}


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
                    f"{path}: damaged after {position / file.samplerate:.1f} s: {reason(error)}"
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


def _open(path: Path) -> soundfile.SoundFile:
    if not path.exists():
        raise AudioError(f"{path}: no such file; expected {READABLE}")
    if not path.is_file():
        raise AudioError(f"{path}: not a file; expected {READABLE}")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless .raw file
        raise AudioError(
            f"{path}: not audio that can be read ({reason(error)}); expected {READABLE}. "
            "Others can be converted first, e.g. ffmpeg -i FILE song.wav"
        ) from error


def reason(error: Exception) -> str:
    """The cause alone, without the path that the callers name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, soundfile.LibsndfileError):
        return str(error.error_string).rstrip(".")
    return re.sub(r"\s+", " ", str(error)).rstrip(".")
