"""Everything that can be chosen for a separation, once: `SeparateOptions` is what the library takes, and the command
line makes its flags of it (`ft/cli/flags.py`).
"""

from __future__ import annotations

import functools
import math
import re
import string
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ft.errors import ConfigError

Format = Literal["wav", "flac", "ogg", "opus", "mp3"]
BitDepth = Literal["16", "24", "float"]
Runtime = Literal["auto", "onnxruntime", "openvino", "torch", "tensorrt"]

LOSSLESS = ("wav", "flac")
MPEG1_BITRATES = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MPEG2_BITRATES = (64, 80, 96, 112, 128, 144, 160)
"""Bitrates of mp3 in kbit/s from 32 kHz on, and from 16 kHz on. Lower ones exist, but their frames are too small for
LAME's header that tells where the sound begins and ends: the stems would be some 65 ms longer, and late."""
_BITRATES = {"ogg": (8, 500), "opus": (6, 512), "mp3": (64, 320)}
"""Bitrates that some sound can have in a format."""
TEMPLATE = "{song}/{stem}.{ext}"
_MOST = {"batch_size": 1024, "threads": 1024, "track": 1024}
"""Far beyond what is of use, and below what would exhaust a machine before anybody could say why."""
_MOST_SECONDS = 600.0
TEMPLATE_NAMES = ("folder", "song", "stem", "model", "ext", "input_ext")


def _option(default: Any, help: str, group: str, metavar: str | None = None, shown: str | None = None) -> Any:
    """Makes a field with what its flag needs: help, the group it stands in, and words for a default that is None."""
    if default is not None and not isinstance(default, bool):
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    return field(default=default, metadata={"help": help, "group": group, "metavar": metavar, "shown": shown})


