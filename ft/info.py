"""What is known of a preset, a checkpoint or an exported model, read without torch or ONNX Runtime where possible."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from engines import plan
from ft.checkpoint import (
    CALIBRATION_KEY,
    CONTEXT_KEY,
    GATE_KEY,
    IO_KEY,
    config_from_metadata,
    io_of,
    read_header,
    read_metadata,
)
from ft.config import IO, ModelConfig, Spectrogram, load_model_config
from ft.errors import CheckpointError
from ft.files import SHIPPED_MODELS, model_path, pulled_model
from ft.settings import presets

logger = logging.getLogger(__name__)

PRECISIONS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
CONFIGURATION_SUFFIXES = (".yaml", ".yml")


def describe_model(source: str | Path) -> dict[str, Any]:
    """Facts about a model, as `ft info` prints them.

    Args:
        source: Name of a preset, a configuration (.yaml), a checkpoint, an exported .onnx, a .plan or `default`.
    Returns:
        `kind` (preset, configuration, checkpoint, onnx or tensorrt), `path`, `name`, `parameters` (None where counting
        them needs torch and torch is not installed), `precision` and what the configuration says; of an exported file
        also `io`, `gate` and, where it has them, `context` and `calibration`; of a plan `io`, `gate`, `tensorrt`,
        `targets`, `profiles`, `attentions`, and whether it `runs_here`, with the reason `why_not`.
    Raises:
        ConfigError: a configuration that is not usable.
        CheckpointError: no such file, or none that this project wrote.
    """
    if str(source) in presets():
        path = Path(str(resources.files("ft"))) / "presets" / f"{source}.yaml"
        config = load_model_config(source)
        return _facts("preset", path, config, _count(config), "fp32")
    if Path(source).suffix.lower() in CONFIGURATION_SUFFIXES:
        config = load_model_config(source)
        return _facts("configuration", Path(source), config, _count(config), "fp32")
    if not Path(source).exists() and str(source) not in SHIPPED_MODELS and not pulled_model(str(source)).is_file():
        raise CheckpointError(f"{source}: no such file or preset; presets are {', '.join(presets())}")
    path = model_path(source)
    if path.suffix.lower() == plan.SUFFIX:
        return _plan_facts(path)
    metadata = read_metadata(path)
    config = config_from_metadata(path, metadata)
    if path.suffix.lower() == ".onnx":
        kind, parameters = "onnx", _json(path, metadata, "ft_parameters", int)
        precision: str = metadata.get("ft_precision", "unknown")
    else:
        kind = "checkpoint"
        parameters, precision = _tensor_facts(path, config)
    facts = _facts(kind, path, config, parameters, precision)
    if kind == "onnx":
        found = metadata.get(IO_KEY, IO[0])
        facts["io"] = io_of(found) or found
    for key in (CONTEXT_KEY, CALIBRATION_KEY, GATE_KEY):
        if key in metadata:
            facts[key.removeprefix("ft_")] = _json(path, metadata, key, dict)
    return facts


def _json(path: Path, metadata: Mapping[str, str], key: str, kind: type) -> Any:
    """What stands under a key as JSON, None where nothing does. Raises CheckpointError where it is of another kind."""
    if key not in metadata:
        return None
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise CheckpointError(f"{path}: damaged: {key} is no {kind.__name__} in JSON, as `ft export` writes it")
    return value


def as_text(facts: dict[str, Any]) -> str:
    """One fact per line, keys and values in two columns."""
    width = max(map(len, facts)) + 2
    return "\n".join(f"{key:{width}}{_value(value)}" for key, value in facts.items())


def _facts(kind: str, path: Path, config: ModelConfig, parameters: int | None, precision: str) -> dict[str, Any]:
    front = config.front
    return {
        "kind": kind,
        "path": str(path),
        "name": config.name,
        "parameters": parameters,
        "precision": precision,
        "network": config.network.kind,
        "sample_rate": config.sample_rate,
        "channels": config.channels,
        **({"n_fft": front.n_fft} if isinstance(front, Spectrogram) else {}),
        "hop_length": front.hop_length,
        **({"bins": front.used_bins, "values": front.values} if isinstance(front, Spectrogram) else {}),
        "scale": front.scale,
        "output": config.output.kind,
        "stems": list(config.all_stems),
        "segment_seconds": config.segment.seconds,
        "license": config.license,
    }


def _plan_facts(path: Path) -> dict[str, Any]:
    """Neither TensorRT nor a GPU is needed for these."""
    from engines.tensorrt_library import why_not

    manifest = plan.check_plan(path)
    problem = why_not(manifest, path)
    written = manifest.to_dict()
    facts = _facts("tensorrt", path, manifest.config, manifest.parameters, manifest.precision)
    taken = ("tensorrt", "targets", "io", "window", "profiles", "attentions", "gate", "model", "ft_version")
    return {
        **facts,
        **{key: written[key] for key in taken},
        **({"context": manifest.context} if manifest.context is not None else {}),
        "sha256": manifest.plan_sha256,
        "runs_here": problem is None,
        "why_not": problem,
    }


def _count(config: ModelConfig) -> int | None:
    try:
        import torch  # noqa: F401
    except ImportError:
        logger.warning("counting the parameters needs torch: pip install 'frame-transformer[train]'")
        return None
    from ft.models import count_parameters

    return count_parameters(config)


def _tensor_facts(path: Path, config: ModelConfig) -> tuple[int, str]:
    """Number of trainable values and their precision, from the header of a checkpoint."""
    _, tensors = read_header(path)
    fixed = config.network.numbers.get("rotary") == "fixed"
    trained = {name: tensor for name, tensor in tensors.items() if not (fixed and name.endswith(".freqs"))}
    kinds = sorted({PRECISIONS.get(tensor["dtype"], tensor["dtype"]) for tensor in trained.values()})
    return sum(math.prod(tensor["shape"]) for tensor in trained.values()), " and ".join(kinds)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return (" x " if value and isinstance(value[0], int) else ", ").join(map(_value, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(part)}" for key, part in value.items() if part is not None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) and value >= 1_000_000 else str(value)
