"""Which rows a table has, and what a row says: every engine that could run a model here, the unusable ones included."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.runners import BASELINE, TORCH_KINDS, Array, Spec
from engines import SUFFIXES, read_config
from ft.config import IO, ModelConfig
from ft.errors import ConfigError
from ft.files import DEFAULT_MODEL, FP32_MODEL, model_path
from ft.info import describe_model
from ft.metrics import sdr

ENGINES = ("onnxruntime", "openvino", "tensorrt", *TORCH_KINDS)

SNR_LIMITS_DB = {"fp32": 60.0, "fp16": 45.0, "bf16": 30.0, "int8": 25.0}
"""A mask with less against PyTorch in fp32 is wrong. Rounding alone leaves 100 dB and more in fp32."""
HIGHEST_SNR_DB = 200.0
"""The ratio of results that are equal bit by bit."""
ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class ModelFile:
    """What a row needs to know of a model file."""

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
class Contender:
    """A row before it is measured; `spec.runtime` is what its engine is called."""

    model: ModelFile
    spec: Spec
    reason: str = ""
    """Why it cannot run here; empty where it can."""


def read_model_file(source: str) -> ModelFile:
    """What is known of a model file. Raises CheckpointError."""
    facts = describe_model(source)
    path = str(model_path(source))
    precision = str(facts["precision"]).partition(" ")[0]
    name = FP32_MODEL if source == DEFAULT_MODEL else Path(source).name
    return ModelFile(name, path, precision, str(facts.get("io", IO[0])), read_config(source))


def references(models: Sequence[ModelFile]) -> dict[str, ModelFile]:
    """The fp32 model that each one is compared with, by path: itself, or the one of the same network and front end.

    One that takes waveforms is not measured (`contenders`), and stands for itself alone.

    Raises:
        ConfigError: a model in low precision without its fp32 one.
    """
    whole = [
        model
        for model in models
        if model.io == IO[0] and model.precision == "fp32" and model.suffix in (".onnx", ".safetensors")
    ]
    found = {}
    for model in models:
        network = model.config.network, model.config.front
        same = [other for other in whole if (other.config.network, other.config.front) == network]
        if model.io != IO[0] or model in whole:
            found[model.path] = model
        elif same:
            found[model.path] = same[0]
        else:
            raise ConfigError(
                f"{model.path}: {model.precision}, and none of the models is the fp32 one that it was made from; "
                "name that one too, so that the masks can be compared"
            )
    return found


def contenders(
    models: Iterable[ModelFile], engines: Sequence[str], batch: int, frames: int, no_gpu: str, baseline: str = ""
) -> Iterator[Contender]:
    """The rows of one batch size.

    Args:
        no_gpu: why the rows of a GPU cannot run; empty where there is one.
        baseline: the Python file of the plain implementation, for one more row per fp32 model.
    """
    for model in models:
        spec = Spec("engine", model.path, precision=model.precision, batch=batch, frames=frames)
        if model.io != IO[0]:
            reason = "takes whole waveforms; the network alone is measured here, and `python -m bench.speed` runs it"
            # Once, by the first engine that takes such files: the reason is that of all engines and devices.
            engine = SUFFIXES[model.suffix][0]
            device = "cuda" if engine == "tensorrt" else "cpu"
            yield Contender(model, replace(spec, runtime=engine, device=device), reason)
            continue
        if baseline and model.precision == "fp32" and model.suffix != ".plan":
            yield Contender(model, replace(spec, kind=BASELINE, runtime=BASELINE, baseline=baseline))
        for engine, device in itertools.product(engines, ("cpu", "cuda" if no_gpu else "cuda:0")):
            kind = engine if engine in TORCH_KINDS else "engine"
            for precision in _precisions(engine, device, model):
                own = replace(spec, kind=kind, runtime=engine, precision=precision, device=device)
                yield Contender(model, own, "" if device == "cpu" else no_gpu)


def _precisions(engine: str, device: str, model: ModelFile) -> tuple[str, ...]:
    """In which an engine runs a model on a device, as far as this project lets it."""
    if engine in TORCH_KINDS:
        if model.precision != "fp32" or model.suffix == ".plan" or ("cudagraph" in engine and device == "cpu"):
            return ()
        return ("fp32", "bf16") if device == "cpu" else ("fp32", "fp16")
    only = {"openvino": "cpu", "tensorrt": "cuda"}.get(engine, device)
    return (model.precision,) if engine in SUFFIXES.get(model.suffix, ()) and device.startswith(only) else ()


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


Rate = tuple[str, str]
"""Precision (or `copy`) and device."""


def rates_used(spec: Spec) -> tuple[Rate, Rate]:
    """The matrix rate and the bandwidth that `shares` takes for a row; that of a CPU is not measured.

    The CPU has no fp16 arithmetic of its own: engines compute such files in fp32 there, and that rate counts.
    """
    precision = "fp32" if (spec.precision, spec.device) == ("fp16", "cpu") else spec.precision
    return (precision, spec.device), ("copy", spec.device)


class Cost(NamedTuple):
    """What a network must compute and move for a batch; products of matrices, convolutions and attention only."""

    flops: int
    values: int
    """What is read and written where each product reads its operands once and writes its result once."""


@functools.cache
def count_work(config: ModelConfig, batch: int, frames: int) -> Cost:
    """Counts the work of a network for a batch of windows, without memory for its values."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from ft.models import make_network
    from ft.training.utilisation import CountFlops

    (spec,) = config.reads
    with FakeTensorMode(), torch.no_grad(), CountFlops() as counter:
        make_network(config).eval()(torch.empty(spec.sized(batch, config.size(IO[0], frames))))
    return Cost(counter.total, counter.values)


def shares(row: Contender, median: float, rates: Mapping[Rate, float]) -> dict[str, float | None]:
    """Gives the shares of the device's measured matrix rate in the row's precision, and of its memory bandwidth.

    `rates`: operations (or bytes, for `copy`) a second.
    """
    spec = row.spec
    cost = count_work(row.model.config, spec.batch, spec.frames)
    matrix, copy = map(rates.get, rates_used(spec))
    traffic = cost.values * ITEM_BYTES[spec.precision]
    return {
        "matmul_share": round(cost.flops / median / matrix, 4) if matrix else None,
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
