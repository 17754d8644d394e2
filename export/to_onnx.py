"""Checkpoint to ONNX file, compared with PyTorch before the file gets its name.

Metadata of the file, all text: `ft_config` (JSON, the whole configuration), `ft_format`, `ft_version`, `ft_io`
(`network`: what the network alone reads and gives; `waveform`: waveforms in, stems out), `ft_context` (JSON, of the
latter: what `export.waveform` says), `ft_parameters` (their number), `ft_precision` (`fp32`, `fp16`, `bf16`, `int8`, or
`fp32 (fp16 weights)` where weights are stored in half the space), `ft_gate` (JSON, how the file compared),
`ft_calibration` (JSON, the songs of an int8 file), `ft_weights` (JSON, weight -> initializer where the names differ;
the initializer may have another shape, or, with ^T behind its name, hold the transpose), `sample_rate` (Hz), `stems`
(names with commas between) and `license`.
"""

from __future__ import annotations

import json
import logging
import operator
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.calibration import Calibration, calibration_files, calibration_windows
from export.example import read_example
from export.limits import LARGEST_FILE, NATIVE_OPSET, OLDEST_OPSET, limits_of
from ft import __version__
from ft.checkpoint import (
    CALIBRATION_KEY,
    CONFIG_KEY,
    CONTEXT_KEY,
    FORMAT,
    GATE_KEY,
    IO_KEY,
    WEIGHTS_KEY,
    load_config,
    load_model,
    read_metadata,
)
from ft.config import IO, ModelConfig
from ft.errors import ExportError
from ft.files import PART_SUFFIX, check_writable, example_folder, model_path, move_into_place
from ft.models import completed, count_parameters
from ft.onnx_metadata import append_onnx_metadata

if TYPE_CHECKING:
    from ft.models.network import SeparationNetwork

logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
STORED: dict[str, str] = {"fp32": "fp32", "fp16": "fp32 (fp16 weights)"}


@dataclass(frozen=True)
class Export:
    """What an export wrote and how it compared."""

    path: Path
    opset: int
    nodes: Counter[str]
    """Number of nodes of each type."""
    parameters: int
    precision: str
    gate: dict[str, Any]
    """How it compared: what `ft info` shows."""
    files: list[Path]
    """The graph, and its weights where they lie in a file of their own."""


