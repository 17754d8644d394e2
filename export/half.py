"""Networks in half precision, fp16 and bf16: halved before the export, so that the graph says what it computes in.

What stays in float32: the input and its scaling, the sigmoid, and the angles of the rotary embedding, where a position
of several hundred frames times a frequency would lose the digits that matter. Statistics of a LayerNormalization node
are float32 by its definition (`stash_type`).
"""

from __future__ import annotations

import torch

from ft.errors import ExportError
from ft.models.frame_transformer import RotaryEmbedding

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def halve(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Converts the weights of `network` to `dtype`, all but the rotary frequencies, in place.

    Raises:
        ExportError: a weight is beyond the largest value of `dtype`.
    """
    if dtype == torch.float32:
        return
    limit = torch.finfo(dtype).max
    for path, module in network.named_modules():
        if isinstance(module, RotaryEmbedding):
            continue
        for name, weight in list(module.named_parameters(recurse=False)):
            if not weight.abs().max() <= limit:
                kind = str(dtype).removeprefix("torch.")
                raise ExportError(f"{path}.{name} has values beyond {limit:g}, the largest that {kind} holds")
            setattr(module, name, torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False))
