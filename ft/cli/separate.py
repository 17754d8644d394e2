"""The command `ft separate`: what was asked for to songs, and what became of them to lines and an exit code."""

from __future__ import annotations

import functools
import io
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TextIO

import click

from ft.cli.flags import MODEL, PATH, GroupedCommand, choice, flag, grouped_option, options_of, with_flags
from ft.cli.verbosity import set_verbosity
from ft.errors import AudioError, ConfigError, FtError
from ft.files import STDIN, models_folder
from ft.interruption import signals_interrupt
from ft.options import SeparateOptions
from ft.songs.report import EXIT_FAILED, SongRecord, Summary, printable, sum_line

if TYPE_CHECKING:
    from ft.audio.source import AudioSource
    from ft.progress import BatchProgress
    from ft.separate import Separator
    from ft.songs.inputs import Song
    from ft.songs.jobs import Work

logger = logging.getLogger(__name__)


class _Path(click.Path):
    """A path that is not empty, as an unset variable of a shell would be; it would stand for this folder."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty path, as of an unset variable", parameter, context)
        return super().convert(value, parameter, context)


_PATH = _Path(path_type=Path, allow_dash=True, readable=False)
"""What cannot be read fails by itself, so that the other inputs are done."""


_INPUT, _OUTPUT, _ENGINE = (functools.partial(grouped_option, group=name) for name in ("Input", "Output", "Engine"))


@click.command(cls=GroupedCommand)
@click.argument("inputs", nargs=-1, metavar="[INPUT]...", type=_PATH)
@_OUTPUT(
    "-o", "--output", type=_PATH, default="separated", help="Folder, or - for standard output. [default: separated]"
)
@_OUTPUT("--json", is_flag=True, help="Print a line of JSON for each input and one of all, not the files.")
@_INPUT("--jobs-file", type=PATH, help="Read what goes where from JSON, with no INPUT.")
@_INPUT(
    "--raw",
    type=choice("f32le", "s16le"),
    help="Pipes hold bare samples, not WAV: standard input with --rate, and -o -.",
)
@_OUTPUT("--raw-output", type=choice("f32le", "s16le", "wav"), help="What -o - gets. [default: as --raw]")
@_INPUT("--rate", type=click.IntRange(1), metavar="HZ", help="Rate of bare samples that come in.")
@_INPUT("--channels", type=click.IntRange(1, 2), metavar="N", help="Channels of bare samples that come in.")
@_ENGINE(
    *MODEL, "model", metavar="MODEL", help="An .onnx, .safetensors or .plan file. [default: default, the shipped model]"
)
@_ENGINE("--ensemble", multiple=True, metavar="MODEL", help="In place of --model; repeatable.")
@_ENGINE("--tensorrt", is_flag=True, help="Short for --runtime tensorrt; builds a plan of an .onnx and keeps it.")
@options_of(SeparateOptions)
@grouped_option("-v", "--verbose", is_flag=True, help="Show debug messages, as ft -v does.")
@grouped_option("-q", "--quiet", is_flag=True, help="Show warnings and errors only, as ft -q does.")
@click.pass_obj
def separate(
    settings: dict,
    model: str | None,
    ensemble: tuple[str, ...],
    tensorrt: bool,
    options: SeparateOptions,
    verbose: bool,
    quiet: bool,
    **request: Any,
) -> None:
    """Separate songs into vocals and instrumental, or what other stems a model has.

    INPUT is a file, a folder, which is searched with all that is in it, or - for standard input. The stems of song.wav
    become OUTPUT/song/vocals.wav and OUTPUT/song/instrumental.wav.
    """
    if verbose or quiet:
        set_verbosity(verbose, quiet)
    source = click.get_current_context().get_parameter_source("output")
    if request["jobs_file"] is not None and source is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("-o and --jobs-file contradict each other: jobs say where their files go")
    if model is not None and ensemble:
        raise click.UsageError("--model and --ensemble contradict each other")
    if tensorrt:
        if options.runtime not in ("auto", "tensorrt"):
            raise click.UsageError(f"--tensorrt and --runtime {options.runtime} contradict each other")
        options = replace(options, runtime="tensorrt")
    models = ensemble or ((model,) if model is not None else ())
    quiet = quiet or settings["quiet"]
    code = _run(Request(options=options, models=models, quiet=quiet, **request))
    if not models and not quiet:
        _say_once_what_can_be_fetched()
    if code:
        sys.exit(code)


def _say_once_what_can_be_fetched() -> None:
    """Tells who separates with the shipped model of a better one; that it did is said by the folder of models."""
    from ft.progress import is_watched

    folder = models_folder()
    if not is_watched() or folder.exists():
        return
    with suppress(OSError):  # a home that cannot be written is told again
        folder.mkdir(parents=True)
    click.echo("ft: `ft pull spleeter` (73 MB) fetches a model that separates most songs better", err=True)


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
    """Bare samples, in standard input where `rate` is given, and in standard output; None for WAV."""
    raw_output: Literal["f32le", "s16le", "wav"] | None = None
    """Stands in place of `raw` for standard output."""
    rate: int | None = None
    """Rate of bare samples in standard input, in Hz."""
    channels: int | None = None
    json: bool = False
    quiet: bool = False

    @property
    def to_pipe(self) -> bool:
        return self.output == STDIN

    @property
    def encoding(self) -> Literal["f32le", "s16le"] | None:
        """Says what bare samples in standard output are; None for WAV."""
        return self.raw if self.raw_output is None else None if self.raw_output == "wav" else self.raw_output


def _run(request: Request) -> int:
    """Does it all and gives the exit code: 0, 1 where an input failed, 130 where it was interrupted.

    Raises:
        ConfigError: wrong usage.
        FtError: nothing could be begun: a model that cannot be opened, nothing found, names that collide.
    """
    _check(request)
    models: list[str] | None = list(request.models) or None
    report = _Report(request)
    try:
        with signals_interrupt():
            work = _work(request, models)
            report.summary = Summary(len(work.songs) + len(work.copies))
            for record in _records(request, models, work):
                report.add(record)
    except KeyboardInterrupt:
        click.echo("ft: interrupted", err=True)
        report.summary.interrupted = True
    except FtError as error:
        if request.json and error.exit_code == EXIT_FAILED:  # nothing could be begun, and JSON says so too
            for path in request.inputs or filter(None, [request.jobs_file]):
                report.add(SongRecord(input=str(path), status="failed", error=str(error)), printed=True)
            report.finish()
        raise
    report.finish()
    report.tell_sum()
    return report.exit_code


def _records(request: Request, models: Sequence[str] | None, work: Work) -> Iterator[SongRecord]:
    """Gives what becomes of each input, as it does."""
    from ft.progress import BatchProgress
    from ft.separate import Separator
    from ft.songs.jobs import copy_song
    from ft.songs.run import new_record, recorded

    if work.songs:
        with Separator(models, request.options) as separator:
            separate = functools.partial(_separate, request, separator, BatchProgress(len(work.songs)))
            for song in work.songs:
                yield recorded(song, separate, functools.partial(new_record, separator))
    copy = functools.partial(copy_song, options=request.options)
    for song in work.copies:
        yield recorded(song, copy, lambda song: SongRecord(input=song.path))


class _Report:
    """Tells of each input as it is done, and of all in the end."""

    def __init__(self, request: Request) -> None:
        self.json, self.to_stderr = request.json, request.to_pipe
        self.summary = Summary()
        self._start = time.perf_counter()
        self._lost = False

    @property
    def exit_code(self) -> int:
        return self.summary.exit_code or (EXIT_FAILED if self._lost else 0)

    def add(self, record: SongRecord, printed: bool = False) -> None:
        """`printed`: whether the error is told elsewhere."""
        error = None if record.error is None else with_flags(record.error)
        record = record.changed(error=error, warnings=tuple(map(with_flags, record.warnings)))
        self.summary.add(record)
        place = f"{self.summary.told} of {self.summary.inputs}: " if self.summary.inputs > 1 else ""
        if self.json:
            self._say(record.to_json())
        else:
            for file in (*record.files.values(), *record.images.values()):
                self._say(bytes(file))
        if record.error is not None:
            if not printed:
                click.echo(f"ft: {printable(record.error)}", err=True)
        elif record.status == "done":
            times = f"{record.wall_seconds:.1f} s, {record.x_realtime:.1f} times real time"
            logger.info("%s%s: %.1f s of audio in %s", place, record.input, record.audio_seconds, times)
        else:
            logger.info("%s%s: %s", place, record.input, record.status)

    def finish(self) -> None:
        self.summary.wall_seconds = time.perf_counter() - self._start
        if self.json:
            self._say(self.summary.to_json())

    def tell_sum(self) -> None:
        if self.summary.inputs > 1:
            is_bad = self.summary.interrupted or self.summary.exit_code
            logger.log(logging.WARNING if is_bad else logging.INFO, sum_line(self.summary))

    def _say(self, text: str | bytes) -> None:
        """Prints a line of results. Where nobody takes them the songs are still done, and the exit code tells."""
        if self._lost:
            return
        try:
            click.echo(text, err=self.to_stderr)
        except OSError as error:
            self._lost = True
            click.echo(f"ft: stdout: cannot be written ({error.strerror}); the songs are done without it", err=True)
            with suppress(OSError, ValueError):  # what is left in its buffer would fail once more at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check(request: Request) -> None:
    """Raises ConfigError for wrong usage that concerns more than the options themselves."""
    options, stdin = request.options, list(request.inputs).count(STDIN)
    if (request.jobs_file is None) == (not request.inputs):
        raise ConfigError("no input; expected files, folders, - or --jobs-file, and not both of them")
    if stdin and (stdin > 1 or len(request.inputs) > 1):
        raise ConfigError("-: standard input goes alone; expected no other input")
    if request.raw is not None and not stdin and not request.to_pipe:
        raise ConfigError("--raw is for pipes; expected - as the input, or -o -")
    if (request.rate is None) != (request.channels is None):
        raise ConfigError("--rate and --channels belong together; expected both, for bare samples in standard input")
    if request.rate is None and request.raw is not None and not request.to_pipe:
        raise ConfigError(f"--raw {request.raw}: bare samples do not say what they are; expected --rate and --channels")
    if request.rate is not None and (request.raw is None or not stdin):
        raise ConfigError("--rate and --channels are for - with --raw; other inputs say theirs")
    if request.raw_output is not None and not request.to_pipe:
        raise ConfigError("--raw-output is for standard output; expected -o -")
    if stdin and options.track is not None:
        raise ConfigError("--track: a pipe has one; expected a file")
    if options.ensemble_by != "mean" and len(request.models) < 2:
        raise ConfigError(f"--ensemble-by {options.ensemble_by}: expected several --ensemble MODEL")
    if not request.to_pipe:
        return
    if len(request.inputs) != 1 or request.inputs[0].is_dir():
        raise ConfigError("-o -: expected one input, a file or -")
    if options.stem is None:
        raise ConfigError("-o -: a pipe holds one stem; expected --stem vocals or --stem instrumental")
    if options.format != "wav":
        raise ConfigError(f"-o - --format {options.format}: a pipe gets WAV, or bare samples with --raw")
    if options.bit_depth is not None and request.encoding is not None:
        raise ConfigError(f"--bit-depth {options.bit_depth}: {request.encoding} has its own; expected one of them")
    for name in ("images", "skip_existing", "force", "name_template"):
        if getattr(options, name) != getattr(SeparateOptions, name):
            raise ConfigError(f"-o - {flag(name)}: a pipe has no names; expected -o FOLDER")


def _work(request: Request, models: Sequence[str] | None) -> Work:
    """Gives all that is to be done, with names that were checked. Raises ConfigError and AudioError."""
    from engines import read_config
    from ft.separate.separator import model_name
    from ft.songs.inputs import Song, find_songs
    from ft.songs.jobs import Work, read_jobs, work_of

    if request.to_pipe:
        return Work([Song(request.inputs[0])], [])
    options = request.options
    stems = read_config(models[0] if models else None).all_stems
    model = "+".join(map(model_name, models)) if models else model_name(None)
    if request.jobs_file is not None:
        return work_of(read_jobs(request.jobs_file), stems, options, model)
    return Work(find_songs(request.inputs, request.output, stems, options, model), [])


def _separate(request: Request, separator: Separator, batch: BatchProgress, song: Song) -> SongRecord:
    from ft.progress import seconds_bar
    from ft.songs.run import open_song, separate_song, separate_to_pipe

    opener = functools.partial(_open_stdin, request) if song.path == STDIN else open_song
    batch.begin()
    with seconds_bar(song.path.name, quiet=request.quiet, batch=batch) as progress:
        if request.to_pipe:
            stem = request.options.stem
            assert stem is not None
            return separate_to_pipe(
                separator, song, _binary(sys.stdout, "output"), stem, request.encoding, progress, opener
            )
        return separate_song(separator, song, progress, opener)


def _open_stdin(request: Request, song: Song, options: SeparateOptions) -> AudioSource:
    from ft.audio.pipe import RawFormat, open_pipe

    raw = None
    stream = _binary(sys.stdin, "input")
    if request.rate is not None:
        assert request.raw is not None and request.channels is not None
        raw = RawFormat(request.raw, request.rate, request.channels)
        front = stream.peek(12)[:12] if isinstance(stream, io.BufferedReader) else b""
        if front[:4] in (b"RIFF", b"RF64") and front[8:] == b"WAVE":
            raise AudioError(
                "-: begins with the header of a WAV file; expected bare samples, or no --rate and --channels"
            )
    return open_pipe(
        stream,
        raw,
        start=options.start,
        duration=options.duration,
        allow_truncated=options.allow_truncated,
    )


def _binary(stream: TextIO | None, name: str) -> BinaryIO:
    if stream is None:
        raise AudioError(f"-: standard {name} is closed; expected a pipe or a file")
    return stream.buffer
