"""Checkpoint or ONNX file to a TensorRT plan: exported and compared as ONNX first, then built.

The figures of that comparison go into the plan's manifest. What the plan itself computes is looked at in the network
that is built (`engines.tensorrt_network.check_precision`); it can run on its targets only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engines.base import Io
from engines.plan_cache import cache_folder
from engines.tensorrt_build import BuiltPlan, check_targets, plan_from_onnx, read_model, window_frames
from engines.tensorrt_library import library
from engines.tensorrt_network import TYPES
from export.to_onnx import export_onnx
from ft.config import ModelConfig
from ft.errors import ConfigError, ExportError
from ft.files import model_path
from ft.plan import SUFFIX, manifest_path


def build_plan(
    source: str | Path,
    output: str | Path,
    *,
    kind: str,
    precision: str | None = None,
    io: Io | None = None,
    targets: Sequence[str] = (),
    batch: int = 1,
    window_seconds: float | None = None,
    mask_snr_db: float | None = None,
    sdr_loss_db: float | None = None,
    example: Path | None = None,
    device: str = "auto",
    force: bool = False,
    progress: Callable[[float], None] | None = None,
) -> BuiltPlan:
    """Writes a plan and its manifest.

    Args:
        source: A checkpoint, an ONNX file that `ft export` wrote, or `default`. An ONNX file that is in `precision`
            already is built as it is.
        output: The `.plan` file.
        kind: `full` or `rtx`.
        precision: fp16, bf16 or fp32. None keeps that of an ONNX file, and is fp32 for a checkpoint.
        io: `magnitude` or `waveform`. None keeps that of an ONNX file, and is `magnitude` for a checkpoint.
        targets: Compute capabilities of `rtx` plans, e.g. sm86; none for a usual set.
        batch: Windows that run at once.
        window_seconds: Of one window; None for what `ft separate` takes.
        mask_snr_db, sdr_loss_db, example: What the ONNX file may lose on which song, where it has to be exported; as
            `export.to_onnx.export_onnx` takes them.
        device: auto, cuda or cuda:N, for `full`.
        force: Overwrite `output`.
        progress: Called with the share of the build that is done.
    Raises:
        CheckpointError: `source` cannot be loaded.
        EngineError: TensorRT is missing.
        ExportError: the output exists, an argument cannot be used, the ONNX file fails its comparison, or the build
            fails.
    """
    output = Path(output)
    if output.suffix != SUFFIX:
        raise ExportError(f"{output}: expected a name that ends in {SUFFIX}")
    if precision is not None and precision not in TYPES:
        raise ExportError(f"precision {precision}: plans are fp16, bf16 or fp32; int8 is for .onnx files")
    for file in (output, manifest_path(output)):
        if file.exists() and not force:
            raise ExportError(f"{file}: exists; use another name or --force")
    check_targets(library(kind), kind, targets, device)  # asked for now, not after the export
    options: dict[str, Any] = {
        "kind": kind,
        "targets": targets,
        "batch": batch,
        "source": source,
        "window_seconds": window_seconds,
        "device": device,
        "cache": cache_folder(),
        "progress": progress,
    }
    path = model_path(source)
    if path.suffix == ".onnx":
        found = read_model(path)
        same = precision is None or found.precision.split()[0] == precision
        if same and io in (None, found.io):
            frames = _frames(found.config, window_seconds)
            return plan_from_onnx(path, output, frames=frames, precision=precision, **options)
        io = io or found.io
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{output.name}.", dir=output.parent) as folder:
        onnx = Path(folder) / "model.onnx"
        export_onnx(
            source,
            onnx,
            io=io or "magnitude",
            precision=precision or "fp32",
            mask_snr_db=mask_snr_db,
            sdr_loss_db=sdr_loss_db,
            example=example,
        )
        frames = _frames(read_model(onnx).config, window_seconds)
        return plan_from_onnx(onnx, output, frames=frames, precision=precision or "fp32", **options)


def _frames(config: ModelConfig, seconds: float | None) -> int:
    try:
        return window_frames(config, seconds)
    except ConfigError as error:
        raise ExportError(str(error)) from error
