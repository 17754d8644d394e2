"""The sound of what FFmpeg reads: m4a, aac, wma, and the tracks of videos, through PyAV (the extra `media`).

What an encoder puts before and behind a sound is left out where the file says how much: the edit list of MP4, the
padding of Opus and MP3. An ADTS file (.aac) says nothing, so that its first samples (most often 1024, or 2112 of
Apple's) are the encoder's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ft.audio.extent import extent
from ft.audio.quiet import FileView
from ft.audio.source import INSTALL_MEDIA, Array, AudioSource, Broken, ends_after, without_first
from ft.errors import AudioError
from ft.options import BitDepth

if TYPE_CHECKING:
    import av

_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,iff,loas,matroska,webm,mov,mp4,m4a,"
    "3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,ogg,rm,tak,truehd,tta,voc,w64,wav,wv"
)
"""What may be read: no playlists and no scripts, which name other files and addresses."""
_LOSSLESS_24 = ("alac", "flac", "wavpack", "tta", "tak", "ape", "truehd", "mlp", "wmalossless")
_FULL = {"u8": 128, "s16": 1 << 15, "s32": 1 << 31}
_MILLISECOND = Fraction(1, 1000)
_LEAD = Fraction(1, 2)
"""Seconds that are decoded before a place for what is decoded there to be as if all before it had been."""
_TAG_SLACK = Fraction(1, 10)
"""Seconds by which what is noted of a track may exceed it."""
_DELAY = 2112
"""Samples by which it may beyond that: the longest of what encoders put before a sound, which some writers count."""


class NoSound(AudioError):
    """A video without an audio track."""


class NoMedia(AudioError):
    """PyAV is not installed."""


class MediaSource(AudioSource):
    """One audio track, decoded from the beginning at each call of `blocks`.

    Args:
        track: which, from 1; None is the first.
    Raises:
        NoMedia: PyAV is not installed.
        AudioError: no audio, no such track, or as `open_source`.
    """

    def __init__(self, path: Path, track: int | None = None, **chosen: Any) -> None:
        self._file_path, self._track = path, track
        with path.open("rb") as file:
            self._extent = found = extent(file)
        with self._open() as (container, stream):
            first = self._first_frame(container, stream)
            rate, channels = first.sample_rate, first.layout.nb_channels
            depth = _bit_depth(stream, first.format.name)
            self._noted = noted = _noted(container, stream)
            self._begins = begin = _begin(first)
            self._first_samples = first.samples
            length = noted - begin if noted is not None and _notes_the_end(container) else noted
            total = None if length is None or length <= 0 else round(length * rate)
            offset = float(max(Fraction(0), begin - _clock_start(container)))
            alone = _is_mp4(container) and all(each.type == "audio" for each in container.streams)
        if total is not None and alone and not (found is not None and found.cut):
            total = self._exact_total(rate, total)
        self._frame_format = (rate, channels)
        super().__init__(path, rate, channels, depth, total, offset=offset, **chosen)
        self._promise, self._total = self._total, None  # checked here, with what the container allows
        self._cut = found is not None and found.cut
        if found is not None and found.cut and self._stop is None and not self._allow_truncated:
            self._truncated(f"ends after {found.present} bytes; its header says {found.promised}")

    @contextmanager
    def _open(self) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
        """The file and the track. Raises AudioError."""
        library = import_av()
        path = self._file_path
        with path.open("rb") as file:  # not by name: FFmpeg would take "http:..." for an address
            try:
                view = FileView(file, file.seek(0, io.SEEK_END))
                container = library.open(view, options={"format_whitelist": _FORMATS}, metadata_errors="replace")
            except (library.FFmpegError, ValueError, OSError, MemoryError) as error:
                cut = self._extent
                if cut is not None and cut.cut:  # most often an MP4 without its index, which stands at the end
                    raise AudioError(
                        f"{path}: ends after {cut.present} bytes; its header says {cut.promised}, and what is there "
                        f"cannot be read alone ({_said(error)}); expected the whole file"
                    ) from error
                raise AudioError(
                    f"{path}: not audio that can be read ({_said(error)}); expected what FFmpeg reads"
                ) from error
            with container:
                tracks = container.streams.audio
                number = self._track or 1
                if not tracks:
                    raise NoSound(f"{path}: holds no audio track; expected one at least")
                if number > len(tracks):
                    count = "1 audio track" if len(tracks) == 1 else f"{len(tracks)} audio tracks"
                    raise AudioError(f"{path}: `track` {number}: it has {count}; expected 1 to {len(tracks)}")
                yield container, tracks[number - 1]

    def _first_frame(self, container: av.container.InputContainer, stream: av.AudioStream) -> av.AudioFrame:
        """What is decoded first: only that says for certain what the sound is (HE-AAC)."""
        library = import_av()
        try:
            for frame in container.decode(stream):
                return frame
        except (library.FFmpegError, ValueError) as error:
            raise AudioError(
                f"{self._file_path}: its audio cannot be decoded ({_said(error)}); expected a whole file"
            ) from error
        raise AudioError(f"{self._file_path}: holds no samples; expected at least one")

    def _exact_total(self, rate: int, rounded: int) -> int:
        """Samples of an MP4's track by its packets, whose duration its edit list may have rounded."""
        library = import_av()
        end = Fraction(0)
        with self._open() as (container, stream):
            try:
                for packet in container.demux(stream):
                    end = max(end, _end(packet))
            except (library.FFmpegError, ValueError):
                return rounded
        return round(end * rate) if abs(end * rate - rounded) <= rate * _MILLISECOND else rounded

    def _decode(self, first: int) -> Generator[Array, None, None]:
        yield from without_first(self._trimmed(), first)

    def _decode_near(self, first: int) -> Generator[Array, None, None]:
        """From where the container leads to; from the beginning, where that lies behind `first` or is not known."""
        library, rate = import_av(), self._frame_format[0]
        lead = Fraction(first, rate) - _LEAD
        position = None if lead > 0 else 0
        with self._open() as (container, stream):
            try:
                if position is None:
                    container.seek(int((self._begins + lead) / (stream.time_base or 1)), stream=stream)
                frames = container.decode(stream)
                if position is None:
                    next(frames, None)  # the beginning of which may be left out, as it is of the track's
                for frame in frames:
                    if position is None:
                        place = self._place(frame)
                        if place is None or place > first:
                            break
                        position = place
                    block = self._samples(frame)
                    dropped = min(max(0, first - position), block.shape[1])
                    position += block.shape[1]
                    if dropped < block.shape[1]:
                        yield block[:, dropped:]
            except (library.FFmpegError, ValueError) as error:
                if position is not None:
                    raise Broken(_said(error)) from error
        if position is None:
            yield from self._decode(first)

    def _place(self, frame: av.AudioFrame) -> int | None:
        """The sample of the track that a frame begins with; None where it does not say when it is heard.

        Where the clock is coarse (Matroska, FLV), whole frames as long as this one lie between it and the first.
        """
        if frame.pts is None or frame.time_base is None:
            return None
        rate = self._frame_format[0]
        place = round((_begin(frame) - self._begins) * rate)
        if frame.time_base <= Fraction(1, rate) or not frame.samples:
            return place
        beside = (place - self._first_samples + frame.samples // 2) % frame.samples - frame.samples // 2
        return place - beside if abs(beside) <= 2 * rate * _MILLISECOND else place

    def _trimmed(self) -> Iterator[Array]:
        """The blocks of the track. What stands behind the end in its last block is left out."""
        library = import_av()
        with self._open() as (container, stream):
            begin: Fraction | None = None
            end = heard = Fraction(0)
            done = packets = 0
            held: Array | None = None
            try:
                for packet in container.demux(stream):
                    # The last packet of a WAV whose header leaves its length open is shorter, and no less whole.
                    if packet.is_corrupt and container.format.name != "wav":
                        raise Broken("a packet that breaks off")
                    packets += packet.size > 0
                    end = max(end, _end(packet))
                    for frame in packet.decode():
                        begin = _begin(frame) if begin is None else begin
                        heard = max(heard, _begin(frame) + Fraction(frame.samples, self._frame_format[0]))
                        if held is not None:
                            done += held.shape[1]
                            yield held
                        held = self._samples(frame)
            except (library.FFmpegError, ValueError, Broken) as error:
                if held is not None:
                    yield held
                raise Broken(_said(error)) from error
            if held is None:
                return
            there = done + held.shape[1]
            if _is_mp4(container):
                there = self._exact_end(stream, end - (begin or Fraction(0)), done, there)
            yield held[:, : there - done]
            self._check_length(stream, there, packets, max(end, heard))

    def _exact_end(self, stream: av.AudioStream, packets_end: Fraction, done: int, there: int) -> int:
        """Samples up to the end of an MP4's track, of `there` that were decoded.

        Both the edit list and the duration of the last packet end it. The list is often in milliseconds; where it
        means the packet's end, that one is exact.
        """
        rate = self._frame_format[0]
        ends = [packets_end]
        listed = _seconds(stream.duration, stream.time_base)
        if listed is not None and abs(listed - packets_end) > _MILLISECOND:
            ends.append(listed)
        end = round(min(ends) * rate)
        return end if done < end < there else there

    def _check_length(self, stream: av.AudioStream, there: int, packets: int, end: Fraction) -> None:
        """Complains of a track that is shorter than its container says. Called once all of it was read.

        Args:
            there: samples, in so many packets.
            end: of the last of them, on the container's clock: a track may start late, and have gaps.
        """
        rate = self._frame_format[0]
        promised = self._promise
        if self._cut:
            self._truncated(ends_after(there, promised, rate))
        if self._noted is None or self._cut:
            return
        if stream.frames:  # of MP4: as many packets as samples are listed, whatever the rounded duration says
            short = packets < stream.frames and there < (promised or 0) - rate // 500
        else:
            short = end < self._noted - _TAG_SLACK - Fraction(_DELAY, rate)
        if short:
            self._truncated(ends_after(there, promised, rate))

    def _samples(self, frame: av.AudioFrame) -> Array:
        """A frame as (channels, samples), full scale at 1."""
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        if (rate, channels) != self._frame_format:
            raise Broken(f"changes to {rate} Hz and {channels} channels in between")
        name = frame.format.name.removesuffix("p")
        sound = frame.to_ndarray()
        if frame.format.is_packed:
            sound = sound.reshape(-1, channels).T
        block = np.ascontiguousarray(sound, np.float32)
        if name == "u8":
            block -= np.float32(128)
        return block if name in ("flt", "dbl") else block / np.float32(_FULL.get(name, 1 << 63))


def import_av() -> Any:
    """PyAV. Raises NoMedia, whose line says how to get it."""
    try:
        import av
    except ImportError as error:
        raise NoMedia(f"PyAV is missing, which reads m4a, aac, wma and video: {INSTALL_MEDIA}") from error
    return av


def _is_mp4(container: av.container.InputContainer) -> bool:
    return "mp4" in container.format.name


def _seconds(count: int | None, time_base: Fraction | None) -> Fraction | None:
    return None if count is None or time_base is None else count * time_base


def _begin(frame: av.AudioFrame) -> Fraction:
    """Seconds at which a frame begins, on the container's clock."""
    return _seconds(frame.pts, frame.time_base) or Fraction(0)


def _end(packet: av.Packet) -> Fraction:
    """Seconds at which a packet ends, on the container's clock; 0 where it does not say."""
    if packet.pts is None or not packet.duration:
        return Fraction(0)
    return _seconds(packet.pts + packet.duration, packet.time_base) or Fraction(0)


def _clock_start(container: av.container.InputContainer) -> Fraction:
    """Seconds at which the first of several tracks starts, or one alone where the clock may start anywhere."""
    from_zero = "matroska" in container.format.name or _is_mp4(container)
    if container.start_time is None or (from_zero and len(container.streams) == 1):
        return Fraction(0)
    return Fraction(container.start_time, import_av().time_base)


def _noted(container: av.container.InputContainer, stream: av.AudioStream) -> Fraction | None:
    """Seconds that the container notes of the track; None where that is an estimate or missing."""
    if _is_mp4(container):
        return _seconds(stream.duration, stream.time_base) or None
    noted = re.fullmatch(r"(\d{1,9}):(\d\d):(\d\d(?:\.\d{1,9})?)", stream.metadata.get("DURATION", "").strip())
    if noted is None or "matroska" not in container.format.name:
        return None
    return int(noted[1]) * 3600 + int(noted[2]) * 60 + Fraction(noted[3]) or None


def _notes_the_end(container: av.container.InputContainer) -> bool:
    """Whether what a Matroska file notes of a track is the time of its end, as FFmpeg writes it; its length otherwise,
    as mkvmerge does."""
    writers = [value for name, value in container.metadata.items() if name.lower() == "encoder"]
    return "matroska" in container.format.name and any(value.startswith("Lavf") for value in writers)


def _bit_depth(stream: av.AudioStream, format: str) -> BitDepth:
    codec = stream.codec_context.name
    if codec.startswith("pcm_f"):
        return "float"
    deep = format.startswith("s32") and (codec.startswith("pcm_") or codec in _LOSSLESS_24)
    return "24" if deep else "16"


def _said(error: BaseException) -> str:
    """The cause alone.

    >>> _said(ValueError("no  such\\nthing"))
    'no such thing'
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).rstrip(".")
