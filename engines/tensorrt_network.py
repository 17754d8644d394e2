"""A TensorRT network from an ONNX file: parsed, its attentions prepared, its precision looked at."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.tensorrt_library import log_of
from ft.errors import ExportError

logger = logging.getLogger(__name__)

FUSED_WIDTHS = frozenset({16, 32, 64, 128})
"""Head widths for which there are kernels that do a whole attention, in half precision."""
HALF_TYPES = ("HALF", "BF16")
TYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
"""What products are typed in a network of each precision."""
PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION", "DECONVOLUTION", "EINSUM", "ATTENTION_INPUT")
TRANSFORMS = ("stft", "istft")
"""How the names begin of what stays in fp32 by design: the transforms around a network that takes waveforms."""
FLOATING = frozenset({"FLOAT", "HALF", "BF16", "FP8", "FP4"})


@dataclass
class Network:
    """A parsed network, and what must live as long as it does."""

    module: ModuleType
    builder: Any
    definition: Any
    parser: Any
    """Owns the weights until the plan is built."""

    def layers(self) -> Iterator[Any]:
        for index in range(self.definition.num_layers):
            yield self.definition.get_layer(index)

    def attentions(self) -> Iterator[Any]:
        """Gives the first layer of each attention, typed so that its settings can be reached."""
        for layer in self.layers():
            if layer.type == self.module.LayerType.ATTENTION_INPUT:
                # The Python binding gives every layer as the base class.
                layer.__class__ = self.module.IAttentionInputLayer
                yield layer


def parse(module: ModuleType, model: Path) -> Network:
    """Gives the network of an ONNX file, strongly typed: what the file says is what is computed.

    Raises:
        ExportError: TensorRT cannot read the file or lacks one of its nodes.
    """
    log = log_of(module)
    log.take_errors()
    builder = module.Builder(log)
    if builder is None:
        raise ExportError(f"{module.__name__} {module.__version__} cannot start a builder: {log.take_errors()}")
    # Where there is no such flag, every network is strongly typed.
    typed = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    definition = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = module.OnnxParser(definition, log)
    if not parser.parse_from_file(str(model)):  # and not its bytes: weights may lie in a file beside it
        reason = _parser_error(parser.get_error(0)) if parser.num_errors else log.take_errors()
        raise ExportError(f"{model}: {module.__name__} {module.__version__} cannot read it: {reason}")
    return Network(module, builder, definition, parser)


def decompose(network: Network, *, everything: bool = False) -> tuple[int, int]:
    """Lets TensorRT take apart the attentions that have no kernel of their own; without that the build fails.

    Args:
        everything: Also those that should have one.
    Returns:
        How many are left to be one kernel each, and how many may be taken apart.
    """
    fused = decomposed = 0
    for layer in network.attentions():
        query = layer.get_input(0)
        if not everything and query.dtype.name in HALF_TYPES and query.shape[-1] in FUSED_WIDTHS:
            fused += 1
        else:
            layer.attention.decomposable = True
            decomposed += 1
    return fused, decomposed


def check_precision(network: Network, precision: str) -> int:
    """Looks at the types that TensorRT itself gave to every matrix product, convolution and attention.

    Returns:
        How many there are, the transforms of a waveform graph not counted.
    Raises:
        ExportError: one of them computes in something else than `precision`, or there is none; the first is named.
    """
    expected = TYPES[precision]
    checked = 0
    for layer in network.layers():
        if layer.type.name not in PRODUCTS or layer.name.startswith(TRANSFORMS):
            continue
        tensors = [layer.get_input(index) for index in range(layer.num_inputs)] + [layer.get_output(0)]
        types = {tensor.dtype.name for tensor in tensors if tensor is not None} & FLOATING
        if not types:
            continue
        if types != {expected}:
            raise ExportError(
                f"{layer.name} ({layer.type.name.lower()}) computes in {' and '.join(sorted(types)).lower()}, so "
                f"this is no {precision} network; nothing was built"
            )
        checked += 1
    if checked == 0:
        raise ExportError(f"the network has no matrix product whose precision could be {precision}; nothing was built")
    return checked


def _parser_error(error: Any) -> str:
    node = f"{error.node_operator()} {error.node_name()}: " if error.node_operator() else ""
    return node + " ".join(error.desc().split())
