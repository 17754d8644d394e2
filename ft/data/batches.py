"""Batches of training items: loaded by worker processes, turned into spectrograms on the device."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ft.config import AudioConfig, ModelConfig
from ft.data.examples import Item, MixtureItems
from ft.dsp import SIDE_LEVEL, SILENT_SIDE, side_delay
from ft.errors import FtError
from ft.models.frame_transformer import scale_input

EDGE_WEIGHT = 0.25
"""An inverse transform divides by no smaller sum of squared windows over a sample."""


@dataclass(frozen=True)
class Batch:
    """What a training step needs, on the device.

    `magnitude` is (batch, channels, bins, frames) in 0..1; `mixture` and `target` are the complex spectrograms of the
    same shape, `target` that of the stem that the mask keeps; `scale` is (batch,). Their channels are those of
    `AudioConfig.stereo`.
    """

    magnitude: Tensor
    mixture: Tensor
    target: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Waveforms:
    """A collated batch as the workers deliver it: waveforms (batch, channels, samples), the rest (batch,)."""

    mixture: Tensor
    instrumental: Tensor
    peak: Tensor
    has_vocals: Tensor
    headroom: Tensor

    def pin_memory(self) -> Waveforms:
        return Waveforms(*(tensor.pin_memory() for tensor in vars(self).values()))

    def to(self, device: torch.device) -> Waveforms:
        return Waveforms(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))


def collate(items: Sequence[Item]) -> Waveforms:
    """One batch from items of equal length."""
    return Waveforms(
        torch.from_numpy(np.stack([item.mixture for item in items])),
        torch.from_numpy(np.stack([item.instrumental for item in items])),
        torch.tensor([item.peak for item in items], dtype=torch.float32),
        torch.tensor([item.has_vocals for item in items]),
        torch.tensor([item.headroom for item in items], dtype=torch.float32),
    )


def spectrogram(waveform: Tensor, audio: AudioConfig, center: bool = False) -> Tensor:
    """(..., samples) -> complex (..., n_fft // 2 + 1, frames); Hann window, reflected at the ends if `center`."""
    window = torch.hann_window(audio.n_fft, device=waveform.device)
    flat = waveform.reshape(-1, waveform.shape[-1])
    spec = torch.stft(
        flat, audio.n_fft, audio.hop_length, window=window, center=center, pad_mode="reflect", return_complex=True
    )
    return spec.reshape(*waveform.shape[:-1], *spec.shape[-2:])


def waveform_from_spectrogram(spec: Tensor, audio: AudioConfig, samples: int) -> Tensor:
    """Left and right (batch, channels, samples) of what `spectrogram` made without centring, of all bins or the lowest.

    The first and last samples lie under one window's foot; there the sum is divided by no less than `EDGE_WEIGHT`.
    """
    window = torch.hann_window(audio.n_fft, device=spec.device)
    full = F.pad(spec, (0, 0, 0, audio.n_fft // 2 + 1 - spec.shape[-2])).transpose(-1, -2)
    total = _overlapped(torch.fft.irfft(full, audio.n_fft) * window, audio)
    weight = _overlapped(window.square().expand(spec.shape[-1], -1), audio)
    waveform = (total / weight.clamp_min(EDGE_WEIGHT))[..., :samples]
    return left_right(F.pad(waveform, (0, samples - waveform.shape[-1])), audio)


def _overlapped(frames: Tensor, audio: AudioConfig) -> Tensor:
    """The sum (..., samples) of frames (..., frames, n_fft), each a hop behind the one before."""
    hop, parts = audio.hop_length, audio.covered // audio.hop_length
    hops = F.pad(frames, (0, audio.covered - audio.n_fft)).unflatten(-1, (parts, hop))
    shifted = [F.pad(hops[..., part, :], (0, 0, part, parts - 1 - part)) for part in range(parts)]
    return torch.stack(shifted).sum(0).flatten(-2)


def mid_side(waveform: Tensor, audio: AudioConfig) -> Tensor:
    """Left and right (..., 2, samples) as the channels that the network of `audio` sees (`AudioConfig.stereo`)."""
    if audio.stereo == "left-right":
        return waveform
    left, right = waveform.unbind(-2)
    return torch.stack(((left + right) / 2, (left - right) / 2), dim=-2)


def left_right(waveform: Tensor, audio: AudioConfig) -> Tensor:
    """The inverse of `mid_side`."""
    if audio.stereo == "left-right":
        return waveform
    mid, side = waveform.unbind(-2)
    return torch.stack((mid + side, mid - side), dim=-2)


def network_input(spec: Tensor, scale: Tensor, config: ModelConfig) -> Tensor:
    """What the network reads of a complex spectrogram (batch, channels, bins, frames), one `scale` for each item.

    Magnitudes by `scale_input`; for a complex mask, real and imaginary parts (batch, 2 * channels, bins, frames) of the
    spectrum whose magnitude is raised to the power `input_power`.
    """
    power = config.network.input_power
    magnitude = scaled_magnitude(spec, scale)
    if config.network.mask == "magnitude":
        return scale_input(with_side(magnitude, config.audio), power)
    size = magnitude**power / spec.abs().clamp_min(1e-12)
    return torch.cat((spec.real * size, spec.imag * size), dim=1)


def with_side(magnitude: Tensor, audio: AudioConfig) -> Tensor:
    """Mid and side (batch, 2, bins, frames), with `ft.dsp.stand_in_side` where there is none, as in a mono song."""
    if audio.stereo == "left-right":
        return magnitude
    mid, side = magnitude[:, :1], magnitude[:, 1:]
    delay = side_delay(magnitude.shape[-1], audio.sample_rate / audio.hop_length)
    is_silent = side.amax((1, 2, 3), keepdim=True) <= SILENT_SIDE * mid.amax((1, 2, 3), keepdim=True)
    return torch.cat((mid, torch.where(is_silent, mid.roll(delay, -1) * SIDE_LEVEL, side)), dim=1)


def mask_from_logits(logits: Tensor, config: ModelConfig) -> Tensor:
    """The mask (batch, channels, bins, frames): the sigmoid of the logits, or, if it is complex, the logits."""
    logits = logits.float()
    if config.network.mask == "magnitude":
        return torch.sigmoid(logits)
    return torch.complex(*logits.chunk(2, dim=1))


def scaled_magnitude(spec: Tensor, scale: Tensor) -> Tensor:
    """clip(|X| / scale, 0, 1), one scale per item; an all-zero item is silence whatever its scale."""
    return (spec.abs() / scale.clamp_min(1e-8).reshape(-1, 1, 1, 1)).clamp(0, 1)


def squared_magnitude(spec: Tensor) -> Tensor:
    """Squared magnitude; the root that `abs` takes costs as much as the transform itself."""
    return spec.real.square() + spec.imag.square()


def batch_from_waveforms(waveforms: Waveforms, config: ModelConfig) -> Batch:
    """Spectrograms, scale and network input of a batch, on its device."""
    audio = config.audio
    mixture = spectrogram(mid_side(waveforms.mixture, audio), audio)
    instrumental = spectrogram(mid_side(waveforms.instrumental, audio), audio)
    own_peak = squared_magnitude(mixture).amax((1, 2, 3)).sqrt()
    if audio.normalize == "window":
        scale = own_peak
    else:
        # The file's own peak, raised to the crop's where vocals were added (or the file's is not known).
        louder = waveforms.has_vocals | (waveforms.peak == 0)
        scale = torch.where(louder, torch.maximum(waveforms.peak, own_peak), waveforms.peak)
    mixture, instrumental = mixture[:, :, : audio.bins], instrumental[:, :, : audio.bins]
    target = instrumental if config.mask_stem == "instrumental" else mixture - instrumental
    scale = (scale * waveforms.headroom).clamp_min(1e-8)
    return Batch(scaled_magnitude(mixture, scale), mixture, target, scale)


class _Keyed(Dataset):
    """Items by (epoch, index, frames).

    An error of ours is given in the item's place: raised in a worker, it would reach the user wrapped in a traceback.
    """

    def __init__(self, items: MixtureItems) -> None:
        self.items = items

    def __getitem__(self, key: tuple[int, int, int]) -> Item | FtError:
        try:
            return self.items.item(*key)
        except FtError as error:
            return error


def _collate_or_error(items: Sequence[Item | FtError]) -> Waveforms | FtError:
    error = next((item for item in items if isinstance(item, FtError)), None)
    return error or collate([item for item in items if isinstance(item, Item)])


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A terminal sends Ctrl-C to the workers too, and schedulers SIGTERM; the trainer still needs them for its step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@dataclass(frozen=True)
class Batching:
    """How items become batches: `batch_size` crops of `frames` for process `rank` of each of `size` processes."""

    batch_size: int
    frames: int
    rank: int = 0
    size: int = 1

    def keys(self, epoch: int, batch: int) -> list[tuple[int, int, int]]:
        """Epoch, index and frames of the items that this process has in a batch.

        >>> Batching(2, frames=16, rank=1, size=2).keys(0, 1)
        [(0, 6, 16), (0, 7, 16)]
        """
        begin = (batch * self.size + self.rank) * self.batch_size
        return [(epoch, begin + position, self.frames) for position in range(self.batch_size)]


def load_batches(
    items: MixtureItems, batching: Batching, epoch: int, numbers: range, workers: int, pin: bool = False
) -> Iterator[Waveforms]:
    """The batches of an epoch with these `numbers`, in order.

    Raises:
        DataError: a file can no longer be read.
    """
    keys = [batching.keys(epoch, number) for number in numbers]
    loader: DataLoader = DataLoader(
        _Keyed(items),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate_or_error,
        worker_init_fn=_leave_signals_to_the_trainer,
        pin_memory=pin,
        # A generator of its own: the loader would draw from the one of dropout, and a resumed run would differ.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, FtError):
            raise batch
        yield batch
