"""Configuration: frozen dataclasses filled from YAML.

The dataclasses are the truth: every key has its default and its check here, a YAML file lists only what it changes.
Three sections mirror them: `audio:` and `model:` describe a model (`ModelConfig`), `train:` a training run
(`ft.train_config`). A preset is such a file in `ft/presets/`.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from ft.errors import ConfigError, one_line

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
LARGEST_FFT = 1 << 16
"""Twice that of any model of this field; a damaged file must not make a window of gigabytes."""
Section = TypeVar("Section")


@dataclass(frozen=True)
class AudioConfig:
    """The signal front end: what the spectrogram is and how the network's input is scaled."""

    sample_rate: int = 44100
    """Hz; other rates are resampled in and back."""
    channels: int = 2
    stereo: Literal["left-right", "mid-side"] = "left-right"
    """What the two channels are that the network sees and masks: left and right, or (L + R) / 2 and (L - R) / 2, so
    that the middle of the picture and what lies beside it have a channel each."""
    n_fft: int = 2048
    hop_length: int = 1024
    bins: int = 1024
    """The lowest bins of the spectrogram, which the network sees; the rest follows `extend_mask`."""
    normalize: Literal["track", "window"] = "track"
    """The scale is the spectrogram's peak over the whole song (`track`) or over each window."""
    extend_mask: int = 0
    """Above `bins`, the mask of the vocals is the mean of the mask's highest `extend_mask` bins (0: silence)."""

    def __post_init__(self) -> None:
        positive(self, "sample_rate", "channels", "n_fft", "hop_length", "bins")
        if not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise ConfigError(f"audio.sample_rate: {self.sample_rate}, expected {LOWEST_RATE} to {HIGHEST_RATE} Hz")
        if self.n_fft > LARGEST_FFT:
            raise ConfigError(f"audio.n_fft: {self.n_fft}, expected at most {LARGEST_FFT}")
        if self.channels > 2:
            raise ConfigError(f"audio.channels: {self.channels}, expected 1 or 2")
        if self.stereo == "mid-side" and self.channels != 2:
            raise ConfigError(
                f"audio.stereo: mid-side with {self.channels} channel; expected channels: 2, or left-right"
            )
        if self.n_fft % 2:
            raise ConfigError(f"audio.n_fft: {self.n_fft} is odd, expected an even number")
        if not self.hop_length <= self.n_fft // 2:
            raise ConfigError(
                f"audio.hop_length: {self.hop_length} is more than half of n_fft {self.n_fft}; "
                "the inverse STFT would lose samples"
            )
        if self.bins > self.n_fft // 2:
            raise ConfigError(f"audio.bins: {self.bins}, expected at most n_fft / 2 = {self.n_fft // 2}")
        if not 0 <= self.extend_mask <= self.bins:
            raise ConfigError(f"audio.extend_mask: {self.extend_mask}, expected 0 to {self.bins}")

    @property
    def items_per_window(self) -> int:
        """Items of a batch that a window of a stereo song is: two for a mono network, which hears channels alone."""
        return 2 if self.channels == 1 else 1

    @property
    def covered(self) -> int:
        """Samples of the hops that one frame covers, the last one in part where the hop does not divide n_fft."""
        return -(-self.n_fft // self.hop_length) * self.hop_length

    def samples(self, frames: int) -> int:
        """Samples of the hops that so many frames in a row cover: what a waveform model takes for them.

        >>> AudioConfig(n_fft=2048, hop_length=1024).samples(3)
        4096
        """
        return self.covered + (frames - 1) * self.hop_length


@dataclass(frozen=True)
class NetworkConfig:
    """One frame transformer. The defaults are those of the preset `base`."""

    in_channels: int = 2
    bins: int = 1024
    input_power: float = 1.0
    """Exponent of the magnitude (0..1) before it is brought to [-1, 1]; below 1, quiet partials stand out more."""
    standardize: bool = False
    """Whether each bin of each channel is brought to mean 0 and deviation 1 over the training data before the network,
    and gets a scale and a shift of its own behind it, all learned further; as in Open-Unmix."""
    channels: int = 4
    multipliers: tuple[int, ...] = (1, 2, 4, 6, 12, 24)
    """Channels of level l are `channels * multipliers[l]`."""
    heads: tuple[int, ...] = (16, 8, 4, 4, 4, 4)
    """Of the attention at each level; at a level of 0 heads, blocks do not attend and are their feed-forward part."""
    expansion: int = 4
    """Width of the feed-forward part, in features of its level."""
    dropout: float = 0.1
    """In the transformer blocks."""
    frame_dropout: float = 0.1
    """In the residual blocks of the U-Net."""
    transformer: bool = True
    """Whether each level has its transformer block; without, what is left is the position-wise U-Net."""
    attention_conv: Literal["grouped", "full", "none"] = "grouped"
    """Convolution along time behind the q, k and v projections: each channel for itself, across channels, or none."""
    rotary: Literal["learned", "fixed", "none"] = "learned"
    activation: Literal["gelu", "squared-relu"] = "squared-relu"
    """In the feed-forward part of the transformer blocks; the U-Net's blocks always use GELU."""
    feed_forward_mixing: bool = False
    """Whether the feed-forward linears also mix channels (and own the third norm that the original never applies)."""
    decoder_block: Literal["wide", "narrow"] = "wide"
    """Second residual block of a decoder: F -> 2F -> F, the second linear without channel mixing, or F -> F -> F."""
    qk_norm_order: Literal["rotary-first", "norm-first"] = "rotary-first"
    qk_norm: bool = True
    """Whether queries and keys are normalised."""
    mask: Literal["magnitude", "complex"] = "magnitude"
    """A mask in 0..1 from magnitudes, with the mixture's phase; or a complex one from the complex spectrum, which can
    be trained and scored, and which no engine runs."""

    def __post_init__(self) -> None:
        positive(self, "in_channels", "bins", "channels", "expansion", "input_power")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ConfigError(
                f"model.multipliers: {list(self.multipliers)}, expected numbers of at least 1, one per level"
            )
        if len(self.heads) != self.levels or min(self.heads) < 0:
            raise ConfigError(
                f"model.heads: {list(self.heads)}, expected {self.levels} numbers of at least 0, one per level as in "
                "multipliers"
            )
        step = 2 ** (self.levels - 1)
        if self.bins % step:
            raise ConfigError(
                f"bins: {self.bins}, expected a multiple of {step}, so that {self.levels} levels can halve it"
            )
        for level, heads in enumerate(self.heads):
            if heads and self.features(level) % heads:
                raise ConfigError(
                    f"model.heads: {heads} heads do not divide the {self.features(level)} features of level {level + 1}"
                )
        for name in ("dropout", "frame_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name}: {getattr(self, name)}, expected 0 <= x < 1")

    @property
    def levels(self) -> int:
        """How many there are; each but the first halves the bins."""
        return len(self.multipliers)

    @property
    def parts(self) -> int:
        """Real numbers of each bin: 1 for magnitudes, 2 where the network works on complex values."""
        return 2 if self.mask == "complex" else 1

    def features(self, level: int) -> int:
        """Features per frame at `level`, counted from 0."""
        return self.bins >> level

    def width(self, level: int) -> int:
        """Channels at `level`, counted from 0."""
        return self.channels * self.multipliers[level]


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to run a model: its signal front end, its network and what its mask means."""

    name: str = "unnamed"
    audio: AudioConfig = field(default_factory=AudioConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    stems: tuple[str, ...] = ("vocals", "instrumental")
    mask_stem: str = "instrumental"
    """The stem that the mask keeps; the other one is the rest of the mixture."""
    license: str = "unknown"

    def __post_init__(self) -> None:
        if set(self.stems) != {"vocals", "instrumental"}:
            raise ConfigError(f"model.stems: {list(self.stems)}, expected vocals and instrumental")
        if self.mask_stem not in self.stems:
            raise ConfigError(f"model.mask_stem: '{self.mask_stem}', expected one of {', '.join(self.stems)}")
        for name, network, audio in (
            ("bins", self.network.bins, self.audio.bins),
            ("channels", self.network.in_channels, self.audio.channels * self.network.parts),
        ):
            if network != audio:
                raise ConfigError(f"the network takes {network} {name} and audio.{name} is {audio}; they must agree")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` takes them and JSON holds them."""
        return plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The configuration that `to_dict` gave. Raises ConfigError."""
        network = values.get("network")
        if isinstance(network, Mapping) and "attention" in network:  # how it was said before levels could have 0 heads
            none = {"heads": [0] * len(network.get("multipliers", NetworkConfig.multipliers))}
            kept = {key: value for key, value in network.items() if key != "attention"}
            network = kept if network["attention"] else kept | none
            values = {**values, "network": network}
        return build(cls, values, "model file")


def positive(section: Any, *names: str) -> None:
    """Raises ConfigError for the first of the named fields that is not above zero."""
    for name in names:
        if getattr(section, name) <= 0:
            raise ConfigError(f"{name}: {getattr(section, name)}, expected a number above 0")


def presets() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("ft") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_yaml(source: str | Path) -> dict[str, Any]:
    """The mapping in a preset (by name) or a YAML file.

    Raises:
        ConfigError: no such preset or file, or one that is no YAML mapping.
    """
    import yaml

    path = Path(source)
    try:
        if str(source) in presets():
            text = (resources.files("ft") / "presets" / f"{source}.yaml").read_text(encoding="utf-8")
        elif path.is_file():
            text = path.read_text(encoding="utf-8")
        else:
            raise ConfigError(f"{source}: no such file or preset; presets are {', '.join(presets())}")
        values = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not text in UTF-8, expected a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {one_line(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: holds a {type(values).__name__}, expected sections such as audio: and model:")
    return values


def load_model_config(source: str | Path) -> ModelConfig:
    """The model that a preset or YAML file describes. Raises ConfigError."""
    return model_config_from_yaml(load_yaml(source), str(source))


def model_config_from_yaml(values: Mapping[str, Any], where: str) -> ModelConfig:
    """The model in the sections `audio` and `model` of a YAML file.

    `model:` holds the network's keys beside `name`, `stems`, `mask_stem` and `license`; bins and channels come from
    `audio:`. A key `preset` in `model:` starts from that preset instead of from the defaults.
    """
    check_keys(values, ("audio", "model", "train"), where)
    audio = dict(_section(values, "audio", where))
    model = dict(_section(values, "model", where))
    preset = model.pop("preset", None)
    if preset is not None:
        base = load_yaml(_scalar(str, preset, f"{where}: model: preset"))
        audio = {**_section(base, "audio", preset), **audio}
        model = {**_section(base, "model", preset), **model}
    outer: dict[str, Any] = {
        name: model.pop(name) for name in ("name", "stems", "mask_stem", "license") if name in model
    }
    inner = [f.name for f in dataclasses.fields(NetworkConfig) if f.name not in ("bins", "in_channels")]
    check_keys(model, (*inner, "name", "stems", "mask_stem", "license", "preset"), f"{where}: model")
    audio_config = build(AudioConfig, audio, f"{where}: audio")
    parts = 2 if model.get("mask") == "complex" else 1
    network = {**model, "bins": audio_config.bins, "in_channels": audio_config.channels * parts}
    return build(ModelConfig, {**outer, "audio": audio, "network": network}, f"{where}: model")


def override(values: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`values` with each `section.key=value` applied; the value is read as YAML. Raises ConfigError."""
    import copy

    import yaml

    result = copy.deepcopy(values)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {assignment}: expected section.key=value, e.g. train.learning_rate=3e-4")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment}: the value is not YAML") from error
        *parents, key = path.split(".")
        node = result
        for parent in parents:
            if node.get(parent) is None:  # a section without keys, as in a file that says `train:` and no more
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise ConfigError(f"--set {assignment}: {parent} is a value and has no keys")
        node[key] = value
    return result


