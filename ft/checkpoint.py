"""Checkpoints: the weights in a safetensors file, the whole configuration in its metadata.

Metadata, all text: `ft_config` (JSON of `ModelConfig.to_dict`), `ft_format` (version of this layout), `ft_version`,
`format` ("pt", the convention of safetensors) and what the caller added. Importing this module does not import torch,
and the configuration is read without it.
"""

from __future__ import annotations

import json
import logging
import math
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft import __version__
from ft.config import IO, ModelConfig
from ft.errors import CheckpointError, ConfigError, one_line
from ft.files import atomic_write, check_writable, model_path, what_it_is

if TYPE_CHECKING:
    import numpy as np
    from onnx import TensorProto
    from torch import Tensor

    from ft.models.network import SeparationNetwork

logger = logging.getLogger(__name__)

FORMAT = 2
CONFIG_KEY = "ft_config"
WEIGHTS_KEY = "ft_weights"
GATE_KEY = "ft_gate"
CALIBRATION_KEY = "ft_calibration"
IO_KEY = "ft_io"
CONTEXT_KEY = "ft_context"
LAYOUT_KEY = "ft_layout"
TRANSPOSED, GATES = "^T", "^L"
"""Marks behind the name of an initializer, under `WEIGHTS_KEY`: it holds the transpose of the weight, or packs it for
an LSTM of ONNX, gates in the order i, o, f, g; the number behind says which part of it that is."""
LONGEST_HEADER = 100_000_000
"""Bytes; what the safetensors format itself allows."""
NEEDS_TORCH = "needs torch: pip install 'frame-transformer[train]'"


