"""From files to files: one song, or many of which some may fail."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ft.audio.formats import StemFormat, format_notes, stem_format
from ft.audio.open import audio_info, open_source
from ft.audio.source import AudioInfo, AudioSource
from ft.audio.tags import read_tags
from ft.errors import AudioError, Cancelled, FtError, one_line
from ft.files import STDIN
from ft.interruption import held_back
from ft.options import SeparateOptions
from ft.progress import Progress, cancellable, report_or_cancel
from ft.songs.inputs import Song, find_songs, to_do
from ft.songs.parts import Outputs, remove_parts
from ft.songs.pictures import Pictures
from ft.songs.report import SongRecord
from ft.songs.writer import StemPipe, StemWriter
from ft.stems import with_sums

if TYPE_CHECKING:
    from ft.separate import Separator

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

_SAME_SECONDS = 0.2
"""What the lengths of a song and of stems in a lossy format, or in a video's container, may differ by."""

Opener = Callable[[Song, SeparateOptions], AudioSource]

_told: WeakKeyDictionary[Separator, set[str]] = WeakKeyDictionary()
"""What was said of each separator's songs, and is not said again."""


def separate_file(
    separator: Separator, path: str | Path, output_dir: str | Path = "separated", *, progress: Progress | None = None
) -> SongRecord:
    """Writes the stems of one file below `output_dir`, where the template of the options says.

    Wav and flac keep the sample rate, channels and length of the input.

    Args:
        progress: called with the seconds of audio done and those there are; where it gives back False this stops.
    Raises:
        AudioError: the file cannot be read, or the stems cannot be written; none of them is there then.
        Cancelled: `progress` asked to stop; nothing is there then.
        EngineError: the engine failed, or its device was lost at an earlier file; nothing is written then.
    """
    if Path(path).is_dir():
        raise AudioError(f"{path}: a folder; expected a file. `separate_files` takes folders")
    (song,) = _found(separator, [path], output_dir)
    return separate_song(separator, song, progress)


def separate_files(
    separator: Separator,
    paths: str | Path | Sequence[str | Path],
    output_dir: str | Path = "separated",
    *,
    progress: Callable[[Path, float, float | None], object] | None = None,
) -> Iterator[SongRecord]:
    """Gives the record of every file, and of every audio file in a folder, once it is written, left out or has failed.

    Args:
        progress: as for `separate_file`, with the path before the seconds.
    Raises:
        AudioError: before anything is read: nothing found, or two inputs that would get one name.
        Cancelled: `progress` asked to stop; the files of the songs before are there.
    """
    songs = _found(separator, [paths] if isinstance(paths, str | Path) else paths, output_dir)

    def separate(song: Song) -> SongRecord:
        return separate_song(separator, song, progress and _set_apart(functools.partial(progress, song.path)))

    return (recorded(song, separate, functools.partial(new_record, separator)) for song in songs)


def _found(separator: Separator, paths: Sequence[str | Path], output_dir: str | Path) -> list[Song]:
    stems, options = separator.config.all_stems, separator.options
    return find_songs([Path(path) for path in paths], Path(output_dir), stems, options, separator.model)


def open_song(song: Song, options: SeparateOptions) -> AudioSource:
    """Opens what the options let be read of a song; its owner closes it. Raises AudioError."""
    return open_source(
        song.path,
        track=options.track,
        start=options.start,
        duration=options.duration,
        allow_truncated=options.allow_truncated,
    )


def new_record(separator: Separator, song: Song) -> SongRecord:
    """Makes the record of a song of which nothing is known yet but what separates it."""
    info = separator.engine.describe()
    return SongRecord(
        input=song.path, engine=info.name, device=info.device, precision=info.precision, model=separator.model
    )


def recorded(song: Song, work: Callable[[Song], SongRecord], new: Callable[[Song], SongRecord]) -> SongRecord:
    """Gives the record of a song, of one that fails too, so that it does not keep others from being done.

    Args:
        work: does the song.
        new: gives the record of a song of which nothing is known, for the error to be put in.
    Raises:
        Cancelled: the song's progress asked to stop.
        Exception: what a callback of the progress raised, which is not the song's fault.
    """
    start = time.perf_counter()
    try:
        record = work(song)
    except Cancelled:
        raise
    except _ProgressFailed as error:
        raise (error.__cause__ or error) from None
    except FtError as error:
        logger.debug("traceback", exc_info=True)
        text = str(error)  # of an engine, which knows of no song
        text = text if text.startswith(str(song.path)) else f"{song.path}: {text}"
        record = new(song).changed(status="failed", error=text)
    except Exception as error:  # one song of thousands must not end the others, whatever it met
        logger.debug("traceback", exc_info=True)
        what = f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
        text = f"{song.path}: failed unexpectedly ({what}); the debug log (-v) shows where"
        record = new(song).changed(status="failed", error=text)
    return record if record.wall_seconds is not None else record.changed(wall_seconds=time.perf_counter() - start)


