"""Sound files through libsndfile, which shortens what is cut off and ends where it cannot go on; here that is said."""

from __future__ import annotations

import io
import re
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ft.audio.extent import Extent, extent, ogg_end, ogg_is_chain
from ft.audio.media import MediaSource, NoMedia
from ft.audio.mpeg import APPENDED, count_frames, counting_frame, first_frame, says_its_frames, tags_begin
from ft.audio.pipe import WavSource
from ft.audio.quiet import FileView, quiet
from ft.audio.source import (
    BLOCK_SAMPLES,
    INSTALL_MEDIA,
    READABLE,
    Array,
    AudioSource,
    Broken,
    ends_after,
    reason,
    without_first,
)
from ft.audio.wav import WavHeaderError, read_wav_header
from ft.errors import AudioError
from ft.files import sound_name
from ft.options import BitDepth

_24_BITS = ("PCM_24", "PCM_32", "ALAC_20", "ALAC_24", "ALAC_32")
_SUBTYPES: dict[str, BitDepth] = {**dict.fromkeys(_24_BITS, "24"), "FLOAT": "float", "DOUBLE": "float"}
_UNKNOWN_FRAMES = (1 << 63) - 1
"""libsndfile's SF_COUNT_MAX, for a FLAC whose header leaves the count open."""
_CONVERT = "Others can be converted first, e.g. ffmpeg -i FILE song.wav"
_ERRORS = (soundfile.LibsndfileError, RuntimeError, TypeError, OSError)  # TypeError: a .raw file, without a header
_LOST = {False: 5 * 1152, True: 40 * 1152}
"""Samples of an MP3 that may be missing from its frames, by whether it has a count of its own, which is checked: the
encoder's delay, and what is lost where a damaged frame is skipped."""
_LOST_MORE = (0.02, 1.0)
"""How much more, as a share of the sound and in seconds at most, for each damaged frame may take others with it."""


def open_sound_file(path: Path, head: bytes, **chosen: Any) -> AudioSource:
    """Opens a file that libsndfile reads, or that turns out to be of the others.

    Args:
        head: its first bytes, 12 or more of a whole header.
        chosen: `start`, `duration` and `allow_truncated`, as in `open_source`.
    Raises:
        AudioError: nothing reads it, or it is truncated and that is not allowed.
    """
    with path.open("rb") as file:
        found = extent(file)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE" and _reads_more(path):
        return WavSource(path, **chosen)
    try:
        return SoundFile(path, found, **chosen)
    except _ERRORS as error:
        if found is not None and found.cut and not chosen.get("allow_truncated"):
            raise AudioError(
                f"{path}: ends after {found.present} bytes of sound; its header says {found.promised}. "
                "`allow_truncated` separates what is there"
            ) from error
        if head[:4] == b"OggS":
            with path.open("rb") as file:
                if not ogg_end(file)[1]:
                    raise AudioError(
                        f"{path}: cut off before any sound that can be read; expected a whole file"
                    ) from error
        return _by_others(path, error, chosen)


def _reads_more(path: Path) -> bool:
    """Whether a WAV file's header says less than is there, where libsndfile would go by it, or names samples that
    nothing reads, of which libsndfile would say that they are no audio."""
    with path.open("rb") as file:
        try:
            header = read_wav_header(file)
            if header.is_long:
                return True
            header.readable()
        except WavHeaderError:
            return False
        length = file.seek(0, io.SEEK_END)
    promised = header.data_size(length)
    return (promised is None and length > header.offset) or (promised is not None and promised != (header.size or 0))


def _by_others(path: Path, error: Exception, chosen: dict[str, Any]) -> AudioSource:
    """What FFmpeg makes of a file that libsndfile does not read."""
    said = reason(error) or type(error).__name__
    what = f"{path}: not audio that can be read ({said}); expected {READABLE}"
    if path.suffix.lower() == ".raw":
        raise AudioError(f"{what}. Bare samples are read from a pipe, with `raw`, `rate` and `channels`") from error
    try:
        return MediaSource(path, **chosen)
    except NoMedia:
        raise AudioError(f"{what}. {INSTALL_MEDIA} adds what FFmpeg reads") from error
    except AudioError as other:
        if other.__cause__ is None:  # it is audio, of which something else is wrong
            raise
        raise AudioError(f"{what}. {_CONVERT}") from error


