"""Sound files through libsndfile, which shortens what is cut off and ends where it cannot go on; here that is said."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ft.audio import BLOCK_SAMPLES, INSTALL_MEDIA, READABLE, Array, AudioSource, Broken, ends_after, reason
from ft.errors import AudioError
from ft.file_length import Extent, extent, ogg_end, ogg_is_chain
from ft.file_view import FileView
from ft.options import BitDepth
from ft.quiet import quiet
from ft.wav_header import WavHeaderError, read_wav_header

_SUBTYPES: dict[str, BitDepth] = {
    "PCM_24": "24",
    "PCM_32": "24",
    "ALAC_20": "24",
    "ALAC_24": "24",
    "ALAC_32": "24",
    "FLOAT": "float",
    "DOUBLE": "float",
}
_UNKNOWN_FRAMES = (1 << 63) - 1
"""libsndfile's SF_COUNT_MAX, for a FLAC whose header leaves the count open."""
_CONVERT = "Others can be converted first, e.g. ffmpeg -i FILE song.wav"
_ERRORS = (soundfile.LibsndfileError, RuntimeError, TypeError, OSError)  # TypeError: a .raw file, without a header
_MP3_FRONT = 4_096
"""Bytes in which the count of an MP3's frames stands, once what tells of its title is skipped."""
_APPENDED = 1 << 14
"""Bytes behind the sound that may be tags."""


def open_sound_file(
    path: Path, head: bytes, *, start: float = 0.0, duration: float | None = None, allow_truncated: bool = False
) -> AudioSource:
    """Opens a file that libsndfile reads, or that turns out to be of the others.

    Args:
        head: its first bytes, 12 or more of a whole header.
    Raises:
        AudioError: nothing reads it, or it is truncated and that is not allowed.
    """
    chosen: dict[str, Any] = {"start": start, "duration": duration, "allow_truncated": allow_truncated}
    with path.open("rb") as file:
        found = extent(file)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE" and _reads_more(path):
        from ft.pipe_source import WavFile

        return WavFile(path, **chosen)
    try:
        return SoundFile(path, found, **chosen)
    except _ERRORS as error:
        if found is not None and found.cut and not allow_truncated:
            raise AudioError(
                f"{path}: ends after {found.present} bytes of sound; its header says {found.promised}. "
                "--allow-truncated separates what is there"
            ) from error
        if head[:4] == b"OggS":
            with path.open("rb") as file:
                if not ogg_end(file)[1]:
                    raise AudioError(
                        f"{path}: cut off before any sound that can be read; expected a whole file"
                    ) from error
        return _by_others(path, error, chosen)


def _reads_more(path: Path) -> bool:
    """Whether a WAV file's header says less than is there, where libsndfile would go by it."""
    with path.open("rb") as file:
        try:
            header = read_wav_header(file).readable()
        except WavHeaderError:
            return False
        length = file.seek(0, io.SEEK_END)
    promised = header.data_size(length)
    return (promised is None and length > header.offset) or (promised is not None and promised != (header.size or 0))


