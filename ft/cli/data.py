"""The commands `ft data ...`. They only parse and call."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ft.cli.data_prepare import prepare

_FOLDER = click.Path(path_type=Path)


@click.group()
def data() -> None:
    """Check and prepare the audio of a training run."""


@data.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=_FOLDER)
@click.option("--train", multiple=True, type=_FOLDER, metavar="FOLDER", help="Folder to train on; repeatable.")
@click.option("--validation", multiple=True, type=_FOLDER, metavar="FOLDER", help="To validate on; repeatable.")
@click.option("--test", multiple=True, type=_FOLDER, metavar="FOLDER", help="To test on; repeatable.")
@click.option("--config", metavar="CONFIG", help="The folders of this configuration (a YAML file or a preset).")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override one key of CONFIG.")
@click.option("--screen", is_flag=True, help="Listen for vocals in instrumentals, with a model.")
@click.option(
    "-m",
    "--model",
    "--engine",
    "model",
    metavar="MODEL",
    help="The model of --screen, which this implies. [default: the shipped one]",
)
@click.option(
    "--sample",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Of each instrumental that are listened to, spread over it; 0: all.",
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
    type=_FOLDER,
    metavar="FOLDER",
    help="One of those that are checked whose music has no vocals for certain; repeatable. What the model takes for "
    "vocals in 19 of 20 of its tracks raises --vocals-db.",
)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes that read. [default: usable cores]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--exclude-file", type=click.Path(path_type=Path), metavar="FILE", help="List there what to leave out.")
@click.pass_obj
def check(
    settings: dict,
    folders: tuple[Path, ...],
    train: tuple[Path, ...],
    validation: tuple[Path, ...],
    test: tuple[Path, ...],
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
    roots += [Root(path, "train") for path in train]
    roots += [Root(path, "validation") for path in validation]
    roots += [Root(path, "test") for path in test]
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
        for line in [json_of(report)] if as_json else map(printable, as_text(report)):
            click.echo(line)
    if exclude_file is not None:
        count = write_exclude_file(exclude_file, report)
        click.echo(f"ft: {exclude_file}: {count} tracks to leave out", err=True)
    if report.failed:
        sys.exit(1)


data.add_command(prepare)
