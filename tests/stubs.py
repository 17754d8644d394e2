"""Engines whose masks are known exactly, so that what surrounds a network can be tested without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engines.base import Array, Engine, EngineInfo, Inputs
from ft.config import IO, ModelConfig, model_config_from_yaml
from ft.dsp import left_right, mid_side, window_of
from ft.separate import Separator
from ft.separate.back import stem_spectra

MaskFunction = Callable[[Array], Array]


def stub_config(mask_stem: str = "vocals", **audio: Any) -> ModelConfig:
    """A model of 32 bins (of 33) at 8 kHz, so that seconds of sound are little work; keys are of the first format."""
    audio = {"sample_rate": 8000, "n_fft": 64, "hop_length": 32, "bins": 32, "normalize": "window", **audio}
    numbers = {"channels": 1, "multipliers": [1, 1], "heads": [1, 1], "expansion": 1}
    return model_config_from_yaml(
        {"audio": audio, "model": {"name": "stub", "mask_stem": mask_stem}, "network": numbers}, "stub"
    )


class StubEngine(Engine):
    """Computes masks with a function and keeps what it was given."""

    def __init__(self, mask: MaskFunction, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.mask = mask
        self.config = config or stub_config()
        self.batches: list[Array] = []

    @property
    def frames_run(self) -> int:
        return sum(batch.shape[0] * batch.shape[3] for batch in self.batches)

    def describe(self) -> EngineInfo:
        return EngineInfo(name="stub", model="none", device="cpu", precision="fp32", config=self.config)

    def _load(self) -> None:
        pass

    def _unload(self) -> None:
        pass

    def _infer(self, inputs: Inputs) -> Array:
        (batch,) = inputs.values()
        self.batches.append(batch)
        return self.mask(batch)


class WaveformStub(Engine):
    """The whole chain of a model that takes waveforms, in NumPy, with a function in place of the network."""

    def __init__(self, mask: MaskFunction, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.mask = mask
        self.config = config or stub_config()
        self.batches: list[Inputs] = []

    def describe(self) -> EngineInfo:
        return EngineInfo("stub", "none", "cpu", "fp32", self.config, IO[1])

    def _load(self) -> None:
        pass

    def _unload(self) -> None:
        pass

    def _infer(self, inputs: Inputs) -> Array:
        self.batches.append(inputs)
        return np.stack([self._stems(*item) for item in zip(*inputs.values(), strict=True)])

    def _stems(self, waveform: Array, scale: np.float32) -> Array:
        front, both = self.config.front, self.config.is_mid_side
        whole, waveform = waveform, mid_side(waveform) if both else waveform
        starts = range(0, waveform.shape[1] - front.covered + 1, front.hop_length)
        window = window_of(front.n_fft)
        spec = np.stack([np.fft.rfft(waveform[:, start : start + front.n_fft] * window) for start in starts], axis=1)
        values = np.abs(spec)
        scaled = np.clip(values[..., : front.used_bins] / ((scale if scale > 0 else values.max()) or 1), 0, 1)
        mask = self.mask(scaled.swapaxes(1, 2)[None].astype(np.float32))[0].swapaxes(1, 2)
        frames = np.fft.irfft(stem_spectra(mask[None], spec, self.config)[0], len(window)) * window
        stem, weight = np.zeros(waveform.shape), np.zeros(waveform.shape[1])
        for index, start in enumerate(starts):
            stem[:, start : start + front.n_fft] += frames[:, index]
            weight[start : start + front.n_fft] += window**2
        stem /= np.maximum(weight, 0.25)
        stem = left_right(stem) if both else stem
        return np.stack([stem, whole - stem]).astype(np.float32)


def noise(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def streamed(separator: Separator, mixture: np.ndarray, rate: int, size: int, levels=None) -> dict:
    """The stems of a song that comes in blocks of `size` samples."""
    blocks = (mixture[:, start : start + size] for start in range(0, mixture.shape[1], size))
    parts = list(separator.stream(blocks, rate, levels))
    return {stem: np.concatenate([part[stem] for part in parts], axis=1) for stem in parts[0]}


def all_ones(batch: Array) -> Array:
    return np.ones_like(batch)


def each_frame_alone(batch: Array) -> Array:
    """A mask that depends on its own frame only, and not on the scale of the window."""
    total = batch.sum(axis=2, keepdims=True) + 1e-12
    mask: Array = np.sqrt(np.clip(batch / total, 0, 1))
    return mask


def with_neighbours(reach: int) -> MaskFunction:
    """A mask of which each frame depends on the frames up to `reach` away, and on what lies beyond the border."""

    def mask(batch: Array) -> Array:
        total = each_frame_alone(batch)
        padded = np.pad(total, ((0, 0), (0, 0), (0, 0), (reach, reach)))
        frames = total.shape[3]
        sums = sum(padded[..., shift : shift + frames] for shift in range(2 * reach + 1))
        result: Array = np.clip(sums / (2 * reach + 1), 0, 1).astype(np.float32)
        return result

    return mask
