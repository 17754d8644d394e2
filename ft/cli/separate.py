"""The command `ft separate`. It only parses and calls `ft.cli.separate_command`."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ft.cli.flags import MODEL, PATH, GroupedCommand, choice, grouped_option, options_of
from ft.cli.verbosity import set_verbosity
from ft.options import SeparateOptions


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
    from ft.cli.separate_command import Request, run_request

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
    if code := run_request(Request(options=options, models=models, quiet=quiet or settings["quiet"], **request)):
        sys.exit(code)
