"""The section `train:` of a configuration: data, augmentation, objective and schedule of a training run.

Defaults are those of the original's training script but for `extra_epochs`; what it does not have is off by default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ft.config import SECTIONS
from ft.errors import ConfigError
from ft.settings import build, check_keys, not_negative, positive


@dataclass(frozen=True)
class Source:
    """A folder of audio files, searched recursively. A plain path in YAML is one with the default weight."""

    folder: str = ""
    weight: float | None = None
    """Share of the draws that go to this folder; by default the number of its files, so that each weighs the same."""
    stems: tuple[str, ...] = ()
    """Only files of these names, e.g. drums and other. An instrumental is then the sum of one file of each, of songs
    that are drawn apart; any other stem is one file of any."""

    def __post_init__(self) -> None:
        if not self.folder:
            raise ConfigError("a source without a folder; expected a path, or folder: and weight:")
        if len(set(self.stems)) < len(self.stems):
            raise ConfigError(f"stems: {list(self.stems)}, expected each name once")
        if self.weight is not None and not self.weight > 0:
            raise ConfigError(f"weight: {self.weight}, expected a number above 0")

    @classmethod
    def from_text(cls, text: str) -> Source:
        return cls(folder=text)


@dataclass(frozen=True)
class Cache:
    """A folder of finished examples, as `ft data prepare cache` makes it. A plain path in YAML is one with defaults."""

    folder: str = ""
    remix: bool = True
    """Each stem but the first, and the level of the vocals, come from other examples, drawn anew each time; else it is
    always the same mixture."""

    def __post_init__(self) -> None:
        if not self.folder:
            raise ConfigError("a cache without a folder; expected a path, or folder: and remix:")

    @classmethod
    def from_text(cls, text: str) -> Cache:
        return cls(folder=text)


@dataclass(frozen=True)
class Stage:
    """Part of a run with one crop length. A run goes to the next stage after the last epoch of this one."""

    frames: int = 256
    last_epoch: int = 11
    """Number of the stage's last epoch, the first of the run being 1: of stages to 11 and to 25, the first is 11 epochs
    and the second 14."""
    batch_size: int = 2
    accumulation: int = 24
    """Micro-batches per optimizer step; those left over at the end of an epoch are discarded."""

    def __post_init__(self) -> None:
        positive(self, "frames", "batch_size", "accumulation")
        if self.last_epoch < 1:
            raise ConfigError(f"last_epoch: {self.last_epoch}, expected 1 or more: the first epoch is number 1")

    @property
    def items(self) -> int:
        """Items of an optimizer step of one process."""
        return self.batch_size * self.accumulation


@dataclass(frozen=True)
class VoxAug:
    """Probabilities of the original's voxaug: instrumentals with vocals mixed in on the fly."""

    skip_vocals: float = 0.02
    """No vocals are drawn."""
    drop_vocals: float = 0.025
    """Vocals are drawn, and then left out again."""
    swap_channels: float = 0.5
    """Left and right of mixture and target together, and once more of the vocals alone."""
    mute_channel: float = 0.025
    """One channel of the vocals is silent."""
    second_vocal: float = 0.0
    """Another draw of vocals sings along."""
    mixup: float = 0.0
    """The item is blended with another one."""
    mixup_alpha: float = 0.4
    """Both parameters of the Beta distribution that blends."""
    force: bool = True
    """Takes all but the vocals of real songs, so that vocals are always mixed in."""

    def __post_init__(self) -> None:
        share(self, "skip_vocals", "drop_vocals", "swap_channels", "mute_channel", "second_vocal", "mixup")
        positive(self, "mixup_alpha")


