"""What a benchmark runs: engines, PyTorch in its own ways, the machine's matrix rate. One of them lives in one process.

Every runner takes NumPy and gives NumPy, so that a time always holds the way to a device and back.
"""

from __future__ import annotations

import importlib.util
import sys
import timeit
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.base import Engine, Inputs
from ft.errors import EngineError
from ft.workers import usable_cores

Array = NDArray[np.float32]

MATMUL_SIZE = 4096
PROBE_SIZE, MOST_SECONDS = 512, 10.0
"""A product of this size says whether one of `MATMUL_SIZE` would take longer than that on a CPU."""
MATMUL_REPEATS = {"cpu": 1, "cuda": 50}
"""Products in one run; one alone on a GPU is over before it could be timed."""
COPY_BYTES, COPIES = 1 << 30, 10
TORCH_KINDS = ("torch", "torch-compile", "torch-cudagraph", "torch-compile-cudagraph")
BASELINE = "baseline"


@dataclass(frozen=True)
class Spec:
    """Which runner, on what."""

    kind: str
    """A key of `RUNNERS`."""
    model: str = ""
    """A file; empty for what `load_engine` takes without one, for the kinds `song` and `windows`."""
    runtime: str = "auto"
    """The runtime for `load_engine`, for the kinds `engine`, `song` and `windows`."""
    precision: str = "fp32"
    """What PyTorch and the matrix rate compute in; a model file knows its own."""
    device: str = "cpu"
    batch: int = 1
    frames: int = 256
    baseline: str = ""
    """Python file with `load(model)` and `separate(network, mixture)`: the plain implementation to compare with."""
    song: str = ""
    """Audio file that `song`, `windows` and `baseline-song` separate."""


class Runner(ABC):
    """Opened once, run many times."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    @abstractmethod
    def open(self) -> dict[str, Any]:
        """Loads what is needed, imports included; gives what is known of it, the `version` of a row's engine."""

    @abstractmethod
    def run(self, batch: Array | None) -> Array | None:
        """One run, finished when it returns."""

    def stream(self, batch: Array, count: int) -> None:
        """`count` runs, one after the other or as the runner hides one behind the next."""
        for _ in range(count):
            self.run(batch)

    def details(self) -> dict[str, Any]:
        """More about the last run."""
        return {}

    def close(self) -> None:  # noqa: B027  most have nothing to clean up
        """Removes what the runner left outside its process."""


class EngineRunner(Runner):
    """An engine of this project, as `load_engine` makes it."""

    engine: Engine

    def open(self) -> dict[str, Any]:
        from engines import load_engine

        spec = self.spec
        windows = (spec.batch, spec.frames)
        self.engine = load_engine(spec.model, runtime=spec.runtime, device=spec.device, windows=windows)
        self.engine.open()
        return engine_facts(self.engine)

    def run(self, batch: Array | None) -> Array:
        assert batch is not None
        return self.engine.run(self._inputs(batch))

    def stream(self, batch: Array, count: int) -> None:
        for _ in self.engine.map([self._inputs(batch)] * count):
            pass

    def _inputs(self, batch: Array) -> Inputs:
        (spec,) = self.engine.describe().reads
        return {spec.name: batch}


def engine_facts(engine: Engine) -> dict[str, Any]:
    """What `open` gives of an engine."""
    info = engine.describe()
    return {name: getattr(info, name) for name in ("name", "model", "version", "precision", "device")}


class TorchRunner(Runner):
    """The project's network in PyTorch: eager, compiled, with CUDA graphs, or both, as the spec's kind says."""

    def open(self) -> dict[str, Any]:
        import torch

        from export.graph import DTYPES, lowered
        from ft.checkpoint import load_model
        from ft.models.signal import Runnable

        torch.set_num_threads(usable_cores())
        model = load_model(self.spec.model)
        config, dtype = model.model_config, DTYPES[self.spec.precision]
        network = Runnable(lowered(model, config, dtype), config.output).to(self.spec.device)
        self.network: Callable[[torch.Tensor], torch.Tensor] = network
        if "compile" in self.spec.kind:
            mode = "reduce-overhead" if self.spec.kind == "torch-compile-cudagraph" else "default"
            self.network = torch.compile(network, mode=mode)
        self._captured: Any = None
        return {"version": torch.__version__}

    def run(self, batch: Array | None) -> Array:
        import torch

        assert batch is not None
        # Convolutions on a GPU would otherwise round to TF32.
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            if self.spec.kind == "torch-cudagraph":
                return self._replay(torch.from_numpy(batch))
            result: Array = self.network(torch.from_numpy(batch).to(self.spec.device)).cpu().numpy()
        return result

    def _replay(self, batch: Any) -> Array:
        import torch

        if self._captured is None:
            given = batch.to(self.spec.device)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # libraries choose and allocate before the capture
                    self.network(given)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = self.network(given)
            self._captured = graph, given, found
        graph, given, found = self._captured
        given.copy_(batch)
        graph.replay()
        result: Array = found.cpu().numpy()
        return result


