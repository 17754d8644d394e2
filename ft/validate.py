"""Validation while training: the loss on two sets, and the SDR of whole songs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from ft.batches import batch_from_waveforms, collate, scaled_magnitude, spectrogram
from ft.config import AudioConfig, ModelConfig
from ft.data import Item, read_crop
from ft.losses import separation_loss
from ft.metrics import sdr
from ft.scan import Song
from ft.train_config import Losses

SONG_WINDOW = 512
SONG_CONTEXT = 64
Network = Callable[[Tensor], Tensor]
"""From magnitudes in 0..1 to a mask."""


def mean_loss(
    network: Network, items: Iterable[Item], config: ModelConfig, losses: Losses, device: torch.device
) -> float:
    """Mean of the training objective over items, one at a time."""
    values = []
    for item in items:
        batch = batch_from_waveforms(collate([item]).to(device), config)
        mask = network(batch.magnitude).float()
        values.append(separation_loss(mask, batch.mixture, batch.target, batch.scale, losses).item())
    return float(np.mean(values))


def song_sdr(network: Network, songs: Iterable[Song], config: ModelConfig, device: torch.device) -> dict[str, float]:
    """Mean global SDR in dB of `vocals` and `instrumental` over whole songs, masked by the network being trained."""
    audio, scores = config.audio, []
    for song in songs:
        samples = song.mixture.samples
        files = (song.mixture, song.instrumental)
        mixture, instrumental = (
            torch.from_numpy(read_crop(file, 0, samples, audio.sample_rate, audio.channels)) for file in files
        )
        kept = masked_song(network, mixture, config, device)
        rest = mixture - kept
        vocals, backing = (kept, rest) if config.mask_stem == "vocals" else (rest, kept)
        scores.append(
            (sdr(vocals.numpy(), (mixture - instrumental).numpy()), sdr(backing.numpy(), instrumental.numpy()))
        )
    vocals_db, instrumental_db = np.mean(scores, axis=0)
    return {"vocals": float(vocals_db), "instrumental": float(instrumental_db)}


def masked_song(network: Network, mixture: Tensor, config: ModelConfig, device: torch.device) -> Tensor:
    """`mixture` (channels, samples) through the mask: the waveform of `mask_stem`."""
    audio = config.audio
    spec = spectrogram(mixture, audio, center=True)
    peak = spec.abs().max() if audio.normalize == "track" else None
    mask = torch.zeros_like(spec.real)
    for start in range(0, spec.shape[2], SONG_WINDOW - 2 * SONG_CONTEXT):
        first, last = max(0, start - SONG_CONTEXT), start + SONG_WINDOW - SONG_CONTEXT
        scale = peak if peak is not None else spec[:, :, first:last].abs().max()
        magnitude = scaled_magnitude(spec[None, :, : audio.bins, first:last], scale.reshape(1))
        window_mask = network(magnitude.to(device)).float().cpu()
        kept = slice(start, last - SONG_CONTEXT)
        mask[:, : audio.bins, kept] = window_mask[0, :, :, start - first :][:, :, : kept.stop - kept.start]
    if audio.extend_mask:
        mask[:, audio.bins :] = mask[:, audio.bins - audio.extend_mask : audio.bins].mean(dim=1, keepdim=True)
    return _inverse(spec * mask, audio, mixture.shape[1])


def _inverse(spec: Tensor, audio: AudioConfig, samples: int) -> Tensor:
    window = torch.hann_window(audio.n_fft)
    return torch.istft(spec, audio.n_fft, audio.hop_length, window=window, length=samples)
