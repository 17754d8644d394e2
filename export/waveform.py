"""The whole chain as one ONNX graph: waveforms in, stems out, for programs that bring no FFT of their own.

What `ft export MODEL --io waveform` writes. Everything is float32 from outside; in a half-precision file the network
computes in half precision and both transforms stay in float32.

Inputs
    `waveform` (batch, channels, samples): sound at the model's sample rate, full scale at 1. `samples` is a multiple of
        the hop and at least what one frame covers (`smallest` below). The graph pads nothing: frame t begins at sample
        t * hop.
    `scale` (batch,): the peak magnitude of the song's spectrogram (periodic Hann window, not normalised; `n_fft` and
        `hop_length` stand in `ft_config`), by which its magnitudes are divided; louder ones are clipped. 0 or less
        takes the peak of the waveform that is given. A model with `normalize: window` was trained so and wants 0. A
        model with `normalize: track` wants one peak for the whole song, found in a pass of its own; 0 is then right
        only where the waveform is the whole song, and counts the bins that the network sees.
Output
    `stems` (batch, stems, channels, samples), in the order of the metadata's `stems`. They sum to `waveform`.

Metadata `ft_context`, JSON, all in samples at the model's rate:
    `alignment`  the hop, of which `samples` and the step from one window to the next are multiples
    `smallest`   samples of one frame
    `window`     what `ft separate` gives at once, context included; any other length runs too
    `transform`  context on each side within which a sample lacks frames of its inverse transform; stems fade there
    `recommended` context on each side, computed and thrown away, for the network to hear what surrounds the rest;
        `transform` included
    `fade`       by which two windows overlap beyond their contexts, to be cross-faded
    `reflect`    samples of the song mirrored before its first one (numpy's pad mode `reflect`)

How to run a song with them:
    1. Resample to `sample_rate`. Prepend `reflect` mirrored samples; append `smallest` - `reflect` of them, and more up
       to the next multiple of `alignment`. What follows counts in this padded song.
    2. Window i begins at i * (window - 2 * recommended - fade) and has `window` samples; the last one ends with the
       song and may have fewer. Give a mono song to a stereo model twice, and the channels of a stereo song to a mono
       model as two items.
    3. Of each window's stems throw `recommended` samples away at each end, but none at the beginning and the end of the
       padded song. What is left of two neighbours overlaps by `fade` samples: blend them with weights that sum to 1.
       (`ft separate` fades by the weights of frames, which is nearer to what masks faded into each other give.)
    4. Drop the `reflect` samples at the beginning and what lies behind the song's length. At another rate resample the
       vocals back, and take the rest of the mixture for the instrumental, so that the stems sum to it.

Precision: matrix products in TF32 (10 bits, the default of several runtimes on NVIDIA GPUs) or in bfloat16 raise the
transforms' error from about -120 dB to -60 dB. Turn them off: `use_tf32=0` in ONNX Runtime, BuilderFlag.TF32 cleared in
TensorRT, `INFERENCE_PRECISION_HINT=f32` in OpenVINO.

The transforms are products with constant matrices, split once by the even and the odd bins (a radix-2 step), which
halves their cost. Only the bins that the network sees are computed: above them the mask is one number for each frame,
so that this part of the inverse is the windowed frame itself times that number.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from export.graph import SOME_FRAMES, free_axes, lowered, trace
from ft.config import IO, ModelConfig, Spectrogram
from ft.dsp import window_of
from ft.errors import ExportError
from ft.models.network import SeparationNetwork
from ft.models.signal import EDGE_WEIGHT, Runnable
from ft.windows import WindowPlan

if TYPE_CHECKING:
    import onnx_ir

_TINY = 1e-30


class Frames(nn.Module):
    """What both transforms know of a frame; they work on its halves."""

    window: Tensor
    even: Tensor
    odd: Tensor

    def __init__(self, audio: Spectrogram) -> None:
        super().__init__()
        self.hop, self.half_frame = audio.hop_length, audio.n_fft // 2
        self.parts = audio.covered // audio.hop_length
        """Hops that one frame covers."""
        window = window_of(audio.n_fft)
        self.register_buffer("window", torch.from_numpy(window).reshape(2, self.half_frame), persistent=False)


class Stft(Frames):
    """(batch, channels, samples) to the spectrum of the bins that the network sees.

    The spectrum comes as two tensors, of the even and of the odd bins, each (batch, channels, frames, 2 * bins / 2):
    real parts, then imaginary parts.
    """

    even_above: Tensor
    odd_above: Tensor

    def __init__(self, audio: Spectrogram) -> None:
        super().__init__(audio)
        bins = np.arange(audio.used_bins)
        self.register_buffer("even", _forward(audio.n_fft, bins[::2]), persistent=False)
        self.register_buffer("odd", _forward(audio.n_fft, bins[1::2]), persistent=False)
        # Where each window has its own scale, that is the peak of all bins.
        above = np.arange(len(bins), self.half_frame + 1) if audio.scale == "window-peak" else bins[:0]
        self.register_buffer("even_above", _forward(audio.n_fft, above[above % 2 == 0]), persistent=False)
        self.register_buffer("odd_above", _forward(audio.n_fft, above[above % 2 == 1]), persistent=False)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The even and the odd bins, their magnitude (batch, channels, frames, bins), its peak (batch,), and the frames
        (batch, channels, frames, n_fft) times the window."""
        rows = waveform.unflatten(-1, (-1, self.hop))
        last = self.parts - 1
        pieces = [rows[..., part : part - last or None, :] for part in range(self.parts)]
        first, second = self._halves(pieces)
        first, second = first * self.window[0], second * self.window[1]
        total, difference = first + second, first - second
        even, odd = total @ self.even, difference @ self.odd
        magnitude = torch.stack((_magnitude(even), _magnitude(odd)), dim=-1).flatten(-2)
        peak = magnitude.amax(dim=(1, 2, 3))
        for half, basis in ((total, self.even_above), (difference, self.odd_above)):
            if basis.shape[1]:
                peak = torch.maximum(peak, _magnitude(half @ basis).amax(dim=(1, 2, 3)))
        return even, odd, magnitude, peak, torch.cat((first, second), dim=-1)

    def _halves(self, pieces: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The first and the second half of each frame from the hops that it covers."""
        if self.half_frame % self.hop == 0:
            count = self.half_frame // self.hop
            return _joined(pieces[:count]), _joined(pieces[count:])
        frames = torch.cat(pieces, dim=-1)
        return frames[..., : self.half_frame], frames[..., self.half_frame : 2 * self.half_frame]


class Istft(Frames):
    """Spectra back to waveforms: overlap-add, divided by the sum of the squared windows."""

    square: Tensor

    def __init__(self, audio: Spectrogram) -> None:
        super().__init__(audio)
        bins = np.arange(audio.used_bins)
        self.register_buffer("even", _inverse(audio.n_fft, bins[::2]), persistent=False)
        self.register_buffer("odd", _inverse(audio.n_fft, bins[1::2]), persistent=False)
        square = np.zeros((self.parts, self.hop), np.float32)
        square.reshape(-1)[: audio.n_fft] = window_of(audio.n_fft) ** 2
        self.register_buffer("square", torch.from_numpy(square), persistent=False)

    def forward(self, even: Tensor, odd: Tensor, rest: Tensor | None) -> Tensor:
        """(batch, channels, samples) from what `Stft` gives; `rest` (batch, channels, frames, n_fft) is added to the
        frames before they are windowed."""
        from_even, from_odd = even @ self.even, odd @ self.odd
        frames = torch.cat((from_even + from_odd, from_even - from_odd), dim=-1)
        if rest is not None:
            frames = frames + rest
        frames = frames * self.window.flatten()
        count, last = frames.shape[2], self.parts - 1
        if surplus := self.parts * self.hop - 2 * self.half_frame:
            frames = F.pad(frames, (0, surplus))
        total = torch.zeros(())
        for part in range(self.parts):
            piece = F.pad(frames[..., part * self.hop : (part + 1) * self.hop], (0, 0, part, last - part))
            total = piece if part == 0 else total + piece
        return (total / self._weight(count)).flatten(-2)

    def _weight(self, count: int) -> Tensor:
        """(hops, hop): the sum of the squared windows of so many frames, but not less than `EDGE_WEIGHT`."""
        frame = torch.arange(count + self.parts - 1).unsqueeze(1) - torch.arange(self.parts)
        covers = ((frame >= 0) & (frame < count)).float()
        return (covers @ self.square).clamp(min=EDGE_WEIGHT)


class WaveformNetwork(Runnable):
    """The network between both transforms."""

    def __init__(self, network: SeparationNetwork, config: ModelConfig) -> None:
        super().__init__(network, config.output)
        assert isinstance(config.front, Spectrogram)
        self.stft, self.istft = Stft(config.front), Istft(config.front)
        self.config = config

    def forward(self, waveform: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        """Stems (batch, stems, channels, samples) of `waveform` (batch, channels, samples) and `scale` (batch,)."""
        even, odd, magnitude, peak, frames = self.stft(self._mid_side(waveform))
        peak = torch.where(scale > 0, scale, peak).clamp(min=_TINY)
        magnitude = magnitude / peak.reshape(-1, 1, 1, 1)
        if self.config.front.scale in ("track-peak", "window-peak"):
            magnitude = magnitude.clamp(max=1)
        mask = super().forward(magnitude.transpose(2, 3)).transpose(2, 3)
        stem = self._left_right(self.istft(*self._masked(mask, even, odd, frames)))
        if self.output.gain != 1:
            stem = stem * self.output.gain
        return torch.stack([stem, waveform - stem], dim=1)

    def _mid_side(self, waveform: Tensor) -> Tensor:
        if not self.config.is_mid_side:
            return waveform
        left, right = waveform[:, :1], waveform[:, 1:]
        return torch.cat((left + right, left - right), dim=1) * 0.5

    def _left_right(self, waveform: Tensor) -> Tensor:
        if not self.config.is_mid_side:
            return waveform
        mid, side = waveform[:, :1], waveform[:, 1:]
        return torch.cat((mid + side, mid - side), dim=1)

    def _masked(self, mask: Tensor, even: Tensor, odd: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The spectrum of the stem in two parts: the network's bins, and what lies above them in the frames.

        With one number r for the mask of all bins above, the masked frame is r times the whole frame and, at the
        network's bins, the difference of their mask to r (`ft.separate.back.stem_spectra`).
        """
        output = self.config.output
        low, rest = mask if output.of == "stems" else 1 - mask, None
        if output.above == "stem":
            low, rest = low - 1, frames
        elif output.above != "rest":
            above = low[..., -output.above :].mean(dim=-1, keepdim=True)
            low, rest = low - above, frames * above
        pairs = low.unflatten(-1, (-1, 2))
        return _scaled(even, pairs[..., 0]), _scaled(odd, pairs[..., 1]), rest


def check_whole(config: ModelConfig) -> None:
    """Raises ExportError where the transforms of a model cannot be put into its graph."""
    front = config.front
    is_simple = isinstance(front, Spectrogram) and front == dataclasses.replace(
        Spectrogram(), **{name: getattr(front, name) for name in ("n_fft", "hop_length", "bins", "scale", "stereo")}
    )
    is_even = isinstance(front, Spectrogram) and front.used_bins % 2 == 0
    is_mask = config.output.kind == "mask" and len(config.stems) == 1 and config.rest
    is_free = config.segment.frames is None and config.segment.multiple == 1
    is_mixed = config.channels == 1 and config.mono == "mix"
    if not (is_simple and is_even and is_mask and is_free) or is_mixed:
        raise ExportError(
            f"{config.name}: `io` waveform is for one real mask of two stems for each channel, over an even number of "
            "bins and any number of frames; leave it out"
        )


def build_waveform_graph(
    model: SeparationNetwork, config: ModelConfig, opset: int, dtype: torch.dtype = torch.float32
) -> onnx_ir.Model:
    """Builds the graph described above; initializers have the names of the weights, and `stft.*` and `istft.*`.

    Nodes of the transforms have names that begin with `stft` and `istft`.

    Args:
        dtype: what the network computes in; the transforms are float32 in any case.
    Raises:
        ExportError: as `export.graph.build_graph`, or a model that is no mask of two stems.
    """
    import onnx_ir as ir

    check_whole(config)
    network = WaveformNetwork(lowered(model, config, dtype, opset), config)
    reads, gives = config.tensors(IO[1])
    size = config.size(IO[1], SOME_FRAMES)
    batch = free_axes(reads[0])[0]
    inputs = {spec.name: torch.rand(spec.sized(2, size)) for spec in reads}
    axes = tuple({**free_axes(spec), 0: batch} for spec in reads)
    graph = trace(network.eval(), inputs, gives.name, axes, opset)
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        assert value.shape is not None
        if len(value.shape) > 1:
            value.shape[-1] = ir.SymbolicDim("samples")
    return graph


def context(config: ModelConfig) -> dict[str, int]:
    """Gives the metadata `ft_context`, for windows as `ft separate` cuts them where nothing else is asked for."""
    front = config.front
    assert isinstance(front, Spectrogram)
    plan = WindowPlan.of(config.segment, config.frame_rate)
    transform = front.covered - front.hop_length
    return {
        "alignment": front.hop_length,
        "smallest": front.covered,
        "window": config.size(IO[1], plan.frames),
        "transform": transform,
        "recommended": transform + plan.left * front.hop_length,
        "fade": plan.fade * front.hop_length,
        "reflect": front.n_fft // 2,
    }


def _forward(n_fft: int, bins: NDArray[np.int64]) -> Tensor:
    """(n_fft / 2, 2 * bins): what a half frame is multiplied with for the real and the imaginary parts of `bins`."""
    angle = _angles(n_fft, bins)
    return torch.from_numpy(np.concatenate((np.cos(angle), -np.sin(angle)), axis=1).astype(np.float32))


def _inverse(n_fft: int, bins: NDArray[np.int64]) -> Tensor:
    """(2 * bins, n_fft / 2): what real and imaginary parts are multiplied with for the first half of the frame."""
    angle = _angles(n_fft, bins).T
    weight = np.where((bins == 0) | (2 * bins == n_fft), 1, 2)[:, None] / n_fft
    return torch.from_numpy(np.concatenate((weight * np.cos(angle), -weight * np.sin(angle))).astype(np.float32))


def _angles(n_fft: int, bins: NDArray[np.int64]) -> NDArray[np.float64]:
    # The product is reduced as a whole number, so that the angle has all digits.
    return (np.arange(n_fft // 2)[:, None] * bins[None, :] % n_fft) * np.float64(2 * np.pi / n_fft)


def _magnitude(spectrum: Tensor) -> Tensor:
    real, imaginary = spectrum.chunk(2, dim=-1)
    return torch.sqrt(real * real + imaginary * imaginary)


def _scaled(spectrum: Tensor, mask: Tensor) -> Tensor:
    """Real and imaginary parts times a mask of half as many values."""
    return (spectrum.unflatten(-1, (2, -1)) * mask[..., None, :]).flatten(-2)


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)
