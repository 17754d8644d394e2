"""What runs a model. `load_engine` picks the runtime by the kind of file, the machine and what was asked for."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import TYPE_CHECKING

from engines.devices import find_gpus, parse_device
from engines.machine import int8_products
from ft.errors import CheckpointError, EngineError
from ft.files import DEFAULT_MODEL, FP32_MODEL, INT8_MODEL, model_path
from ft.options import Runtime, words_of

if TYPE_CHECKING:
    from engines.base import Engine
    from ft.config import ModelConfig

RUNTIMES = words_of(Runtime)
SUFFIXES = {
    ".onnx": ("onnxruntime", "openvino", "torch", "tensorrt"),
    ".safetensors": ("torch",),
    ".plan": ("tensorrt",),
}
"""What can run each kind of file; `auto` takes the first, unless the file's precision wants another."""


def load_engine(
    model: str | Path | None = None,
    threads: int | None = None,
    *,
    runtime: str = "auto",
    device: str = "auto",
    windows: tuple[int, int] | None = None,
    memory: str = "cuda-python",
) -> Engine:
    """Gives the engine for a model file; it is not open yet. What it takes and why is logged when it opens.

    Args:
        model: an ONNX file, a checkpoint (.safetensors), a TensorRT plan, or `default` (as None) for the shipped model.
            That is in int8 where ONNX Runtime or OpenVINO run it on a CPU that multiplies in eight bits: no sound lost
            that its gate could measure, and a fifth of the time from file to files saved. `default-fp32` and
            `default-int8` are the one and the other wherever they run.
        threads: of one operator on the CPU; None takes every core that the process may use.
        runtime: auto, onnxruntime, openvino, torch or tensorrt.
        device: auto, cpu, cuda or cuda:N. Under auto a GPU is taken where the runtime can use one; a GPU that is there
            and cannot be used is a warning.
        windows: (batch, frames) that most batches will have. Engines that gain by a known shape prepare it; every
            other shape runs too.
        memory: who handles device memory for TensorRT, cuda-python or pycuda.
    Raises:
        CheckpointError: no such file.
        EngineError: a kind of file that no engine runs, or a runtime that does not run this file.
    """
    # The runtimes take numbers of Python only.
    threads = None if threads is None else operator.index(threads)
    windows = None if windows is None else (operator.index(windows[0]), operator.index(windows[1]))
    wanted = parse_device(device)[0]
    if runtime not in RUNTIMES:
        raise EngineError(f"runtime {runtime}; expected {', '.join(RUNTIMES)}")
    path = model_path(_shipped(runtime, wanted) if model is None or str(model) == DEFAULT_MODEL else model)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise EngineError(f"{path}: no engine runs this kind of file; expected {', '.join(SUFFIXES)}")
    if runtime not in ("auto", *SUFFIXES[suffix]):
        takes = [kind for kind, runtimes in SUFFIXES.items() if runtime in runtimes]
        raise EngineError(f"{path}: {runtime} does not run this kind of file; it takes {' and '.join(takes)}")
    chosen, reason = (runtime, "asked for") if runtime != "auto" else _choose(path, wanted)
    if chosen == "tensorrt":
        if wanted == "cpu":
            raise EngineError(f"{path}: TensorRT runs on NVIDIA GPUs only; use `device` auto, or an .onnx on the CPU")
        gpus = find_gpus()
        if not gpus.found and suffix == ".onnx":
            raise EngineError(f"{path}: TensorRT needs an NVIDIA GPU: {gpus.reason}; use another `runtime`")
        from engines.tensorrt import TensorrtEngine

        if suffix == ".onnx":
            from engines.plan_cache import cached_plan

            path = cached_plan(path, device=device, windows=windows)
        return TensorrtEngine(path, device=device, windows=windows, memory=memory, reason=reason)
    if chosen == "torch":
        from engines.pytorch import PytorchEngine

        return PytorchEngine(path, threads, device, windows=windows, reason=reason)
    if chosen == "openvino":
        from engines.openvino import OpenvinoEngine

        return OpenvinoEngine(path, threads, device, windows=windows, reason=reason)
    from engines.ort import OrtEngine

    return OrtEngine(path, threads, device, windows=windows, reason=reason)


def read_config(model: str | Path | None = None) -> ModelConfig:
    """Gives the configuration of a model that `load_engine` takes, read without any runtime. Raises CheckpointError."""
    path = model_path(DEFAULT_MODEL if model is None else model)
    if path.suffix.lower() == ".plan":
        from engines.plan import read_manifest

        return read_manifest(path).config
    from ft.checkpoint import load_config

    return load_config(path)


def plan_window(model: str | Path | None) -> tuple[int, float] | None:
    """Windows at once and the seconds of one that a TensorRT plan was built for; None for every other model.

    Raises:
        CheckpointError: a plan that cannot be read.
    """
    if model is None or Path(model).suffix.lower() != ".plan":
        return None
    from engines.plan import read_manifest

    plan = read_manifest(model_path(model))
    return plan.batch, plan.frames / plan.config.frame_rate


def _shipped(runtime: str, device: str) -> str:
    """Says which form of the shipped model suits the machine."""
    on_cpu = device == "cpu" or (device == "auto" and not find_gpus().found)
    suits = on_cpu and runtime in ("auto", "onnxruntime", "openvino") and int8_products() is not None
    return INT8_MODEL if suits else FP32_MODEL


def _choose(path: Path, device: str) -> tuple[str, str]:
    """Gives the runtime for a file, and the reason where it is more than the kind of file.

    On a CPU that is ONNX Runtime: OpenVINO takes 0.7 (int8, or a wide network) to 1.0 of its time for a window, and two
    to three seconds more to compile for the windows and again for the tail, which takes half an hour of sound to earn
    back with the shipped model. Only bf16 runs nowhere else.
    """
    suffix = path.suffix.lower()
    first = SUFFIXES[suffix][0]
    if suffix != ".onnx":
        return first, ""
    from ft.checkpoint import read_metadata

    try:
        precision = read_metadata(path).get("ft_precision", "")
    except CheckpointError:  # the engine says what is wrong with the file
        return first, ""
    on_gpu = device == "cuda" or (device == "auto" and bool(find_gpus().found))
    if on_gpu or precision != "bf16":
        return first, ""
    return "openvino", "ONNX Runtime does not compute bf16 on a CPU"
