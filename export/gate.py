"""What an exported file must show before it gets its name, whatever the network and the precision.

In float32 the graph must equal PyTorch at four shapes. Lower precisions are judged against float32: the signal-to-noise
ratio of what the network gives over the example song, how much SDR the stems lose, and that every value is finite at
four shapes. Each graph runs in the engines that compute its precision; fp16 and bf16 also run in PyTorch, rounded
behind every operation, since an engine on a CPU may compute wider than the file says and so hide an overflow. The worst
figure counts. A graph with transforms inside must also give the stems that the ordinary way gives.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from engines import load_engine
from engines.base import Array, Engine, Inputs
from engines.pytorch import NetworkEngine
from export.calibration import RecordingEngine
from export.example import Song
from export.graph import DTYPES, TRANSFORMS, lowered
from export.limits import EQUAL, STEMS_SNR_DB, Limits
from ft.config import IO, ModelConfig
from ft.errors import EngineError, ExportError
from ft.metrics import sdr
from ft.models.network import SeparationNetwork
from ft.models.signal import Signal
from ft.separate import Separator
from ft.stems import recipe

MOST_DB = 200.0
"""Where two results do not differ; JSON has no infinity."""
SHAPES = {"usual": (1, 256), "odd": (3, 61), "smallest": (1, 1), "large": (2, 512)}
"""Batch and frames of each comparison, where the network takes any number of frames."""
TYPED = ("MatMul", "Gemm", "Conv", "Attention")
"""Nodes whose inputs say what a graph computes in."""


def compare(
    path: Path,
    model: SeparationNetwork,
    config: ModelConfig,
    precision: str,
    io: str,
    limits: Limits | None = None,
    song: Song | None = None,
) -> dict[str, Any]:
    """Runs the graph at `path` beside PyTorch.

    Args:
        model: the network in float32.
        limits, song: of lower precisions, what they may lose on which song.
    Returns:
        The figures for `ft_gate`: `relative_l2` of a graph in float32; `snr_db` and `sdr_loss_db` of others;
        `stems_snr_db` of one with transforms inside; each with its limit, and `finite`, `shapes` and `engines`.
    Raises:
        ExportError: a figure is beyond its limit, which is named, or no engine here can run the file.
    """
    figures: dict[str, Any] = {}
    try:
        if limits is not None and song is not None:
            figures = judge(path if io == IO[0] else None, model, config, precision, limits, song)
        elif io == IO[0]:
            figures = _equality(path, model, config)
        if io != IO[0]:
            least = STEMS_SNR_DB if limits is None else limits.snr_db
            figures |= _stems(path, model, config, precision, least)
    except EngineError as error:
        raise ExportError(f"{precision}: {error}; nothing was written") from error
    return figures


def _equality(path: Path, model: SeparationNetwork, config: ModelConfig) -> dict[str, Any]:
    shapes: dict[tuple[int, ...], float] = {}
    with load_engine(path, runtime="onnxruntime", device="cpu") as engine, NetworkEngine(model, config) as network:
        info = engine.describe()
        for name, inputs in synthetic_inputs(config).items():
            (given,) = inputs.values()
            distance = relative_l2(engine.run(inputs), network.run(inputs))
            if not distance <= EQUAL:
                raise ExportError(
                    f"at the {name} shape {given.shape} the graph differs from PyTorch by {distance:.2g} "
                    f"(relative L2), at most {EQUAL:.2g} is allowed; nothing was written"
                )
            shapes[given.shape] = distance
    worst = max(shapes.values())
    return {
        "relative_l2": worst,
        "relative_l2_limit": EQUAL,
        "finite": True,
        "shapes": [{"shape": list(shape), "relative_l2": distance} for shape, distance in shapes.items()],
        "engines": {f"{info.name} {info.version} {info.device}": {"relative_l2": worst}},
    }


def judge(
    path: Path | None, model: SeparationNetwork, config: ModelConfig, precision: str, limits: Limits, song: Song
) -> dict[str, Any]:
    """Runs the graph at `path` over a song and says how good it is.

    Args:
        path: None for a graph with transforms inside, whose network is then judged in PyTorch alone.
    Returns:
        `snr_db` and `sdr_loss_db`, the worst of all engines, their limits, `finite`, both figures of each engine under
        `engines`, and under `shapes` the ratio at each shape, for which there is no limit: a single frame, say, is
        nothing that int8 was calibrated for.
    Raises:
        ExportError: a figure is beyond its limit; the message gives it.
        EngineError: an engine failed.
    """
    expected = _run(NetworkEngine(model, config), song)
    engines = _engines(path, model, config, precision)
    if path and all(isinstance(engine, NetworkEngine) for engine in engines):
        raise ExportError(
            f"{precision}: no engine here can run the file and so check it; pip install 'frame-transformer[openvino]'"
        )
    runs = [_run(engine, song) for engine in engines]
    figures = {run.engine: _figures(run, expected, song) for run in runs}
    snr = min(figure["snr_db"] for figure in figures.values())
    loss = max(figure["sdr_loss_db"] for figure in figures.values())
    if not snr >= limits.snr_db:
        raise ExportError(
            f"{precision}: the network's output has {snr:.1f} dB of signal to noise against fp32, at least "
            f"{limits.snr_db:g} are wanted (`mask_snr_db`); nothing was written"
        )
    if not loss <= limits.sdr_loss_db:
        raise ExportError(
            f"{precision}: the example loses {loss:.3f} dB of SDR against fp32, at most {limits.sdr_loss_db:g} are "
            "allowed (`sdr_loss_db`); nothing was written"
        )
    shapes = [
        {"shape": list(target.shape), "snr_db": round(min(signal_to_noise(run.shapes[n], target) for run in runs), 2)}
        for n, target in expected.shapes.items()
    ]
    return {
        "snr_db": snr,
        "snr_limit_db": limits.snr_db,
        "sdr_loss_db": loss,
        "sdr_loss_limit_db": limits.sdr_loss_db,
        "finite": True,
        "shapes": shapes,
        "engines": figures,
    }


@dataclass(frozen=True)
class _Run:
    """What an engine made of the example and of the shapes."""

    engine: str
    results: list[Array]
    stems: dict[str, Array]
    shapes: dict[str, Array]


def _engines(path: Path | None, model: SeparationNetwork, config: ModelConfig, precision: str) -> list[Engine]:
    """The engines that compute in this precision here; bf16 has no kernels in ONNX Runtime on a CPU."""
    engines: list[Engine] = []
    if path and precision != "bf16":
        engines.append(load_engine(path, runtime="onnxruntime", device="cpu"))
    if path and precision != "fp16" and importlib.util.find_spec("openvino") is not None:
        engines.append(load_engine(path, runtime="openvino", device="cpu"))
    if precision in DTYPES:
        network = lowered(model, config, DTYPES[precision])
        engines.append(NetworkEngine(network, config, autocast=_WideProducts, precision=precision))
    return engines


class _WideProducts(TorchFunctionMode):
    """Sums products of fp16 matrices in float32 and rounds them once, as tensor cores do it.

    PyTorch's own take 15 times as long on a CPU.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.matmul and args[0].dtype == torch.float16:
            return torch.matmul(args[0].float(), args[1].float()).half()
        return func(*args, **(kwargs or {}))


