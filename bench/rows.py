"""Which rows a table has, and what a row says: every engine that could run a model here, the unusable ones included."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.runners import Spec
from engines import SUFFIXES, read_config
from ft.config import IO, ModelConfig
from ft.errors import ConfigError
from ft.files import DEFAULT_MODEL, FP32_MODEL, model_path
from ft.info import describe_model
from ft.metrics import sdr

Array = NDArray[np.float32]

TORCH_KINDS = ("torch", "torch-compile", "torch-cudagraph", "torch-compile-cudagraph")
ENGINES = ("onnxruntime", "openvino", "tensorrt", *TORCH_KINDS)
BASELINE = "baseline"

SNR_LIMITS_DB = {"fp32": 60.0, "fp16": 45.0, "bf16": 30.0, "int8": 25.0}
"""A mask with less against PyTorch in fp32 is wrong. Rounding alone leaves 100 dB and more in fp32."""
HIGHEST_SNR_DB = 200.0
"""The ratio of results that are equal bit by bit."""
ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Model:
    """A model file and what a row needs to know of it."""

    name: str
    path: str
    precision: str
    """fp32, fp16, bf16 or int8: what it computes in."""
    io: str
    config: ModelConfig

    @property
    def suffix(self) -> str:
        return Path(self.path).suffix.lower()


@dataclass(frozen=True)
class Row:
    """A row before it is measured."""

    engine: str
    precision: str
    model: Model
    spec: Spec | None = None
    """None where `reason` says why it cannot run here."""
    reason: str = ""
    wanted: str = "cuda"
    """The device of a row without a spec."""

    @property
    def device(self) -> str:
        return self.wanted if self.spec is None else self.spec.device


def read_model(source: str) -> Model:
    """What is known of a model file. Raises CheckpointError."""
    facts = describe_model(source)
    path = str(model_path(source))
    precision = str(facts["precision"]).partition(" ")[0]
    name = FP32_MODEL if source == DEFAULT_MODEL else Path(source).name
    return Model(name, path, precision, str(facts.get("io", IO[0])), read_config(source))


def references(models: Sequence[Model]) -> dict[str, Model]:
    """The fp32 model that each one is compared with, by path: itself, or the one of the same network and front end.

    One that takes waveforms is not measured (`plan_rows`), and stands for itself alone.

    Raises:
        ConfigError: a model in low precision without its fp32 one.
    """
    measured = [model for model in models if model.io == IO[0]]
    whole = [model for model in measured if model.precision == "fp32" and model.suffix in (".onnx", ".safetensors")]
    found = {model.path: model for model in models if model.io != IO[0]}
    for model in measured:
        same = [other for other in whole if other.path == model.path] + [
            other
            for other in whole
            if (other.config.network, other.config.front) == (model.config.network, model.config.front)
        ]
        if not same:
            raise ConfigError(
                f"{model.path}: {model.precision}, and none of the models is the fp32 one that it was made from; "
                "name that one too, so that the masks can be compared"
            )
        found[model.path] = same[0]
    return found


def plan_rows(
    models: Iterable[Model],
    engines: Sequence[str],
    batch: int,
    frames: int,
    gpu: str | None,
    no_gpu: str = "no GPU found",
    baseline: str = "",
) -> Iterator[Row]:
    """The rows of one batch size.

    Args:
        gpu: the device for the rows of a GPU; None where there is none, and then `no_gpu` says why.
        baseline: the Python file of the plain implementation, for one more row per fp32 model.
    """
    for model in models:
        if model.io != IO[0]:
            reason = "takes whole waveforms; the network alone is measured here, and `python -m bench.speed` runs it"
            # Once, by the first engine that takes such files: the reason is that of all engines and devices.
            engine = SUFFIXES[model.suffix][0]
            yield Row(engine, model.precision, model, reason=reason, wanted="cuda" if engine == "tensorrt" else "cpu")
            continue
        spec = Spec("engine", model.path, batch=batch, frames=frames)
        if baseline and model.precision == "fp32" and model.suffix != ".plan":
            yield Row(BASELINE, "fp32", model, replace(spec, kind="baseline", baseline=baseline))
        for engine in engines:
            for device in ("cpu", "cuda"):
                for precision in _precisions(engine, device, model):
                    if device == "cuda" and gpu is None:
                        yield Row(engine, precision, model, reason=no_gpu)
                        continue
                    kind = engine if engine in TORCH_KINDS else "engine"
                    yield Row(
                        engine,
                        precision,
                        model,
                        replace(spec, kind=kind, runtime=engine, precision=precision, device=gpu or "cpu")
                        if device == "cuda"
                        else replace(spec, kind=kind, runtime=engine, precision=precision),
                    )


def _precisions(engine: str, device: str, model: Model) -> tuple[str, ...]:
    """In which an engine runs a model on a device, as far as this project lets it."""
    if engine in TORCH_KINDS:
        if model.precision != "fp32" or model.suffix == ".plan" or ("cudagraph" in engine and device == "cpu"):
            return ()
        return ("fp32", "bf16") if device == "cpu" else ("fp32", "fp16")
    if engine not in SUFFIXES.get(model.suffix, ()):
        return ()
    if (engine, device) in (("openvino", "cuda"), ("tensorrt", "cpu")):
        return ()
    return (model.precision,)


def model_inputs(config: ModelConfig, batch: int, frames: int) -> Array:
    """Gives windows of the example as the network reads them, (batch, ...); they repeat if there are few.

    Real sound, because the arithmetic of low precision depends on its values.
    """
    from bench.context import EXAMPLE
    from ft.audio.open import read_audio
    from ft.separate.front import Meter, make_front
    from ft.windows import Window

    mixture, sample_rate = read_audio(EXAMPLE / "mixture.flac")
    front = make_front(config, IO[0], sample_rate)
    song = np.concatenate(list(front.frames([mixture])), axis=1)
    inputs = front.inputs(Window(song, slice(0, song.shape[1]), 0, 0), Meter(front).level(song))
    whole, size = inputs[config.reads[0].name][0], config.size(IO[0], frames)
    starts = np.arange(batch) * size % max(whole.shape[-1] - size, 1)
    columns = starts[:, None] + np.arange(size)
    windows = whole.take(columns, axis=-1, mode="wrap")  # (..., batch, size)
    return np.ascontiguousarray(np.moveaxis(windows, -2, 0))


def mask_snr(mask: Array, reference: Array) -> float:
    """In dB; not a number where a value is not finite."""
    if not np.isfinite(mask).all():
        return float("nan")
    return min(sdr(mask, reference), HIGHEST_SNR_DB)


def judge(snr: float, precision: str) -> str | None:
    """Why a mask is wrong; None where it is right."""
    limit = SNR_LIMITS_DB[precision]
    if snr >= limit:
        return None
    if np.isnan(snr):
        return "its mask has values that are not finite"
    return f"its mask has {snr:.1f} dB against PyTorch fp32, fewer than {limit:g}"


def summarise(row: Row, seconds: Sequence[float], per_window: float | None = None) -> dict[str, Any]:
    """The figures of a row's times.

    Args:
        seconds: of single batches, each finished before the next.
        per_window: seconds of a batch in a row of them, where the engine hides copies behind computing.
    """
    assert row.spec is not None
    spec = row.spec
    sound = spec.batch * spec.frames / row.model.config.frame_rate
    median = statistics.median(seconds)
    return {
        "latency_ms": {
            "median": _rounded(1e3 * median),
            "p95": _rounded(1e3 * float(np.percentile(seconds, 95))),
            "best": _rounded(1e3 * min(seconds)),
        },
        "times_real_time": _rounded(sound / (per_window or median)),
        "runs": len(seconds),
    }


Rate = tuple[str, str]
"""Precision (or `copy`) and device."""


def rates_used(row: Row) -> tuple[Rate, Rate]:
    """The matrix rate and the bandwidth that `shares` takes for a row; that of a CPU is not measured.

    The CPU has no fp16 arithmetic of its own: engines compute such files in fp32 there, and that rate counts.
    """
    precision = "fp32" if (row.precision, row.device) == ("fp16", "cpu") else row.precision
    return (precision, row.device), ("copy", row.device)


class Work(NamedTuple):
    """What a network must compute and move for a batch; products of matrices, convolutions and attention only."""

    flops: int
    values: int
    """What is read and written where each product reads its operands once and writes its result once."""


@functools.cache
def count_work(config: ModelConfig, batch: int, frames: int) -> Work:
    """Counts the work of a network for a batch of windows, without memory for its values."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from ft.models import make_network
    from ft.training.utilisation import CountFlops

    (spec,) = config.reads
    with FakeTensorMode(), torch.no_grad(), CountFlops() as counter:
        make_network(config).eval()(torch.empty(spec.sized(batch, config.size(IO[0], frames))))
    return Work(counter.total, counter.values)


