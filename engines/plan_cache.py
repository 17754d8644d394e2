"""Plans that are built when an ONNX file is first run in TensorRT, and kept for the next time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

from engines.plan import KINDS, check_plan, model_sha256, profiles_to_json
from engines.tensorrt_build import ShareDone, make_profiles, plan_from_onnx, read_exported, window_frames
from engines.tensorrt_library import gpu_of, installed, library, target_of
from ft import __version__
from ft.errors import CheckpointError, EngineError
from ft.files import model_path

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Says where plans, timings and kernels are kept: $XDG_CACHE_HOME/frame-transformer, or the system's place.

    Who has no home, as some services, gets a folder for what is temporary.
    """
    default = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None
    root = os.environ.get("XDG_CACHE_HOME") or default
    if root:
        return Path(root) / "frame-transformer"
    try:
        return Path.home() / ".cache" / "frame-transformer"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "frame-transformer"


def plans_folder() -> Path:
    """Says where `cached_plan` keeps what it builds."""
    return cache_folder() / "plans"


def cached_plan(
    model: str | Path,
    *,
    device: str = "auto",
    windows: tuple[int, int] | None = None,
    kind: str | None = None,
    progress: ShareDone | None = None,
) -> Path:
    """Gives the plan of an ONNX file for the GPU that is here; built where there is none yet, which takes a while.

    The plan computes in the precision of the file. It is found again by the file's hash, TensorRT and its version, the
    GPU, the precision, the profiles and the version of this program.

    Args:
        model: An ONNX file that `ft export` wrote, or `default`.
        device: auto, cuda or cuda:N.
        windows: (items, frames) of the streaming window; where it is None, one of a stereo song, as long as usual.
        kind: `full` or `rtx`; None takes the full TensorRT where it is installed.
        progress: Called with the share that is done.
    Raises:
        CheckpointError: `model` is none of ours.
        EngineError: no GPU, or no TensorRT.
        ExportError: the plan cannot be built.
    """
    path = model_path(model)
    gpu = gpu_of(device)
    target = target_of(gpu)
    facts = read_exported(path)
    if facts.gate is None:
        logger.warning("%s: nothing says how it compares with fp32; export it again with `ft export`", path)
    one = facts.config.items_per_window
    items, frames = windows or (one, window_frames(facts.config))
    batch = -(-items // one)
    kind = kind or _kind_for(target)
    key = {
        "model": model_sha256(path),
        "tensorrt": [kind, library(kind).__version__],
        "gpu": [target, gpu.name if kind == "full" else ""],
        "precision": facts.precision,
        "profiles": profiles_to_json(make_profiles(facts, batch, frames)),
        "ft": __version__,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    plan = plans_folder() / f"{path.stem}-{facts.precision.split()[0]}-{digest}.plan"
    if plan.is_file():
        try:
            check_plan(plan)
        except CheckpointError as error:
            logger.warning("%s", error)
        else:
            return plan
    logger.info("building a %s plan of %s for %s, once", KINDS[kind], model, gpu)
    built = plan_from_onnx(
        path,
        plan,
        kind=kind,
        targets=(target,) if kind == "rtx" else (),
        batch=batch,
        frames=frames,
        source=model,
        device=device,
        cache=cache_folder(),
        progress=progress,
    )
    logger.info("%s: %.0f MB in %.0f s", plan, built.bytes / 1e6, built.seconds)
    return plan


def _kind_for(target: str) -> str:
    """Gives the TensorRT that is installed and knows this GPU. Raises EngineError."""
    there = installed()
    if "full" in there:
        return "full"
    if "rtx" not in there:
        library("full")  # says what brings it
    known = library("rtx").ComputeCapability.__members__
    if target.upper() not in known:
        raise EngineError(
            f"TensorRT-RTX {there['rtx']} builds no plans for {target}; pip install 'frame-transformer[tensorrt]'"
        )
    return "rtx"
