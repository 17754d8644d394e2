"""Plans from ONNX files, with TensorRT or TensorRT-RTX; the latter needs no GPU for it.

Both have the same builder. A plan has two optimization profiles: `window` takes the shape of the streaming window only,
for which the kernels are chosen, `tail` all that is smaller.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.devices import Gpu
from engines.plan import KINDS, PlanManifest, Profile, input_shapes, model_sha256, write_plan
from engines.tensorrt_library import gpu_of, library, log_of, target_of
from engines.tensorrt_network import TYPES, Network, check_precision, decompose, parse
from ft.checkpoint import IO_KEY, config_from_metadata, io_of, read_metadata
from ft.config import IO, ModelConfig
from ft.errors import CheckpointError, EngineError, ExportError
from ft.files import atomic_write, model_path
from ft.windows import WindowPlan

logger = logging.getLogger(__name__)

DEFAULT_TARGETS = ("sm80", "sm86", "sm89", "sm120")
"""TensorRT-RTX plans run on Ampere, Ada, Blackwell. Turing (sm75) costs a quarter more size, and can be asked for."""
ShareDone = Callable[[float], None]


@dataclass(frozen=True)
class ExportedModel:
    """What an exported ONNX file says of itself."""

    path: Path
    config: ModelConfig
    precision: str
    io: str
    parameters: int | None
    gate: Mapping[str, Any] | None
    context: Mapping[str, Any] | None


@dataclass(frozen=True)
class BuiltPlan:
    """What was built, and how long it took."""

    path: Path
    manifest: PlanManifest
    bytes: int
    seconds: float


def read_exported(path: Path) -> ExportedModel:
    """Raises CheckpointError where the file is none that `ft export` wrote, ExportError where no plan can be made."""
    metadata = read_metadata(path)
    config = config_from_metadata(path, metadata)
    precision, found = metadata.get("ft_precision", "fp32"), metadata.get(IO_KEY, IO[0])
    if precision.split()[0] not in TYPES:  # behind it may stand what the weights have lost
        raise ExportError(f"{path}: {precision} runs in ONNX Runtime and OpenVINO; plans are fp16, bf16 or fp32")
    if (io := io_of(found)) is None:
        raise ExportError(
            f"{path}: takes {found[:40]!r} ({IO_KEY}); plans are made of models that take {' or '.join(IO)}"
        )
    try:
        gate, context = (json.loads(metadata.get(key, "null")) for key in ("ft_gate", "ft_context"))
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata cannot be read: {error}") from error
    parameters = int(metadata["ft_parameters"]) if metadata.get("ft_parameters", "").isdecimal() else None
    return ExportedModel(path, config, precision, io, parameters, gate, context)


def plan_from_onnx(
    model: Path,
    output: Path,
    *,
    kind: str,
    targets: Sequence[str] = (),
    batch: int = 1,
    frames: int,
    precision: str | None = None,
    source: str | Path | None = None,
    segment_seconds: float | None = None,
    limits: Mapping[str, float | str] | None = None,
    device: str = "auto",
    cache: Path | None = None,
    progress: ShareDone | None = None,
) -> BuiltPlan:
    """Builds a plan and writes it with its manifest.

    Args:
        model: An ONNX file that `ft export` wrote.
        output: The plan; the caller asks before it overwrites.
        kind: `full` (TensorRT; builds for the GPU that is here) or `rtx` (TensorRT-RTX; needs none).
        targets: Compute capabilities for `rtx`, e.g. sm86. Default: `DEFAULT_TARGETS`.
        batch: Windows of a stereo song that run at once.
        frames: Of the streaming window.
        precision: What the network must be in; None takes what the file says. Checked in the parsed network.
        source: The model as the user named it, for the manifest; `model` where it is None.
        segment_seconds, limits: For the manifest, what was asked for: of `frames`, and of the file's gate.
        device: auto, cuda or cuda:N, for `full`.
        cache: Folder for timings of kernels, which `full` measures.
        progress: Called with the share that is done.
    Raises:
        CheckpointError: `model` is none of ours.
        EngineError: no such TensorRT, or no GPU for `full`.
        ExportError: an unknown target, a network of another precision, or a build that fails.
    """
    module = library(kind)
    facts = read_exported(model)
    gpu = check_targets(module, kind, targets, device)
    chosen = (target_of(gpu),) if gpu is not None else tuple(dict.fromkeys(targets)) or DEFAULT_TARGETS
    profiles = make_profiles(facts, batch, frames)
    start = time.perf_counter()
    timings = _timings_file(cache, module, gpu)
    network = parse(module, model)
    computed = (precision or facts.precision).split()[0]
    check_precision(network, computed)
    fused, decomposed = decompose(network)
    try:
        engine = _build(network, profiles, chosen if gpu is None else (), timings, progress)
    except ExportError as error:
        if fused == 0:
            raise
        logger.warning(
            "%s %s has no kernel for some attention; all are taken apart (%s)", kind, module.__version__, error
        )
        network = parse(module, model)
        fused, decomposed = decompose(network, everything=True)
        engine = _build(network, profiles, chosen if gpu is None else (), timings, progress)
    manifest = PlanManifest(
        plan_sha256="",
        model=str(source or model),
        model_sha256=model_sha256(model_path(source or model)),
        kind=kind,  # type: ignore[arg-type]
        version=module.__version__,
        targets=chosen,
        precision=computed,
        io=facts.io,
        batch=batch,
        frames=frames,
        profiles=profiles,
        fused=fused,
        decomposed=decomposed,
        parameters=facts.parameters,
        gate=facts.gate,
        config=facts.config,
        context=facts.context,
        segment_seconds=segment_seconds,
        limits=limits or {},
    )
    view = memoryview(engine)
    try:
        manifest = write_plan(output, view, manifest)
    except OSError as error:
        raise ExportError(f"{output}: cannot be written: {error.strerror or error}") from error
    return BuiltPlan(output, manifest, view.nbytes, time.perf_counter() - start)


def window_frames(config: ModelConfig, seconds: float | None = None) -> int:
    """Frames of a window, as `ft separate` counts them. Raises ConfigError for no seconds at all."""
    segment = config.segment if seconds is None else replace(config.segment, seconds=seconds)
    return WindowPlan.of(replace(segment, context=0.0, lookahead=None), config.frame_rate).frames


def make_profiles(model: ExportedModel, batch: int, frames: int) -> tuple[Profile, ...]:
    """`window` and `tail` for a model, for `batch` windows of a stereo song."""
    items = model.config.items_per_window
    sizes = ((1, 1), (items, frames), (batch * items, frames))
    least, single, most = (input_shapes(model.config, model.io, *size) for size in sizes)
    return (
        Profile("window", {name: (shape,) * 3 for name, shape in most.items()}),
        Profile("tail", {name: (least[name], single[name], most[name]) for name in most}),
    )


def check_targets(module: ModuleType, kind: str, targets: Sequence[str], device: str) -> Gpu | None:
    """Gives the GPU that `full` builds for.

    Raises:
        EngineError: there is none.
        ExportError: a target that cannot be built for.
    """
    if kind == "full":
        try:
            gpu = gpu_of(device)
        except EngineError as error:
            raise EngineError(f"{error}; use `tensorrt` rtx, or build on the machine with the GPU") from error
        if wrong := [target for target in targets if target != target_of(gpu)]:
            raise ExportError(
                f"target {wrong[0]}: TensorRT builds for the GPU that is here, {gpu} ({target_of(gpu)}); "
                "leave `target` out, or use `tensorrt` rtx"
            )
        return gpu
    known = [name.lower() for name in module.ComputeCapability.__members__ if name.startswith("SM")]
    if wrong := [target for target in targets if target not in known]:
        raise ExportError(f"target {wrong[0]}: {KINDS[kind]} {module.__version__} builds for {', '.join(known)}")
    return None


def _build(
    network: Network,
    profiles: Sequence[Profile],
    targets: Sequence[str],
    timings: Path | None,
    progress: ShareDone | None,
) -> Any:
    """Gives the serialized engine. Raises ExportError."""
    module, log = network.module, log_of(network.module)
    config = network.builder.create_builder_config()
    # fp32 means 23 bits: TF32 has the 10 bits of fp16, and the transforms of waveform models would lose 60 dB by it.
    config.clear_flag(module.BuilderFlag.TF32)
    if hasattr(module.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # a CUDA graph can only be captured with it
        config.set_flag(module.BuilderFlag.REQUIRE_USER_ALLOCATION)
    for profile in profiles:
        shapes = network.builder.create_optimization_profile()
        for name, (least, best, most) in profile.inputs.items():
            shapes.set_shape(name, least, best, most)
        if config.add_optimization_profile(shapes) < 0:
            raise ExportError(f"TensorRT refuses the shapes of the profile {profile.name}: {log.take_errors()}")
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            if not config.set_compute_capability(getattr(module.ComputeCapability, target.upper()), index):
                raise ExportError(f"target {target}: {module.__name__} refuses it: {log.take_errors()}")
    if timings is not None:
        known = timings.read_bytes() if timings.is_file() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    monitor = _monitor(module, progress)
    config.progress_monitor = monitor
    log.take_errors()
    engine = network.builder.build_serialized_network(network.definition, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if engine is None:
        raise ExportError(f"{module.__name__} {module.__version__} cannot build this network: {log.take_errors()}")
    if timings is not None:
        with contextlib.suppress(OSError), atomic_write(timings) as part:  # a build without it is only slower
            part.write_bytes(config.get_timing_cache().serialize())
    return engine


def _timings_file(cache: Path | None, module: ModuleType, gpu: Gpu | None) -> Path | None:
    if cache is None or gpu is None:
        return None
    name = "".join(letter if letter.isalnum() else "-" for letter in gpu.name)
    return cache / f"timings-{module.__version__}-{name}.cache"


def _monitor(module: ModuleType, progress: ShareDone | None) -> Any:
    """Follows the build and tells the share that is done. An interrupt stops the build at the next step."""

    class Monitor(module.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._told = 0.0
            self._phases: dict[str, tuple[int, int]] = {}  # steps, steps done; each within the one before

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._phases[name] = (max(steps, 1), 0)

        def step_complete(self, name: str, step: int) -> bool:
            # Called from C++, which no exception may cross.
            try:
                if name in self._phases:
                    self._phases[name] = (self._phases[name][0], step + 1)
                share = 0.0
                for steps, done in reversed(self._phases.values()):
                    share = min((done + share) / steps, 1.0)
                if progress is not None and share > self._told:  # phases within others come and go
                    self._told = share
                    progress(share)
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, name: str) -> None:
            self._phases.pop(name, None)

    return Monitor()
