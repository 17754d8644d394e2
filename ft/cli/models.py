"""The commands that make, export and describe models, and `ft doctor`. They only parse and call."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any, Literal

import click

from ft.cli.flags import AS_JSON, PATH, choice, with_flags


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, required=True, help="Checkpoint to write.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
def average(models: tuple[str, ...], output: Path, force: bool) -> None:
    """Make a checkpoint of the mean of the weights of MODELS, runs that began alike."""
    from ft.average import average_models

    average_models(models, output, force)
    click.echo(output)


@click.command("import")
@click.argument("weights", type=PATH)
@click.option("-o", "--output", type=PATH, help="Checkpoint. [default: WEIGHTS.safetensors]")
@click.option("--activation", type=choice("gelu", "squared-relu"), help="Activation of the feed-forward parts.")
@click.option(
    "--qk-norm-order", type=choice("rotary-first", "norm-first"), help="Order of rotation and norm of queries and keys."
)
@click.option("--force", is_flag=True, help="Overwrite the output.")
def import_weights(weights: Path, output: Path | None, **chosen: Any) -> None:
    """Make a checkpoint of WEIGHTS, without running code in them.

    They are those of the original code (.pth), or a TensorFlow checkpoint of Spleeter (.index, beside which lies its
    data) of two, four or five stems.
    """
    from ft.importers.original import import_original
    from ft.importers.spleeter import import_spleeter

    output = output or weights.with_suffix(".safetensors")
    if weights.suffix.lower() == ".index":
        import_spleeter(weights, output, force=chosen["force"])
    else:
        import_original(weights, output, **chosen)
    click.echo(output)


@click.command()
@AS_JSON
def models(as_json: bool) -> None:
    """List the published models that ft pull fetches, and which of them are here."""
    from ft.catalogue import entries

    rows = [
        {
            **{key: getattr(entry, key) for key in ("name", "family", "about", "license")},
            "stems": list(entry.stems),
            "download_mb": round(entry.source.bytes / 1e6),
            "source": entry.source.page,
            "file": str(entry.place()) if entry.place().is_file() else None,
        }
        for entry in entries().values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']}  {row['about']}: {', '.join(row['stems'])}; {row['license']}; {row['source']}")
        here = f"here: {row['file']}" if row["file"] else f"ft pull {row['name']} fetches it: {row['download_mb']} MB"
        click.echo(f"  {here}")


@click.command()
@click.argument("name")
@click.option("--dir", "folder", type=PATH, help="Folder of models. [default: FT_MODELS, or the user's cache]")
@click.option("--force", is_flag=True, help="Fetch it again.")
@click.pass_obj
def pull(settings: dict, name: str, folder: Path | None, force: bool) -> None:
    """Fetch the published model NAME, check it, and keep it: --model NAME takes it from then on."""
    from ft.catalogue import entry
    from ft.catalogue.pull import pull as fetch
    from ft.progress import share_bar

    with share_bar(name, settings["quiet"]) as progress:
        place = fetch(entry(name), folder, force, progress)
    click.echo(place)


@click.command()
@click.argument("model")
@AS_JSON
def info(model: str, as_json: bool) -> None:
    """Say what MODEL is: a preset, a checkpoint, an exported .onnx, or the shipped model.

    That is default-fp32 (default means the same here) or default-int8.
    """
    from ft.info import as_text, describe_model

    facts = describe_model(model)
    click.echo(json.dumps(facts, indent=2) if as_json else as_text(facts))


@click.command()
@AS_JSON
@click.option(
    "--runtime",
    "--engine",
    "runtime",
    type=choice("onnxruntime", "onnxruntime-cuda", "openvino", "torch", "torch-cuda", "tensorrt", "tensorrt-rtx"),
    help="Look at this one only; the exit code is 1 where it cannot be used.",
)
@click.pass_obj
def doctor(settings: dict, as_json: bool, runtime: str | None) -> None:
    """Say what this machine can run models with, what is wrong, and the line that mends it."""
    from engines.doctor import as_text, examine
    from ft.progress import share_bar

    logging.getLogger("engines").setLevel(logging.ERROR)  # what it would say is part of what is printed
    with share_bar("doctor", settings["quiet"]) as progress:
        facts = examine(runtime, progress)
    click.echo(with_flags(json.dumps(facts, indent=2) if as_json else as_text(facts)))
    if runtime is not None and not facts["engines"][runtime]["usable"]:
        sys.exit(1)


@click.command()
@click.argument("checkpoint")
@click.option("-o", "--output", type=PATH, help="ONNX file. [default: CHECKPOINT.onnx]")
@click.option("--opset", type=click.IntRange(20, 23), default=23, show_default=True, help="20: no native attention.")
@click.option("--weights", type=choice("fp32", "fp16"), default="fp32", show_default=True, help="How fp32 is stored.")
@click.option("--fp16", is_flag=True, help="Compute in fp16; input and output stay fp32.")
@click.option("--bf16", is_flag=True, help="Compute in bf16.")
@click.option("--int8", is_flag=True, help="Compute the large products in int8.")
@click.option(
    "--io",
    type=choice("network", "waveform", "magnitude"),
    default="network",
    show_default=True,
    help="waveform: with the transforms inside, sound in and stems out.",
)
@click.option("--calibrate", type=PATH, help="Folder of songs that --int8 finds its ranges by. [default: the example]")
@click.option(
    "--mask-snr",
    "mask_snr_db",
    type=float,
    help="dB the network's output must reach. [default: fp16 45, bf16 30, int8 25]",
)
@click.option(
    "--sdr-loss", "sdr_loss_db", type=float, help="dB of SDR it may lose. [default: fp16 0.02, bf16 0.1, int8 0.2]"
)
@click.option(
    "--example",
    type=PATH,
    help="Folder of mixture, vocals and instrumental to judge by. [default: the one that ships]",
)
@click.option("--tensorrt", type=choice("full", "rtx"), help="Build a plan; rtx (TensorRT-RTX) needs no GPU.")
@click.option("--target", "targets", multiple=True, metavar="SM", help="GPUs of an rtx plan, e.g. sm86; repeatable.")
@click.option("--batch", type=click.IntRange(1), help="Windows that a plan takes at once. [default: 1]")
@click.option("--segment-seconds", type=float, help="Length of a plan's window. [default: as ft separate takes]")
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
    io: str,
    calibrate: Path | None,
    tensorrt: Literal["full", "rtx"] | None,
    targets: tuple[str, ...],
    batch: int | None,
    segment_seconds: float | None,
    **judged: Any,
) -> None:
    """Write CHECKPOINT (or an exported .onnx, or default, the shipped model in fp32) as ONNX once it has been compared
    with PyTorch.

    With --tensorrt go on to a plan, model.plan, and what describes it, model.plan.json.
    """
    from ft.checkpoint import io_of

    io = io_of(io) or io
    precisions = [name for name, given in (("fp16", fp16), ("bf16", bf16), ("int8", int8)) if given]
    if len(precisions) > 1:
        raise click.UsageError(f"--{' and --'.join(precisions)} contradict each other; expected one of them")
    precision = precisions[0] if precisions else None
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
                io=None if io == "network" else io,
                targets=targets,
                batch=batch or 1,
                segment_seconds=segment_seconds,
                progress=progress,
                **judged,
            )
        built = plan.manifest
        click.echo(f"{plan.path}  {plan.bytes / 1e6:.1f} MB  {', '.join(built.targets)}")
        click.echo(f"{built.precision}, TensorRT {built.kind} {built.version}, built in {plan.seconds:.0f} s")
        click.echo(f"{built.fused} attentions fused, {built.decomposed} taken apart")
        return
    from export.to_onnx import export_onnx

    precision = precision or "fp32"
    kinds = ("" if io == "network" else f".{io}") + ("" if precision == "fp32" else f".{precision}")
    output = output or Path(checkpoint).with_suffix(f"{kinds}.onnx")
    result = export_onnx(
        checkpoint, output, io=io, precision=precision, opset=opset, weights=weights, calibrate=calibrate, **judged
    )
    for file in result.files:
        click.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
    nodes = result.nodes.total()
    click.echo(f"{result.parameters:,} parameters, {result.precision}, opset {result.opset}, {nodes} nodes")
    for name, value in result.gate.items():
        if isinstance(value, float):
            click.echo(f"{name:20}{value:.4g}")