def _by_others(path: Path, error: Exception, chosen: dict[str, Any]) -> AudioSource:
    """What FFmpeg makes of a file that libsndfile does not read."""
    from ft.media import NoMedia, open_media

    said = reason(error) or type(error).__name__
    what = f"{path}: not audio that can be read ({said}); expected {READABLE}"
    if path.suffix.lower() == ".raw":
        raise AudioError(f"{what}. Bare samples can be piped: ft separate - --raw f32le --rate 44100 < FILE") from error
    try:
        return open_media(path, **chosen)
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
            depth = _SUBTYPES.get(file.subtype, "16")
            log = file.extra_info
        total: int | None = frames
        counts, complete = _counts_frames(path) if kind == "MP3" else (True, False)
        if frames >= _UNKNOWN_FRAMES or frames < 0 or not counts:
            total = None
        if complete:  # some encoders count the frame of the tag, or one that no decoder gives
            self._slack = 2 * 1152
        if kind == "MP3" and total is None and re.search(r"layer\s*: 3\b", log):
            self._mp3_tag = _mp3_tag(rate, channels)
        super().__init__(path, rate, channels, depth, total, **chosen)
        if found is not None and found.cut:
            if kind == "SDS":  # the one whose count libsndfile takes from the header
                frames = frames * found.present // found.promised
            promised = frames * found.promised // max(1, found.present)
            self._short_of(frames, max(promised, frames + 1))
        elif kind not in ("MP3", "OGG", "FLAC", "RF64") and _logged(log) > frames:
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
            # As bytes, since soundfile cannot encode a name that is no UTF-8; Windows has no such names.
            name = str(self._file_path) if sys.platform == "win32" else os.fsencode(self._file_path)
            return stack.enter_context(_Forward(name))
        raw = stack.enter_context(self._file_path.open("rb"))
        size = raw.seek(0, io.SEEK_END) if self._ogg is None else self._ogg
        return stack.enter_context(_Forward(FileView(raw, size, self._mp3_tag)))

    def _decode(self, first: int) -> Generator[Array, None, None]:
        with ExitStack() as stack:
            try:
                with quiet():
                    file = self._open(stack)
            except _ERRORS as error:
                raise Broken(reason(error)) from error
            skip = 0 if self._goes_to(file, first) else first
            while True:
                # What stays NaN was not decoded: the count of FLAC's samples before damage is not given otherwise.
                block = np.full((BLOCK_SAMPLES, file.channels), np.nan, np.float32)
                try:
                    with quiet():
                        block = file.read(out=block)
                except _ERRORS as error:
                    missing = np.isnan(block).any(axis=1)
                    decoded = int(missing.argmax()) if skip == 0 and missing.any() and file.format == "FLAC" else 0
                    if decoded:
                        yield np.ascontiguousarray(block[:decoded].T)
                    raise Broken(reason(error)) from error
                if len(block) == 0:
                    return
                dropped, skip = min(skip, len(block)), max(0, skip - len(block))
                if dropped < len(block):
                    yield np.ascontiguousarray(block[dropped:].T)

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


def _counts_frames(path: Path) -> tuple[bool, bool]:
    """Whether an MP3 says how many frames it has, in a tag of Xing or LAME, or of Fraunhofer (VBRI); and whether the
    bytes that the tag tells of, if it does, are there.

    Without it libsndfile's count is an estimate by the size of the file. A tag of one that others were appended to
    does not count: libsndfile would end behind the first.
    """
    with path.open("rb") as file:
        head = file.read(10)
        while head[:3] == b"ID3" and len(head) == 10:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            file.seek(size + (10 if head[5] & 0x10 else 0), io.SEEK_CUR)
            head = file.read(10)
        begin = file.tell() - len(head)
        front = head + file.read(_MP3_FRONT)
        rest = file.seek(0, io.SEEK_END) - begin
    at = max(front.find(b"Xing"), front.find(b"Info"))
    if at < 0:
        return b"VBRI" in front, True
    tag = front[at : at + 16].ljust(16, b"\0")
    noted = int.from_bytes(tag[12:16], "big") if tag[7] & 3 == 3 else 0
    appended = noted > 0 and rest - noted > max(_APPENDED, rest // 10)
    return bool(tag[7] & 1) and not appended, rest >= noted


def _mp3_tag(rate: int, channels: int) -> bytes:
    """A frame of layer III that holds no sound, but a Xing tag with a count that no file reaches.

    Source: ISO/IEC 11172-3 and 13818-3 (headers); Xing's VBR header SDK.
    """
    version, index = next(
        (version, list(rates).index(rate))
        for version, rates in ((3, (44100, 48000, 32000)), (2, (22050, 24000, 16000)), (0, (11025, 12000, 8000)))
        if rate in rates
    )
    # Bit rate 9 is 128 kbit/s of version 1, and 80 kbit/s of the others, whose frames are half as long.
    size = 144 * 128_000 // rate if version == 3 else 72 * 80_000 // rate
    mode = 3 if channels == 1 else 0
    header = bytes([0xFF, 0xE0 | version << 3 | 1 << 1 | 1, 9 << 4 | index << 2, mode << 6])
    side = {(3, 2): 32, (3, 1): 17, (2, 2): 17, (2, 1): 9}[max(version, 2), channels]
    tag = b"Xing" + (1).to_bytes(4, "big") + (1 << 30).to_bytes(4, "big")
    return (header + bytes(side) + tag).ljust(size, b"\0")
