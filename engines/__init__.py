"""What runs a model. `load_engine` picks the runtime by the kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ft.errors import EngineError
from ft.files import DEFAULT_MODEL, model_path

if TYPE_CHECKING:
    from engines.base import Engine


def load_engine(model: str | Path | None = None, threads: int | None = None) -> Engine:
    """The engine for a model file; it is not open yet.

    Args:
        model: an ONNX file, a checkpoint (.safetensors, run by torch), or None or `default` for the shipped model.
        threads: of one operator; None takes every core that the process may use.
    Raises:
        CheckpointError: no such file.
        EngineError: a kind of file that no engine runs.
    """
    path = model_path(DEFAULT_MODEL if model is None else model)
    if path.suffix == ".onnx":
        from engines.ort import OrtEngine

        return OrtEngine(path, threads)
    if path.suffix == ".safetensors":
        from engines.pytorch import PytorchEngine

        return PytorchEngine(path, threads)
    raise EngineError(f"{path}: no engine runs this kind of file; expected .onnx or .safetensors")
