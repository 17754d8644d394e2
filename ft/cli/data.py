"""The commands `ft data ...`. They only parse and call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ft.cli.flags import AS_JSON, MODEL, PATH, SET, with_flags

_OUTPUT = click.option("-o", "--output", required=True, type=PATH, help="Folder to write to.")
_MAX_DELAY = click.option(
    "--max-delay",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.5, 60),
    help="Longest delay to look for, in seconds.",
)
_RESIDUAL_DB = click.option(
    "--residual-db",
    default=-15.0,
    show_default=True,
    help="Highest level of what is left where the mixture is most alike the instrumental, which is subtracted.",
)


@click.group()
def data() -> None:
    """Check and prepare the audio of a training run."""


@data.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=PATH)
@click.option("--train", multiple=True, type=PATH, metavar="FOLDER", help="Folder to train on; repeatable.")
@click.option("--validation", multiple=True, type=PATH, metavar="FOLDER", help="Folder to validate on; repeatable.")
@click.option("--test", multiple=True, type=PATH, metavar="FOLDER", help="Folder to test on; repeatable.")
@click.option("--config", metavar="CONFIG", help="Check the folders of this configuration (a YAML file or a preset).")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override one key of CONFIG.")
@click.option("--screen", is_flag=True, help="Listen for vocals in instrumentals, with a model.")
@click.option(
    *MODEL, "model", metavar="MODEL", help="The model of --screen, which this implies. [default: the shipped one]"
)
@click.option(
    "--sample",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Listen to so much of each instrumental, spread over it; 0: all.",
)
@click.option(
    "--vocals-db",
    type=float,
    default=-20.0,
    show_default=True,
    metavar="DB",
    help="Level of what the model takes for vocals, in dB of the sound, from which it counts.",
)
@click.option(
    "--clean",
    multiple=True,
    type=PATH,
    metavar="FOLDER",
    help="Folder of the above whose music has no vocals for certain; repeatable. What the model takes for vocals in "
    "19 of 20 of its tracks raises --vocals-db.",
)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes that read. [default: usable cores]")
@AS_JSON
@click.option("--exclude-file", type=click.Path(path_type=Path), metavar="FILE", help="List there what to leave out.")
@click.pass_obj
def check(
    settings: dict,
    folders: tuple[Path, ...],
    config: str | None,
    assignments: tuple[str, ...],
    screen: bool,
    model: str | None,
    sample: float,
    vocals_db: float,
    clean: tuple[Path, ...],
    jobs: int | None,
    as_json: bool,
    exclude_file: Path | None,
    **splits: tuple[Path, ...],
) -> None:
    """Read a library, and say what would spoil training or evaluation on it.

    Hours, rates, mono, clipping, silence, files that cannot be read, recordings that are there twice, and with --screen
    vocals in instrumentals. What is to train or to judge is said by --train, --validation, --test and --config; below
    FOLDER by folders of these names. Folders of patch files are listed and not checked. The exit code is 1 where a file
    cannot be read or is silent (but for a stem of a song that has others), a recording is in two splits, or an
    instrumental has vocals in more than a tenth of the time.
    """
    from ft.data.check import Root, check_library, roots_of_config, screen_library
    from ft.data.check_report import as_json as json_of
    from ft.data.check_report import as_text, write_exclude_file
    from ft.files import DEFAULT_MODEL, check_writable, model_path
    from ft.progress import seconds_bar, share_bar
    from ft.songs.report import printable
    from ft.workers import usable_cores

    roots = [Root(path) for path in folders]
    for split in ("train", "validation", "test"):
        roots += [Root(path, split) for path in splits[split]]
    if config is not None:
        from ft.settings import load_yaml, override
        from ft.train_config import train_config_from_yaml

        roots += roots_of_config(train_config_from_yaml(override(load_yaml(config), assignments), config))
    elif assignments:
        raise click.UsageError("--set is for keys of --config")
    if not roots:
        raise click.UsageError("no folder; expected FOLDER, --train, --validation, --test or --config")
    screen |= model is not None
    if clean and not screen:
        raise click.UsageError("--clean is for --screen")
    if screen:
        model_path(model or DEFAULT_MODEL)  # says at once, and not once all files were read, that there is none
    if exclude_file is not None:
        check_writable(exclude_file)
    with share_bar("check", settings["quiet"]) as progress:
        report = check_library(roots, jobs or usable_cores(), progress)
    try:
        if screen:
            with seconds_bar("screen", settings["quiet"]) as seconds:
                screen_library(report, model, sample or None, seconds, vocals_db, clean)
    finally:
        for line in [json_of(report)] if as_json else map(with_flags, map(printable, as_text(report))):
            click.echo(line)
    if exclude_file is not None:
        count = write_exclude_file(exclude_file, report)
        click.echo(f"ft: {exclude_file}: {count} tracks to leave out", err=True)
    if report.failed:
        sys.exit(1)


@data.group()
def prepare() -> None:
    """Align pairs, cut patches and cache examples, for training."""


@prepare.command()
@click.argument("folder", type=PATH)
@_OUTPUT
@_MAX_DELAY
@_RESIDUAL_DB
@click.pass_obj
def align(settings: dict, **chosen: Any) -> None:
    """Bring the mixtures and instrumentals in FOLDER to the same samples.

    FOLDER holds mixtures/ and instruments/, whose files belong together in the order of their names, or a folder for
    each song with mixture.* and instrumental.*. Each pair becomes OUTPUT/song/ with mixture.wav, instrumental.wav and
    vocals.wav, their difference. Pairs that do not fit are named and not written; the exit code is 1 then.
    """
    from ft.data.prepare import align_folder

    _end(align_folder(**chosen, report=_reporter(settings)))


@prepare.command()
@click.argument("folder", type=PATH)
@_OUTPUT
@click.option(
    "--kind",
    default="instrumentals",
    show_default=True,
    type=click.Choice(["instrumentals", "pairs", "vocals", "mixes", "validation"]),
    help="What FOLDER holds; pairs and validation are aligned first.",
)
@click.option("--frames", "size", default=2048, show_default=True, type=click.IntRange(1), help="Frames of a patch.")
@click.option(
    "--offset", default=0, show_default=True, type=click.IntRange(min=0), help="Frames shared with each neighbour."
)
@_MAX_DELAY
@_RESIDUAL_DB
@click.pass_obj
def patches(settings: dict, **chosen: Any) -> None:
    """Cut the songs in FOLDER into patch files (.npz), as the original's training takes them.

    They can be named as train.instrumentals, train.vocals and train.pairs here too. Patches that are there are kept.
    --max-delay and --residual-db are for the kinds that are aligned, as in ft data prepare align.
    """
    from ft.data.prepare import write_patches

    _end(write_patches(**chosen, report=_reporter(settings)))


@prepare.command()
@click.argument("config")
@_OUTPUT
@SET
@click.option(
    "--examples", required=True, type=click.IntRange(min=1), help="How many; rounded up to whole files of 64."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Length of an example. [default: of the longest stage]",
)
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Processes.")
@click.pass_obj
def cache(settings: dict, config: str, output: Path, assignments: tuple[str, ...], **chosen: Any) -> None:
    """Make finished training examples as CONFIG (a YAML file or a preset) says, for `train.cache`.

    What an interrupted run has made is kept; a higher number of --examples adds some. Longer examples give more crops.
    """
    from ft.config import model_config_from_yaml
    from ft.data.sources import check_sources
    from ft.files import check_writable
    from ft.progress import share_bar
    from ft.settings import load_yaml, override
    from ft.train_config import train_config_from_yaml

    values = override(load_yaml(config), assignments)
    model, train = model_config_from_yaml(values, config), train_config_from_yaml(values, config)
    check_sources(replace(train, cache=None), model)
    check_writable(output / "examples")
    from ft.data.cache_build import build_cache  # torch, once nothing is wrong

    with share_bar(output.name, settings["quiet"]) as progress:
        manifest = build_cache(model, train, output, **chosen, progress=progress)
    length = manifest.samples / model.sample_rate
    click.echo(f"{output}: {manifest.examples} examples of {length:.2f} s; take them with --set train.cache={output}")


def _reporter(settings: dict) -> Callable[[str], object]:
    return (lambda text: None) if settings["quiet"] else click.echo


def _end(bad: list[str]) -> None:
    """Names what was left out."""
    for line in bad:
        click.echo(f"ft: {with_flags(line)}", err=True)
    if bad:
        sys.exit(1)