def save_checkpoint(
    path: str | Path,
    model_state: Mapping[str, Tensor],
    config: ModelConfig,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes weights and configuration to `path`, whole or not at all.

    Args:
        path: A `.safetensors` file; missing folders are made.
        model_state: the network's `state_dict()`, on any device; written in its own precision.
        config: The whole configuration of that model.
        extra: More metadata; what is not text is written as JSON.
    Raises:
        CheckpointError: names or shapes are not those of the configuration, weights are not finite, or the file cannot
            be written.
    """
    from ft.models import completed

    path = Path(path)
    check_shapes(path, {name: tuple(tensor.shape) for name, tensor in model_state.items()}, expected_shapes(config))
    check_finite(path, model_state)
    added = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (extra or {}).items()}
    metadata = {
        **added,
        CONFIG_KEY: json.dumps(completed(config).to_dict()),
        "ft_format": str(FORMAT),
        "ft_version": __version__,
        "format": "pt",
    }
    # A copy of each: safetensors refuses tensors that share memory or are not contiguous.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model_state.items()}
    write_tensors(path, tensors, metadata)


def check_output(path: Path, force: bool) -> None:
    """Looks, before the work, at the place of a checkpoint that a command is to write.

    Raises:
        CheckpointError: another name than .safetensors, or a file that is there where `force` is not set.
        FtError: it cannot be written.
    """
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{path}: expected a name that ends in .safetensors")
    if path.exists() and not force:
        raise CheckpointError(f"{path}: exists; use another name or `force`")
    check_writable(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, whole or not at all. Raises CheckpointError where it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with atomic_write(path) as part:
            save_file(dict(tensors), part, dict(metadata))
    except (OSError, SafetensorError) as error:  # the latter where the disk is full
        reason = getattr(error, "strerror", None) or one_line(error)
        raise CheckpointError(f"{path}: cannot be written: {reason}") from error


def load_model(source: str | Path) -> SeparationNetwork:
    """The network of a checkpoint, of an ONNX file that `ft export` wrote or of the shipped model (`default`).

    Returns:
        The module in float32 on the CPU, in eval mode; its attribute `model_config` is the whole `ModelConfig`.
    Raises:
        CheckpointError: no such file, another kind of file, or a tensor that is missing, unexpected, misshapen or not
            finite.
    """
    path = model_path(source)
    try:
        import safetensors  # noqa: F401
        import torch
    except ImportError as error:
        raise CheckpointError(f"{path}: loading a network {NEEDS_TORCH}") from error
    from ft.models import make_network

    config = load_config(path)
    state = _onnx_state(path, config) if path.suffix.lower() == ".onnx" else _safetensors_state(path)
    check_shapes(path, {name: tuple(tensor.shape) for name, tensor in state.items()}, expected_shapes(config))
    check_finite(path, state)
    with torch.device("meta"):
        model = make_network(config)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    model.model_config = config
    return model.eval()


def load_config(source: str | Path) -> ModelConfig:
    """The configuration in a checkpoint or exported ONNX file, read without torch and without the weights.

    Raises:
        CheckpointError: no such file, or none that this project wrote.
    """
    path = model_path(source)
    return config_from_metadata(path, read_metadata(path))


def config_from_metadata(path: Path, metadata: Mapping[str, str]) -> ModelConfig:
    """The configuration under `ft_config`. Raises CheckpointError."""
    if CONFIG_KEY not in metadata:
        raise CheckpointError(
            f"{path}: holds no configuration ({CONFIG_KEY}), so it was not written by `ft train`, `ft import` or "
            "`ft export`; weights of the original code are read by `ft import`"
        )
    written = metadata.get("ft_format", str(FORMAT))
    if written not in map(str, range(FORMAT + 1)):
        raise CheckpointError(
            f"{path}: format version {written[:20]}, this ft {__version__} reads up to {FORMAT}; install a newer one"
        )
    try:
        return ModelConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    except (ConfigError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its configuration is not usable: {one_line(error)}") from error


def io_of(written: str) -> str | None:
    """Gives what a file takes (`ft.config.IO`) by what its metadata say; None for what is unknown.

    >>> io_of("network"), io_of("magnitude"), io_of("sound")
    ('network', 'network', None)
    """
    first = {"magnitude": IO[0]}  # as the first format has it
    return written if written in IO else first.get(written)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors or ONNX file, read without the libraries of either. Raises CheckpointError."""
    try:
        if path.suffix.lower() == ".onnx":
            from ft.onnx_metadata import read_onnx_metadata

            return read_onnx_metadata(path)
        return read_header(path)[0]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_header(path: Path) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Metadata and tensors (name -> `dtype`, `shape`) of a safetensors file.

    The file starts with the length of a JSON text as 8 bytes, little-endian, and that text.

    Raises:
        CheckpointError: not a safetensors file.
    """
    refused = CheckpointError(
        f"{path}: {what_it_is(path) or 'no safetensors file'}; expected a checkpoint of `ft train` or `ft import`, or "
        "an .onnx of `ft export` (weights of the original code, .pth, go through `ft import` first)"
    )
    with path.open("rb") as file:
        length = file.read(8)
        most = min(LONGEST_HEADER, path.stat().st_size - len(length))
        if len(length) < 8 or not 2 <= (size := struct.unpack("<Q", length)[0]) <= most:
            raise refused
        text = file.read(size)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refused from error
    if not isinstance(header, dict):
        raise refused
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise refused
    if not all(map(_is_tensor, header.values())):
        raise refused
    return metadata, header


def _is_tensor(value: Any) -> bool:
    """Whether an entry of a safetensors header is what one says of a tensor."""
    if not isinstance(value, dict) or not isinstance(value.get("dtype"), str):
        return False
    shape = value.get("shape")
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Gives name and shape of each tensor of the network, found without taking memory for them."""
    return {name: tuple(tensor.shape) for name, tensor in _empty(config).state_dict().items()}


def _empty(config: ModelConfig) -> SeparationNetwork:
    """The network without memory for its weights. Raises CheckpointError where its numbers are not usable."""
    import torch

    from ft.models import make_network

    try:
        with torch.device("meta"):
            return make_network(config)
    except ConfigError as error:
        raise CheckpointError(f"{config.name}: its network is not usable: {one_line(error)}") from error


def check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError that names missing, unexpected and misshapen tensors."""
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing {_some(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        problems.append(f"unexpected {_some(unexpected)}")
    if misshapen := [name for name in expected if name in found and tuple(found[name]) != expected[name]]:
        shapes = (f"{name} {tuple(found[name])} instead of {expected[name]}" for name in misshapen)
        problems.append(f"misshapen {_some(list(shapes))}")
    if problems:
        raise CheckpointError(f"{path}: tensors do not fit the configuration: {'; '.join(problems)}")


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError that names the tensors with values that are not finite, and how many these are."""
    broken = []
    for name, tensor in tensors.items():
        finite = tensor.isfinite()
        if not finite.all():
            broken.append(f"{name} ({tensor.numel() - int(finite.sum())} of {tensor.numel()} values)")
    if broken:
        raise CheckpointError(
            f"{path}: weights that are not finite: {_some(broken)}; the training that made them diverged, or they are "
            "damaged: take those of an earlier step"
        )


def _some(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _safetensors_state(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged: {one_line(error)}") from error


def _onnx_state(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Weights from the initializers of an exported graph, under the network's names.

    The graph does not hold what the network never applies (the third norm of `feed_forward_mixing`) and rotary
    frequencies of which a head has none; these come back with the values they start from.
    """
    try:
        import onnx
    except ImportError as error:
        raise CheckpointError(
            f"{path}: reading the weights of an ONNX file needs onnx: pip install 'frame-transformer[train]'"
        ) from error
    import torch

    try:
        proto = onnx.load(path)
    except Exception as error:  # protobuf and onnx raise several unrelated kinds for damaged files
        raise CheckpointError(f"{path}: not a readable ONNX file: {one_line(error)}") from error
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    try:
        names: dict[str, str] = dict(json.loads(metadata.get(WEIGHTS_KEY, "{}")))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its names of weights ({WEIGHTS_KEY}) are damaged") from error
    initializers = {initializer.name: initializer for initializer in proto.graph.initializer}
    network = _empty(config)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {}
    for name, shape in expected.items():
        held, mark, part = re.fullmatch(r"(.*?)(?:(\^[TL])(\d*))?", names.get(name, name), re.S).groups()  # type: ignore[union-attr]
        if held in initializers:
            array = _values(path, initializers, held)
        elif f"{held}_quantized" in initializers:
            scale = _values(path, initializers, f"{held}_scale")
            array = _values(path, initializers, f"{held}_quantized") * scale  # symmetric: its zero point is 0
        else:
            array = None
        if array is not None:
            if name in names:
                array = _unpacked(array, shape, mark, int(part or 0))
            state[name] = torch.from_numpy(array.copy())
        elif network.is_unused(name):
            state[name] = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    return state


def _unpacked(array: np.ndarray, shape: tuple[int, ...], mark: str | None, part: int) -> np.ndarray:
    """A weight of that shape as an initializer holds it, which may be flat, have an axis of 1 more, or have a mark."""
    size = math.prod(shape)
    flat = array.ravel()[part * size :][:size]
    if flat.size != size:
        return array  # of another shape, which is named then
    if mark == TRANSPOSED:
        return flat.reshape(shape[::-1]).T
    if mark == GATES:
        return flat.reshape(4, -1)[[0, 2, 3, 1]].reshape(shape)
    return flat.reshape(shape)


def _values(path: Path, initializers: Mapping[str, TensorProto], name: str) -> np.ndarray:
    """An initializer as float32, whatever it is stored in. Raises CheckpointError."""
    import numpy as np
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(initializers[name]).astype(np.float32)
    except Exception as error:  # numpy, ml_dtypes and onnx raise several unrelated kinds for damaged tensors
        raise CheckpointError(f"{path}: damaged: {name}: {one_line(error)}") from error
