"""Checkpoint to ONNX file, compared with PyTorch before the file gets its name.

Metadata of the file, all text: `ft_config` (JSON, the whole configuration), `ft_format`, `ft_version`, `ft_io`
(`magnitude`: magnitudes in, a mask out), `ft_parameters` (their number), `ft_precision` (`fp32`, or
`fp32 (fp16 weights)` where weights are stored in half the space), `ft_weights` (JSON, weight -> initializer where
the names differ; the initializer may have another shape), `sample_rate` (Hz), `stems` (names with commas between)
and `license`.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ft import __version__
from ft.checkpoint import CONFIG_KEY, FORMAT, WEIGHTS_KEY, load_model
from ft.config import ModelConfig
from ft.errors import ExportError
from ft.files import PART_SUFFIX, move_into_place

if TYPE_CHECKING:
    from export.verify import Parity
    from ft.models.frame_transformer import FrameTransformer

logger = logging.getLogger(__name__)

PRECISIONS: dict[str, str] = {"fp32": "fp32", "fp16": "fp32 (fp16 weights)"}
LARGEST_FILE = 1_900_000_000
"""Bytes of weights above which they lie in a file beside the graph; a protocol buffer ends at 2 GiB."""
HALF_LIMIT = 65504.0


@dataclass(frozen=True)
class Export:
    """What an export wrote and how it compared."""

    path: Path
    opset: int
    nodes: Counter[str]
    """Number of nodes of each type."""
    parameters: int
    precision: str
    parities: list[Parity]
    files: list[Path]
    """The graph, and its weights where they lie in a file of their own."""

    @property
    def size(self) -> int:
        """Number of nodes."""
        return sum(self.nodes.values())


def export_onnx(
    source: str | Path, output: str | Path, *, opset: int = 23, weights: str = "fp32", force: bool = False
) -> Export:
    """Writes the network of a checkpoint (or of another exported file) as ONNX.

    The graph is written into a folder beside `output`, run in ONNX Runtime and compared with PyTorch there, and only
    then moved to its name. Networks of more than `LARGEST_FILE` bytes get a second file, `<output>.data`.

    Args:
        source: What `ft.checkpoint.load_model` takes.
        output: The `.onnx` file.
        opset: 23 has native Attention and RotaryEmbedding nodes; 20 is for older runtimes.
        weights: `fp16` rounds the position-wise matrices and stores them in half the space; the arithmetic stays
            float32, and the comparison is with the rounded network.
        force: Overwrite `output`.
    Raises:
        CheckpointError: `source` cannot be loaded.
        ExportError: `output` exists, the network cannot be exported, or the graph does not equal PyTorch.
    """
    output = Path(output)
    if output.suffix != ".onnx":
        raise ExportError(f"{output}: expected a name that ends in .onnx")
    if weights not in PRECISIONS:
        raise ExportError(f"weights {weights}; expected {' or '.join(PRECISIONS)}")
    data = output.with_name(f"{output.name}.data")
    for file in (output, data):
        if file.exists() and not force:
            raise ExportError(f"{file}: exists; use another name or --force")
    model = load_model(source)
    try:
        import onnx_ir as ir
        import onnxruntime  # noqa: F401  # asked for now, not after minutes of tracing
        import onnxscript  # noqa: F401

        from export.graph import NATIVE_OPSET, OLDEST_OPSET, build_graph, store_in_half, weight_names
        from export.verify import verify
    except ImportError as error:
        raise ExportError(
            f"exporting needs {error.name}, which is not installed: pip install 'frame-transformer[train,cpu]'"
        ) from error
    if not OLDEST_OPSET <= opset <= NATIVE_OPSET:
        raise ExportError(f"opset {opset}; expected {OLDEST_OPSET} to {NATIVE_OPSET}")
    config = model.model_config
    matrices = {name for name, _ in model.named_parameters() if name.endswith(".weight_pw")}
    if weights == "fp16":
        round_to_half(model, matrices)
    graph = build_graph(model, config, opset)
    names = weight_names(model, config, graph)
    if weights == "fp16":
        store_in_half(graph, matrices)
    graph.metadata_props.update(metadata(model, config, names, PRECISIONS[weights]))
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value)
    files = [output, data] if size > LARGEST_FILE else [output]
    folder = output.with_name(output.name + PART_SUFFIX)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        ir.save(graph, folder / output.name, external_data=data.name if data in files else None)
        parities = verify(folder / output.name, model, config)
        for file in reversed(files):
            move_into_place(folder / file.name, file)
        if data not in files:
            data.unlink(missing_ok=True)  # of the export that this one replaces
    except OSError as error:
        raise ExportError(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    nodes = Counter(node.op_type for node in graph.graph)
    parameters = count(model)
    return Export(output, opset, nodes, parameters, PRECISIONS[weights], parities, files)


def metadata(model: FrameTransformer, config: ModelConfig, names: dict[str, str], precision: str) -> dict[str, str]:
    """What an exported file says of itself; the module's docstring lists the keys."""
    return {
        CONFIG_KEY: json.dumps(config.to_dict()),
        "ft_format": str(FORMAT),
        "ft_version": __version__,
        "ft_io": "magnitude",
        "ft_parameters": str(count(model)),
        "ft_precision": precision,
        WEIGHTS_KEY: json.dumps(names),
        "sample_rate": str(config.audio.sample_rate),
        "stems": ",".join(config.stems),
        "license": config.license,
    }


def count(model: FrameTransformer) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def round_to_half(model: FrameTransformer, names: set[str]) -> None:
    """Rounds the named weights to values that fp16 holds, in place.

    Raises:
        ExportError: a weight is beyond the largest fp16 value.
    """
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in names:
                if not weight.abs().max() <= HALF_LIMIT:
                    raise ExportError(f"{name} has values beyond {HALF_LIMIT:g}, which fp16 cannot hold")
                weight.copy_(weight.half().float())
