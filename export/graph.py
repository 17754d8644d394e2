"""The ONNX graph of a network: traced by PyTorch, then tidied.

Input `magnitude` and output `mask`, both (batch, channels, bins, frames) of float32 in 0..1; batch and frames are free.
From opset 23 on, attention and rotary embedding are one native node each; below, they are spelt out for older runtimes.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from export.half import halve
from export.limits import NATIVE_OPSET
from ft.checkpoint import is_unused
from ft.config import ModelConfig
from ft.errors import ExportError, one_line
from ft.models.frame_transformer import FrameTransformer, RotaryEmbedding

if TYPE_CHECKING:
    import onnx_ir

FORBIDDEN = frozenset({"Einsum", "Tile"})
TRANSFORMS = ("stft", "istft")
"""Modules whose nodes have names that begin so; they compute in float32 in every precision."""


class MaskNetwork(FrameTransformer):
    """What an engine runs: the network with the scaling before it and the sigmoid behind it.

    Of a network in half precision (`export.half`), what comes in and what goes out stay in float32.
    """

    @classmethod
    def of(cls, model: FrameTransformer, config: ModelConfig, native: bool, dtype: torch.dtype = torch.float32) -> Self:
        """The same weights, not copied, in the module that is traced; `native` as from opset 23."""
        with torch.device("meta"):
            network = cls(config.network)
        network.load_state_dict(model.state_dict(), assign=True)
        halve(network, dtype)
        if native:
            for module in network.modules():
                if type(module) is RotaryEmbedding:
                    module.__class__ = NativeRotaryEmbedding
        return network.eval()

    def forward(self, magnitude: Tensor) -> Tensor:
        """Mask in 0..1 of the shape of `magnitude` (batch, channels, bins, frames) in 0..1."""
        logits = super().forward(self.scale_input(magnitude).to(self.out.dtype))
        return torch.sigmoid(logits.float())


class NativeRotaryEmbedding(RotaryEmbedding):
    """Rotary embedding that becomes one RotaryEmbedding node (ONNX opset 23)."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        pairs = self.freqs.shape[0]
        if pairs == 0:
            return x
        batch, frames = x.shape[0], x.shape[2]
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        # The operator looks the angles up by position; without positions it wants one copy of them for each item.
        position = torch.arange(frames).expand(batch, frames)
        return torch.onnx.ops.rotary_embedding(x, cos, sin, position, interleaved=True, rotary_embedding_dim=2 * pairs)


def build_graph(
    model: FrameTransformer, config: ModelConfig, opset: int, dtype: torch.dtype = torch.float32
) -> onnx_ir.Model:
    """Traces `model` and tidies the graph; initializers have the names of the weights.

    Args:
        dtype: What the network computes in; input and output are float32 in any case.
    Raises:
        ExportError: PyTorch cannot export the network, or the graph holds a node of `FORBIDDEN`.
    """
    network = MaskNetwork.of(model, config, native=opset >= NATIVE_OPSET, dtype=dtype)
    # Traced with a batch of 2 and a number of frames of no meaning, so that no axis is taken for a constant.
    example = torch.rand(2, config.audio.channels, config.audio.bins, 19)
    dynamic = {0: torch.export.Dim("batch", min=1), 3: torch.export.Dim("frames", min=1)}
    return trace(network, {"magnitude": example}, "mask", (dynamic,), opset)


