"""Reads configurations of the first format: `audio:` and `model:` of YAML files, and what checkpoints held.

It knew one network, the frame transformer, and one mask of two stems, vocals and instrumental.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ft.errors import ConfigError

FRONT = ("stereo", "n_fft", "hop_length", "bins")
NETWORK = (
    *("input_power", "standardize", "channels", "multipliers", "heads", "expansion", "dropout", "frame_dropout"),
    *("transformer", "attention_conv", "rotary", "activation", "feed_forward_mixing", "decoder_block"),
    *("qk_norm_order", "qk_norm"),
)
AUDIO_KEYS = {*FRONT, "normalize", "extend_mask"}
MODEL_KEYS = {*NETWORK, "mask", "mask_stem", "attention"}
"""What only the first format has in its sections `audio` and `model`."""
LEVELS = 6
SCORES_BYTES = 400_000_000
"""What attention may take for its scores at the widest level; beyond it windows were shorter than 20 s. A network of
45 million parameters at half the hop takes 6 GB and 1.3 times as long for 20 s as for the 8.4 s of this limit."""


def is_first(sections: Mapping[str, Any]) -> bool:
    """Says whether sections of YAML hold a key of the first format."""
    held = (sections.get(name) for name in ("audio", "model"))
    audio, model = (set(section) if isinstance(section, Mapping) else set() for section in held)
    return bool(audio & AUDIO_KEYS or model & MODEL_KEYS)


def from_checkpoint(values: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the fields of a `ModelConfig` for those that a checkpoint held in the first format."""
    network = {key: value for key, value in values["network"].items() if key not in ("bins", "in_channels")}
    outer = {key: value for key, value in values.items() if key not in ("audio", "network")}
    sections = translated({"audio": values["audio"], "model": {**network, **outer}})
    kind = sections["network"].pop("kind")
    rest = {"stems": ["vocals"], "rest": "instrumental", **sections.pop("model"), **sections.pop("audio")}
    numbers = sections.pop("network")
    return {
        **rest,
        **sections,
        "network": {"kind": kind, "numbers": numbers},
        "segment": segment(numbers, rest, sections),
    }


def translated(sections: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Gives sections of YAML, of which some keys are of the first format, as they are written now.

    Args:
        base: the sections of the preset that they change; None: the defaults of the first format.
    """
    audio, model = dict(sections.get("audio") or {}), dict(sections.get("model") or {})
    if not base:
        base = {"front": {"bins": 1024}, "network": {"kind": "frame-transformer"}}
        model.setdefault("mask_stem", "instrumental")
    front = {**base.get("front", {}), **(sections.get("front") or {})}
    output = {**base.get("output", {}), **(sections.get("output") or {})}
    network = {**base.get("network", {}), **(sections.get("network") or {})}
    front |= {key: audio.pop(key) for key in FRONT if key in audio}
    if "normalize" in audio:
        front["scale"] = {"track": "track-peak", "window": "window-peak"}.get(audio["normalize"], audio["normalize"])
    if not model.pop("attention", True):  # how it was said before levels could have no heads
        model["heads"] = [0] * len(model.get("multipliers", [0] * LEVELS))
    network |= {key: model.pop(key) for key in NETWORK if key in model}
    is_complex = {"complex": True, "magnitude": False}.get(model.pop("mask", None))
    if is_complex is not None:
        front["values"] = "complex" if is_complex else "magnitude"
        output |= {"kind": "complex-mask", "of": "stems", "above": "rest"} if is_complex else {"kind": "mask"}
        output.pop("activation", None)
    _name_stems(model, audio, front, output)
    for key in ("normalize", "extend_mask"):
        audio.pop(key, None)
    others = {key: value for key, value in sections.items() if key not in ("audio", "model")}
    audio, model = {**base.get("audio", {}), **audio}, {**base.get("model", {}), **model}
    return {**base, **others, "audio": audio, "model": model, "front": front, "output": output, "network": network}


def _name_stems(model: dict[str, Any], audio: dict[str, Any], front: dict[str, Any], output: dict[str, Any]) -> None:
    """What `stems`, `mask_stem` and `extend_mask` said, in `model` and `output`.

    Vocals were the mask's, or what it left; above the bins of the network they were its highest ones', or silent. Only
    a mask of the instrumental over all bins but the last left that one to the vocals.
    """
    stems = model.get("stems") if "rest" not in model else None
    if stems is not None:
        model["stems"], model["rest"] = [stems[0]], stems[1]
    estimated = stems[0] if stems else "vocals"
    mask_stem = model.pop("mask_stem", None)
    if mask_stem not in (None, "vocals", "instrumental"):
        raise ConfigError(f"model: mask_stem: {mask_stem!r}, expected vocals or instrumental")
    if mask_stem is not None:
        output["of"] = "stems" if mask_stem == estimated else "rest"
    if output.get("kind", "mask") != "mask":
        if output["kind"] == "complex-mask" and mask_stem not in (None, estimated):
            model["stems"], model["rest"] = [mask_stem], estimated
            output["of"] = "stems"
        output["above"] = "rest"
        return
    if audio.get("extend_mask"):
        output["above"] = audio["extend_mask"]
    elif "extend_mask" in audio or not isinstance(output.get("above"), int):
        masks_vocals = (output.get("of", "stems") == "stems") == (estimated == "vocals")
        last_to_vocals = not masks_vocals and front.get("bins", 1024) == front.get("n_fft", 2048) // 2
        output["above"] = "stem" if last_to_vocals == (estimated == "vocals") else "rest"


def segment(numbers: Mapping[str, Any], outer: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the windows that the attention of a frame transformer of the first format was run with."""
    widths = [numbers["channels"] * multiplier for multiplier in numbers["multipliers"]]
    maps = max(1, *(width * heads for width, heads in zip(widths, numbers["heads"], strict=True)))
    seconds = math.isqrt(SCORES_BYTES // (4 * maps)) * sections["front"]["hop_length"] / outer["sample_rate"]
    return {"seconds": max(min(20.0, seconds), 4.0)}
