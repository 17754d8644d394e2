"""What runs a model. `load_engine` picks the runtime by the kind of file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ft.errors import EngineError

if TYPE_CHECKING:
    from engines.base import Engine

DEFAULT = "default"


def load_engine(model: str | Path | None = None, threads: int | None = None) -> Engine:
    """The engine for a model file; it is not open yet.

    Args:
        model: an ONNX file, a checkpoint (.safetensors, which runs in torch), or None or `default` for the shipped model.
        threads: of one operator; None takes every core that the process may use.
    Raises:
        EngineError: no such file, or a kind of file that no engine runs.
    """
    if model is None or str(model) == DEFAULT:
        model = default_model()
    path = Path(model)
    if not path.is_file():
        raise EngineError(f"{path}: no such model; expected an .onnx or .safetensors file, or '{DEFAULT}'")
    if path.suffix == ".onnx":
        from engines.ort import OrtEngine

        return OrtEngine(path, threads)
    if path.suffix == ".safetensors":
        from engines.pytorch import PytorchEngine

        return PytorchEngine(path, threads)
    raise EngineError(f"{path}: no engine runs {path.suffix or 'a file without suffix'}; expected .onnx or .safetensors")


def default_model() -> Path:
    """Where the model lies that is shipped with the package. Raises EngineError where it is missing."""
    path = Path(str(resources.files("ft"))) / "assets" / "default.onnx"
    if not path.is_file():
        raise EngineError("this installation holds no default model; name one, e.g. --engine model.onnx")
    return path