def _run(engine: Engine, song: Song) -> _Run:
    with engine, RecordingEngine(engine.describe().config, engine) as recording:
        info = recording.describe()
        stems = Separator(recording).separate(song.mixture, song.sample_rate)
        shapes = {name: engine.run(inputs) for name, inputs in synthetic_inputs(info.config).items()}
        return _Run(f"{info.name} {info.version} {info.device}", recording.results, stems, shapes)


def _figures(found: _Run, expected: _Run, song: Song) -> dict[str, float]:
    values = (np.concatenate([result.ravel() for result in run.results]) for run in (found, expected))
    losses = [0.0]
    for name, true in song.stems.items():
        known = list(expected.stems)
        if signs := {name: 1} if name in known else recipe(name, known):
            sums = [sum(sign * run.stems[stem] for stem, sign in signs.items()) for run in (expected, found)]
            losses.append(sdr(sums[0], true) - sdr(sums[1], true))
    return {"snr_db": round(signal_to_noise(*values), 2), "sdr_loss_db": round(max(losses[1:] or losses), 4)}


def _stems(path: Path, model: SeparationNetwork, config: ModelConfig, precision: str, least: float) -> dict[str, Any]:
    """The stems of a graph with transforms inside beside those of the ordinary way, song by song in one window."""
    worst, seconds = float("inf"), []
    ordinary = Separator(NetworkEngine(model, config), segment_seconds=SHAPES["large"][1])
    with ordinary, load_engine(path, runtime="onnxruntime", device="cpu") as engine:
        whole = Separator(engine, segment_seconds=SHAPES["large"][1])
        info = engine.describe()
        for index, (name, (_, frames)) in enumerate(SHAPES.items()):
            samples = max(frames - 1, 1) * config.front.hop_length
            song = synthetic_song(samples, config, index)
            found, expected = (each.separate(song, config.sample_rate) for each in (whole, ordinary))
            ratio = min(sdr(found[stem], expected[stem]) for stem in config.all_stems)
            if not ratio >= least:
                raise ExportError(
                    f"{precision}: at the {name} length of {samples} samples a stem of the graph has {ratio:.1f} dB of "
                    f"signal to noise against the ordinary way, at least {least:g} are wanted; nothing was written"
                )
            worst = min(worst, ratio)
            seconds.append(samples)
    return {
        "engine": f"{info.name} {info.version}",
        "stems_snr_db": round(worst, 1),
        "stems_snr_limit_db": least,
        "finite": True,
        "samples": seconds,
    }


