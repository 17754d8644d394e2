"""The command `ft evaluate`. It only parses and calls `ft.evaluation.evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ft.cli.flags import DEVICE, MODEL, PATH, choice, with_flags
from ft.errors import FtError
from ft.options import Runtime, words_of

if TYPE_CHECKING:
    from ft.evaluation.evaluate import Evaluation

_OUTPUT = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("songs", nargs=-1, required=True, type=PATH)
@click.option(
    *MODEL,
    "models",
    multiple=True,
    metavar="MODEL",
    help="A model as for ft separate; repeatable, a row each. [default: default-fp32, the shipped model]",
)
@click.option(
    "--estimates",
    multiple=True,
    type=PATH,
    metavar="DIR",
    help="Stems that something else wrote, as DIR/<song>/vocals.wav or DIR/<song>_(Vocals).wav; repeatable.",
)
@click.option(
    "--length-tolerance",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="SAMPLES",
    help="How much longer or shorter estimates may be than the song; their ends are cut, or silence is added.",
)
@click.option(
    "--metrics",
    default="all",
    show_default=True,
    metavar="LIST",
    help="Names with commas between them: sdr, si_sdr, v4_sdr, v3_sdr, v3_sir, l1_freq, bleedless, fullness and so on.",
)
@click.option(
    "--stems",
    metavar="LIST",
    help="Stems to score, as vocals,drums. [default: all that a song has, and a model or estimates have too]",
)
@click.option("--no-baselines", is_flag=True, help="Score no baselines.")
@click.option(
    "--baselines",
    metavar="LIST",
    help="Baselines to score, of silence, mixture, repet-sim, ideal-ratio-mask and ideal-phase-mask.",
)
@DEVICE
@click.option(
    "--runtime", type=choice(*words_of(Runtime)), default="auto", show_default=True, help="What runs the models."
)
@click.option("--json", "json_file", type=_OUTPUT, help="Write all figures and definitions there.")
@click.option("--plot", "plot_file", type=_OUTPUT, help="Draw the figures there (PNG).")
@click.pass_obj
def evaluate(
    settings: dict,
    songs: tuple[Path, ...],
    metrics: str,
    stems: str | None,
    no_baselines: bool,
    baselines: str | None,
    json_file: Path | None,
    plot_file: Path | None,
    **chosen: Any,
) -> None:
    """Score models, other tools' stems and baselines on SONGS whose true stems are known.

    SONGS are folders: a song's, or such as hold songs, as MUSDB18-HQ's. A song holds mixture.*, vocals.* and
    instrumental.*, of which one may be missing, and the last be in parts (drums, bass, other, guitar and so on). Names
    that other tools give are understood, as no_vocals and Song_(Vocals); a file with no stem's name is an error. A song
    is read whole: four minutes take 2 GB. The exit code is 1 where a song or an estimate could not be used.
    """
    from ft.evaluation.evaluate import BASELINES, EvaluateOptions
    from ft.evaluation.evaluate import evaluate as run
    from ft.evaluation.report import exit_code, report_lines, save_json
    from ft.evaluation.scores import check_metrics
    from ft.files import check_writable
    from ft.progress import share_bar

    if no_baselines and baselines is not None:
        raise click.UsageError("--no-baselines and --baselines contradict each other")
    if chosen["length_tolerance"] and not chosen["estimates"]:
        raise click.UsageError("--length-tolerance is for --estimates")
    if chosen["estimates"] and not chosen["models"] and (chosen["device"], chosen["runtime"]) != ("auto", "auto"):
        raise click.UsageError("--device and --runtime are for models; name one with --model beside --estimates")
    if json_file is not None and json_file == plot_file:
        raise click.UsageError("--json and --plot name one file")
    options = EvaluateOptions(
        metrics=check_metrics(metrics),
        stems=() if stems is None else _listed(stems),
        baselines=() if no_baselines else BASELINES if baselines is None else _listed(baselines),
        **chosen,
    )
    if plot_file is not None:
        import matplotlib  # noqa: F401  (missing, it is named before the work)
    for file in (json_file, plot_file):
        if file is not None:
            check_writable(file)
    with share_bar("evaluate", settings["quiet"]) as progress:
        evaluation = run(songs, options, progress)
    for line in report_lines(evaluation):
        click.echo(with_flags(line))
    if json_file is not None:
        _write(save_json, json_file, evaluation)
    if plot_file is not None and any(song.error is None for song in evaluation.songs):
        from ft.evaluation.plot import save_plot

        _write(save_plot, plot_file, evaluation)
    if code := exit_code(evaluation):
        sys.exit(code)


def _write(save: Callable[[Path, Evaluation], None], path: Path, evaluation: Evaluation) -> None:
    try:
        save(path, evaluation)
    except OSError as error:
        raise FtError(f"{path}: cannot be written ({error.strerror or error})") from error
    click.echo(path)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
