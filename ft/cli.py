"""The command line. It only parses and calls; every command imports what it needs when it runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from ft import __version__
from ft.errors import FtError

EXIT_INTERRUPTED = 130


class _Group(click.Group):
    """Prints the project's own errors as one line; tracebacks only with -v."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except FtError as error:
            if logging.getLogger("ft").isEnabledFor(logging.DEBUG):
                logging.getLogger("ft").exception("traceback")
            click.echo(f"ft: {error}", err=True)
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("ft: interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ft")
@click.option("-v", "--verbose", is_flag=True, help="Show debug messages and tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Show warnings and errors only, and no progress bars.")
@click.pass_context
def main(context: click.Context, verbose: bool, quiet: bool) -> None:
    """Separate vocals from music; train, export and check the networks that do it."""
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("ft: %(message)s"))
    for name in ("ft", "export", "engines", "bench"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
    context.obj = {"quiet": quiet}


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override one key, e.g. train.seed=1.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run. [default: runs/<model name>]")
@click.option("--resume", is_flag=True, help="Go on where the run in this folder stopped.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@click.pass_obj
def train(
    settings: dict, config: Path, assignments: tuple[str, ...], output: Path | None, resume: bool, device: str
) -> None:
    """Train a network as CONFIG (a YAML file or a preset) says."""
    from ft.train import train_from_yaml

    train_from_yaml(
        str(config), assignments, output=output, resume=resume, device=device, progress=not settings["quiet"]
    )
