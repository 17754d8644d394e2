"""The commands `ft train` and `ft library`. They only parse and call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ft.cli.flags import DEVICE, PATH, SET


@click.command()
@click.argument("source", metavar="CONFIG")
@SET
@click.option("-o", "--output", type=PATH, help="Folder of the run. [default: runs/<model name>]")
@click.option("--resume", is_flag=True, help="Go on where the run in this folder stopped.")
@DEVICE
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Compute with so many threads. [default: the usable cores less train.workers]",
)
@click.option(
    "--dry-run", is_flag=True, help="Say what it would take, by three steps of each stage, and write nothing."
)
@click.pass_obj
def train(settings: dict, output: Path | None, resume: bool, dry_run: bool, **run: Any) -> None:
    """Train a network as CONFIG (a YAML file or a preset) says.

    On several GPUs or machines: torchrun --nproc-per-node GPUS -m ft train CONFIG
    """
    from ft.training.run import dry_run_from_yaml, train_from_yaml

    run |= {"progress": not settings["quiet"]}
    if not dry_run:
        train_from_yaml(output=output, resume=resume, **run)
    elif (found := dry_run_from_yaml(**run)) is not None:  # of several processes, one speaks
        click.echo(found)


@click.command()
@click.argument("library", metavar="FOLDER", type=PATH)
@click.option("--audio", required=True, type=PATH, help="Audio folder: eif/, voices/ and vocadito/.")
@click.option("--packages", type=PATH, help="Folder of the .deb files. [default: apt-get download]")
@click.option("--sing", "sing_minutes", default=0.0, show_default=True, help="Minutes of singing to synthesise.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Processes.")
@click.pass_obj
def library(settings: dict, **chosen: Any) -> None:
    """Build the training library in FOLDER, from checked sources; what is there already is kept."""
    from ft.library import build_library
    from ft.progress import seconds_bar

    with seconds_bar("library", settings["quiet"]) as progress:
        hours = build_library(**chosen, progress=progress)
    for name, value in hours.items():
        click.echo(f"{value:7.2f} h  {name}")
