"""Checkpoint or ONNX file to a TensorRT plan: exported and compared as ONNX first, then built.

The figures of that comparison go into the plan's manifest. What the plan itself computes is looked at in the network
that is built (`engines.tensorrt_network.check_precision`); it can run on its targets only.
"""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engines.plan import SUFFIX, manifest_path
from engines.plan_cache import cache_folder
from engines.tensorrt_build import BuiltPlan, ExportedModel, check_targets, plan_from_onnx, read_exported, window_frames
from engines.tensorrt_library import library
from engines.tensorrt_network import TYPES
from export.limits import limits_of
from export.to_onnx import export_onnx
from ft.checkpoint import load_config
from ft.config import IO, ModelConfig
from ft.errors import ConfigError, ExportError
from ft.files import check_writable, model_path


def build_plan(
    source: str | Path,
    output: str | Path,
    *,
    kind: str,
    precision: str | None = None,
    io: str | None = None,
    targets: Sequence[str] = (),
    batch: int = 1,
    segment_seconds: float | None = None,
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
        io: `network` or `waveform`. None keeps that of an ONNX file, and is `network` for a checkpoint.
        targets: Compute capabilities of `rtx` plans, e.g. sm86; none for a usual set.
        batch: Windows of a stereo song that run at once.
        segment_seconds: Of one window; None for what `ft separate` takes.
        mask_snr_db, sdr_loss_db, example: What the ONNX file may lose on which song, as `export.to_onnx.export_onnx`
            takes them. A file that is built as it is shows what it lost when it was exported, and no other song can be
            asked for.
        device: auto, cuda or cuda:N, for `full`.
        force: Overwrite `output`.
        progress: Called with the share of the build that is done.
    Raises:
        CheckpointError: `source` cannot be loaded.
        EngineError: TensorRT is missing, or the GPU that `full` needs.
        FtError: the output cannot be written.
        ExportError: the output exists, an argument cannot be used, the ONNX file fails its comparison or shows none, or
            the build fails.
    """
    output, batch = Path(output), operator.index(batch)
    segment_seconds, mask_snr_db, sdr_loss_db = (
        None if value is None else float(value) for value in (segment_seconds, mask_snr_db, sdr_loss_db)
    )
    if output.suffix.lower() != SUFFIX:
        raise ExportError(f"{output}: expected a name that ends in {SUFFIX}")
    if precision is not None and precision not in TYPES:
        raise ExportError(f"precision {precision}: plans are fp16, bf16 or fp32; int8 is for .onnx files")
    for file in (output, manifest_path(output)):
        if file.exists() and not force:
            raise ExportError(f"{file}: exists; use another name or `force`")
    check_writable(output)
    path = model_path(source)
    frames = _frames(load_config(path), segment_seconds)
    check_targets(library(kind), kind, targets, device)  # asked for now, not after the export
    limits = {"mask-snr": mask_snr_db, "sdr-loss": sdr_loss_db, "example": None if example is None else str(example)}
    options: dict[str, Any] = {
        "kind": kind,
        "targets": targets,
        "batch": batch,
        "source": source,
        "segment_seconds": segment_seconds,
        "limits": {name: value for name, value in limits.items() if value is not None},
        "device": device,
        "cache": cache_folder(),
        "progress": progress,
    }
    if path.suffix.lower() == ".onnx":
        found = read_exported(path)
        same = precision is None or found.precision.split()[0] == precision
        if same and io in (None, found.io):
            if example is not None:
                raise ExportError(
                    f"`example`: {path} was compared when it was exported; export the checkpoint again with it"
                )
            _check_gate(found, mask_snr_db, sdr_loss_db)
            return plan_from_onnx(path, output, frames=frames, precision=precision, **options)
        io = io or found.io
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{output.name}.", dir=output.parent) as folder:
        onnx = Path(folder) / "model.onnx"
        export_onnx(
            source,
            onnx,
            io=io or IO[0],
            precision=precision or "fp32",
            mask_snr_db=mask_snr_db,
            sdr_loss_db=sdr_loss_db,
            example=example,
        )
        return plan_from_onnx(onnx, output, frames=frames, precision=precision or "fp32", **options)


def _check_gate(model: ExportedModel, mask_snr_db: float | None, sdr_loss_db: float | None) -> None:
    """Looks at what a file says of its own comparison.

    Raises:
        ExportError: it says nothing, or the file lost more than is allowed.
    """
    precision, waveform = model.precision.split()[0], model.io != IO[0]
    gate = model.gate if isinstance(model.gate, dict) else {}

    def figure(name: str) -> float:
        if not isinstance(gate.get(name), int | float) or gate.get("finite") is not True:
            raise ExportError(
                f"{model.path}: nothing says how it compares with fp32 (no {name} in its ft_gate); "
                "export it again with `ft export`"
            )
        return float(gate[name])

    if precision == "fp32":
        if mask_snr_db is not None or sdr_loss_db is not None:
            raise ExportError("`mask_snr_db` and `sdr_loss_db` are for fp16 and bf16; fp32 must equal PyTorch")
        if waveform:
            equal = figure("stems_snr_db") >= figure("stems_snr_limit_db")
        else:
            equal = figure("relative_l2") <= figure("relative_l2_limit")
        if not equal:
            raise ExportError(f"{model.path}: its ft_gate says that it does not equal PyTorch; nothing was built")
        return
    allowed = limits_of(precision, mask_snr_db, sdr_loss_db)
    own = "snr_db" if "snr_db" in gate else "mask_snr_db"  # as the first format has it
    for name, what in ((own, "output"), ("stems_snr_db", "stems")) if waveform else ((own, "output"),):
        if not (ratio := figure(name)) >= allowed.snr_db:
            raise ExportError(
                f"{model.path}: its {what} had {ratio:.1f} dB of signal to noise against fp32 when it was exported, "
                f"at least {allowed.snr_db:g} are wanted (`mask_snr_db`); nothing was built"
            )
    if not (loss := figure("sdr_loss_db")) <= allowed.sdr_loss_db:
        raise ExportError(
            f"{model.path}: the example lost {loss:.3f} dB of SDR against fp32 when it was exported, at most "
            f"{allowed.sdr_loss_db:g} are allowed (`sdr_loss_db`); nothing was built"
        )


def _frames(config: ModelConfig, seconds: float | None) -> int:
    if seconds is not None and seconds <= 0:
        raise ExportError(f"`segment_seconds` {seconds:g}: expected a number above 0")
    try:
        return window_frames(config, seconds)
    except ConfigError as error:
        raise ExportError(str(error)) from error
