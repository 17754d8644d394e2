"""From files to files: one song, or many of which some may fail."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ft.audio.formats import StemFormat, stem_format
from ft.audio.open import audio_info
from ft.audio.source import AudioSource
from ft.audio.tags import read_tags
from ft.errors import AudioError, Cancelled, FtError, one_line
from ft.interruption import held_back
from ft.progress import Progress
from ft.songs.inputs import STDIN, Song, to_do
from ft.songs.marks import marking
from ft.songs.parts import remove_parts
from ft.songs.pictures import Pictures
from ft.songs.pipe import StemPipe
from ft.songs.report import SongRecord
from ft.songs.writer import StemWriter

if TYPE_CHECKING:
    from ft.separate import Separator

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

_SAME_SECONDS = 0.2
"""What the lengths of a song and of stems in a lossy format, or in a video's container, may differ by."""

Opener = Callable[[Song], AudioSource]


def separate_song(
    separator: Separator, song: Song, progress: Progress | None = None, opener: Opener | None = None
) -> SongRecord:
    """Writes the files of one song, all of them or none.

    Args:
        progress: called with the seconds of audio done and those there are; where it gives back False this stops.
        opener: gives what is read in place of `song.path`.
    Raises:
        AudioError: the song cannot be read, its files cannot be written, or they are there and may not be replaced.
        Cancelled: `progress` asked to stop.
        EngineError: the engine failed, or its device was lost at an earlier song.
    """
    start = time.perf_counter()
    options = separator.options
    skipped = separator.record(song.path).changed(status="skipped", files=song.files, images=song.images)
    wanted = to_do(song, options)
    remove_parts(song.outputs)  # of runs that were killed
    if not wanted:
        _check_length(separator, song)
        return skipped
    separator.ready()
    with ExitStack() as stack:
        source = stack.enter_context((opener or separator.open_song)(song))
        info = source.info
        format = stem_format(options, info)
        separator.tell_notes(format, info)
        logger.debug("%s: read by %s; stems as %s", info, type(source).__name__, format)
        tags = read_tags(song.path) if song.path != STDIN else None
        with held_back():
            stack.enter_context(marking(song))
            writer = stack.enter_context(StemWriter(song.files, info.channels, info.sample_rate, format, tags=tags))
            pictures = stack.enter_context(Pictures(song.images, separator.config.audio)) if song.images else None
        if not to_do(song, options):  # another run did it meanwhile
            return skipped
        peak = separator.peak_of_song(source, progress)
        logger.debug("%s: loudest bin %s, found in %.1f s", song.path, peak, time.perf_counter() - start)
        done = 0
        for stems in separator.stream(source.blocks(), info.sample_rate, peak, pictures=pictures):
            writer.write(stems)
            done += next(iter(stems.values())).shape[1]
            tell(progress, song.path, done / info.sample_rate, info.seconds)
        if done == 0:
            raise AudioError(f"{song.path}: holds no samples; expected at least one")
        check = functools.partial(tell, progress, song.path, done / info.sample_rate, info.seconds)
        if pictures is not None:
            pictures.finish(check)
        writer.commit(check)
        if pictures is not None:
            pictures.commit()
    warnings = [*source.warnings, *writer.warnings, *_gain_warning(song, writer.gain, format)]
    for warning in warnings:
        logger.warning(warning)
    return separator.record(song.path).changed(
        files=song.files,
        images=song.images,
        audio_seconds=done / info.sample_rate,
        offset_seconds=info.offset,
        wall_seconds=time.perf_counter() - start,
        gain=writer.gain,
        warnings=tuple(warnings),
    )