class SoundFile(AudioSource):
    """A file that libsndfile reads.

    Args:
        found: what its header promises in bytes, where that is known.
    Raises:
        AudioError: as `open_source`.
        soundfile.LibsndfileError: libsndfile does not read it.
    """

    def __init__(self, path: Path, found: Extent | None, **chosen: Any) -> None:
        self._ogg: int | None = None
        self._mp3_tag = b""
        whole = True
        with path.open("rb") as file:
            if file.read(4) == b"OggS":
                end, whole = ogg_end(file)
                self._ogg = None if whole and end == file.seek(0, io.SEEK_END) else end
                if ogg_is_chain(file):
                    raise AudioError(
                        f"{path}: several Ogg streams one after another, of which libsndfile reads the first; "
                        "expected one. Convert it first, e.g. ffmpeg -i FILE song.flac"
                    )
        self._file_path = path
        with ExitStack() as stack, quiet():
            file = self._open(stack)
            rate, channels, frames, kind = file.samplerate, file.channels, file.frames, file.format
            depth, mpeg = _SUBTYPES.get(file.subtype, "16"), file.subtype.startswith("MPEG_LAYER")
            log = file.extra_info
        total: int | None = frames
        counts, complete = True, False
        if mpeg:  # MP3, or a WAV that holds it, of which libsndfile estimates the length too
            with path.open("rb") as raw:
                counts, complete = says_its_frames(raw)
        if frames >= _UNKNOWN_FRAMES or frames < 0 or not counts:
            total = None
        if complete:  # some encoders count the frame of the tag, or one that no decoder gives
            self._slack = 2 * 1152
        if mpeg and total is None and re.search(r"layer\s*: 3\b", log):
            self._mp3_tag = counting_frame(rate, channels)
        super().__init__(path, rate, channels, depth, total, **chosen)
        if found is not None and found.cut:
            if kind == "SDS":  # the one whose count libsndfile takes from the header
                frames = frames * found.present // found.promised
            promised = frames * found.promised // max(1, found.present)
            self._short_of(frames, max(promised, frames + 1))
        elif not mpeg and kind not in ("OGG", "FLAC", "RF64", "SDS") and _logged(log) > frames:
            self._short_of(frames, _logged(log))
        elif not whole or (kind == "VOC" and "truncated file" in log):
            self._short_of(frames, None)

    def _short_of(self, frames: int, promised: int | None) -> None:
        """Says that the end is missing, unless the part that is wanted is there."""
        if self._stop is None or self._stop > frames:
            self._truncated(ends_after(frames, promised, self._rate))

    def _open(self, stack: ExitStack) -> soundfile.SoundFile:
        """The file; of an Ogg file up to its last whole page, without which libsndfile refuses Opus; of an MP3 without
        a count of frames behind one that has it, without which libsndfile ends where it estimates the end."""
        if self._ogg is None and not self._mp3_tag:
            return stack.enter_context(_Forward(sound_name(self._file_path)))
        raw = stack.enter_context(self._file_path.open("rb"))
        if self._ogg is not None:
            return stack.enter_context(_Forward(FileView(raw, self._ogg)))
        return stack.enter_context(_Forward(FileView(raw, tags_begin(raw), self._mp3_tag, first_frame(raw))))

    def _decode(self, first: int) -> Generator[Array, None, None]:
        with ExitStack() as stack:
            try:
                with quiet():
                    file = self._open(stack)
            except _ERRORS as error:
                raise Broken(reason(error)) from error
            skip = 0 if self._goes_to(file, first) else first
            yield from without_first(self._read(file, skip), skip)

    def _read(self, file: soundfile.SoundFile, unwanted: int) -> Generator[Array, None, None]:
        """The blocks of an open file from where it stands, of which so many samples at the beginning are not wanted."""
        is_mp3 = file.format == "MP3"
        done = 0
        while True:
            # What stays NaN was not decoded: the count of FLAC's samples before damage is not given otherwise.
            block = np.full((BLOCK_SAMPLES, file.channels), np.nan, np.float32)
            try:
                with quiet():
                    block = file.read(out=block)
            except _ERRORS as error:
                missing = np.isnan(block).any(axis=1)
                partly = is_mp3 or (file.format == "FLAC" and done >= unwanted)
                decoded = int(missing.argmax()) if partly and missing.any() else 0
                if decoded:
                    yield np.ascontiguousarray(block[:decoded].T)
                if is_mp3 and self._total is None:
                    self._check_frames(done + decoded)
                    return
                raise Broken(reason(error)) from error
            if len(block) == 0:
                if is_mp3 and (self._total is None or done >= self._total - self._slack):
                    self._check_frames(done)
                return
            done += len(block)
            yield np.ascontiguousarray(block.T)

    def _check_frames(self, done: int) -> None:
        """Complains of an MP3 with frames that were not decoded, or with a large part in which there are none.

        Args:
            done: samples that were decoded, from the beginning.
        """
        with self._file_path.open("rb") as raw:
            frames, length = count_frames(raw), raw.seek(0, io.SEEK_END)
        counted = self._total is not None
        there = frames.seconds * self._rate
        more = min(_LOST_MORE[0] * there, _LOST_MORE[1] * self._rate)
        if there - done > _LOST[counted] + more:
            self._truncated(f"damaged: {done / self._rate:.1f} s of about {frames.seconds:.1f} s can be decoded")
        elif not counted and frames.behind > max(APPENDED, length // 10):
            self._truncated(f"damaged or cut off after {done / self._rate:.1f} s ({frames.behind} bytes without sound)")

    def _goes_to(self, file: soundfile.SoundFile, first: int) -> bool:
        """Whether the next sample is `first`, exactly as it is when all before it was read.

        After a seek Opus takes some time to be so, MP3 may; a few formats can be read from their beginning only.
        """
        if first == 0 or file.format == "MP3" or file.subtype == "OPUS":
            return first == 0
        try:
            with quiet():
                return file.seek(first) == first
        except _ERRORS:
            return False


class _Forward(soundfile.SoundFile):
    """Read from front to back. soundfile seeks after each block where it can, which takes time in compressed files and
    fails at the end of a FLAC whose header leaves the count of samples open."""

    def seekable(self) -> bool:
        return False


def _logged(log: str) -> int:
    """The count of frames in a header that libsndfile's log tells of (AVR, AIFF, SDS and others); 0 of others."""
    found = re.search(r"^\s*Frames\s*:\s*(\d{1,12})\s*$", log, re.MULTILINE)
    return int(found[1]) if found else 0