@dataclass(frozen=True)
class Augment:
    """Augmentation beyond the original's. Each is off by default.

    Those with a name alone are probabilities, by item and, where vocals and instrumental are each treated for itself,
    by part; the keys below them say how far they go. `bench/augmentation.py` measures what each costs.
    """

    level_db: float | None = None
    """Mean of the vocals' RMS over the instrumental's, in dB; unset leaves levels as the files have them."""
    level_spread_db: float = 0.0
    """Standard deviation of that level."""
    vocal_speed: float = 0.0
    """Vocals are played faster or slower, and so higher or lower, by up to this many semitones."""
    instrumental_speed: float = 0.0
    filter_db: float = 0.0
    """Standard deviation of a random smooth filter, for vocals and instrumental each, in dB."""
    reverb: float = 0.0
    """Probability of reverberation of the vocals."""
    pan: float = 0.0
    """Largest left-right imbalance of the vocals, 0 to 1."""
    scale_db: float = 0.0
    """The scale is drawn up to this many dB above the crop's own peak, as in a song that is louder elsewhere."""
    gain: float = 0.0
    """Vocals and instrumental each louder or quieter; vocals beyond the level that `level_db` gives them."""
    gain_db: float = 6.0
    swap_channels: float = 0.0
    """Left and right of vocals and instrumental each, of real pairs too."""
    polarity: float = 0.0
    """Vocals and instrumental each turned over."""
    pitch: float = 0.0
    """Higher or lower at the same tempo; both parts of a real pair alike."""
    pitch_semitones: float = 3.0
    tempo: float = 0.0
    """Faster or slower at the same pitch; both parts of a real pair alike."""
    tempo_percent: float = 12.0
    equaliser: float = 0.0
    """One or two of low-pass, high-pass, shelf and peak, for vocals and instrumental each."""
    equaliser_db: float = 9.0
    """Largest gain of shelves and peaks."""
    codec: float = 0.0
    """Vocals and instrumental each through MP3, Vorbis or Opus."""
    choir: float = 0.0
    """Vocals sing along with copies of themselves."""
    choir_voices: int = 3
    """At most so many copies."""
    choir_cents: float = 15.0
    """Out of tune, and in tempo with it."""
    choir_ms: float = 40.0
    """Behind."""
    widen: float = 0.0
    """Vocals are given something to lie beside the middle: a late, softer copy, opposite on both sides."""
    pause: float = 0.0
    """Vocals are silent over part of the item, in real pairs too: voices without their pauses sing all the time."""
    compress: float = 0.0
    """The mixture is compressed, its parts by the same gain over time."""
    clip: float = 0.0
    """The mixture is softly clipped, its parts by the same gain."""
    clip_db: float = 9.0
    """Largest drive of the mixture's peak into the curve."""
    mixture_codec: float = 0.0
    """The mixture through MP3, Vorbis or Opus; what that adds or takes is counted to the instrumental."""
    mono: float = 0.0
    """Share of examples of which both channels are their mean, as those of a mono song for a stereo network."""

    def __post_init__(self) -> None:
        share(self, "reverb", "pan", *self.probabilities)
        not_negative(self, "level_spread_db", "vocal_speed", "instrumental_speed", "filter_db", "scale_db")
        not_negative(self, "gain_db", "pitch_semitones", "equaliser_db", "choir_cents", "choir_ms", "clip_db")
        positive(self, "choir_voices")
        if not 0 <= self.tempo_percent <= 50:
            raise ConfigError(f"tempo_percent: {self.tempo_percent}, expected 0 to 50")

    @property
    def probabilities(self) -> tuple[str, ...]:
        """Names of the keys that are probabilities, but for `reverb`."""
        parts = ("gain", "swap_channels", "polarity", "pitch", "tempo", "equaliser", "codec", "choir")
        return (*parts, "widen", "pause", "compress", "clip", "mixture_codec", "mono")


