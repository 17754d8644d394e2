"""`ft separate`: what was asked for to songs, and what became of them to lines and an exit code."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

import click

from engines import read_config
from ft.audio import AudioSource
from ft.errors import ConfigError
from ft.inputs import MARKER, STDIN, Song, find_songs
from ft.jobs import Work, copy_song, read_jobs, work_of
from ft.options import SeparateOptions
from ft.pipe_source import RawFormat, open_pipe
from ft.progress import seconds_bar
from ft.report import SongRecord, Summary, failure_lines, printable
from ft.separate import Separator, model_name
from ft.separate_files import each_song, separate_song, separate_to_pipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What `ft separate` was asked for."""

    inputs: Sequence[Path]
    output: Path
    """A folder, or `-`."""
    options: SeparateOptions
    models: Sequence[str] = ()
    """None of them stands for the shipped model."""
    jobs_file: Path | None = None
    raw: Literal["f32le", "s16le"] | None = None
    """Bare samples in standard input and output; None for WAV."""
    rate: int | None = None
    """Of bare samples in standard input, in Hz."""
    channels: int | None = None
    json: bool = False
    quiet: bool = False

    @property
    def to_pipe(self) -> bool:
        return self.output == STDIN


def run_request(request: Request) -> int:
    """Does it all and gives the exit code: 0, 1 where an input failed, 130 where it was interrupted.

    Raises:
        ConfigError: wrong usage.
        FtError: nothing could be begun: a model that cannot be opened, nothing found, names that collide.
    """
    _check(request)
    models: list[str] | None = list(request.models) or None
    with _terminating():
        work = _work(request, models)
        report = _Report(request, len(work.songs) + len(work.copies))
        marked = _mark_output(request)
        try:
            for record in _records(request, models, work):
                report.add(record)
        except KeyboardInterrupt:
            click.echo("ft: interrupted", err=True)
            report.finish(interrupted=True)
            return report.summary.exit_code
        finally:
            if marked:
                _unmark_empty(request.output)
    report.finish()
    return report.summary.exit_code


def _records(request: Request, models: Sequence[str] | None, work: Work) -> Iterator[SongRecord]:
    """What becomes of each input, as it does."""
    if work.songs:
        with Separator(models, request.options) as separator:
            separate = functools.partial(_separate, request, separator)
            yield from each_song(work.songs, separate, lambda song: separator.record(song.path))
    copy = functools.partial(copy_song, options=request.options)
    yield from each_song(work.copies, copy, lambda song: SongRecord(input=song.path))


class _Report:
    """Tells of each input as it is done, and of all in the end."""

    def __init__(self, request: Request, inputs: int) -> None:
        self.json, self.to_stderr = request.json, request.to_pipe
        self.summary = Summary(inputs)
        self._start = time.perf_counter()

    def add(self, record: SongRecord) -> None:
        self.summary.add(record)
        if self.json:
            self._say(record.to_json())
        else:
            for file in (*record.files.values(), *record.images.values()):
                self._say(bytes(file))
        if record.error is not None:
            click.echo(f"ft: {printable(record.error)}", err=True)
        elif record.status == "done":
            times = f"{record.wall_seconds:.1f} s, {record.x_realtime:.1f} times real time"
            logger.info("%s: %.1f s of audio in %s", printable(record.input), record.audio_seconds, times)
        else:
            logger.info("%s: %s", printable(record.input), record.status)

    def finish(self, interrupted: bool = False) -> None:
        self.summary.wall_seconds = time.perf_counter() - self._start
        self.summary.interrupted = interrupted
        if self.json:
            self._say(self.summary.to_json())
        if self.summary.inputs > 1:
            for line in failure_lines(self.summary):
                click.echo(line, err=True)

    def _say(self, text: str | bytes) -> None:
        click.echo(text, err=self.to_stderr)


def _check(request: Request) -> None:
    """Raises ConfigError for wrong usage that concerns more than the options themselves."""
    options, stdin = request.options, list(request.inputs).count(STDIN)
    if (request.jobs_file is None) == (not request.inputs):
        raise ConfigError("no input; expected files, folders, - or --jobs-file, and not both of them")
    if stdin and (stdin > 1 or len(request.inputs) > 1):
        raise ConfigError("-: standard input goes alone; expected no other input")
    if request.raw is not None and not stdin and not request.to_pipe:
        raise ConfigError("--raw is for pipes; expected - as the input, or -o -")
    if request.raw is not None and stdin and (request.rate is None or request.channels is None):
        raise ConfigError(
            f"--raw {request.raw}: bare samples say nothing of themselves; expected --rate and --channels"
        )
    if (request.raw is None or not stdin) and (request.rate, request.channels) != (None, None):
        raise ConfigError("--rate and --channels are for - with --raw; other inputs say theirs")
    if not request.to_pipe:
        return
    if len(request.inputs) != 1 or request.inputs[0].is_dir():
        raise ConfigError("-o -: expected one input, a file or -")
    if options.stem is None:
        raise ConfigError("-o -: a pipe holds one stem; expected --stem vocals or --stem instrumental")
    if options.format != "wav":
        raise ConfigError(f"-o - --format {options.format}: a pipe gets WAV, or bare samples with --raw")
    if options.images:
        raise ConfigError("-o - --images: pictures need a folder; expected -o FOLDER")


def _work(request: Request, models: Sequence[str] | None) -> Work:
    """All that is to be done, with names that were checked. Raises ConfigError and AudioError."""
    options = request.options
    stems = read_config(models[0] if models else None).stems
    model = "+".join(map(model_name, models)) if models else model_name(None)
    if request.jobs_file is not None:
        return work_of(read_jobs(request.jobs_file), stems, options, model)
    if not request.to_pipe:
        return Work(find_songs(request.inputs, request.output, stems, options, model), [])
    if options.stem not in stems:
        raise ConfigError(f"--stem {options.stem}: the model has {', '.join(stems)}")
    return Work([Song(request.inputs[0])], [])


def _separate(request: Request, separator: Separator, song: Song) -> SongRecord:
    opener = functools.partial(_open_stdin, request) if song.path == STDIN else None
    with seconds_bar(song.path.name, quiet=request.quiet) as progress:
        if request.to_pipe:
            stem = request.options.stem
            assert stem is not None
            return separate_to_pipe(separator, song, sys.stdout.buffer, stem, request.raw, progress, opener)
        return separate_song(separator, song, progress, opener)


def _open_stdin(request: Request, song: Song) -> AudioSource:
    options, raw = request.options, None
    if request.raw is not None:
        assert request.rate is not None and request.channels is not None
        raw = RawFormat(request.raw, request.rate, request.channels)
    return open_pipe(
        sys.stdin.buffer,
        raw,
        start=options.start,
        duration=options.duration,
        allow_truncated=options.allow_truncated,
    )


def _mark_output(request: Request) -> bool:
    """Marks a new or empty output folder before anything is in it, so that no later search takes stems for songs.

    Whether it did; a folder that cannot be made is told of by the first song.
    """
    output = request.output
    if request.to_pipe or request.jobs_file is not None:
        return False
    with suppress(OSError):
        if not output.exists() or not any(output.iterdir()):
            output.mkdir(parents=True, exist_ok=True)
            (output / MARKER).touch()
            return True
    return False


def _unmark_empty(output: Path) -> None:
    """Removes an output folder in which nothing is but its mark."""
    with suppress(OSError):
        if [path.name for path in output.iterdir()] == [MARKER]:
            (output / MARKER).unlink()
            output.rmdir()


@contextmanager
def _terminating() -> Iterator[None]:
    """Makes SIGTERM end this like Ctrl-C: nothing half done is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
