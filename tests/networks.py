"""Small networks with weights that hide nothing: norms and rotary frequencies are off their trivial start."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ft.config import ModelConfig, model_config_from_yaml
from ft.models import completed, count_parameters, make_network
from ft.models.network import SeparationNetwork

GOLDEN = Path(__file__).parent / "golden"
DENSE: dict[str, Any] = {
    "attention_conv": "full",
    "rotary": "fixed",
    "feed_forward_mixing": True,
    "decoder_block": "narrow",
}
"""What sets `original-dense` apart from the preset `tiny`."""


def tiny_config(**network: Any) -> ModelConfig:
    """The preset `tiny` with some numbers of its network changed."""
    return completed(model_config_from_yaml({"model": {"preset": "tiny"}, "network": network}, "test"))


def changed(config: ModelConfig, **values: Any) -> ModelConfig:
    """A configuration with values of any of its parts changed, each name being that of one part only."""
    parts = {name: getattr(config, name) for name in ("front", "output", "segment")}
    outer = {key: values.pop(key) for key in list(values) if hasattr(config, key)}
    for name, part in parts.items():
        own = {key: values.pop(key) for key in list(values) if key in {f.name for f in dataclasses.fields(part)}}
        outer[name] = dataclasses.replace(outer.get(name, part), **own)
    numbers = {**config.network.numbers, **values}
    return dataclasses.replace(config, **{"network": dataclasses.replace(config.network, numbers=numbers)} | outer)


def format_1(config: ModelConfig) -> dict[str, Any]:
    """What a checkpoint of the first format holds of a model of one real mask."""
    front, output = config.front, config.output
    audio = {"sample_rate": config.sample_rate, "channels": config.channels, "stereo": front.stereo}
    audio |= {"n_fft": front.n_fft, "hop_length": front.hop_length, "bins": front.used_bins}
    audio["extend_mask"] = output.above if isinstance(output.above, int) else 0
    audio["normalize"] = str(front.scale).removesuffix("-peak")
    network = {**completed(config).network.numbers, "bins": front.used_bins, "in_channels": config.channels}
    stem, rest = config.all_stems
    kept = stem if output.of == "stems" else rest
    outer = {"name": config.name, "license": config.license, "stems": [stem, rest], "mask_stem": kept}
    return {**outer, "audio": audio, "network": {**network, "mask": "magnitude"}}


PARAMETERS = count_parameters(tiny_config())


def tiny_model(config: ModelConfig | None = None, seed: int = 0) -> SeparationNetwork:
    """A network in eval mode with seeded random weights; `model_config` is set as `load_model` sets it."""
    config = config or tiny_config()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make_network(config).eval()
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if ".norm." in name or "standard_" in name:
                    value.add_(0.3 * torch.randn_like(value))
                if name.endswith(".freqs"):
                    value.mul_(1 + 0.3 * torch.rand_like(value))
    model.model_config = config
    return model


def random_input(config: ModelConfig, frames: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """What a network reads, (batch, channels, bins, frames), in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    (spec,) = config.reads
    return torch.rand(spec.sized(batch, frames), generator=generator)


def with_metadata(source: Path, path: Path, **changes: str | None) -> Path:
    """A copy of an exported file with other entries in its metadata; None takes one away."""
    import onnx

    model = onnx.load(source)
    props = {entry.key: entry.value for entry in model.metadata_props} | changes
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: value for key, value in props.items() if value is not None})
    onnx.save(model, path)
    return path


def golden(name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor, np.ndarray]:
    """State dict, input and logits of one network of the original implementation."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        prefix = "state_dict/"
        state = {key.removeprefix(prefix): torch.from_numpy(file[key]) for key in file.files if key.startswith(prefix)}
        return state, torch.from_numpy(file["x"]), file["logits"]
