"""Everything that can be chosen for a separation, once: `SeparateOptions` is what the library takes, and the command
line makes its flags of it (`ft/cli/flags.py`).
"""

from __future__ import annotations

import math
import re
import string
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal

from ft.errors import ConfigError

Format = Literal["wav", "flac", "ogg", "opus", "mp3"]
BitDepth = Literal["16", "24", "float"]

LOSSLESS = ("wav", "flac")
TEMPLATE = "{song}/{stem}.{ext}"
_MOST = {"batch_size": 1024, "threads": 1024, "bitrate": 1_000_000, "track": 1024}
"""Far beyond what is of use, and below what would exhaust a machine before anybody could say why."""
_MOST_SECONDS = 600.0
TEMPLATE_NAMES = ("folder", "song", "stem", "model", "ext", "input_ext")


def _option(
    default: Any,
    help: str,
    group: str,
    *,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    shown: str | None = None,
) -> Any:
    """A field with what its flag needs: its help, the group it stands in, and how its default is described."""
    metadata = {"help": help, "group": group, "choices": choices, "metavar": metavar, "shown": shown}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class SeparateOptions:
    """What can be chosen; every field has a flag of the same name at `ft separate`, with - in place of _.

    What comes in and goes out concerns files; arrays and blocks are separated whole, into all stems.

    Raises:
        ConfigError: a value out of range, or two that contradict each other.
    """

    format: Format = _option(
        "wav", "Of the stems.", "Output", choices=("wav", "flac", "ogg", "opus", "mp3"), shown="wav"
    )
    bit_depth: BitDepth | None = _option(
        None,
        "Of wav and flac.",
        "Output",
        choices=("16", "24", "float"),
        shown="the input's; 16 for compressed inputs, at most 24 in flac",
    )
    bitrate: int | None = _option(
        None, "Of ogg, opus and mp3.", "Output", metavar="KBIT", shown="ogg 192, opus 160, mp3 256"
    )
    stem: str | None = _option(None, "Write this one only, vocals or instrumental.", "Output", shown="all of the model")
    name_template: str = _option(
        TEMPLATE,
        "Of each file below the output folder, of {folder}, {song}, {stem}, {model}, {ext} and {input_ext}, the "
        "input's. Without {folder} it stands below the folders that the input had.",
        "Output",
        metavar="TEXT",
        shown=TEMPLATE,
    )
    skip_existing: bool = _option(False, "Leave out inputs whose files are all there, as long as they are.", "Output")
    force: bool = _option(False, "Replace files that are there.", "Output")
    images: bool = _option(False, "Draw the mask and the spectrograms of the stems too (PNG).", "Output")

    track: int | None = _option(None, "Which audio track of a video, from 1.", "Input", metavar="N", shown="1")
    start: float = _option(0.0, "Leave out so many seconds at the beginning.", "Input", metavar="SECONDS", shown="0")
    duration: float | None = _option(
        None, "Separate so many seconds only.", "Input", metavar="SECONDS", shown="to the end"
    )
    allow_truncated: bool = _option(False, "Separate what is there of a file that ends too early.", "Input")

    tta: bool = _option(False, "Mean of the masks of three window grids; three times the work.", "Quality")
    windows: Literal["blended", "original"] = _option(
        "blended",
        "original: exactly the crops and paddings of the original implementation.",
        "Quality",
        choices=("blended", "original"),
        shown="blended",
    )
    postprocess: bool = _option(
        False, "Silence the vocals where they are quiet for long, as the original implementation does.", "Quality"
    )
    ensemble_by: Literal["mean", "median"] = _option(
        "mean", "Of the masks of several models.", "Quality", choices=("mean", "median"), shown="mean"
    )

    device: str = _option("auto", "auto, cpu or cuda[:N].", "Engine", shown="auto")
    runtime: Literal["auto", "onnxruntime", "openvino", "torch", "tensorrt"] = _option(
        "auto",
        "What runs the model.",
        "Engine",
        choices=("auto", "onnxruntime", "openvino", "torch", "tensorrt"),
        shown="auto",
    )
    memory: Literal["cuda-python", "pycuda"] = _option(
        "cuda-python",
        "Who handles a GPU's memory for TensorRT.",
        "Engine",
        choices=("cuda-python", "pycuda"),
        shown="cuda-python",
    )
    segment_seconds: float | None = _option(
        None,
        "What runs through the network at once.",
        "Engine",
        metavar="SECONDS",
        shown="20, fewer for wide networks, or the plan's",
    )
    context_seconds: float | None = _option(
        None, "Of a segment on each side, computed and dropped.", "Engine", metavar="SECONDS", shown="1"
    )
    overlap: float | None = _option(
        None, "Share of a segment's kept frames that cross-fades.", "Engine", metavar="SHARE", shown="0.05"
    )
    batch_size: int | None = _option(
        None, "Segments that run at once.", "Engine", metavar="N", shown="1, or the plan's"
    )
    threads: int | None = _option(None, "Of the engine.", "Engine", metavar="N", shown="all usable cores")

    def __post_init__(self) -> None:
        for item in fields(self):
            value = _plain(item, getattr(self, item.name))
            object.__setattr__(self, item.name, value)
            _check_type(item, value)
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is None:
            raise ConfigError(f"--device {self.device}: expected auto, cpu, cuda or cuda:N")
        self._check_output()
        self._check_input()
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ConfigError(f"{flag(name)} {value}: expected 1 to {most}")
        for name in ("segment_seconds", "context_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= _MOST_SECONDS:
                raise ConfigError(f"{flag(name)} {value:g}: expected at most {_MOST_SECONDS:g}")
        if self.windows == "original":
            for name in ("segment_seconds", "context_seconds", "overlap"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{flag(name)}: the windows of the original implementation have fixed sizes")

    def _check_output(self) -> None:
        if self.format == "flac" and self.bit_depth == "float":
            raise ConfigError("--bit-depth float: flac holds integers only; expected 16 or 24, or --format wav")
        if self.format not in LOSSLESS and self.bit_depth is not None:
            raise ConfigError(f"--bit-depth {self.bit_depth}: {self.format} has none; expected --bitrate")
        if self.format in LOSSLESS and self.bitrate is not None:
            raise ConfigError(f"--bitrate {self.bitrate}: {self.format} has none; expected --bit-depth")
        if self.skip_existing and self.force:
            raise ConfigError("--skip-existing and --force contradict each other; expected one of them")
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.name_template) if name is not None]
        except ValueError as error:
            raise ConfigError(f"--name-template {self.name_template}: {error}") from error
        for name in names:
            if name not in TEMPLATE_NAMES:
                known = ", ".join(f"{{{each}}}" for each in TEMPLATE_NAMES)
                raise ConfigError(f"--name-template {self.name_template}: {{{name}}} is unknown; expected {known}")
        for name in ("song", "stem") if self.stem is None else ("song",):
            if name not in names:
                raise ConfigError(f"--name-template {self.name_template}: {{{name}}} is missing; files would collide")

    def _check_input(self) -> None:
        if not 0 <= self.start < math.inf:
            raise ConfigError(f"--start {self.start:g}: expected seconds, 0 or more")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise ConfigError(f"--duration {self.duration:g}: expected seconds above 0")


def _plain(item: Field[Any], value: Any) -> Any:
    """The value as the command line would give it: numbers of NumPy as Python's, words of a choice in small letters."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    has_no_case = item.metadata["choices"] or item.name in ("stem", "device")
    return value.lower() if has_no_case and isinstance(value, str) else value


def _check_type(item: Field[Any], value: Any) -> None:
    """Raises ConfigError where a field does not hold what its annotation or its choices say."""
    choices, default = item.metadata["choices"], item.default
    if value is None and default is None:
        return
    if choices:
        if value not in choices:
            raise ConfigError(f"{flag(item.name)} {value}: expected {', '.join(choices)}")
        return
    annotation = str(item.type).removesuffix(" | None")
    kinds: tuple[type, ...] = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,)}[annotation]
    if not isinstance(value, kinds) or (annotation != "bool" and isinstance(value, bool)):
        raise ConfigError(f"{flag(item.name)} {value!r}: expected {annotation}")


def flag(name: str) -> str:
    """The flag of a field.

    >>> flag("bit_depth")
    '--bit-depth'
    """
    return "--" + name.replace("_", "-")