def check_types(path: Path, precision: str) -> None:
    """Each product, convolution and attention of the graph at `path` computes in `precision` (fp32, fp16 or bf16).

    Raises:
        ExportError: one does not; it is named.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    wanted = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16"}[precision]
    for node in graph.node:
        if node.op_type not in TYPED or node.name.startswith(TRANSFORMS):
            continue
        for name in node.input[:2]:
            found = onnx.TensorProto.DataType.Name(types.get(name, onnx.TensorProto.UNDEFINED))
            if found != wanted:
                raise ExportError(
                    f"{precision}: {node.op_type} {node.name} would compute in {found.lower()}; nothing was written"
                )


def synthetic_inputs(config: ModelConfig) -> dict[str, Inputs]:
    """Gives what a network reads of songs such as it meets, at each of `SHAPES`; the same at every call."""
    (spec,) = config.reads
    signal = Signal(config)
    found: dict[str, Inputs] = {}
    for name, (batch, frames) in SHAPES.items():
        if config.segment.frames is not None:
            frames = config.segment.frames
        frames = -(-frames // config.segment.multiple) * config.segment.multiple
        songs = np.stack([synthetic_song(config.front.samples(frames), config, index) for index in range(batch)])
        mixture = signal.transformed(torch.from_numpy(songs))
        found[name] = {spec.name: signal.inputs(mixture, signal.level(mixture)).numpy()}
    return found


def synthetic_song(samples: int, config: ModelConfig, seed: int) -> Array:
    """Gives (channels, samples): a sung voice with vibrato and pauses, a chord and a beat that differ by channel."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / config.sample_rate
    pitch = random.uniform(110, 440)
    vibrato = 0.3 * np.sin(2 * np.pi * 5.5 * time)
    voice = sum(np.sin(k * (2 * np.pi * pitch * time + vibrato)) / k for k in range(1, 13))
    sung = (np.sin(2 * np.pi * 0.4 * time + random.uniform(0, 6)) > -0.5).astype(float)
    beat = random.standard_normal(time.size) * np.exp(-30 * (time % 0.5))
    song = []
    for _ in range(config.channels):
        chord = sum(np.sin(2 * np.pi * pitch / 2 * step * time + random.uniform(0, 6)) for step in (1, 1.26, 1.5))
        song.append(voice * sung + random.uniform(0.1, 0.5) * chord + random.uniform(0.1, 0.5) * beat)
    return (0.1 * np.stack(song)).astype(np.float32)


def relative_l2(estimate: Array, target: Array) -> float:
    """Gives the norm of the difference over the norm of `target`, in float64."""
    difference = float(np.linalg.norm(estimate.astype(np.float64) - target))
    return difference / max(float(np.linalg.norm(target.astype(np.float64))), 1e-30)


def signal_to_noise(estimate: Array, target: Array) -> float:
    """Gives the decibels of the energy of `target` over that of the difference; at most `MOST_DB`.

    >>> round(signal_to_noise(np.array([1.0, 1.1]), np.array([1.0, 1.0])), 1)
    23.0
    """
    error = float(np.sum((estimate.astype(np.float64) - target) ** 2))
    power = float(np.sum(target.astype(np.float64) ** 2))
    return min(10 * float(np.log10(power / error)), MOST_DB) if error else MOST_DB
