"""Batches of training items: loaded by worker processes, turned into spectrograms on the device."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ft.config import AudioConfig, ModelConfig
from ft.data import Item, MixtureItems
from ft.errors import FtError


@dataclass(frozen=True)
class Batch:
    """What a training step needs, on the device.

    `magnitude` is (batch, channels, bins, frames) in 0..1, what the network reads; `mixture` and `target` are the
    complex spectrograms of the same shape, `target` that of the stem that the mask keeps; `scale` is (batch,).
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


def scaled_magnitude(spec: Tensor, scale: Tensor) -> Tensor:
    """clip(|X| / scale, 0, 1), one scale per item; an all-zero item is silence whatever its scale."""
    return (spec.abs() / scale.clamp_min(1e-8).reshape(-1, 1, 1, 1)).clamp(0, 1)


def batch_from_waveforms(waveforms: Waveforms, config: ModelConfig) -> Batch:
    """Spectrograms, scale and network input of a batch, on its device."""
    audio = config.audio
    mixture = spectrogram(waveforms.mixture, audio)
    instrumental = spectrogram(waveforms.instrumental, audio)
    own_peak = mixture.abs().amax((1, 2, 3))
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


def _leave_ctrl_c_to_the_trainer(worker: int) -> None:
    """A terminal sends Ctrl-C to the workers too, and the trainer still needs them to finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def load_batches(
    items: MixtureItems, epoch: int, first: int, count: int, batch_size: int, frames: int, workers: int, pin: bool
) -> Iterator[Waveforms]:
    """Batches number `first` to `count` - 1 of an epoch, in order. Raises DataError."""
    keys = [
        [(epoch, batch * batch_size + position, frames) for position in range(batch_size)]
        for batch in range(first, count)
    ]
    loader: DataLoader = DataLoader(
        _Keyed(items),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate_or_error,
        worker_init_fn=_leave_ctrl_c_to_the_trainer,
        pin_memory=pin,
        # A generator of its own: the loader would draw from the one of dropout, and a resumed run would differ.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, FtError):
            raise batch
        yield batch
