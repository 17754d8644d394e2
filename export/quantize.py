"""INT8: the position-wise products in eight bits, as QuantizeLinear and DequantizeLinear around them (QDQ).

Weights are symmetric int8 and activations uint8, one scale for each tensor, found from real songs by ONNX Runtime's own
quantizer. Weights use seven of their eight bits: processors without VNNI or its like add two products in 16 bits, where
eight would saturate, and a file has to sound the same everywhere; it costs 0.7 dB. All else stays float32: mixing
channels takes no time and errs most, attention and norms have no int8 kernels on a CPU. One scale for each tensor is
what both ONNX Runtime and OpenVINO take for products of three axes; the shipped model's mask has 40 dB with it on the
example song.
"""

from __future__ import annotations

import logging
from pathlib import Path

from engines.base import Inputs
from export.calibration import Calibration
from export.graph import PRODUCTS
from export.limits import LARGEST_FILE
from ft.errors import ExportError, one_line

BYTES_SAVED = 4
"""By which a matrix shrinks."""


def quantize(source: Path, output: Path, matrices: set[str], calibration: Calibration) -> None:
    """Writes `output`, the graph of `source` with each product by one of `matrices` (initializers) in int8.

    Raises:
        ExportError: ONNX Runtime cannot quantize the graph, or left a product as it was.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    data = source.with_name(f"{source.name}.data")
    graph = onnx.load(source, load_external_data=False).graph
    nodes = [node.name for node in graph.node if node.op_type in PRODUCTS and node.input[1] in matrices]
    windows = iter(calibration.inputs)

    class Songs(CalibrationDataReader):
        def get_next(self) -> Inputs | None:
            return next(windows, None)

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preparation of the graph that export.graph has done
    try:
        quantize_static(
            source,
            output,
            Songs(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_quantize=nodes,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            extra_options={"OpTypesToExcludeOutputQuantization": list(PRODUCTS)},
            use_external_data_format=data.exists() and data.stat().st_size // BYTES_SAVED > LARGEST_FILE,
        )
    except Exception as error:  # of onnx, protobuf and onnxruntime, without a common base
        raise ExportError(f"ONNX Runtime cannot quantize this network: {one_line(error)}") from error
    finally:
        root.setLevel(level)
    _check(output, nodes)


def _check(path: Path, products: list[str]) -> None:
    """Both inputs of each product come out of eight bits. Raises ExportError."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    inputs = {node.name: node.input for node in graph.node}
    for name in products:
        if any(made.get(source) != "DequantizeLinear" for source in inputs[name]):
            raise ExportError(f"int8: MatMul {name} would compute in float32; nothing was written")
    if not products:
        raise ExportError("int8: the graph holds no product to quantize; nothing was written")
