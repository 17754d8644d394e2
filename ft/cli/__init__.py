"""The command line. It only parses and calls; every command imports what it needs when it runs."""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path
from typing import Literal

import click

from ft import __version__
from ft.cli.data import data
from ft.cli.evaluate import evaluate
from ft.cli.separate import separate
from ft.cli.verbosity import set_verbosity
from ft.errors import FtError, one_line
from ft.songs.report import printable

EXIT_INTERRUPTED = 130
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
            click.echo(f"ft: {printable(error)}", err=True)
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


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override one key, e.g. train.seed=1.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run. [default: runs/<model name>]")
@click.option("--resume", is_flag=True, help="Go on where the run in this folder stopped.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Of the processor, to compute with. [default: the usable cores less train.workers]",
)
@click.option(
    "--dry-run", is_flag=True, help="Say what it would take, by three steps of each stage, and write nothing."
)
@click.pass_obj
def train(
    settings: dict,
    config: Path,
    assignments: tuple[str, ...],
    output: Path | None,
    resume: bool,
    device: str,
    threads: int | None,
    dry_run: bool,
) -> None:
    """Train a network as CONFIG (a YAML file or a preset) says.

    On several GPUs or machines: torchrun --nproc-per-node GPUS -m ft train CONFIG
    """
    from ft.training.run import dry_run_from_yaml, train_from_yaml

    progress = not settings["quiet"]
    if dry_run:
        found = dry_run_from_yaml(str(config), assignments, device=device, threads=threads, progress=progress)
        if found is not None:  # of several processes, one speaks
            click.echo(found)
        return
    train_from_yaml(
        str(config), assignments, output=output, resume=resume, device=device, threads=threads, progress=progress
    )


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--audio", required=True, type=click.Path(path_type=Path), help="Audio folder: eif/, voices/ and vocadito/."
)
@click.option(
    "--packages", type=click.Path(path_type=Path), help="Folder of the .deb files. [default: apt-get download]"
)
@click.option("--sing", "minutes", default=0.0, show_default=True, help="Minutes of singing to synthesise.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Processes.")
@click.pass_obj
def library(settings: dict, folder: Path, audio: Path, packages: Path | None, minutes: float, jobs: int) -> None:
    """Build the training library in FOLDER, from checked sources; what is there already is kept."""
    from ft.library import build_library
    from ft.progress import seconds_bar

    with seconds_bar("library", settings["quiet"]) as progress:
        hours = build_library(folder, audio, packages, jobs, minutes, progress=progress)
    for name, value in hours.items():
        click.echo(f"{value:7.2f} h  {name}")


@main.command()
@click.argument("models", nargs=-1, required=True, type=str)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
def average(models: tuple[str, ...], output: Path, force: bool) -> None:
    """Make a checkpoint of the mean of the weights of MODELS, runs that began alike."""
    from ft.average import average_models

    average_models(models, output, force)
    click.echo(output)


@main.command("import")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Checkpoint. [default: WEIGHTS.safetensors]")
@click.option("--activation", type=click.Choice(["gelu", "squared-relu"], False), help="Of the feed-forward parts.")
@click.option(
    "--qk-norm-order",
    type=click.Choice(["rotary-first", "norm-first"], False),
    help="Order in which queries and keys pass.",
)
@click.option("--force", is_flag=True, help="Overwrite the output.")
def import_weights(
    weights: Path, output: Path | None, activation: str | None, qk_norm_order: str | None, force: bool
) -> None:
    """Make a checkpoint of WEIGHTS (.pth) of the original code, without running code pickled into it."""
    from ft.importers.original import import_original

    output = output or weights.with_suffix(".safetensors")
    import_original(weights, output, activation=activation, qk_norm_order=qk_norm_order, force=force)
    click.echo(output)