@dataclass(frozen=True, kw_only=True)
class SeparateOptions:
    """What can be chosen; every field has a flag of the same name at `ft separate`, with - in place of _.

    What comes in and goes out concerns files; arrays and blocks are separated whole, into all stems.

    Raises:
        ConfigError: a value out of range, or two that contradict each other.
    """

    format: Format = _option("wav", "Format of the stems.", "Output")
    bit_depth: BitDepth | None = _option(
        None,
        "Bits of a sample in wav and flac.",
        "Output",
        shown="the input's; 16 for compressed inputs, at most 24 in flac",
    )
    bitrate: int | None = _option(
        None, "Bit rate of ogg, opus and mp3.", "Output", "KBIT", "ogg 192, opus 160, mp3 256"
    )
    stem: str | None = _option(
        None, "Write this stem only, or a sum such as drums+bass.", "Output", shown="all of the model"
    )
    two_stems: str | None = _option(None, "Write this stem, and everything else as another.", "Output", "STEM", "no")
    name_template: str = _option(
        TEMPLATE,
        "Name each file below the output folder by {folder}, {song}, {stem}, {model}, {ext} and {input_ext}, the "
        "input's. Without {folder} it stands below the folders that the input had.",
        "Output",
        "TEXT",
    )
    skip_existing: bool = _option(False, "Leave out inputs whose files are all there, as long as they are.", "Output")
    force: bool = _option(False, "Replace files that are there.", "Output")
    images: bool = _option(False, "Draw the mask and the spectrograms of the stems too (PNG).", "Output")

    track: int | None = _option(None, "Take this audio track of a video, from 1.", "Input", "N", "1")
    start: float = _option(0.0, "Leave out so many seconds at the beginning.", "Input", "SECONDS")
    duration: float | None = _option(None, "Separate so many seconds only.", "Input", "SECONDS", "to the end")
    allow_truncated: bool = _option(False, "Separate what is there of a file that ends too early.", "Input")

    tta: bool = _option(False, "Average three window grids; three times the work.", "Quality")
    windows: Literal["blended", "original"] = _option(
        "blended", "Blend overlapping windows, or cut exactly as the original implementation does.", "Quality"
    )
    postprocess: bool = _option(
        False, "Silence the vocals where they are quiet for long, as the original implementation does.", "Quality"
    )
    ensemble_by: Literal["mean", "median"] = _option("mean", "Combine several models by this.", "Quality")

    device: str = _option("auto", "Compute on auto, cpu or cuda[:N].", "Engine")
    runtime: Runtime = _option("auto", "Run the model with this.", "Engine")
    memory: Literal["cuda-python", "pycuda"] = _option(
        "cuda-python", "Let this handle a GPU's memory for TensorRT.", "Engine"
    )
    segment_seconds: float | None = _option(
        None, "Run so much at once.", "Engine", "SECONDS", "the model's, usually 20, or the plan's"
    )
    context_seconds: float | None = _option(
        None, "Compute and drop so much of a segment on each side.", "Engine", "SECONDS", "the model's, usually 1"
    )
    overlap: float | None = _option(
        None, "Cross-fade this share of a segment's kept frames.", "Engine", "SHARE", "the model's, usually 0.05"
    )
    batch_size: int | None = _option(None, "Run so many segments at once.", "Engine", "N", "1, or the plan's")
    threads: int | None = _option(None, "Give the engine so many threads.", "Engine", "N", "all usable cores")

    def __post_init__(self) -> None:
        types = _types()
        for item in fields(self):
            object.__setattr__(self, item.name, _checked(item.name, types[item.name], getattr(self, item.name)))
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is None:
            raise ConfigError(f"`device` {self.device}: expected auto, cpu, cuda or cuda:N")
        self._check_output()
        self._check_input()
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ConfigError(f"`{name}` {value}: expected 1 to {most}")
        for name in ("segment_seconds", "context_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= _MOST_SECONDS:
                raise ConfigError(f"`{name}` {value:g}: expected at most {_MOST_SECONDS:g}")
        if self.windows == "original":
            for name in ("segment_seconds", "context_seconds", "overlap"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"`{name}`: the windows of the original implementation have fixed sizes")

    def _check_output(self) -> None:
        if self.format == "flac" and self.bit_depth == "float":
            raise ConfigError("`bit_depth` float: flac holds integers only; expected 16 or 24, or `format` wav")
        if self.format not in LOSSLESS and self.bit_depth is not None:
            raise ConfigError(f"`bit_depth` {self.bit_depth}: {self.format} has none; expected `bitrate`")
        if self.format in LOSSLESS and self.bitrate is not None:
            raise ConfigError(f"`bitrate` {self.bitrate}: {self.format} has none; expected `bit_depth`")
        if self.bitrate is not None:
            low, high = _BITRATES[self.format]
            if not low <= self.bitrate <= high:
                raise ConfigError(f"`bitrate` {self.bitrate}: expected {low} to {high} kbit/s for {self.format}")
            mp3 = sorted({*MPEG1_BITRATES, *MPEG2_BITRATES})
            if self.format == "mp3" and self.bitrate not in mp3:
                choices = ", ".join(map(str, mp3))
                raise ConfigError(f"`bitrate` {self.bitrate}: mp3 has no such rate; expected one of {choices} kbit/s")
        if self.stem is not None and self.two_stems is not None:
            raise ConfigError("`stem` and `two_stems` contradict each other; expected one of them")
        if self.skip_existing and self.force:
            raise ConfigError("`skip_existing` and `force` contradict each other; expected one of them")
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.name_template) if name is not None]
        except ValueError as error:
            raise ConfigError(f"`name_template` {self.name_template}: {error}") from error
        for name in names:
            if name not in TEMPLATE_NAMES:
                known = ", ".join(f"{{{each}}}" for each in TEMPLATE_NAMES)
                raise ConfigError(f"`name_template` {self.name_template}: {{{name}}} is unknown; expected {known}")
        for name in ("song", "stem") if self.stem is None else ("song",):
            if name not in names:
                raise ConfigError(f"`name_template` {self.name_template}: {{{name}}} is missing; files would collide")

    def _check_input(self) -> None:
        if not 0 <= self.start < math.inf:
            raise ConfigError(f"`start` {self.start:g}: expected seconds, 0 or more")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise ConfigError(f"`duration` {self.duration:g}: expected seconds above 0")


@functools.cache
def _types() -> dict[str, Any]:
    return get_type_hints(SeparateOptions)


def _checked(name: str, kind: Any, value: Any) -> Any:
    """Gives a value as the command line would: numbers of NumPy as Python's, words of a choice in small letters.

    Raises:
        ConfigError: it is not of this kind.
    """
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    words = words_of(kind)
    if isinstance(value, str) and (words or name in ("stem", "two_stems", "device")):
        value = value.lower()
    kinds = get_args(kind) or (kind,)
    if value is None and NoneType in kinds:
        return None
    if words and value not in words:
        raise ConfigError(f"`{name}` {value}: expected {', '.join(words)}")
    allowed = (str,) if words else (*kinds, int) if float in kinds else kinds
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"`{name}` {value!r}: expected {kinds[0].__name__}")
    return value


def words_of(kind: Any) -> tuple[str, ...]:
    """Gives the words that a type allows, which is a `Literal`, or one or None; none for any other type.

    >>> words_of(BitDepth | None), words_of(int)
    (('16', '24', 'float'), ())
    """
    return tuple(word for each in (kind, *get_args(kind)) if get_origin(each) is Literal for word in get_args(each))