@dataclass(frozen=True)
class Losses:
    """Weights of the parts of the objective. The original's is `magnitude_l1` alone.

    X is the mixture, Y a stem and E its estimate. Each is a mean over what the network gives: its stems, or the rest
    where `output.of` says so. The error of a rest is, with the other sign, the sum of those of the stems, so that what
    is made of the error alone is not asked of it; for the others see `stems`. For a network of waveforms, spectra are
    those of 2048 samples every 1024.
    """

    magnitude_l1: float = 1.0
    """Mean of | |E| - |Y| | over the scale, at which |Y| is clipped."""
    complex_l1: float = 0.0
    """Mean of | E - Y | over complex values: counts the phase that a mask cannot mend."""
    energy: float = 0.0
    """Energy of E - Y over the energy of X, item by item: what SDR is made of."""
    waveform_l1: float = 0.0
    """Mean error of samples, full scale being 1."""
    si_sdr: float = 0.0
    """Scale-invariant SDR with the sign turned, in dB: about -10, so that weights near 0.01 balance the others."""
    snr: float = 0.0
    """SDR without the free scale, with the sign turned, in dB."""
    stft_convergence: float = 0.0
    """Spectral convergence: the norm of the error of magnitudes over that of the target, at each of `stft_n_fft`."""
    stft_log_magnitude: float = 0.0
    """Mean error of the logarithms of magnitudes, at each of `stft_n_fft`."""
    stft_n_fft: tuple[int, ...] = (512, 1024, 2048)
    """Window lengths in samples; each advances by a quarter of itself."""
    stems: Literal["both", "masked"] = "both"
    """Whether the last four are means over the stems and the rest, or over what the network gives alone."""

    def __post_init__(self) -> None:
        weights = [f.name for f in dataclasses.fields(self) if f.name not in ("stft_n_fft", "stems")]
        not_negative(self, *weights)
        if not any(getattr(self, name) for name in weights):
            raise ConfigError(f"no weight above 0, expected one of {', '.join(weights)}")
        if not self.stft_n_fft or any(n_fft < 4 or n_fft % 4 for n_fft in self.stft_n_fft):
            raise ConfigError(f"stft_n_fft: {list(self.stft_n_fft)}, expected numbers of samples divisible by 4")

    @property
    def on_spectra(self) -> bool:
        """Whether the estimate is needed as a spectrum."""
        return bool(self.magnitude_l1 or self.complex_l1 or self.energy)

    @property
    def on_stft(self) -> bool:
        """Whether STFTs of several lengths are asked for."""
        return bool(self.stft_convergence or self.stft_log_magnitude)

    @property
    def on_waveforms(self) -> bool:
        """Whether the estimate is needed as a waveform."""
        return bool(self.waveform_l1 or self.si_sdr or self.snr or self.on_stft)


@dataclass(frozen=True)
class Denoise:
    """Noise of the task `denoise`: sqrt(gamma) x + sqrt(1 - gamma) e, e normal with the deviation sigma."""

    gamma: float = 0.95
    sigma: float = 0.4

    def __post_init__(self) -> None:
        positive(self, "sigma")
        if not 0 < self.gamma < 1:
            raise ConfigError(f"gamma: {self.gamma}, expected 0 < x < 1")