def check_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raises ConfigError for the first unknown key, with the nearest known one."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise ConfigError(f"{where}: unknown key '{key}'; did you mean '{near[0]}'?")


def build(cls: type[Section], values: Mapping[str, Any], where: str) -> Section:
    """An instance of the dataclass `cls` from plain values.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named), a value of the wrong type, or a failed check.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {values!r}, expected keys and values")
    hints = typing.get_type_hints(cls)
    check_keys(values, [f.name for f in dataclasses.fields(cls)], where)  # type: ignore[arg-type]
    arguments = {key: _coerce(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**arguments)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(where) else f"{where}: {message}") from error


def _coerce(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type. YAML reads 3e-4 as text, so numbers are read from text too; words have no case."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    value = _of_python(value)
    if origin is Literal:
        word = value.lower() if isinstance(value, str) else value
        if word not in arguments:
            raise ConfigError(f"{where}: {value!r}, expected {' or '.join(map(str, arguments))}")
        return word
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _coerce(inner, value, where)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            value = [value]
        return tuple(_coerce(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(kind):
        if isinstance(value, str) and hasattr(kind, "from_text"):
            return kind.from_text(value)
        return value if isinstance(value, kind) else build(kind, value, where)  # type: ignore[arg-type]
    return _scalar(kind, value, where)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str | Path):
        return str(value)
    if kind in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = float("nan")
        if number == number and (kind is float or number.is_integer()):
            return kind(value if isinstance(value, int) else number)
    raise ConfigError(f"{where}: {value!r}, expected {names[kind]}")


def _section(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    section = values.get(name) or {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: {name} is {section!r}, expected keys and values")
    return section


def plain(value: Any) -> Any:
    """What `dataclasses.asdict` gave as JSON and YAML hold it: lists, and numbers of Python.

    >>> plain({"heads": (4, 2)})
    {'heads': [4, 2]}
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    value = _of_python(value)
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _of_python(value: Any) -> Any:
    """Numbers and arrays of NumPy as those of Python."""
    return value.tolist() if hasattr(value, "tolist") else value