def separate_to_pipe(
    separator: Separator,
    song: Song,
    stream: BinaryIO,
    stem: str,
    encoding: Literal["f32le", "s16le"] | None,
    progress: Progress | None = None,
    opener: Opener | None = None,
) -> SongRecord:
    """Writes one stem to a stream as it is made; an integer format clamps there, since no gain can be known before.

    Args:
        encoding: f32le or s16le for bare samples; None for WAV in the input's bit depth, or the one asked for.
    Raises:
        AudioError: the song cannot be read, or whoever reads the stream went away.
        EngineError: the engine failed.
    """
    start = time.perf_counter()
    separator.ready()
    done = 0
    with (opener or separator.open_song)(song) as source:
        info = source.info
        peak = separator.peak_of_song(source, progress)
        kind = encoding or separator.options.bit_depth or info.bit_depth
        pipe = StemPipe(stream, stem, info.channels, info.sample_rate, kind)
        for stems in separator.stream(source.blocks(), info.sample_rate, peak, eager=True):
            pipe.write(stems)
            done += stems[stem].shape[1]
            tell(progress, song.path, done / info.sample_rate, info.seconds)
        if done == 0:
            raise AudioError(f"{song.path}: holds no samples; expected at least one")
    warnings = list(source.warnings)
    if pipe.clipped:
        kept = "--raw f32le" if encoding else "--bit-depth float"
        warnings.append(f"{song.path}: {pipe.clipped} samples of {stem} were clipped; {kept} keeps them")
    for warning in warnings:
        logger.warning(warning)
    return separator.record(song.path).changed(
        audio_seconds=done / info.sample_rate,
        offset_seconds=info.offset,
        wall_seconds=time.perf_counter() - start,
        clipped=pipe.clipped,
        warnings=tuple(warnings),
    )


def each_song(
    songs: Iterable[Song], separate: Callable[[Song], SongRecord], failed: Callable[[Song], SongRecord]
) -> Iterator[SongRecord]:
    """The record of every song; one that fails does not keep the others from being done.

    Args:
        separate: what does one song.
        failed: gives the record of a song of which nothing is known, for `error` to be put in.
    """
    for song in songs:
        start = time.perf_counter()
        try:
            record = separate(song)
        except Cancelled:
            raise
        except FtError as error:
            logger.debug("traceback", exc_info=True)
            text = str(error)  # of an engine, which knows of no song
            text = text if text.startswith(str(song.path)) else f"{song.path}: {text}"
            record = failed(song).changed(status="failed", error=text)
        except WatchFailed as error:
            raise (error.__cause__ or error) from None
        except Exception as error:  # one song of thousands must not end the others, whatever it met
            logger.debug("traceback", exc_info=True)
            what = f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
            record = failed(song).changed(
                status="failed", error=f"{song.path}: failed unexpectedly ({what}); -v shows where"
            )
        yield record if record.wall_seconds is not None else record.changed(wall_seconds=time.perf_counter() - start)


class WatchFailed(Exception):
    """What a caller's callback raised, which is not the song's fault; its `__cause__` has it."""


def watched(progress: Progress | None) -> Progress | None:
    """The callback, with what it raises set apart from what a song meets."""
    if progress is None:
        return None

    def call(done: float, total: float | None) -> object:
        try:
            return progress(done, total)
        except Exception as error:
            raise WatchFailed from error

    return call


def tell(progress: Progress | None, path: Path | str, done: float, total: float | None) -> None:
    """Tells of the progress. Raises Cancelled where that asks to stop."""
    if progress is not None:
        answer = progress(done, total)
        if isinstance(answer, bool | np.bool_) and not answer:
            raise Cancelled(f"{path}: cancelled after {done:.1f} s of audio")


def _check_length(separator: Separator, song: Song) -> None:
    """Raises AudioError where the stems that are there last longer or shorter than the song: they are of another."""
    if song.path == STDIN:
        return
    lengths: dict[Path, float | None] = {}
    with suppress(AudioError), separator.open_song(song) as source:
        expected = source.info.seconds
        lengths = {file: audio_info(file).seconds for file in song.files.values()}
    for file, found in lengths.items():
        if expected is None or found is None or abs(found - expected) <= _SAME_SECONDS:
            continue
        with suppress(AudioError), separator.open_song(song) as source:  # what a container promises may have gaps
            expected = sum(block.shape[1] for block in source.blocks()) / source.info.sample_rate
        if abs(found - expected) > _SAME_SECONDS:
            raise AudioError(
                f"{song.path}: {file} is there and lasts {found:.1f} s, not {expected:.1f} s; --force replaces it, or "
                "choose another -o"
            )


def _gain_warning(song: Song, gain: float, format: StemFormat) -> Iterator[str]:
    if gain < 1:
        depth = f"{format.bit_depth} bit" if format.bit_depth else format.name
        yield (
            f"{song.path}: {depth} would clip; all stems were lowered by one gain of {gain:.4f} "
            f"({20 * np.log10(gain):.2f} dB). --format wav --bit-depth float keeps the level"
        )