def export_onnx(
    source: str | Path,
    output: str | Path,
    *,
    io: str = IO[0],
    precision: str = "fp32",
    opset: int = 23,
    weights: str = "fp32",
    calibrate: Path | None = None,
    mask_snr_db: float | None = None,
    sdr_loss_db: float | None = None,
    example: Path | None = None,
    force: bool = False,
) -> Export:
    """Writes the network of a checkpoint (or of another exported file) as ONNX.

    The graph is written into a folder beside `output`, run and compared with PyTorch there, and only then moved to its
    name. Networks of more than `LARGEST_FILE` bytes get a second file, `<output>.data`.

    Args:
        source: What `ft.checkpoint.load_model` takes.
        output: The `.onnx` file.
        io: `network` for a graph of the network alone, `waveform` for one with the transforms (`export.waveform`).
        precision: fp32, or what the network computes in: fp16, bf16 or int8; input and output are float32 always.
        opset: 23 has native Attention and RotaryEmbedding nodes; 20 is for older runtimes.
        weights: For fp32 only: `fp16` rounds the large matrices and stores them in half the space; the
            arithmetic stays float32, and the comparison is with the rounded network.
        calibrate: Folder of songs that int8 finds its ranges by; None takes the example song.
        mask_snr_db: What the mask of a lower precision must reach; None takes that of `export.limits.LIMITS`.
        sdr_loss_db: What it may lose of the SDR of the example's stems; None likewise.
        example: Folder of a song with its true stems, separated for the comparison; None takes the one that ships.
        force: Overwrite `output`.
    Raises:
        CheckpointError: `source` cannot be loaded.
        FtError: `output` cannot be written.
        ExportError: `output` exists, a folder or a package is missing, the network cannot be exported, or the graph
            does not equal PyTorch.
    """
    output, opset = Path(output), operator.index(opset)
    mask_snr_db, sdr_loss_db = (None if value is None else float(value) for value in (mask_snr_db, sdr_loss_db))
    judged = {"`mask_snr_db`": mask_snr_db, "`sdr_loss_db`": sdr_loss_db, "`example`": example}
    given = [name for name, value in judged.items() if value is not None]
    _check(output, io, precision, opset, weights, calibrate, given)
    data = output.with_name(f"{output.name}.data")
    for file in (output, data):
        if file.exists() and not force:
            raise ExportError(f"{file}: exists; use another name or `force`")
    check_writable(output)
    config = load_config(source)
    song = read_example(example) if precision != "fp32" else None
    if precision == "int8":
        calibration_files(calibrate or example_folder())
    try:
        import onnx_ir as ir
        import onnxruntime  # noqa: F401  # asked for now, not after minutes of tracing
        import onnxscript  # noqa: F401

        from export.gate import check_types, compare
        from export.graph import DTYPES, build_graph, product_matrices, store_in_half, weight_names
        from export.waveform import build_waveform_graph, context
    except ImportError as error:
        raise ExportError(
            f"exporting needs {error.name}, which is not installed: pip install 'frame-transformer[train,cpu]'"
        ) from error
    steps = ("calibrating", "tracing", "quantizing", "comparing") if precision == "int8" else ("tracing", "comparing")

    def begin(step: str) -> None:
        logger.info("export: %s (%d of %d)", step, steps.index(step) + 1, len(steps))

    model = load_model(source)
    if weights == "fp16":
        round_to_half(model)
    songs = None
    if precision == "int8":
        begin("calibrating")
        songs = calibration_windows(calibrate or example_folder(), config)
    lowered = _lowered(source)
    begin("tracing")
    build = build_graph if io == IO[0] else build_waveform_graph
    graph = build(model, config, opset, DTYPES.get(precision, DTYPES["fp32"]))
    names, matrices = weight_names(model, graph), product_matrices(graph)
    if weights == "fp16":
        store_in_half(graph, matrices)
    stored = precision
    if precision == "fp32":
        stored = f"fp32 ({lowered} weights)" if lowered else STORED[weights]
    graph.metadata_props.update(metadata(config, names, stored, io))
    if io != IO[0]:
        graph.metadata_props[CONTEXT_KEY] = json.dumps(context(config))
    nodes = Counter(node.op_type for node in graph.graph)
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value)
    folder = output.with_name(output.name + PART_SUFFIX)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        part = folder / output.name
        written = part if songs is None else folder / "fp32.onnx"
        ir.save(graph, written, external_data=f"{written.name}.data" if size > LARGEST_FILE else None)
        extra = {}
        if songs is not None:
            begin("quantizing")
            nodes = _quantize(written, part, matrices, songs)
            extra[CALIBRATION_KEY] = json.dumps({"files": songs.files, "seconds": round(songs.seconds, 1)})
        else:
            check_types(part, precision)
        begin("comparing")
        limits = None if precision == "fp32" else limits_of(precision, mask_snr_db, sdr_loss_db)
        gate = compare(part, model, config, precision, io, limits, song)
        if lowered:
            gate["source_precision"] = lowered
        if songs is not None and Path(calibrate or example_folder()).samefile(example or example_folder()):
            gate["in_sample"] = True
            logger.warning("%s: judged by the song that calibrated it; `calibrate` takes others", output)
        append_onnx_metadata(part, {**extra, GATE_KEY: json.dumps(gate)})
        files = [output, data] if (folder / data.name).exists() else [output]
        for file in reversed(files):
            move_into_place(folder / file.name, file)
        if data not in files:
            data.unlink(missing_ok=True)  # of the export that this one replaces
    except OSError as error:
        raise ExportError(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Export(output, opset, nodes, count_parameters(config), stored, gate, files)


def _lowered(source: str | Path) -> str:
    """The precision of a source that has given up some; what is made of it is compared with what is left."""
    path = model_path(source)
    precision = read_metadata(path).get("ft_precision", "") if path.suffix.lower() == ".onnx" else ""
    if precision not in ("fp16", "bf16", "int8"):
        return ""
    logger.warning("%s: its weights are %s; an export of the checkpoint or of an fp32 file loses less", path, precision)
    return precision


def _check(
    output: Path, io: str, precision: str, opset: int, weights: str, calibrate: Path | None, judged: Sequence[str]
) -> None:
    """Raises ExportError for arguments that do not go together."""
    if output.suffix.lower() != ".onnx":
        raise ExportError(f"{output}: expected a name that ends in .onnx")
    if precision not in PRECISIONS:
        raise ExportError(f"precision {precision}; expected {', '.join(PRECISIONS)}")
    if io not in IO:
        raise ExportError(f"`io` {io}; expected {' or '.join(IO)}")
    if io != IO[0] and precision not in ("fp32", "fp16"):
        raise ExportError(
            f"{precision}: a graph of the whole chain computes in fp32 or fp16; leave `io` away or take `fp16`"
        )
    if not OLDEST_OPSET <= opset <= NATIVE_OPSET:
        raise ExportError(f"opset {opset}; expected {OLDEST_OPSET} to {NATIVE_OPSET}")
    if weights not in STORED:
        raise ExportError(f"weights {weights}; expected {' or '.join(STORED)}")
    if weights != "fp32" and precision != "fp32":
        raise ExportError(f"weights stored in {weights} are for a file that computes in fp32; leave `weights` away")
    if calibrate is not None and precision != "int8":
        raise ExportError("`calibrate` is for int8")
    if judged and precision == "fp32":
        raise ExportError(f"{', '.join(judged)}: for fp16, bf16 and int8; fp32 must equal PyTorch")


def _quantize(source: Path, part: Path, matrices: set[str], songs: Calibration) -> Counter[str]:
    """Writes the int8 form of a graph; returns the nodes that it has."""
    import onnx

    from export.quantize import quantize

    quantize(source, part, matrices, songs)
    return Counter(node.op_type for node in onnx.load(part, load_external_data=False).graph.node)


def metadata(config: ModelConfig, names: dict[str, str], precision: str, io: str) -> dict[str, str]:
    """What an exported file says of itself; the module's docstring lists the keys."""
    return {
        CONFIG_KEY: json.dumps(completed(config).to_dict()),
        "ft_format": str(FORMAT),
        "ft_version": __version__,
        IO_KEY: io,
        "ft_parameters": str(count_parameters(config)),
        "ft_precision": precision,
        WEIGHTS_KEY: json.dumps(names),
        "sample_rate": str(config.sample_rate),
        "stems": ",".join(config.all_stems),
        "license": config.license,
    }


def round_to_half(model: SeparationNetwork) -> None:
    """Rounds the matrices to values that fp16 holds, in place. Raises ExportError where one is beyond the largest."""
    import torch

    limit, names = torch.finfo(torch.float16).max, set(model.matrices())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in names:
                if not weight.abs().max() <= limit:
                    raise ExportError(f"{name} has values beyond {limit:g}, which fp16 cannot hold")
                weight.copy_(weight.half().float())
