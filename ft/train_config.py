"""The section `train:` of a configuration: data, augmentation, objective and schedule of a training run.

Defaults are those of the original's training script; what it does not have is off by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ft.config import build, check_keys, positive
from ft.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """A folder of audio files, searched recursively. A plain path in YAML is one with the default weight."""

    folder: str = ""
    weight: float | None = None
    """Share of the draws that go to this folder; by default the number of its files, so that each weighs the same."""

    def __post_init__(self) -> None:
        if not self.folder:
            raise ConfigError("a source without a folder; expected a path, or folder: and weight:")
        if self.weight is not None and not self.weight > 0:
            raise ConfigError(f"weight: {self.weight}, expected a number above 0")

    @classmethod
    def from_text(cls, text: str) -> Source:
        return cls(folder=text)


@dataclass(frozen=True)
class Stage:
    """Part of a run with one crop length. A run goes to the next stage after the last epoch of this one."""

    frames: int = 256
    last_epoch: int = 10
    """Epochs count from 0; the stage holds up to and including this one."""
    batch_size: int = 2
    accumulation: int = 24
    """Micro-batches per optimizer step; those left over at the end of an epoch are discarded."""

    def __post_init__(self) -> None:
        positive(self, "frames", "batch_size", "accumulation")


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
    """Real pairs are used as instrumentals too, so that vocals are always mixed in."""

    def __post_init__(self) -> None:
        share(self, "skip_vocals", "drop_vocals", "swap_channels", "mute_channel", "second_vocal", "mixup")
        positive(self, "mixup_alpha")


@dataclass(frozen=True)
class Augment:
    """Augmentation beyond the original's. Each is off by default."""

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

    def __post_init__(self) -> None:
        share(self, "reverb", "pan")
        not_negative(self, "level_spread_db", "vocal_speed", "instrumental_speed", "filter_db", "scale_db")


@dataclass(frozen=True)
class Losses:
    """Weights of the parts of the objective. The original's is `magnitude_l1` alone."""

    magnitude_l1: float = 1.0
    """Mean of | mask |X| - |Y| |."""
    complex_l1: float = 0.0
    """Mean of | mask X - Y | over complex values: counts the phase that a mask cannot mend."""
    energy: float = 0.0
    """Energy of mask X - Y over the energy of X, item by item: what SDR is made of."""


@dataclass(frozen=True)
class Validation:
    """Data of the two validation sets, and of the songs whose SDR is followed."""

    pairs: tuple[Source, ...] = ()
    """Real pairs: a folder with `mixture` and `instrumental` (and perhaps `vocals`) in each song's folder."""
    instrumentals: tuple[Source, ...] = ()
    vocals: tuple[Source, ...] = ()
    items: int = 64
    """Crops per set."""
    songs: tuple[Source, ...] = ()
    """Folders of songs as in `pairs` that are separated whole, for the SDR of both stems."""

    def __post_init__(self) -> None:
        positive(self, "items")


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    instrumentals: tuple[Source, ...] = ()
    vocals: tuple[Source, ...] = ()
    pairs: tuple[Source, ...] = ()
    validation: Validation = field(default_factory=Validation)
    voxaug: VoxAug = field(default_factory=VoxAug)
    augment: Augment = field(default_factory=Augment)
    losses: Losses = field(default_factory=Losses)
    stages: tuple[Stage, ...] = (Stage(), Stage(512, 25, 1, 48))
    extra_epochs: int = 60
    """Epochs of the last stage beyond its `last_epoch`."""
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
    ema: float = 0.0
    """Decay per step of an average of the weights, which is then what is validated and saved; 0 is none."""
    seed: int = 0
    workers: int = 1
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
        if self.vocals and not (self.instrumentals or self.pairs):
            raise ConfigError("instrumentals: none, expected folders of music without vocals to mix the vocals into")

    def stage(self, epoch: int) -> Stage:
        """The stage of an epoch: the first one whose `last_epoch` is not behind it, else the last."""
        return next((stage for stage in self.stages if epoch <= stage.last_epoch), self.stages[-1])

    @property
    def epochs(self) -> int:
        return self.stages[-1].last_epoch + self.extra_epochs


def not_negative(section: Any, *names: str) -> None:
    """Raises ConfigError for the first of the named fields that is below zero."""
    for name in names:
        if getattr(section, name) < 0:
            raise ConfigError(f"{name}: {getattr(section, name)}, expected 0 or more")


def share(section: Any, *names: str) -> None:
    """Raises ConfigError for the first of the named fields that is not in 0..1."""
    for name in names:
        if not 0 <= getattr(section, name) <= 1:
            raise ConfigError(f"{name}: {getattr(section, name)}, expected 0 to 1")


def train_config_from_yaml(values: Mapping[str, Any], where: str) -> TrainConfig:
    """The section `train:` of a loaded YAML file. Raises ConfigError."""
    check_keys(values, ("audio", "model", "train"), where)
    return build(TrainConfig, values.get("train") or {}, f"{where}: train")
