"""The command `ft bench`. It only parses and calls `bench.command`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ft.cli.flags import PATH, with_flags


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--runtime",
    "--engines",
    "runtimes",
    default="all",
    show_default=True,
    help="What runs the models: names with commas between them, or all.",
)
@click.option("--batch", "batches", default="1,4,16", show_default=True, help="Windows at once.")
@click.option("--frames", type=click.IntRange(1), default=256, show_default=True, help="Frames of a window.")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="How often every row runs.")
@click.option(
    "--song-seconds",
    "seconds",
    type=click.IntRange(0),
    default=60,
    show_default=True,
    help="Length of the song to separate from file to files; 0: none.",
)
@click.option("--cores", type=click.IntRange(1), help="Cores to run on. [default: all usable ones]")
@click.option("--baseline", default="", metavar="FILE.py", help="A plain implementation, as one more row.")
@click.option("--json", "report_file", type=PATH, help="Write the report there.")
@click.option("--plot", "plot_file", type=PATH, help="Draw it there (PNG).")
def bench(models: tuple[str, ...], report_file: Path | None, plot_file: Path | None, **chosen: Any) -> None:
    """Measure every engine on MODELs side by side, PyTorch included. [default: default-fp32 default-int8]

    An engine whose mask is wrong has no time; one that cannot run here is listed with the reason. A model in low
    precision is compared with its fp32 one, which must be named too.
    """
    from bench.command import report_lines, run_bench
    from bench.picture import save_picture
    from bench.report import write_report
    from ft.files import check_writable

    if plot_file is not None:
        import matplotlib  # noqa: F401  # asked for now, not after minutes of measuring

        if plot_file == report_file:
            raise click.UsageError(f"--json and --plot contradict each other: both are {plot_file}")
    for file in filter(None, (report_file, plot_file)):
        check_writable(file)
    report = run_bench(models, **chosen)
    for line in report_lines(report):
        click.echo(with_flags(line))
    if report_file is not None:
        write_report(report_file, report)
        click.echo(report_file)
    if plot_file is not None:
        save_picture(plot_file, [report])
        click.echo(plot_file)
