"""The commands `ft data prepare ...`. They only parse and call."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

_FOLDER = click.Path(path_type=Path)
_OUTPUT = click.option("-o", "--output", required=True, type=_FOLDER, help="Folder to write to.")
_MAX_DELAY = click.option(
    "--max-delay", default=5.0, show_default=True, type=click.FloatRange(0.5, 60), help="Seconds that are searched."
)
_RESIDUAL_DB = click.option(
    "--residual-db",
    default=-15.0,
    show_default=True,
    help="Highest level, where the mixture is most alike the instrumental, of what is left when that is subtracted.",
)


@click.group()
def prepare() -> None:
    """Align pairs, cut patches and cache examples, for training."""


@prepare.command()
@click.argument("folder", type=_FOLDER)
@_OUTPUT
@_MAX_DELAY
@_RESIDUAL_DB
@click.pass_obj
def align(settings: dict, folder: Path, output: Path, max_delay: float, residual_db: float) -> None:
    """Bring the mixtures and instrumentals in FOLDER to the same samples.

    FOLDER holds mixtures/ and instruments/, whose files belong together in the order of their names, or a folder for
    each song with mixture.* and instrumental.*. Each pair becomes OUTPUT/song/ with mixture.wav, instrumental.wav and
    vocals.wav, their difference. Pairs that do not fit are named and not written; the exit code is 1 then.
    """
    from ft.data.prepare import align_folder

    _end(align_folder(folder, output, max_delay, residual_db, _tell(settings)))


@prepare.command()
@click.argument("folder", type=_FOLDER)
@_OUTPUT
@click.option(
    "--kind",
    default="instrumentals",
    show_default=True,
    type=click.Choice(["instrumentals", "pairs", "vocals", "mixes", "validation"]),
    help="What FOLDER holds; pairs and validation are aligned first.",
)
@click.option("--frames", default=2048, show_default=True, type=click.IntRange(min=1), help="Of a patch.")
@click.option(
    "--offset", default=0, show_default=True, type=click.IntRange(min=0), help="Frames shared with each neighbour."
)
@_MAX_DELAY
@_RESIDUAL_DB
@click.pass_obj
def patches(
    settings: dict,
    folder: Path,
    output: Path,
    kind: Any,
    frames: int,
    offset: int,
    max_delay: float,
    residual_db: float,
) -> None:
    """Cut the songs in FOLDER into patch files (.npz), as the original's training takes them.

    They can be named as train.instrumentals, train.vocals and train.pairs here too. Patches that are there are kept.
    --max-delay and --residual-db are for the kinds that are aligned, as in ft data prepare align.
    """
    from ft.data.prepare import write_patches

    _end(write_patches(folder, output, kind, frames, offset, _tell(settings), max_delay, residual_db))


@prepare.command()
@click.argument("config")
@_OUTPUT
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override one key, e.g. train.seed=1.")
@click.option(
    "--examples", required=True, type=click.IntRange(min=1), help="How many; rounded up to whole files of 64."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), help="Of an example. [default: of the longest stage]"
)
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Processes.")
@click.pass_obj
def cache(
    settings: dict,
    config: str,
    output: Path,
    assignments: tuple[str, ...],
    examples: int,
    seconds: float | None,
    jobs: int,
) -> None:
    """Make finished training examples as CONFIG (a YAML file or a preset) says, for `train.cache`.

    What an interrupted run has made is kept; a higher number of --examples adds some. Longer examples give more crops.
    """
    from ft.config import model_config_from_yaml
    from ft.data.scan import check_sources
    from ft.files import check_writable
    from ft.progress import share_bar
    from ft.settings import load_yaml, override
    from ft.train_config import train_config_from_yaml

    values = override(load_yaml(config), assignments)
    model, train = model_config_from_yaml(values, config), train_config_from_yaml(values, config)
    check_sources(replace(train, cache=None))
    check_writable(output / "examples")
    from ft.data.cache_build import build_cache  # torch, once nothing is wrong

    with share_bar(output.name, settings["quiet"]) as progress:
        manifest = build_cache(model, train, output, examples, seconds, jobs, progress=progress)
    length = manifest.samples / model.audio.sample_rate
    click.echo(f"{output}: {manifest.examples} examples of {length:.2f} s; take them with --set train.cache={output}")


def _tell(settings: dict) -> Any:
    return (lambda text: None) if settings["quiet"] else click.echo


def _end(bad: list[str]) -> None:
    """Names what was left out."""
    for line in bad:
        click.echo(f"ft: {line}", err=True)
    if bad:
        sys.exit(1)