@main.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(model: str, as_json: bool) -> None:
    """Say what MODEL is: a preset, a checkpoint, an exported .onnx, or the shipped model.

    That is default-fp32 (default means the same here) or default-int8.
    """
    import json

    from ft.info import as_text, describe_model

    facts = describe_model(model)
    click.echo(json.dumps(facts, indent=2) if as_json else as_text(facts))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--runtime",
    "--engine",
    "runtime",
    type=click.Choice(
        ["onnxruntime", "onnxruntime-cuda", "openvino", "torch", "torch-cuda", "tensorrt", "tensorrt-rtx"],
        case_sensitive=False,
    ),
    help="Look at this one only; the exit code is 1 where it cannot be used.",
)
@click.pass_obj
def doctor(settings: dict, as_json: bool, runtime: str | None) -> None:
    """Say what this machine can run models with, what is wrong, and the line that mends it."""
    import json

    from engines.doctor import as_text, examine
    from ft.progress import share_bar

    logging.getLogger("engines").setLevel(logging.ERROR)  # what it would say is part of what is printed
    with share_bar("doctor", settings["quiet"]) as progress:
        facts = examine(runtime, progress)
    click.echo(json.dumps(facts, indent=2) if as_json else as_text(facts))
    if runtime is not None and not facts["engines"][runtime]["usable"]:
        sys.exit(1)


@main.command()
@click.argument("checkpoint")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="ONNX file. [default: CHECKPOINT.onnx]")
@click.option("--opset", type=click.IntRange(20, 23), default=23, show_default=True, help="20: no native attention.")
@click.option(
    "--weights",
    type=click.Choice(["fp32", "fp16"], case_sensitive=False),
    default="fp32",
    show_default=True,
    help="How fp32 is stored.",
)
@click.option("--fp16", is_flag=True, help="Compute in fp16; input and output stay fp32.")
@click.option("--bf16", is_flag=True, help="Compute in bf16.")
@click.option("--int8", is_flag=True, help="Compute the large products in int8.")
@click.option(
    "--io",
    type=click.Choice(["magnitude", "waveform"], case_sensitive=False),
    default="magnitude",
    show_default=True,
    help="waveform: with the transforms inside, sound in and stems out.",
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    help="Folder of songs that --int8 finds its ranges by. [default: the example]",
)
@click.option("--mask-snr", type=float, help="dB the mask must reach. [default: fp16 45, bf16 30, int8 25]")
@click.option("--sdr-loss", type=float, help="dB of SDR it may lose. [default: fp16 0.02, bf16 0.1, int8 0.2]")
@click.option(
    "--example",
    type=click.Path(path_type=Path),
    help="Folder of mixture, vocals and instrumental to judge by. [default: the one that ships]",
)
@click.option(
    "--tensorrt",
    type=click.Choice(["full", "rtx"], case_sensitive=False),
    help="Build a plan; rtx (TensorRT-RTX) needs no GPU.",
)
@click.option("--target", "targets", multiple=True, metavar="SM", help="GPUs of an rtx plan, e.g. sm86; repeatable.")
@click.option("--batch", type=click.IntRange(1), help="Windows that a plan takes at once. [default: 1]")
@click.option("--segment-seconds", type=float, help="Of a plan's window. [default: as ft separate takes]")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@click.pass_obj
def export(
    settings: dict,
    checkpoint: str,
    output: Path | None,
    opset: int,
    weights: str,
    fp16: bool,
    bf16: bool,
    int8: bool,
    io: Literal["magnitude", "waveform"],
    calibrate: Path | None,
    mask_snr: float | None,
    sdr_loss: float | None,
    example: Path | None,
    tensorrt: Literal["full", "rtx"] | None,
    targets: tuple[str, ...],
    batch: int | None,
    segment_seconds: float | None,
    force: bool,
) -> None:
    """Write CHECKPOINT (or an exported .onnx, or default, the shipped model in fp32) as ONNX once it has been compared
    with PyTorch.

    With --tensorrt go on to a plan, model.plan, and what describes it, model.plan.json.
    """
    asked = [name for name, given in (("fp16", fp16), ("bf16", bf16), ("int8", int8)) if given]
    if len(asked) > 1:
        raise click.UsageError(f"--{' and --'.join(asked)} contradict each other; expected one of them")
    precision = asked[0] if asked else None
    if tensorrt is None:
        if targets or batch is not None or segment_seconds is not None:
            raise click.UsageError("--target, --batch and --segment-seconds are for plans: add --tensorrt full or rtx")
    elif calibrate is not None or weights != "fp32" or opset != 23:
        raise click.UsageError("--calibrate, --weights and --opset are for .onnx files, not for plans")
    else:
        from export.to_tensorrt import build_plan
        from ft.progress import share_bar

        output = output or Path(checkpoint).with_suffix(".plan")
        with share_bar(output.name, settings["quiet"]) as progress:
            plan = build_plan(
                checkpoint,
                output,
                kind=tensorrt,
                precision=precision,
                io="waveform" if io == "waveform" else None,
                targets=targets,
                batch=batch or 1,
                segment_seconds=segment_seconds,
                mask_snr_db=mask_snr,
                sdr_loss_db=sdr_loss,
                example=example,
                force=force,
                progress=progress,
            )
        built = plan.manifest
        click.echo(f"{plan.path}  {plan.bytes / 1e6:.1f} MB  {', '.join(built.targets)}")
        click.echo(f"{built.precision}, TensorRT {built.kind} {built.version}, built in {plan.seconds:.0f} s")
        click.echo(f"{built.fused} attentions fused, {built.decomposed} taken apart")
        return
    from export.to_onnx import export_onnx

    precision = precision or "fp32"
    kinds = (".waveform" if io == "waveform" else "") + ("" if precision == "fp32" else f".{precision}")
    output = output or Path(checkpoint).with_suffix(f"{kinds}.onnx")
    result = export_onnx(
        checkpoint,
        output,
        io=io,
        precision=precision,
        opset=opset,
        weights=weights,
        calibrate=calibrate,
        mask_snr_db=mask_snr,
        sdr_loss_db=sdr_loss,
        example=example,
        force=force,
    )
    for file in result.files:
        click.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
    click.echo(f"{result.parameters:,} parameters, {result.precision}, opset {result.opset}, {result.size} nodes")
    for name, value in result.gate.items():
        if isinstance(value, float):
            click.echo(f"{name:20}{value:.4g}")