def trace(
    network: torch.nn.Module, inputs: dict[str, Tensor], output: str, dynamic: tuple[dict[int, Any], ...], opset: int
) -> onnx_ir.Model:
    """The tidied graph of a module of one output.

    Args:
        inputs: Name and example of each argument of `forward`, in order.
        dynamic: For each of them, which axes are free.
    Raises:
        ExportError: as `build_graph`.
    """
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)  # it warns of a torchvision that nothing here needs
    try:
        with warnings.catch_warnings(), _no_garbage_collection():
            warnings.simplefilter("ignore")  # PyTorch's exporter uses parts of itself that are deprecated
            program = torch.onnx.export(
                network,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=dynamic,
                external_data=False,
                optimize=False,  # its rewriting takes a third of the time and finds three nodes more than _tidy
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ExportError(f"PyTorch {torch.__version__} cannot export this network: {one_line(error)}") from error
    finally:
        registry.setLevel(level)
    assert program is not None
    graph = program.model
    _tidy(graph)
    found = {node.op_type for node in graph.graph}
    if found & FORBIDDEN:
        raise ExportError(f"the graph holds {', '.join(sorted(found & FORBIDDEN))}, which engines run badly")
    return graph


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Tracing makes millions of objects that stay; looking through them again and again is a fifth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def simplify_reshapes(model: onnx_ir.Model) -> None:
    """Replaces computed shapes by constants with 0 (keep this dimension) and -1 (the rest) where these say the same."""
    import numpy as np
    import onnx_ir as ir

    graph = model.graph
    constants: dict[tuple[int, ...], ir.Value] = {}
    for node in graph:
        if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].name in graph.initializers:
            continue
        source, result = node.inputs[0], node.outputs[0]
        if source is None or source.shape is None or result.shape is None:
            continue
        target = []
        for axis, size in enumerate(result.shape):
            known = isinstance(size, int) or size.value is not None
            kept = known and axis < len(source.shape) and source.shape[axis] == size
            target.append(size if isinstance(size, int) else 0 if kept else -1)
        if target.count(-1) > 1:
            continue
        key = tuple(target)
        if key not in constants:
            name = "shape_" + "_".join(str(size).replace("-", "m") for size in key)
            tensor = ir.tensor(np.array(key, dtype=np.int64), name=name)
            constants[key] = ir.Value(
                name=name, const_value=tensor, shape=ir.Shape([len(key)]), type=ir.TensorType(tensor.dtype)
            )
            graph.register_initializer(constants[key])
        node.replace_input_with(1, constants[key])
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def _tidy(model: onnx_ir.Model) -> None:
    """Computes what is constant, merges what is equal, and drops what is not used.

    Also drops the traces of the source code, with the paths of this machine, that the exporter leaves on every node.
    """
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer

    passes.InlinePass()(model)
    optimizer.fold_constants(model, onnx_shape_inference=True)
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.DeduplicateInitializersPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    simplify_reshapes(model)
    passes.RemoveUnusedNodesPass()(model)
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        for name in TRANSFORMS:
            if f"'{name}'" in scopes:
                node.name = f"{name}.{node.name}"
    passes.ClearMetadataAndDocStringPass()(model)


def weight_names(model: FrameTransformer, config: ModelConfig, graph: onnx_ir.Model) -> dict[str, str]:
    """Weights that are in the graph under another name: weight -> initializer.

    The exporter keeps one initializer of several that are equal, and folds a reshaped rotary frequency into a new one;
    the values and their order are the same.

    Raises:
        ExportError: a weight that the network applies is not in the graph.
    """
    initializers = graph.graph.initializers
    names: dict[str, str] = {}
    by_size: dict[int, list[str]] = {}
    for name, value in initializers.items():
        by_size.setdefault(value.const_value.size, []).append(name)  # type: ignore[union-attr]
    for name, weight in model.state_dict().items():
        if name in initializers:
            continue
        values = weight.float().numpy().ravel()
        for candidate in by_size.get(weight.numel(), []):
            array = initializers[candidate].const_value.numpy()  # type: ignore[union-attr]
            if array.dtype.kind not in "biu" and (array.ravel() == values.astype(array.dtype)).all():
                names[name] = candidate
                break
        else:
            if not is_unused(name, tuple(weight.shape), config):
                raise ExportError(f"the graph does not hold the weight {name}")
    return names


def store_in_half(model: onnx_ir.Model, names: set[str]) -> None:
    """Stores the named initializers in fp16, each followed by one Cast to float32.

    Runtimes fold such a cast when they load the graph; the arithmetic stays in float32. The initializers keep their
    names.
    """
    import numpy as np
    import onnx_ir as ir

    graph = model.graph
    for name in sorted(names & set(graph.initializers)):
        value = graph.initializers[name]
        half = value.const_value.numpy().astype(np.float16)  # type: ignore[union-attr]
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{name}.cast")
        cast.outputs[0].name = f"{name}.fp32"
        cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT, value.shape
        for user, index in list(value.uses()):
            user.replace_input_with(index, cast.outputs[0])
        cast.replace_input_with(0, value)
        value.const_value = ir.tensor(half, name=name)
        value.dtype = ir.DataType.FLOAT16
        graph.insert_before(graph[0], cast)
