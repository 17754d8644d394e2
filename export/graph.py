"""The ONNX graph of a network: traced by PyTorch, then tidied.

Input and output are those of `ModelConfig.reads` and `gives`, in float32; their batch and, where the network takes any
number, their frames are free. From opset 23 on, attention and rotary embedding are one native node each; below, they
are spelt out for older runtimes.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.limits import NATIVE_OPSET
from export.nodes import NODES, Products
from ft.checkpoint import GATES, TRANSPOSED
from ft.config import ModelConfig, TensorSpec
from ft.errors import ExportError, one_line
from ft.models import make_network
from ft.models.network import SeparationNetwork
from ft.models.signal import Runnable

if TYPE_CHECKING:
    import onnx_ir

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FORBIDDEN = frozenset({"Einsum", "Tile"})
TRANSFORMS = ("stft", "istft")
"""Modules whose nodes have names that begin so; they compute in float32 in every precision."""
PRODUCTS = ("MatMul", "Gemm")
LSTM_WEIGHT = re.compile(r"\b(weight|bias)_[ih]h_l\d+(_reverse)?$")
LARGEST_FOLDED = 512
"""Values of a weight that may have been folded into a constant: frequencies of rotary embeddings, and their like."""
SOME_FRAMES = 19
"""Frames of no meaning that are traced with, so that no axis is taken for a constant."""


def lowered(
    model: SeparationNetwork, config: ModelConfig, dtype: torch.dtype, opset: int | None = None
) -> SeparationNetwork:
    """Gives a network of the same weights, not copied where they stay, in the precision `dtype`.

    Args:
        dtype: what it computes in. What comes in and what goes out stay in float32, and so do the weights of its
            `keeps_float32`: the angles of a rotary embedding, say, where a position of several hundred frames times a
            frequency would lose the digits that matter. Statistics of a LayerNormalization node are float32 by its
            definition (`stash_type`).
        opset: in the form that is traced for it, with layers that are one node each; None to be run by PyTorch.
    Raises:
        ExportError: a weight is beyond the largest value of `dtype`.
    """
    with torch.device("meta"):
        network = make_network(config)
    network.load_state_dict(model.state_dict(), assign=True)
    twins = {} if opset is None else {**NODES, **(network.twins if opset >= NATIVE_OPSET else {})}
    limit = torch.finfo(dtype).max
    for path, module in network.named_modules():
        if (twin := twins.get(type(module))) is not None:
            module.__class__ = twin
        if dtype == torch.float32 or isinstance(module, network.keeps_float32):
            continue
        for name, weight in list(module.named_parameters(recurse=False)):
            if not weight.abs().max() <= limit:
                kind = str(dtype).removeprefix("torch.")
                raise ExportError(f"{path}.{name} has values beyond {limit:g}, the largest that {kind} holds")
            setattr(module, name, torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False))
    return network.eval()


def build_graph(
    model: SeparationNetwork, config: ModelConfig, opset: int, dtype: torch.dtype = torch.float32
) -> onnx_ir.Model:
    """Traces `model` and tidies the graph; initializers have the names of the weights.

    Args:
        dtype: what the network computes in; input and output are float32 in any case.
    Raises:
        ExportError: PyTorch cannot export the network, or the graph holds a node of `FORBIDDEN`.
    """
    network = Runnable(lowered(model, config, dtype, opset), config.output)
    (spec,) = config.reads
    example = torch.rand(spec.sized(2, _some_size(spec)))
    return trace(network.eval(), {spec.name: example}, config.gives.name, (free_axes(spec),), opset)


def free_axes(spec: TensorSpec) -> dict[int, Any]:
    """Gives the free axes of a tensor as `torch.export` takes them."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if (name := spec.shape[-1]) in ("frames", "samples"):
        free = torch.export.Dim(str(name) if spec.multiple == 1 else "hops", min=max(spec.least // spec.multiple, 1))
        axes[len(spec.shape) - 1] = free if spec.multiple == 1 else spec.multiple * free
    return axes


def _some_size(spec: TensorSpec) -> int:
    return spec.least - spec.least % spec.multiple + SOME_FRAMES * spec.multiple


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
        with warnings.catch_warnings(), _no_garbage_collection(), Products():
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
    for name in list(graph.graph.initializers):
        if name.startswith("network."):  # where `Runnable` has it
            value = graph.graph.initializers.pop(name)
            value.name = name.removeprefix("network.")
            graph.graph.register_initializer(value)
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


def weight_names(model: SeparationNetwork, graph: onnx_ir.Model) -> dict[str, str]:
    """Gives the weights that are in the graph under another name: weight -> initializer.

    The exporter keeps one initializer of several that are equal, and folds what is reshaped, transposed or packed for
    an LSTM into a new one; the values are the same, in the order that a mark behind the name says. What it computes
    with before it writes, as the angles of a fixed number of frames, is put in beside.

    Raises:
        ExportError: a weight that the network applies is not in the graph.
    """
    arrays = {
        name: value.const_value.numpy().ravel()  # type: ignore[union-attr]
        for name, value in graph.graph.initializers.items()
    }
    names: dict[str, str] = {}
    for name, weight in model.state_dict().items():
        if name in arrays:
            continue
        found = (
            f"{held}{mark}{part or ''}"
            for mark, flat in _packings(name, weight)
            for held, array in arrays.items()
            if array.dtype.kind not in "biu" and array.size and array.size % flat.size == 0
            for part in range(array.size // flat.size if mark == GATES else array.size == flat.size)
            if (array[part * flat.size :][: flat.size] == flat.astype(array.dtype)).all()
        )
        if (place := next(found, None)) is not None:
            names[name] = place
        elif weight.numel() <= LARGEST_FOLDED and not model.is_unused(name):
            _hold(graph, name, weight)
        elif not model.is_unused(name):
            raise ExportError(f"the graph does not hold the weight {name}")
    return names


def _hold(graph: onnx_ir.Model, name: str, weight: Tensor) -> None:
    """Puts a weight into the graph that nothing there reads, so that the file holds it."""
    import onnx_ir as ir

    tensor = ir.tensor(weight.float().numpy(), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(weight.shape), type=ir.TensorType(tensor.dtype))
    graph.graph.register_initializer(value)


def _packings(name: str, weight: Tensor) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """How the exporter may have laid a weight down, with the mark that `ft.checkpoint` knows each by."""
    if not weight.numel():
        return
    yield "", weight.float().numpy().ravel()
    if weight.ndim == 2:
        yield TRANSPOSED, weight.T.float().numpy().ravel()
    if LSTM_WEIGHT.search(name):  # gates i, f, g, o become i, o, f, g, and lie behind each other
        yield GATES, weight.float().unflatten(0, (4, -1))[[0, 3, 1, 2]].numpy().ravel()


def product_matrices(model: onnx_ir.Model) -> set[str]:
    """Gives the initializers that something is multiplied by from the right: the network's large matrices."""
    initializers = model.graph.initializers
    found = set()
    for node in model.graph:
        if node.op_type in PRODUCTS and not (node.name or "").startswith(TRANSFORMS):
            matrix = node.inputs[1]
            if matrix is not None and matrix.name in initializers:
                found.add(str(matrix.name))
    return found


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
