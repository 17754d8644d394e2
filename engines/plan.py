"""TensorRT plans on the disk: `model.plan`, the bare engine, and `model.plan.json` beside it, which says what it is.

The engine file is what TensorRT wrote and nothing more, so that trtexec and Triton take it. The manifest names the
SHA-256 of the engine; without a manifest, or with another hash, a plan is refused. Nothing here needs TensorRT or a
GPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ft import __version__
from ft.checkpoint import io_of
from ft.config import IO, ModelConfig
from ft.errors import CheckpointError, ConfigError, one_line
from ft.files import atomic_write

FORMAT = 2
SUFFIX = ".plan"
Kind = Literal["full", "rtx"]
KINDS: dict[str, str] = {"full": "TensorRT", "rtx": "TensorRT-RTX"}
"""The two TensorRTs; their plans cannot be exchanged."""
Shape = tuple[int, ...]
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Profile:
    """The shapes that one optimization profile of a plan takes."""

    name: str
    """`window`: one shape, that of the streaming window; `tail`: all that is smaller."""
    inputs: Mapping[str, tuple[Shape, Shape, Shape]]
    """Smallest, best and largest shape of each input."""

    def takes(self, shapes: Mapping[str, Shape]) -> bool:
        """Says whether all inputs may have these shapes at once."""
        for name, (least, _, most) in self.inputs.items():
            shape = shapes[name]
            if len(shape) != len(least) or not all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True)):
                return False
        return True


def input_shapes(config: ModelConfig, io: str, items: int, frames: int) -> dict[str, Shape]:
    """Gives the shape of each input for a batch of so many items, of windows of so many frames."""
    size = config.size(io, frames)
    return {spec.name: spec.sized(items, size) for spec in config.tensors(io)[0]}


@dataclass(frozen=True)
class PlanManifest:
    """What is known of a plan."""

    plan_sha256: str
    model: str
    """The model as it was named when the plan was built."""
    model_sha256: str
    kind: Kind
    version: str
    """Names the TensorRT that built the plan; no other version can run it."""
    targets: tuple[str, ...]
    """Compute capabilities the plan was built for, e.g. sm86."""
    precision: str
    """What its matrix products and convolutions compute in: fp32, fp16 or bf16."""
    io: str
    batch: int
    """Windows of a stereo song that run at once, in the profile `window`."""
    frames: int
    """Counts the frames of one window."""
    profiles: tuple[Profile, ...]
    fused: int
    """Attentions that became one kernel."""
    decomposed: int
    """Attentions that were taken apart, because no kernel has their head width and precision."""
    parameters: int | None
    gate: Mapping[str, Any] | None
    """How the ONNX file that the plan was built from compared with fp32, as measured before the build."""
    config: ModelConfig
    context: Mapping[str, Any] | None = None
    """Says what the caller must supply at both ends of files with transforms inside."""
    segment_seconds: float | None = None
    """What was asked for, where it was not the default."""
    limits: Mapping[str, float | str] = dataclasses.field(default_factory=dict)
    """What was asked of the comparison with fp32, where it was not the default, by the name of its option."""
    ft_version: str = __version__

    def command(self) -> str:
        """Gives the command that builds this plan again, but for its output."""
        words = ["ft", "export", self.model]
        words += [f"--{self.precision}"] if self.precision != "fp32" else []
        words += ["--io", IO[1]] if self.io == IO[1] else []
        words += ["--tensorrt", self.kind]
        words += ["--batch", str(self.batch)] if self.batch != 1 else []
        words += ["--segment-seconds", f"{self.segment_seconds:g}"] if self.segment_seconds is not None else []
        for name, value in self.limits.items():
            words += [f"--{name}", value if isinstance(value, str) else f"{value:g}"]
        return shlex.join(words)

    def to_dict(self) -> dict[str, Any]:
        """Gives what is written as JSON."""
        return {
            "format": FORMAT,
            "sha256": self.plan_sha256,
            "model": {"name": self.model, "sha256": self.model_sha256},
            "tensorrt": {"kind": self.kind, "version": self.version},
            "targets": list(self.targets),
            "precision": self.precision,
            "io": self.io,
            "window": {"batch": self.batch, "frames": self.frames, "seconds": self.segment_seconds},
            "profiles": profiles_to_json(self.profiles),
            "attentions": {"fused": self.fused, "decomposed": self.decomposed},
            "parameters": self.parameters,
            "gate": self.gate,
            "limits": dict(self.limits),
            "context": self.context,
            "config": self.config.to_dict(),
            "license": self.config.license,
            "ft_version": self.ft_version,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlanManifest:
        """Raises KeyError, TypeError, ValueError or ConfigError where `values` are not what `to_dict` gives."""
        if values["format"] not in range(1, FORMAT + 1):
            raise ValueError(f"format {values['format']}, this ft {__version__} reads up to {FORMAT}")
        kind, io = values["tensorrt"]["kind"], io_of(values["io"])
        if kind not in KINDS or io is None:
            raise ValueError(f"TensorRT kind {kind}, io {values['io']}")
        limits = values.get("limits", {})  # older plans have none
        profiles = tuple(
            Profile(
                profile["name"],
                {
                    name: (tuple(shapes["min"]), tuple(shapes["opt"]), tuple(shapes["max"]))
                    for name, shapes in profile["inputs"].items()
                },
            )
            for profile in values["profiles"]
        )
        return cls(
            plan_sha256=values["sha256"],
            model=str(values["model"]["name"]),
            model_sha256=values["model"]["sha256"],
            kind=kind,
            version=str(values["tensorrt"]["version"]),
            targets=tuple(map(str, values["targets"])),
            precision=str(values["precision"]),
            io=io,
            batch=int(values["window"]["batch"]),
            frames=int(values["window"]["frames"]),
            profiles=profiles,
            fused=int(values["attentions"]["fused"]),
            decomposed=int(values["attentions"]["decomposed"]),
            parameters=values["parameters"],
            gate=values["gate"],
            config=ModelConfig.from_dict(values["config"]),
            context=values["context"],
            segment_seconds=values["window"]["seconds"],
            limits={name: given if isinstance(given, str) else float(given) for name, given in limits.items()},
            ft_version=str(values["ft_version"]),
        )


def profiles_to_json(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    """Name and, of each input, `min`, `opt` and `max`."""
    return [
        {
            "name": profile.name,
            "inputs": {
                name: dict(zip(("min", "opt", "max"), map(list, shapes), strict=True))
                for name, shapes in profile.inputs.items()
            },
        }
        for profile in profiles
    ]


def manifest_path(plan: Path) -> Path:
    """Says where the manifest of a plan lies."""
    return plan.with_name(f"{plan.name}.json")


def write_plan(plan: Path, engine: bytes | memoryview, manifest: PlanManifest) -> PlanManifest:
    """Writes manifest and engine, each whole or not at all, and the manifest first.

    Where the second write fails, the new manifest does not fit the old engine, and the pair is refused rather than
    taken for something else.

    Returns:
        The manifest with the engine's hash in it.
    Raises:
        OSError: one of them cannot be written.
    """
    manifest = dataclasses.replace(manifest, plan_sha256=hashlib.sha256(engine).hexdigest())
    with atomic_write(manifest_path(plan)) as part:
        part.write_text(json.dumps(manifest.to_dict(), indent=2) + "\n", encoding="utf-8")
    with atomic_write(plan) as part:
        part.write_bytes(engine)
    return manifest


def read_manifest(plan: str | Path) -> PlanManifest:
    """Gives the manifest of a plan; whether it fits the engine is not looked at.

    Raises:
        CheckpointError: no such plan, no manifest beside it, or one that cannot be read.
    """
    plan = Path(plan)
    path = manifest_path(plan)
    rebuild = "build it again: ft export MODEL --fp16 --tensorrt full|rtx"
    if not plan.is_file():
        raise CheckpointError(f"{plan}: no such file; expected a plan of `ft export --tensorrt`")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{plan}: its manifest {path.name} is missing, so nothing says what the plan is; copy both, or {rebuild}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {rebuild}") from error
    try:
        return PlanManifest.from_dict(json.loads(text))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, ConfigError) as error:
        reason = f"no {one_line(error)}" if isinstance(error, KeyError) else one_line(error)
        raise CheckpointError(f"{path}: not a manifest that `ft export` wrote ({reason}); {rebuild}") from error


def check_plan(plan: str | Path) -> PlanManifest:
    """Gives the manifest of a plan whose engine is the one that the manifest names.

    Raises:
        CheckpointError: as `read_manifest`, and where the engine has another hash.
    """
    plan = Path(plan)
    manifest = read_manifest(plan)
    _check_hash(plan, manifest, file_sha256(plan))
    return manifest


def read_plan(plan: str | Path) -> tuple[PlanManifest, bytes]:
    """Reads the manifest of a plan and the plan, the very bytes whose hash was looked at. Raises CheckpointError."""
    plan = Path(plan)
    manifest = read_manifest(plan)
    try:
        engine = plan.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{plan}: cannot be read: {error.strerror or error}") from error
    _check_hash(plan, manifest, hashlib.sha256(engine).hexdigest())
    return manifest, engine


def _check_hash(plan: Path, manifest: PlanManifest, found: str) -> None:
    if found != manifest.plan_sha256:
        raise CheckpointError(
            f"{plan}: damaged or replaced, it has another SHA-256 than {manifest_path(plan).name} says; "
            f"build it again: {rebuild_command(manifest, plan)}"
        )


def rebuild_command(manifest: PlanManifest, plan: Path, target: str | None = None, **changes: Any) -> str:
    """The command that writes `plan` again, for its own targets or for one GPU; `changes` are fields of `manifest`."""
    manifest = dataclasses.replace(manifest, **changes)
    targets = manifest.targets if target is None else (target,)
    words = [f"--target {name}" for name in targets] if manifest.kind == "rtx" else []
    return " ".join([manifest.command(), *words, "--force", "-o", shlex.quote(str(plan))])


def file_sha256(*paths: Path) -> str:
    """Hashes one file, or several one after the other. Raises CheckpointError where one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def model_sha256(model: Path) -> str:
    """Hashes a model file, with the weights that lie beside it."""
    data = model.with_name(f"{model.name}.data")
    return file_sha256(model, *([data] if data.is_file() else []))