class MatmulRunner(Runner):
    """Square products of PyTorch: the rate that shares are taken of. int8 sums in int32.

    Without instructions for a precision a CPU may take minutes for one; that is found out with a small one.
    """

    def open(self) -> dict[str, Any]:
        import torch

        torch.set_num_threads(usable_cores())
        self.repeats = MATMUL_REPEATS[self.spec.device.partition(":")[0]]
        if self.spec.device == "cpu":
            seconds = (
                min(timeit.repeat(self._product(PROBE_SIZE), number=1, repeat=3)) * (MATMUL_SIZE / PROBE_SIZE) ** 3
            )
            if seconds > MOST_SECONDS:
                raise EngineError(f"slow here, {seconds:.0f} s for one product")
        self.product = self._product(MATMUL_SIZE)
        return {"work": 2 * MATMUL_SIZE**3 * self.repeats}

    def _product(self, size: int) -> Callable[[], object]:
        import torch

        from export.graph import DTYPES

        if self.spec.precision == "int8":
            values = torch.randint(-8, 8, (size, size), dtype=torch.int8, device=self.spec.device)
            return lambda: torch._int_mm(values, values)
        values = torch.rand(size, size, device=self.spec.device).to(DTYPES[self.spec.precision])
        return lambda: torch.mm(values, values)

    def run(self, batch: Array | None) -> None:
        for _ in range(self.repeats):
            self.product()
        _wait_for(self.spec.device)


class CopyRunner(Runner):
    """A copy within the device's memory: its bandwidth, reading and writing counted."""

    def open(self) -> dict[str, Any]:
        import torch

        self.source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=self.spec.device)
        self.target = torch.empty_like(self.source)
        return {"work": 2 * COPY_BYTES * COPIES}

    def run(self, batch: Array | None) -> None:
        for _ in range(COPIES):
            self.target.copy_(self.source)
        _wait_for(self.spec.device)


class BaselineRunner(Runner):
    """The plain implementation."""

    def open(self) -> dict[str, Any]:
        import torch

        torch.set_num_threads(usable_cores())
        self.baseline = load_baseline(self.spec.baseline)
        self.network = self.baseline.load(self.spec.model)
        return {"version": torch.__version__}

    def run(self, batch: Array | None) -> Array | None:
        import torch

        assert batch is not None
        with torch.inference_mode():
            result: Array = self.network.mask(torch.from_numpy(batch)).numpy()
        return result


class BaselineSongRunner(BaselineRunner):
    """The plain implementation's own way of separating a song of the model's rate; gives (stems, channels, samples)."""

    def run(self, batch: Array | None) -> Array | None:
        from ft.audio.open import read_audio

        mixture, _ = read_audio(Path(self.spec.song))
        stems = self.baseline.separate(self.network, mixture)
        return np.stack([stems[stem] for stem in self.network.config.all_stems])


def load_baseline(path: str) -> Any:
    """The module in a Python file that no package holds. Raises EngineError where it lacks what is asked of it."""
    found = importlib.util.spec_from_file_location("bench_baseline", path)
    if found is None or found.loader is None or not Path(path).is_file():
        raise EngineError(f"{path}: no Python file; expected one with load(model) and separate(network, mixture)")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    for name in ("load", "separate"):
        if not hasattr(module, name):
            raise EngineError(f"{path}: has no {name}(); expected load(model) and separate(network, mixture)")
    return module


RUNNERS: dict[str, type[Runner]] = {
    "engine": EngineRunner,
    **dict.fromkeys(TORCH_KINDS, TorchRunner),
    "matmul": MatmulRunner,
    "copy": CopyRunner,
    BASELINE: BaselineRunner,
    "baseline-song": BaselineSongRunner,
}


def _wait_for(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)