@dataclass(frozen=True)
class Validation:
    """Data of the two validation sets, and of the songs whose SDR is followed."""

    pairs: tuple[Source, ...] = ()
    """Real songs: folders as those of `train.pairs`."""
    instrumentals: tuple[Source, ...] = ()
    vocals: tuple[Source, ...] = ()
    items: int = 64
    """Crops per set."""
    songs: tuple[Source, ...] = ()
    """Folders of songs as in `pairs` that are separated whole, for the SDR of each stem."""

    def __post_init__(self) -> None:
        positive(self, "items")


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    task: Literal["separate", "denoise"] = "separate"
    """`denoise` is pre-training: the network finds the noise that was added to its input."""
    init_from: str | None = None
    """Weights to begin with: a checkpoint, an exported .onnx, or `default`, the shipped model."""
    instrumentals: tuple[Source, ...] = ()
    vocals: tuple[Source, ...] = ()
    stems: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)
    """Folders of each stem, in place of `instrumentals` and `vocals`: of each one file is drawn, of any song."""
    pairs: tuple[Source, ...] = ()
    """Real songs, each a folder of files named after their stems: `mixture` and `instrumental`, or `drums`, `bass`,
    `other` and `vocals` as in MUSDB18-HQ. Stems that are not there are made of those that are."""
    cache: Cache | None = None
    """Finished examples that are taken in place of the folders above, from which they were made."""
    validation: Validation = field(default_factory=Validation)
    voxaug: VoxAug = field(default_factory=VoxAug)
    augment: Augment = field(default_factory=Augment)
    losses: Losses = field(default_factory=Losses)
    denoise: Denoise = field(default_factory=Denoise)
    stages: tuple[Stage, ...] = (Stage(), Stage(512, 25, 1, 48))
    extra_epochs: int = 0
    """Epochs of the last stage beyond its `last_epoch`, at the lowest rate; the original has 60, as its presets do."""
    max_steps: int | None = None
    """Optimizer steps after which the run ends, whatever the epoch."""
    epoch_size: int | None = None
    """Items per epoch; by default the number of instrumentals and pairs."""
    optimizer: Literal["adam", "adamw", "sgd", "radam", "rmsprop"] = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup_steps: int = 16000
    decay_steps: int | None = None
    """Optimizer steps from the end of the warm-up to the lowest rate; by default the epochs of the stages."""
    decay_target: float = 1e-12
    decay_power: float = 1.0
    clip_norm: float = 0.5
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What matrix products are computed in; weights, their average and the optimizer are float32 always."""
    ema: float = 0.0
    """Decay per step of an average of the weights, which is then what is validated and saved; 0 is none."""
    patience: int | None = None
    """Validations in a row without a better score after which the run ends; unset: it goes on."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What follows a loss or gradient that is not finite: the end of the run, or the next batch."""
    nan_limit: int = 10
    """Batches in a row that may be skipped for it."""
    checkpoint_gradients: bool = False
    """Keep each level's input only and compute its inside again for the gradient: less memory, a third more time."""
    compile: bool = False
    """Train through `torch.compile`, once it has been compared with eager; where it fails, go on in eager."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How the processes of `torchrun` share the work: each holds the whole network, or a share of it."""
    seed: int = 0
    workers: int = 1
    """Processes that load items, for each process that trains."""
    tensorboard: bool = False
    """Also write the log's values as TensorBoard events into the folder of the run."""
    log_every: int = 20
    """Optimizer steps between lines of the log."""
    validate_every: int | None = None
    """Optimizer steps between validations; by default once at the end of each epoch."""
    save_every: int = 200
    """Optimizer steps between saves of the state that `--resume` needs."""

    def __post_init__(self) -> None:
        positive(self, "learning_rate", "log_every", "save_every", "decay_power", "clip_norm")
        not_negative(self, "warmup_steps", "workers", "weight_decay", "extra_epochs", "seed")
        if not self.stages:
            raise ConfigError("stages: none, expected at least one")
        last = [stage.last_epoch for stage in self.stages]
        if last != sorted(set(last)):
            raise ConfigError(f"stages: last_epoch {last}, expected rising numbers")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema: {self.ema}, expected 0 <= x < 1")
        positive(self, *(["nan_limit"] if self.patience is None else ["nan_limit", "patience"]))
        sets = self.validation
        if sets.vocals and not sets.instrumentals:
            raise ConfigError("validation.vocals: without instrumentals to mix them with; name both or neither")
        if sets.instrumentals and not sets.vocals and self.task != "denoise":
            raise ConfigError("validation.instrumentals: without vocals to mix in; name both or neither")
        scored = sets.pairs or sets.instrumentals or (sets.songs and self.task == "separate")
        if self.patience is not None and not scored:
            raise ConfigError("patience: needs a score to wait for; name validation.songs or other sets")
        if self.stems and (self.instrumentals or self.vocals):
            raise ConfigError("stems: beside instrumentals or vocals; name the folders of all stems in it")
        if empty := [name for name, sources in self.stems.items() if not sources]:
            raise ConfigError(f"stems: no folder of {empty[0]}; expected one or more for each stem")
        if self.stems and not set(self.stems) - {"vocals"}:
            raise ConfigError("stems: vocals alone, expected the other stems of the mixture too")
        if self.vocals and not (self.instrumentals or self.pairs):
            raise ConfigError("instrumentals: none, expected folders of music without vocals to mix the vocals into")

    def stage(self, epoch: int) -> Stage:
        """The stage of an epoch, counted from 0: the first one whose `last_epoch` is not behind it, else the last."""
        return next((stage for stage in self.stages if epoch < stage.last_epoch), self.stages[-1])

    @property
    def epochs(self) -> int:
        """Counts the epochs of the whole run."""
        return self.stages[-1].last_epoch + self.extra_epochs


def share(section: Any, *names: str) -> None:
    """Raises ConfigError for the first of the named fields that is not in 0..1."""
    for name in names:
        if not 0 <= getattr(section, name) <= 1:
            raise ConfigError(f"{name}: {getattr(section, name)}, expected 0 to 1")


def train_config_from_yaml(values: Mapping[str, Any], where: str) -> TrainConfig:
    """The section `train:` of a loaded YAML file. Raises ConfigError."""
    check_keys(values, SECTIONS, where)
    return build(TrainConfig, values.get("train") or {}, f"{where}: train")
