"""Who reads a file, decided once: libsndfile (`ft/audio/sound_file.py`) or FFmpeg (`ft/audio/media.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ft.audio.media import MediaSource
from ft.audio.sound_file import open_sound_file
from ft.audio.source import BLOCK_SAMPLES, MEDIA_SUFFIXES, READABLE, Array, AudioInfo, AudioSource, reason
from ft.errors import AudioError
from ft.files import what_it_is


def open_source(
    path: Path,
    *,
    track: int | None = None,
    start: float = 0.0,
    duration: float | None = None,
    allow_truncated: bool = False,
) -> AudioSource:
    """Opens a file by whatever reads it; where FFmpeg is needed it takes the `media` extra.

    Args:
        track: of the audio tracks of a video, from 1; None is the first.
        start, duration: the part that is read, in seconds.
        allow_truncated: take what is there of a file that ends too early, and warn; an error otherwise.
    Raises:
        AudioError: missing, no audio, without samples, truncated, of more than two channels or an absurd rate.
    """
    chosen: dict[str, Any] = {"start": start, "duration": duration, "allow_truncated": allow_truncated}
    head = _head(path)
    if track is not None or path.suffix.lower() in MEDIA_SUFFIXES or _is_container(head):
        return MediaSource(path, track, **chosen)
    return open_sound_file(path, head, **chosen)


def audio_info(path: Path) -> AudioInfo:
    """The header of an audio file that can be separated. Raises AudioError, as `open_source` does."""
    with open_source(path) as source:
        return source.info


def read_blocks(path: Path, samples: int = BLOCK_SAMPLES, allow_truncated: bool = False) -> Iterator[Array]:
    """The sound of a file in blocks (channels, samples), float32, full scale at 1.

    Args:
        samples: at most so many in a block.
        allow_truncated: takes what is there of a file that ends too early.
    Raises:
        AudioError: the file cannot be read, is damaged or truncated, or holds values that are not finite.
    """
    with open_source(path, allow_truncated=allow_truncated) as source, closing(source.blocks()) as blocks:
        for block in blocks:
            for start in range(0, block.shape[1], samples):
                yield block[:, start : start + samples]


def read_audio(path: Path) -> tuple[Array, int]:
    """The whole file (channels, samples) and its sample rate. Raises AudioError."""
    with open_source(path) as source:
        return np.concatenate(list(source.blocks()), axis=1), source.info.sample_rate


def _head(path: Path) -> bytes:
    """The first bytes of a file. Raises AudioError where there is none, or nothing in it."""
    try:
        if not path.exists():
            raise AudioError(f"{path}: no such file; expected {READABLE}")
        if not path.is_file():
            raise AudioError(f"{path}: not a file; expected {READABLE}")
        with path.open("rb") as file:
            head = file.read(64)
        what = what_it_is(path)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({reason(error)})") from error
    if what is not None:
        raise AudioError(f"{path}: {what}; expected {READABLE}")
    return head


def _is_container(head: bytes) -> bool:
    """MP4 and QuickTime, Matroska and WebM, ASF, AVI: in some of them libsndfile hears an MP3."""
    return (
        head[4:8] == b"ftyp"
        or head[:4] in (b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75")
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
    )
