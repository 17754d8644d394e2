"""What a graph really computes in, read from its types: a file must not pass for what it is not."""

from __future__ import annotations

from pathlib import Path

from ft.errors import ExportError

PRODUCTS = ("MatMul", "Gemm", "Conv", "Attention")
TRANSFORMS = ("stft", "istft")
"""Beginnings of the names of nodes that stay in float32 in every file."""


def check_types(path: Path, precision: str) -> None:
    """Each product, convolution and attention of the graph at `path` computes in `precision` (fp32, fp16 or bf16).

    Raises:
        ExportError: one does not; it is named.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    wanted = {
        "fp32": onnx.TensorProto.FLOAT,
        "fp16": onnx.TensorProto.FLOAT16,
        "bf16": onnx.TensorProto.BFLOAT16,
    }[precision]
    for node in graph.node:
        if node.op_type not in PRODUCTS or node.name.startswith(TRANSFORMS):
            continue
        for name in node.input[:2]:
            found = types.get(name, onnx.TensorProto.UNDEFINED)
            if found != wanted:
                raise ExportError(
                    f"{precision}: {node.op_type} {node.name} would compute in "
                    f"{onnx.TensorProto.DataType.Name(found).lower()}; nothing was written"
                )