def shares(row: Row, median: float, rates: Mapping[Rate, float]) -> dict[str, float | None]:
    """Gives the shares of the device's measured matrix rate in the row's precision, and of its memory bandwidth.

    `rates`: operations (or bytes, for `copy`) a second.
    """
    assert row.spec is not None
    work = count_work(row.model.config, row.spec.batch, row.spec.frames)
    matrix, copy = map(rates.get, rates_used(row))
    traffic = work.values * ITEM_BYTES[row.precision]
    return {
        "matmul_share": round(work.flops / median / matrix, 4) if matrix else None,
        "bandwidth_share": round(traffic / median / copy, 4) if copy else None,
    }


def check_engines(names: str) -> tuple[str, ...]:
    """`all`, or names with commas between them, in any case. Raises ConfigError for one that is unknown."""
    names = names.lower()
    if names == "all":
        return ENGINES
    found = tuple(name.strip() for name in names.split(",") if name.strip())
    unknown = [name for name in found if name not in ENGINES]
    if unknown or not found:
        raise ConfigError(f"engines: {', '.join(unknown) or 'none'}; expected all, or some of {', '.join(ENGINES)}")
    return found


def check_batches(text: str) -> tuple[int, ...]:
    """Numbers with commas between them. Raises ConfigError."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"batch: {text}; expected numbers with commas between them, e.g. 1,4,16") from error
    if min(found) < 1:
        raise ConfigError(f"batch: {min(found)}; expected 1 or more")
    return found


def _rounded(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")
