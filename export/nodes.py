"""What becomes one ONNX node each when it is traced, where PyTorch works out what it is made of, and at length.

An LSTM would be taken apart step by step for a fixed number of frames; a matrix product into reshapes around one of
three axes, each time the graph is gone through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class NodeLSTM(nn.LSTM):
    """Becomes one LSTM node for each layer (ONNX, LSTM: gates in the order i, o, f, c), of any number of frames."""

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:  # type: ignore[override]
        """(batch, frames, features), or with `batch_first` off (frames, batch, features); there is no last state."""
        directions = 2 if self.bidirectional else 1
        x = x.transpose(0, 1) if self.batch_first else x
        for layer in range(self.num_layers):
            names = [f"l{layer}{'_reverse' * reverse}" for reverse in range(directions)]
            weights = [torch.stack([self._gates(f"weight_{of}_{name}") for name in names]) for of in ("ih", "hh")]
            biases = [torch.cat([self._gates(f"bias_{of}_{name}") for of in ("ih", "hh")]) for name in names]
            inputs = (x, *weights, *([torch.stack(biases)] if self.bias else []))
            attributes: dict[str, Any] = {"hidden_size": self.hidden_size}
            attributes["direction"] = "bidirectional" if self.bidirectional else "forward"
            shape = (x.shape[0], directions, x.shape[1], self.hidden_size)
            x = torch.onnx.ops.symbolic("LSTM", inputs, attributes, dtype=x.dtype, shape=shape)
            x = x.transpose(1, 2).flatten(2)
        return x.transpose(0, 1) if self.batch_first else x, None

    def _gates(self, name: str) -> Tensor:
        return getattr(self, name).unflatten(0, (4, self.hidden_size))[[0, 3, 1, 2]].flatten(0, 1)


NODES: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: NodeLSTM}
"""Modules that become one node in every opset."""


class Products(TorchFunctionMode):
    """Makes each matrix product within it one MatMul node."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.matmul, Tensor.matmul, Tensor.__matmul__) and min(args[0].ndim, args[1].ndim) > 1:
            left, right = args
            outer = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
            shape = (*outer, left.shape[-2], right.shape[-1])
            return torch.onnx.ops.symbolic("MatMul", args, dtype=left.dtype, shape=shape)
        return func(*args, **(kwargs or {}))
