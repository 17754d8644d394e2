"""The command line. It only parses and calls; every command imports what it needs when it runs."""

from __future__ import annotations

import errno
import logging
import os
import sys

import click

from ft import __version__
from ft.cli.bench import bench
from ft.cli.data import data
from ft.cli.evaluate import evaluate
from ft.cli.flags import with_flags
from ft.cli.models import average, doctor, export, import_weights, info, models, pull
from ft.cli.separate import separate
from ft.cli.train import library, train
from ft.cli.verbosity import set_verbosity
from ft.errors import FtError, one_line
from ft.songs.report import EXIT_INTERRUPTED, printable

_EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "python_stretch": "train",
    "matplotlib": "plots",
}
"""What provides the libraries that only some commands need."""


class _Group(click.Group):
    """Prints the project's own errors as one line; tracebacks only with -v."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except FtError as error:
            if logging.getLogger("ft").isEnabledFor(logging.DEBUG):
                logging.getLogger("ft").exception("traceback")
            command = self.commands.get(context.invoked_subcommand or "", self)
            click.echo(f"ft: {printable(with_flags(str(error), command))}", err=True)
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("ft: interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            verbose = logging.getLogger("ft").isEnabledFor(logging.DEBUG)
            if verbose or (isinstance(error, OSError) and error.errno == errno.EPIPE):  # click ends quietly there
                raise
            if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
                install = f"pip install 'frame-transformer[{_EXTRAS[error.name]}]'"
                click.echo(f"ft: {error.name} is missing: {install}", err=True)
                sys.exit(1)
            what = f"{type(error).__name__}: {one_line(error)}".rstrip(": ")
            click.echo(f"ft: failed unexpectedly ({what}); ft -v shows where. Please report it", err=True)
            sys.exit(1)


def _open_closed_streams() -> None:
    """Puts the null device where a standard stream is closed, as after `2>&-`.

    The next file that is opened would take its number, and get what libraries print there among its bytes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ft")
@click.option("-v", "--verbose", is_flag=True, help="Show debug messages and tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Show warnings and errors only, and no progress bars.")
@click.pass_context
def main(context: click.Context, verbose: bool, quiet: bool) -> None:
    """Separate vocals from music; train, export and check the networks that do it."""
    _open_closed_streams()
    set_verbosity(verbose, quiet)
    context.obj = {"quiet": quiet}


_MODELS = (average, doctor, export, import_weights, info, models, pull)
for _command in (*_MODELS, bench, data, evaluate, library, separate, train):
    main.add_command(_command)
