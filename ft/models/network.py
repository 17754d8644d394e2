"""What every network of the registry is, and what it may say of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ft.config import ModelConfig


class SeparationNetwork(nn.Module):
    """A network from what `ModelConfig.reads` says to what `ModelConfig.gives` says, before the activation.

    `forward` takes (batch, channels, bins, frames) or (batch, channels, samples) of float32 and gives that, with an
    axis of stems behind the batch where there are several.
    """

    model_config: ModelConfig
    """What the network belongs to; set by `ft.checkpoint.load_model` only."""
    wants_fit = False
    """Whether `fit` is to be called before training."""
    twins: Mapping[type[nn.Module], type[nn.Module]] = {}
    """Modules with a form that becomes one native node of ONNX (opset 23): what to make of which."""
    keeps_float32: tuple[type[nn.Module], ...] = ()
    """Modules whose own weights stay in float32 when the network is halved."""

    def fit(self, inputs: Tensor) -> None:
        """Fits what depends on how the inputs, as `forward` takes them, are spread."""

    def is_unused(self, name: str) -> bool:
        """Says whether a tensor of the state is never applied, so that an exported graph does not hold it."""
        return 0 in self.get_buffer_or_parameter(name).shape

    def matrices(self) -> Iterator[str]:
        """Gives the names of the weights that may be stored in half the space and multiplied in int8."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                yield f"{name}.weight"

    def get_buffer_or_parameter(self, name: str) -> Any:
        """Gives a tensor of the state by its name."""
        path, _, own = name.rpartition(".")
        return getattr(self.get_submodule(path), own)
