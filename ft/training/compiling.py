"""Two ways to run a network: its levels computed twice to save memory, and `torch.compile` where it proves equal."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ft.errors import one_line

logger = logging.getLogger(__name__)

Network = Callable[..., Any]
"""A module, or the function that `torch.compile` made of it."""

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 1e-2}
"""Largest distance of a compiled network's loss and gradient from eager's, as a share of their norm."""


def checkpoint_levels(network: nn.Module) -> None:
    """Lets each part of each level keep its input only, and compute its inside again for the gradient.

    Gradients stay the same bit for bit; dropout draws the same numbers the second time.
    """
    for part in network.children():
        part.forward = partial(_recomputed, part, part.forward)


def _recomputed(part: nn.Module, forward: Callable, *args: Any) -> Any:
    if not (part.training and torch.is_grad_enabled()):
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False)


def compiled_or_eager(
    network: nn.Module, loss: Callable[[Network], Tensor], precision: str, backend: str = "inductor"
) -> Network:
    """`network` through `torch.compile` if loss and gradients of a batch equal eager's within `TOLERANCE`, else itself.

    Which of the two, and why, is logged in one line. Neither the weights nor random numbers are changed.

    Args:
        loss: the objective of one real batch by the network it is given.
    """
    compiled = torch.compile(network, backend=backend)
    try:
        with _without_dropout(network), torch.random.fork_rng():
            expected = _loss_and_gradient(network, network, loss)
            found = _loss_and_gradient(network, compiled, loss)
    except Exception as error:  # compilers raise kinds of their own, of many unrelated families
        logger.warning("train.compile: failed, so training goes on in eager: %s", one_line(error)[:200])
        return network
    finally:
        network.zero_grad(set_to_none=True)
    distance = max(_distance(*pair) for pair in zip(found, expected, strict=True))
    if not distance <= TOLERANCE[precision]:
        logger.warning(
            "train.compile: loss or gradient is %.2g off eager's, more than %.2g; training goes on in eager",
            distance,
            TOLERANCE[precision],
        )
        return network
    logger.info("train.compile: loss and gradient within %.2g of eager's", distance)
    return compiled


def _loss_and_gradient(network: nn.Module, run: Network, loss: Callable[[Network], Tensor]) -> tuple[Tensor, Tensor]:
    network.zero_grad(set_to_none=True)
    value = loss(run)
    value.backward()
    gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
    return value.detach().flatten(), torch.cat(gradients)


def _distance(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


@contextlib.contextmanager
def _without_dropout(network: nn.Module) -> Iterator[None]:
    """Compiled dropout draws other numbers than eager's, of the same distribution."""
    kept = [(module, module.p) for module in network.modules() if isinstance(module, nn.Dropout)]
    network.train()
    for module, _ in kept:
        module.p = 0.0
    try:
        yield
    finally:
        for module, p in kept:
            module.p = p
