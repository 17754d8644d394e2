"""What a file of lower precision must show before it gets its name.

Against the network in float32: the signal-to-noise ratio of the mask over the example song, how much SDR its stems
lose, and that every value is finite at four shapes. Each graph runs in the engines that compute its precision; fp16 and
bf16 also run in PyTorch, rounded behind every operation, since an engine on a CPU may compute wider than the file says
and so hide an overflow. The worst figure counts.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from engines import load_engine
from engines.base import Array, Engine, EngineInfo
from export.example import Song
from export.graph import MaskNetwork
from export.half import DTYPES
from export.limits import Limits
from export.verify import SHAPES, synthetic_magnitude
from ft.config import ModelConfig
from ft.errors import EngineError, ExportError
from ft.metrics import sdr
from ft.models.frame_transformer import FrameTransformer
from ft.separate import Separator

logger = logging.getLogger(__name__)

MOST_DB = 200.0
"""Where two masks do not differ; JSON has no infinity."""


class NetworkEngine(Engine):
    """A network that is in memory, computing in a precision of PyTorch's."""

    def __init__(self, model: FrameTransformer, config: ModelConfig, precision: str = "fp32") -> None:
        super().__init__()
        self.network = MaskNetwork.of(model, config, native=False, dtype=DTYPES[precision])
        self.info = EngineInfo("torch", config.name, "cpu", precision, config, version=torch.__version__)

    def describe(self) -> EngineInfo:
        return self.info

    def _load(self) -> None:
        pass

    def _unload(self) -> None:
        pass

    def _infer(self, batch: Array) -> Array:
        with torch.inference_mode(), _WideProducts():
            mask: Array = self.network(torch.tensor(batch)).numpy()
        return mask


class _WideProducts(TorchFunctionMode):
    """Products of fp16 matrices are summed in float32 and rounded once, as tensor cores do it.

    PyTorch's own take 15 times as long on a CPU.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.matmul and args[0].dtype == torch.float16:
            return torch.matmul(args[0].float(), args[1].float()).half()
        return func(*args, **(kwargs or {}))


class _Listening(Engine):
    """Another engine, whose masks are kept."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.masks: list[Array] = []

    def describe(self) -> EngineInfo:
        return replace(self.engine.describe(), reason="")

    def _load(self) -> None:
        self.engine.open()

    def _unload(self) -> None:
        self.engine.close()

    def _infer(self, batch: Array) -> Array:
        mask = self.engine.run(batch)
        self.masks.append(mask)
        return mask


def judge(
    path: Path | None, model: FrameTransformer, config: ModelConfig, precision: str, limits: Limits, song: Song
) -> dict[str, Any]:
    """Runs the graph at `path` and says how good it is.

    Args:
        path: None for a graph of another kind, whose network is then judged in PyTorch alone.
        model: The network in float32.
        song: Whose stems are separated with both.
    Returns:
        `mask_snr_db` and `sdr_loss_db`, the worst of all engines, their limits, `finite`, both figures of each engine
        under `engines`, and under `shapes` the ratio at each shape, for which there is no limit: a single frame, say,
        is nothing that int8 was calibrated for.
    Raises:
        ExportError: a figure is beyond its limit; the message gives it.
    """
    expected = _run(NetworkEngine(model, config), song)
    figures, runs = {}, []
    engines = _engines(path, model, config, precision)
    if path and all(isinstance(engine, NetworkEngine) for engine in engines):
        raise ExportError(
            f"{precision}: no engine here can run the file and so check it; pip install 'frame-transformer[openvino]'"
        )
    for engine in engines:
        try:
            found = _run(engine, song)
            runs.append(found)
            figures[found.engine] = _compare(found, expected, song)
        except EngineError as error:
            raise ExportError(f"{precision}: {error}; nothing was written") from error
    snr = min(figure["mask_snr_db"] for figure in figures.values())
    loss = max(figure["sdr_loss_db"] for figure in figures.values())
    if not snr >= limits.mask_snr_db:
        raise ExportError(
            f"{precision}: the mask has {snr:.1f} dB of signal to noise against fp32, at least {limits.mask_snr_db:g} "
            "are wanted (--mask-snr); nothing was written"
        )
    if not loss <= limits.sdr_loss_db:
        raise ExportError(
            f"{precision}: the example loses {loss:.3f} dB of SDR against fp32, at most {limits.sdr_loss_db:g} are "
            "allowed (--sdr-loss); nothing was written"
        )
    return {
        "mask_snr_db": snr,
        "mask_snr_limit_db": limits.mask_snr_db,
        "sdr_loss_db": loss,
        "sdr_loss_limit_db": limits.sdr_loss_db,
        "finite": True,
        "shapes": _shapes(runs, expected),
        "engines": figures,
    }


@dataclass(frozen=True)
class _Run:
    """What an engine made of the example and of the four shapes."""

    engine: str
    masks: list[Array]
    stems: dict[str, Array]
    shapes: dict[str, Array]


def _engines(path: Path | None, model: FrameTransformer, config: ModelConfig, precision: str) -> list[Engine]:
    """Those that compute in this precision here; bf16 has no kernels in ONNX Runtime on a CPU."""
    engines: list[Engine] = []
    if path and precision != "bf16":
        engines.append(load_engine(path, runtime="onnxruntime", device="cpu"))
    if path and precision != "fp16" and importlib.util.find_spec("openvino") is not None:
        engines.append(load_engine(path, runtime="openvino", device="cpu"))
    if precision in DTYPES:
        engines.append(NetworkEngine(model, config, precision))
    return engines


def _run(engine: Engine, song: Song) -> _Run:
    with _Listening(engine) as listening:
        info = listening.describe()
        stems = Separator(listening).separate(song.mixture, song.sample_rate)
        masks, shapes = listening.masks, {}
        for name, shape in SHAPES.items():
            shapes[name] = engine.run(synthetic_magnitude(info.config, *shape))
    return _Run(f"{info.name} {info.version} {info.device}", masks, stems, shapes)


def _compare(found: _Run, expected: _Run, song: Song) -> dict[str, float]:
    masks = (np.concatenate([mask.ravel() for mask in run.masks]) for run in (found, expected))
    losses = [sdr(expected.stems[name], true) - sdr(found.stems[name], true) for name, true in song.stems.items()]
    return {"mask_snr_db": round(signal_to_noise(*masks), 2), "sdr_loss_db": round(max(losses), 4)}


def _shapes(runs: list[_Run], expected: _Run) -> list[dict[str, Any]]:
    """The worst ratio of all engines at each shape."""
    found = []
    for name, target in expected.shapes.items():
        ratio = min(signal_to_noise(run.shapes[name], target) for run in runs)
        found.append({"shape": list(target.shape), "mask_snr_db": round(ratio, 2)})
    return found


def signal_to_noise(estimate: Array, target: Array) -> float:
    """Decibels of the energy of `target` over that of the difference; at most `MOST_DB`.

    >>> round(signal_to_noise(np.array([1.0, 1.1]), np.array([1.0, 1.0])), 1)
    23.0
    """
    error = float(np.sum((estimate.astype(np.float64) - target) ** 2))
    power = float(np.sum(target.astype(np.float64) ** 2))
    return min(10 * float(np.log10(power / error)), MOST_DB) if error else MOST_DB