def separate_song(
    separator: Separator, song: Song, progress: Progress | None = None, opener: Opener = open_song
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
    record = new_record(separator, song).changed(files=song.files, images=song.images)
    if not to_do(song, options):
        remove_parts(song.outputs)  # of runs that were killed
        _check_length(song, options)
        return record.changed(status="skipped")
    separator.ready()
    with ExitStack() as stack:
        source = stack.enter_context(opener(song, options))
        info = source.info
        format = stem_format(options, info)
        _tell_notes(separator, format, info)
        logger.debug("%s: read by %s; stems as %s", info, type(source).__name__, format)
        tags = read_tags(song.path) if song.path != STDIN else None
        with held_back():
            outputs = stack.enter_context(Outputs(song.outputs, song.marks))
            writer = stack.enter_context(StemWriter(song.files, info.channels, info.sample_rate, format, tags=tags))
        pictures = Pictures(song.images, info.sample_rate) if song.images else None
        if not to_do(song, options):  # another run did it meanwhile
            return record.changed(status="skipped")
        seconds = _separate(separator, source, writer.write, progress, pictures)
        check = functools.partial(report_or_cancel, progress, song.path, seconds, info.seconds)
        if pictures is not None:
            pictures.finish(check)
        writer.finish(check)
        outputs.commit()
    warnings = [*source.warnings, *writer.warnings, *_gain_warning(song, writer.gain, format)]
    return _done(record, info, seconds, start, warnings).changed(gain=writer.gain)


def separate_to_pipe(
    separator: Separator,
    song: Song,
    stream: BinaryIO,
    stem: str,
    encoding: Literal["f32le", "s16le"] | None,
    progress: Progress | None = None,
    opener: Opener = open_song,
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
    with opener(song, separator.options) as source:
        info = source.info
        kind = encoding or separator.options.bit_depth or info.bit_depth
        pipe = StemPipe(stream, stem, info.channels, info.sample_rate, kind)
        seconds = _separate(separator, source, pipe.write, progress, eager=True)
    warnings = list(source.warnings)
    if pipe.clipped:
        kept = "`raw` f32le" if encoding else "`bit_depth` float"
        warnings.append(f"{song.path}: {pipe.clipped} samples of {stem} were clipped; {kept} keeps them")
    return _done(new_record(separator, song), info, seconds, start, warnings).changed(clipped=pipe.clipped)


def _separate(
    separator: Separator,
    source: AudioSource,
    write: Callable[[Mapping[str, Array]], None],
    progress: Progress | None,
    pictures: Pictures | None = None,
    eager: bool = False,
) -> float:
    """Gives the stems of an open song to `write`, block by block; returns its seconds."""
    info, samples = source.info, 0
    levels = None  # of a pipe, which can be read once only
    if source.repeatable:
        passed = cancellable(source.blocks(), progress, info.path, info.seconds)
        levels = separator.levels(passed, info.sample_rate)
        logger.debug("%s: levels %s", info.path, levels)
    blocks = source.blocks() if pictures is None else pictures.heard(source.blocks())
    for stems in separator.stream(blocks, info.sample_rate, levels, eager=eager):
        stems = with_sums(stems, separator.outputs)
        write(stems)
        if pictures is not None:
            pictures.add(stems)
        samples += next(iter(stems.values())).shape[1]
        report_or_cancel(progress, info.path, samples / info.sample_rate, info.seconds)
    if samples == 0:
        raise AudioError(f"{info.path}: holds no samples; expected at least one")
    return samples / info.sample_rate


def _done(record: SongRecord, info: AudioInfo, seconds: float, start: float, warnings: Sequence[str]) -> SongRecord:
    """The record of a song that was done, whose warnings are told."""
    for warning in warnings:
        logger.warning(warning)
    return record.changed(
        audio_seconds=seconds,
        offset_seconds=info.offset,
        wall_seconds=time.perf_counter() - start,
        warnings=tuple(warnings),
    )


def _tell_notes(separator: Separator, format: StemFormat, info: AudioInfo) -> None:
    """Says what a format cannot hold of its input, once for all songs of which the same is true."""
    told = _told.setdefault(separator, set())
    for note in format_notes(format, separator.options, info):
        if note not in told:
            told.add(note)
            logger.warning("%s: %s", info.path, note)


class _ProgressFailed(Exception):
    """What a caller's callback raised, which is not the song's fault; its `__cause__` has it."""


def _set_apart(progress: Progress) -> Progress:
    """The callback, with what it raises set apart from what a song meets."""

    def call(done: float, total: float | None) -> object:
        try:
            return progress(done, total)
        except Exception as error:
            raise _ProgressFailed from error

    return call


def _check_length(song: Song, options: SeparateOptions) -> None:
    """Raises AudioError where the stems that are there last longer or shorter than the song: they are of another."""
    if song.path == STDIN:
        return
    lengths: dict[Path, float | None] = {}
    with suppress(AudioError), open_song(song, options) as source:
        expected = source.info.seconds
        lengths = {file: audio_info(file).seconds for file in song.files.values()}
    for file, found in lengths.items():
        if expected is None or found is None or abs(found - expected) <= _SAME_SECONDS:
            continue
        with suppress(AudioError), open_song(song, options) as source:  # what a container promises may have gaps
            expected = sum(block.shape[1] for block in source.blocks()) / source.info.sample_rate
        if abs(found - expected) > _SAME_SECONDS:
            raise AudioError(
                f"{song.path}: {file} is there and lasts {found:.1f} s, not {expected:.1f} s; `force` replaces it, or "
                "choose another `output`"
            )


def _gain_warning(song: Song, gain: float, format: StemFormat) -> Iterator[str]:
    if gain < 1:
        depth = f"{format.bit_depth} bit" if format.bit_depth else format.name
        yield (
            f"{song.path}: {depth} would clip; all stems were lowered by one gain of {gain:.4f} "
            f"({20 * np.log10(gain):.2f} dB). `format` wav `bit_depth` float keeps the level"
        )
