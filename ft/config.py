"""What a model declares, in frozen dataclasses without torch: everything else reads it here.

A model is a front end, a network and what its output means: which stems it gives, and what is left of the mixture.
`ModelConfig.to_dict` is written into checkpoints, ONNX files and plan manifests as format 2; format 1 is read
(`ft/format_1.py`). A preset in `ft/presets/` says the same in YAML (`ft/settings.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ft.errors import ConfigError
from ft.format_1 import from_checkpoint, is_first, translated
from ft.settings import build, check_keys, load_yaml, not_negative, plain, positive, scalar, section

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
LARGEST_FFT = 1 << 16
"""Twice that of any model of this field; a damaged file must not make a window of gigabytes."""
IO = ("network", "waveform")
"""What a file that runs takes: what the network reads, or waveforms, with the transforms inside."""
Scale = Literal["track-peak", "window-peak", "track-deviation", "none"] | float
"""By what values are divided before the network reads them: the largest magnitude (or sample) of the song or of the
window, the deviation of the song's mono mixture, whose mean is taken away, or a number."""


@dataclass(frozen=True)
class Spectrogram:
    """The front end that gives spectra: (channels, frames, bins)."""

    kind: Literal["spectrogram"] = "spectrogram"
    n_fft: int = 2048
    hop_length: int = 1024
    win_length: int | None = None
    """Samples of the window, in the middle of `n_fft`; None: all of them."""
    bins: int | None = None
    """The lowest bins, which the network reads and gives; None: all n_fft // 2 + 1."""
    values: Literal["magnitude", "log1p-magnitude", "complex"] = "magnitude"
    """What the network reads of a bin; complex ones as channels, all real parts before all imaginary parts."""
    scale: Scale = "track-peak"
    """Behind a peak, magnitudes are clipped at 1: those of a window may go beyond that of what was heard so far."""
    window: Literal["hann", "rectangular"] = "hann"
    ends: Literal["reflect", "zeros"] = "reflect"
    """What stands before the first sample and behind the last, half of `n_fft` each."""
    stereo: Literal["left-right", "mid-side"] = "left-right"
    """What the two channels are that the network reads and gives: left and right, or (L + R) / 2 and (L - R) / 2."""

    def __post_init__(self) -> None:
        positive(self, "n_fft", "hop_length")
        if self.n_fft > LARGEST_FFT or self.n_fft % 2:
            raise ConfigError(f"n_fft: {self.n_fft}, expected an even number of at most {LARGEST_FFT}")
        if not 0 < self.window_length <= self.n_fft:
            raise ConfigError(f"win_length: {self.win_length}, expected 1 to n_fft {self.n_fft}")
        if not self.hop_length <= self.window_length // 2:
            half = f"half of the window of {self.window_length}"
            raise ConfigError(f"hop_length: {self.hop_length} is more than {half}; the inverse STFT would lose samples")
        if not 0 < self.used_bins <= self.all_bins:
            raise ConfigError(f"bins: {self.bins}, expected 1 to n_fft / 2 + 1 = {self.all_bins}")
        check_scale(self.scale)

    @property
    def window_length(self) -> int:
        """Samples of the window."""
        return self.n_fft if self.win_length is None else self.win_length

    @property
    def all_bins(self) -> int:
        """Bins of the transform."""
        return self.n_fft // 2 + 1

    @property
    def used_bins(self) -> int:
        """Bins that the network reads."""
        return self.all_bins if self.bins is None else self.bins

    @property
    def parts(self) -> int:
        """Real numbers of each bin that the network reads."""
        return 2 if self.values == "complex" else 1

    @property
    def covered(self) -> int:
        """Samples of the hops that one frame covers, the last one in part where the hop does not divide n_fft."""
        return -(-self.n_fft // self.hop_length) * self.hop_length

    def samples(self, frames: int) -> int:
        """Samples that so many frames in a row cover, without padding.

        >>> Spectrogram(n_fft=2048, hop_length=1024).samples(3)
        4096
        """
        return self.n_fft + (frames - 1) * self.hop_length

    def frames(self, samples: int) -> int:
        """Frames that so many samples hold whole."""
        return (samples - self.n_fft) // self.hop_length + 1


@dataclass(frozen=True)
class Waveform:
    """The front end that gives samples as they are; a frame is `hop_length` of them: (channels, frames, hop_length)."""

    kind: Literal["waveform"] = "waveform"
    hop_length: int = 1024
    """What the samples of a window are a multiple of."""
    scale: Scale = "none"

    def __post_init__(self) -> None:
        positive(self, "hop_length")
        check_scale(self.scale)

    def samples(self, frames: int) -> int:
        """Samples of so many frames."""
        return frames * self.hop_length

    def frames(self, samples: int) -> int:
        """Frames that so many samples hold whole."""
        return samples // self.hop_length


Front = Spectrogram | Waveform


@dataclass(frozen=True)
class Output:
    """What the network's output means."""

    kind: Literal["mask", "complex-mask", "magnitude", "spectrum", "waveform"] = "mask"
    """A real or complex factor for each bin of the mixture; magnitudes, which get the mixture's phase; or the spectrum
    or the samples themselves, scaled as the input was."""
    activation: Literal["sigmoid", "relu", "none"] | None = None
    """Behind the network, inside what is exported; None: sigmoid for a mask, relu for magnitudes, none for others."""
    of: Literal["stems", "rest"] = "stems"
    """Whether a mask keeps the stem, or what the one stem leaves: then 1 minus the mask is the stem's."""
    combine: Literal["none", "ratio"] = "none"
    """What becomes of magnitudes: `ratio` makes masks, each to the power `exponent` over the sum of all (Spleeter)."""
    exponent: float = 2.0
    above: int | Literal["rest", "stem"] = "rest"
    """What a mask is above the bins that the network reads: the mean of its highest so many bins, or all of it the
    rest's, or all of it the one stem's."""
    gain: float = 1.0
    """A factor on all estimates, as MDX-Net's compensation."""

    def __post_init__(self) -> None:
        if self.activation is None:
            usual: dict[str, Any] = {"mask": "sigmoid", "magnitude": "relu"}
            object.__setattr__(self, "activation", usual.get(self.kind, "none"))
        positive(self, "exponent", "gain")
        if isinstance(self.above, int):
            positive(self, "above")
        if self.combine == "ratio" and self.kind != "magnitude":
            raise ConfigError(f"combine: ratio of a {self.kind}; expected kind: magnitude")
        if self.kind != "mask" and (self.of, self.above) != ("stems", "rest"):
            raise ConfigError(f"of and above are for masks; this output is a {self.kind}")

    @property
    def parts(self) -> int:
        """Real numbers that the network gives of each bin."""
        return 2 if self.kind in ("complex-mask", "spectrum") else 1


@dataclass(frozen=True)
class Segment:
    """What runs through the network at once, where nothing else is asked for."""

    seconds: float = 20.0
    context: float = 1.0
    """Seconds at each end that are computed and thrown away: at a border the network lacks a side."""
    lookahead: float | None = None
    """Seconds of context at the right end alone, which live sound waits for; None: as `context`."""
    overlap: float = 0.05
    """Share of what is kept that is cross-faded with the next one."""
    frames: int | None = None
    """The number of frames that the network takes, where it takes no other."""
    multiple: int = 1
    """The frames are a multiple of this; a tail is filled with silence, and cut."""

    def __post_init__(self) -> None:
        positive(self, "seconds", "multiple", *(["frames"] if self.frames is not None else []))
        not_negative(self, "context", *(["lookahead"] if self.lookahead is not None else []))
        if not 0 <= self.overlap <= 0.5:
            raise ConfigError(f"overlap: {self.overlap:g}, expected 0 to 0.5")

    @property
    def right(self) -> float:
        """Seconds of context at the right end."""
        return self.context if self.lookahead is None else self.lookahead


@dataclass(frozen=True)
class Network:
    """A kind of `ft.models.NETWORKS` and that kind's own numbers, which are looked at where the network is made."""

    kind: str = "frame-transformer"
    numbers: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", plain(dict(self.numbers)))


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that goes into a network or comes out of it."""

    name: str
    shape: tuple[int | str, ...]
    """A size for each axis; the names of others (`batch`, `frames`, `samples`) are free."""
    low: float | None = None
    high: float | None = None
    """Bounds of its values."""
    multiple: int = 1
    """The size of the last axis is a multiple of this,"""
    least: int = 1
    """and not less than this."""

    def sized(self, batch: int, size: int) -> tuple[int, ...]:
        """Gives its shape for so many items whose last axis, where it is free, has that size."""
        return tuple(each if isinstance(each, int) else batch if each == "batch" else size for each in self.shape)


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to run a model."""

    name: str = "unnamed"
    license: str = "unknown"
    sample_rate: int = 44100
    """Hz; other rates are resampled in and back."""
    channels: int = 2
    """Channels of the sound that the network reads."""
    mono: Literal["each", "mix"] = "each"
    """What a network of one channel reads of a stereo song: each channel for itself, or their mean, whose masks hold
    for both."""
    stems: tuple[str, ...] = ("vocals",)
    """What the network gives, in its order."""
    rest: str | None = "instrumental"
    """The mixture minus all of them; None: they are all."""
    front: Front = field(default_factory=Spectrogram)
    output: Output = field(default_factory=Output)
    segment: Segment = field(default_factory=Segment)
    network: Network = field(default_factory=Network)

    def __post_init__(self) -> None:
        if not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise ConfigError(f"sample_rate: {self.sample_rate}, expected {LOWEST_RATE} to {HIGHEST_RATE} Hz")
        if self.channels not in (1, 2):
            raise ConfigError(f"channels: {self.channels}, expected 1 or 2")
        names = self.all_stems
        if not self.stems or len(set(names)) < len(names):
            raise ConfigError(f"stems: {list(names)}, expected one or more different names")
        front, output = self.front, self.output
        if self.is_mid_side and self.channels != 2:
            raise ConfigError("stereo: mid-side of 1 channel; expected channels: 2, or left-right")
        if (output.kind == "waveform") != isinstance(front, Waveform):
            raise ConfigError(
                f"output.kind: {output.kind} behind the front end {front.kind}; both or none are waveform"
            )
        if isinstance(front, Spectrogram) and isinstance(output.above, int) and output.above > front.used_bins:
            raise ConfigError(f"output.above: {output.above}, expected 1 to {front.used_bins}")
        single = len(self.stems) == 1 and self.rest is not None
        if (output.of, output.above) != ("stems", "rest") and output.above != "rest" and not single:
            raise ConfigError(f"output.above: {output.above} of the stems {list(self.stems)}; expected one, and a rest")
        if output.of == "rest" and not single:
            raise ConfigError(f"output.of: rest of the stems {list(self.stems)}; expected one, and a rest")

    @property
    def all_stems(self) -> tuple[str, ...]:
        """What a separation gives: the stems, then the rest where there is one."""
        return self.stems if self.rest is None else (*self.stems, self.rest)

    @property
    def is_mid_side(self) -> bool:
        """Whether the network's two channels are the middle and the side."""
        return isinstance(self.front, Spectrogram) and self.front.stereo == "mid-side"

    @property
    def frame_rate(self) -> float:
        """Frames of a second."""
        return self.sample_rate / self.front.hop_length

    @property
    def items_per_window(self) -> int:
        """Items of a batch that a window of a stereo song is: two for a network that reads each channel for itself."""
        return 2 if self.channels == 1 and self.mono == "each" else 1

    @property
    def reads(self) -> tuple[TensorSpec, ...]:
        """What the network takes."""
        front, frames = self.front, self.segment.frames or "frames"
        if isinstance(front, Waveform):
            fixed = self.segment.frames and front.samples(self.segment.frames)
            multiple = front.hop_length * self.segment.multiple
            waveform = ("batch", self.channels, fixed or "samples")
            return (TensorSpec("waveform", waveform, multiple=multiple, least=multiple),)
        shape = ("batch", front.parts * self.channels, front.used_bins, frames)
        if front.values == "complex":
            return (TensorSpec("spectrum", shape, multiple=self.segment.multiple),)
        high = 1.0 if front.scale in ("track-peak", "window-peak") and front.values == "magnitude" else None
        return (TensorSpec("magnitude", shape, 0.0, high, self.segment.multiple),)

    @property
    def gives(self) -> TensorSpec:
        """What the network gives; an axis of stems stands behind the batch where there are several."""
        (taken,) = self.reads
        stems = (len(self.stems),) if len(self.stems) > 1 else ()
        if isinstance(self.front, Waveform):
            return TensorSpec("stems", ("batch", *stems, *taken.shape[1:]))
        kind = self.output.kind
        name = {"mask": "mask", "complex-mask": "mask", "magnitude": "magnitudes", "spectrum": "spectra"}[kind]
        low = 0.0 if self.output.activation != "none" and self.output.parts == 1 else None
        high = 1.0 if self.output.activation == "sigmoid" and self.output.parts == 1 else None
        return TensorSpec(name, ("batch", *stems, self.output.parts * self.channels, *taken.shape[2:]), low, high)

    def tensors(self, io: str) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
        """Gives what a file that takes `io` (`IO`) reads and gives."""
        if io == IO[0] or isinstance(self.front, Waveform):
            return self.reads, self.gives
        waveform = ("batch", self.channels, "samples")
        taken = TensorSpec("waveform", waveform, multiple=self.front.hop_length, least=self.front.covered)
        stems = ("batch", len(self.all_stems), *waveform[1:])
        return (taken, TensorSpec("scale", ("batch",))), TensorSpec("stems", stems)

    def size(self, io: str, frames: int) -> int:
        """Gives the size of the free axis of what a file reads for a window of so many frames."""
        if isinstance(self.front, Waveform):
            return self.front.samples(frames)
        return frames if io == IO[0] else self.front.covered + (frames - 1) * self.front.hop_length

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` takes them and JSON holds them."""
        return plain(dataclasses.asdict(self))

    def to_sections(self) -> dict[str, dict[str, Any]]:
        """Gives the sections of a YAML file that say the same."""
        values = self.to_dict()
        network = values.pop("network")
        found = {name: {key: values.pop(key) for key in keys} for name, keys in OUTER.items()}
        return {**found, **values, "network": {"kind": network["kind"], **network["numbers"]}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The configuration that `to_dict` gave, of this format or of the one before. Raises ConfigError."""
        return build(cls, from_checkpoint(values) if "audio" in values else values, "model file")


def check_scale(scale: Scale) -> None:
    """Raises ConfigError for a number that nothing can be divided by."""
    if isinstance(scale, float | int) and not scale > 0:
        raise ConfigError(f"scale: {scale}, expected a number above 0")


SECTIONS = ("model", "audio", "front", "output", "segment", "network", "train")
OUTER = {"model": ("name", "license", "stems", "rest"), "audio": ("sample_rate", "channels", "mono")}
"""Fields of `ModelConfig` by the section of YAML that holds them; the other sections are fields themselves."""


def load_model_config(source: str | Path) -> ModelConfig:
    """The model that a preset or YAML file describes. Raises ConfigError."""
    return model_config_from_yaml(load_yaml(source), str(source))


def model_config_from_yaml(values: Mapping[str, Any], where: str) -> ModelConfig:
    """The model in the sections of a YAML file.

    `model:` and `audio:` hold the fields of `ModelConfig` (`OUTER`), `front:`, `output:`, `segment:` and `network:` are
    fields of it; `network:` holds the numbers of the network beside its `kind`. A key `preset` in `model:` starts from
    that preset instead of from the defaults. Sections of the first format are read too.

    Raises:
        ConfigError: an unknown key, or a value that cannot be.
    """
    check_keys(values, SECTIONS, where)
    own = {name: dict(section(values, name, where)) for name in SECTIONS if name != "train"}
    preset = own["model"].pop("preset", None)
    base = load_yaml(scalar(str, preset, f"{where}: model: preset")) if preset is not None else {}
    merged = {name: {**section(base, name, str(preset)), **own[name]} for name in own}
    if is_first(merged):
        merged = translated(own, base)
    fields: dict[str, Any] = {}
    for name, keys in OUTER.items():
        check_keys(merged[name], (*keys, "preset") if name == "model" else keys, f"{where}: {name}")
        fields |= merged[name]
    if "stems" in fields:  # they are all, where no rest is named
        fields.setdefault("rest", None)
    for name in ("front", "output", "segment"):
        if merged.get(name):
            fields[name] = merged[name]
    if network := dict(merged["network"]):
        fields["network"] = {"kind": network.pop("kind", Network.kind), "numbers": network}
    return build(ModelConfig, fields, where)