@main.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--engines", default="all", show_default=True, help="Names with commas between them, or all.")
@click.option("--batch", "batches", default="1,4,16", show_default=True, help="Windows at once.")
@click.option("--frames", type=click.IntRange(1), default=256, show_default=True, help="Of a window.")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="In each, every row runs once.")
@click.option("--song-seconds", type=click.IntRange(0), default=60, show_default=True, help="File to files; 0: not.")
@click.option("--cores", type=click.IntRange(1), help="To run on. [default: all usable ones]")
@click.option("--baseline", default="", metavar="FILE.py", help="A plain implementation, as one more row.")
@click.option("--json", "report_file", type=click.Path(path_type=Path), help="Write the report there.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw it there (PNG).")
def bench(
    models: tuple[str, ...],
    engines: str,
    batches: str,
    frames: int,
    rounds: int,
    song_seconds: int,
    cores: int | None,
    baseline: str,
    report_file: Path | None,
    plot_file: Path | None,
) -> None:
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
    report = run_bench(
        models,
        engines=engines,
        batches=batches,
        frames=frames,
        rounds=rounds,
        seconds=song_seconds,
        cores=cores,
        baseline=baseline,
    )
    for line in report_lines(report):
        click.echo(line)
    if report_file is not None:
        write_report(report_file, report)
        click.echo(report_file)
    if plot_file is not None:
        save_picture(plot_file, [report])
        click.echo(plot_file)


main.add_command(evaluate)
main.add_command(separate)
main.add_command(data)
