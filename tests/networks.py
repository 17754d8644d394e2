"""Small networks with weights that hide nothing: norms and rotary frequencies are off their trivial start."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ft.config import ModelConfig, load_model_config
from ft.models.frame_transformer import FrameTransformer, count_parameters

GOLDEN = Path(__file__).parent / "golden"
DENSE: dict[str, Any] = {
    "attention_conv": "full",
    "rotary": "fixed",
    "feed_forward_mixing": True,
    "decoder_block": "narrow",
}
"""What sets `original-dense` apart from the preset `tiny`."""
GATE = {"mask_snr_db": 60.0, "mask_snr_limit_db": 45.0, "sdr_loss_db": 0.001, "sdr_loss_limit_db": 0.02, "finite": True}
"""What an fp16 file that passed says of its comparison."""


def tiny_config(**network: Any) -> ModelConfig:
    """The preset `tiny` with some keys of its network changed."""
    config = load_model_config("tiny")
    return dataclasses.replace(config, network=dataclasses.replace(config.network, **network))


PARAMETERS = count_parameters(tiny_config().network)


def tiny_model(config: ModelConfig | None = None, seed: int = 0) -> FrameTransformer:
    """A network in eval mode with seeded random weights; `model_config` is set as `load_model` sets it."""
    config = config or tiny_config()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FrameTransformer(config.network).eval()
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if ".norm." in name or "standard_" in name:
                    value.add_(0.3 * torch.randn_like(value))
                if name.endswith(".freqs"):
                    value.mul_(1 + 0.3 * torch.rand_like(value))
    model.model_config = config
    return model


def random_input(config: ModelConfig, frames: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """(batch, channels, bins, frames) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, config.audio.channels, config.audio.bins, frames, generator=generator) * 2 - 1


def golden(name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor, np.ndarray]:
    """State dict, input and logits of one network of the original implementation."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        prefix = "state_dict/"
        state = {key.removeprefix(prefix): torch.from_numpy(file[key]) for key in file.files if key.startswith(prefix)}
        return state, torch.from_numpy(file["x"]), file["logits"]
