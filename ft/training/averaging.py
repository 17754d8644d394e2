"""The exponential moving average of the weights of a run, which is what is validated and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ft.training.distributed import own_part

SHORT_MEMORY = 10
"""At step t the decay is at most t / (t + this): else the random start would stay in the average for long."""


class WeightAverage:
    """An average of the weights of `network`; at a decay of 0 it is the network's own weights and takes no memory.

    Args:
        network: where its parameters lie when training begins; sharded ones are averaged share by share.
        decay: per optimizer step, 0 <= decay < 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.values: dict[str, Tensor] = {}
        if decay:
            self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self._own = [own_part(value.detach()) for value in network.state_dict().values()] if decay else []
        self._averaged = [own_part(value) for value in self.values.values()]
        pairs = list(zip(self._averaged, self._own, strict=True))
        self._mixed = [pair for pair in pairs if pair[1].is_floating_point() or pair[1].is_complex()]
        self._counted = [pair for pair in pairs if not (pair[1].is_floating_point() or pair[1].is_complex())]

    def state(self) -> dict[str, Tensor]:
        """Gives the average by the names of the network's parameters."""
        return self.values or self.network.state_dict()

    @torch.no_grad()
    def restart(self) -> None:
        """Begins again from the network's present weights."""
        for averaged, own in zip(self._averaged, self._own, strict=True):
            averaged.copy_(own)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after optimizer step number `step`, counted from 1.

        Integers, such as a batch norm's number of batches, have no average and are copied.
        """
        if self._mixed:
            decay = min(self.decay, step / (step + SHORT_MEMORY))
            averaged, own = map(list, zip(*self._mixed, strict=True))
            torch._foreach_lerp_(averaged, own, 1 - decay)
        for counted, value in self._counted:
            counted.copy_(value)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Gives the average in the network's place, in eval mode; the network's own weights return at the end."""
        kept = [value.clone() for value in self._own]
        self.network.eval()
        with torch.no_grad():
            for own, averaged in zip(self._own, self._averaged, strict=True):
                own.copy_(averaged)
            try:
                yield
            finally:
                for own, value in zip(self._own, kept, strict=True):
                    own.copy_(value)
