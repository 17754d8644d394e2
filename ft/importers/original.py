"""Weights of the original implementation (github.com/carperbr/frame-transformer) as our checkpoints.

Its files are state dicts, plain or as trainers wrap them. Names are ours; a position-wise matrix is (channels, out, in)
there and (channels, in, out) here, and its convolution runs over (features, frames) where ours runs over (frames,
features). The geometry follows from the shapes. What does not (the activation, the order of rotary embedding and norm,
the signal front end) is assumed with a warning.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.checkpoint import NEEDS_TORCH, check_finite, check_output, check_shapes, expected_shapes, save_checkpoint
from ft.config import ModelConfig, Network, Output, Spectrogram
from ft.errors import CheckpointError, ConfigError, one_line
from ft.files import what_it_is
from ft.importers.families import family_of
from ft.models import completed

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 6
logger = logging.getLogger(__name__)


def import_original(
    source: str | Path,
    output: str | Path,
    *,
    activation: str | None = None,
    qk_norm_order: str | None = None,
    force: bool = False,
) -> ModelConfig:
    """Writes weights of the original code as a checkpoint.

    Args:
        source: A `.pth` file of the original; code pickled into it never runs.
        output: The `.safetensors` file.
        activation: Of the feed-forward parts; assumed where it is None.
        qk_norm_order: The original of 2022-08-29 and later is `norm-first`; assumed where it is None.
        force: Overwrite `output`.
    Returns:
        The configuration that was found.
    Raises:
        CheckpointError: `source` is unreadable, holds another network or weights that are not finite, or `output`
            exists.
        FtError: `output` cannot be written.
    """
    source, output = Path(source), Path(output)
    check_output(output, force)
    original = read_state(source)
    config = infer_config(source, original, activation, qk_norm_order)
    state = convert_state(source, original, config)
    save_checkpoint(output, state, config, {"ft_imported_from": source.name})
    return config


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a PyTorch file, old or new format, without what wraps them (`unwrapped`).

    Raises:
        CheckpointError: no such file, pickled objects other than tensors (they are not executed), or no state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected weights (.pth) of the original FrameTransformer")
    try:
        found = what_it_is(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if found is not None:
        raise CheckpointError(f"{path}: {found}; expected weights (.pth) of the original FrameTransformer")
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"{path}: reading weights {NEEDS_TORCH}") from error
    try:
        with warnings.catch_warnings():  # of protocols and of storages, which is no matter of the user's
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused: it is damaged, or its pickle asks for code that loading tensors does not need; nothing "
            "of it was run. Expected a plain state dict of tensors"
        ) from error
    except Exception as error:  # a damaged file raises many kinds that have no common base but Exception
        raise CheckpointError(f"{path}: not a readable PyTorch file: {one_line(error)}") from error
    return unwrapped(path, state)


def unwrapped(path: Path, state: Any) -> dict[str, Tensor]:
    """The state dict in what a trainer saved: itself, or the only one among the values of a mapping.

    What all names begin with goes: `module.` of data parallelism, `_orig_mod.` of `torch.compile`, `model.` of
    Lightning. The network's own names have nothing in common.

    Raises:
        CheckpointError: there is no state dict, or there are several.
    """
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, expected a state dict of tensors")
    if not _is_state(state):
        inner = [key for key, value in state.items() if _is_state(value)]
        if len(inner) > 1:
            raise CheckpointError(
                f"{path}: holds {len(inner)} state dicts ({', '.join(map(repr, inner))}); expected one: save the one "
                "that is meant by itself"
            )
        if not inner:
            key, value = next((key, value) for key, value in state.items() if not _is_state({key: value}))
            raise CheckpointError(
                f"{path}: '{key}' is a {type(value).__name__}, expected a state dict of tensors, or one in a mapping"
            )
        logger.info("%s: the state dict '%s' in it is taken", path.name, inner[0])
        state = state[inner[0]]
    shared = os.path.commonprefix(list(state)).rpartition(".")[0]  # noqa: RUF071  characters, not parts of a path
    if shared and len(state) > 1:
        logger.info("%s: '%s.', with which all names begin, is taken off", path.name, shared)
        return {name.removeprefix(f"{shared}."): tensor for name, tensor in state.items()}
    return dict(state)


def _is_state(value: Any) -> bool:
    """Whether this is a state dict: tensors by name, and at least one."""
    import torch

    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in value.items())
    )


def infer_config(
    path: Path,
    state: Mapping[str, Tensor],
    activation: str | None = None,
    qk_norm_order: str | None = None,
) -> ModelConfig:
    """The configuration that the shapes tell, with a warning for what they do not.

    Raises:
        CheckpointError: tensors that give the geometry are missing, or the geometry is no valid one.
    """
    norms = [f"enc{level}_transformer.attn.q_norm.norm.weight" for level in range(1, LEVELS + 1)]
    mixers = [f"enc{level}.linear1.weight_dw" for level in range(1, LEVELS + 1)]
    last_conv = f"enc{LEVELS}_transformer.attn.q_proj.1.weight"
    needed = {
        "out": 2,
        "enc1.norm1.norm.weight": 1,
        "enc1_transformer.linear1.weight_pw": 3,
        "dec1.linear3.weight_pw": 3,
        last_conv: 4,
        **dict.fromkeys(norms, 1),
        **dict.fromkeys(mixers, 2),
    }
    lacking = [name for name in needed if name not in state]
    if lacking and (family := family_of(state)):
        raise CheckpointError(
            f"{path}: a network of the family {family}, which cannot be imported yet; expected weights of the original "
            "FrameTransformer (.pth) or of Spleeter (.index)"
        )
    if lacking:
        raise CheckpointError(
            f"{path}: not a network of the original FrameTransformer: {len(lacking)} of the tensors that give its "
            f"geometry are missing, the first is {lacking[0]}"
        )
    for name, axes in needed.items():
        if state[name].ndim != axes or 0 in state[name].shape:
            raise CheckpointError(f"{path}: {name} has shape {tuple(state[name].shape)}, expected {axes} dimensions")
    in_channels, channels = state["out"].shape
    bins = len(state["enc1.norm1.norm.weight"])
    widths = [len(state[name]) for name in mixers]
    _, feed_forward, features = state["enc1_transformer.linear1.weight_pw"].shape
    multipliers = tuple(
        _divide(path, width, channels, f"{name} rows") for name, width in zip(mixers, widths, strict=True)
    )
    full = state[last_conv].shape[1] > 1
    assumed = []
    if activation is None:
        activation = "gelu" if multipliers[-1] == 24 else "squared-relu"
        assumed.append(f"activation {activation} (`activation`)")
    if qk_norm_order is None:
        qk_norm_order = "rotary-first"
        assumed.append(f"query and key norm order {qk_norm_order} (`qk_norm_order`)")
    assumed.append(f"44100 Hz, n_fft {2 * bins}, hop {bins}, one peak for the whole track, mask of the instrumental")
    try:
        config = ModelConfig(
            name=path.stem,
            channels=in_channels,
            front=Spectrogram(n_fft=2 * bins, hop_length=bins, bins=bins),
            output=Output("mask", of="rest", above="stem"),
            network=Network(
                "frame-transformer",
                {
                    "channels": channels,
                    "multipliers": multipliers,
                    "heads": [
                        _divide(path, bins >> level, len(state[name]), f"features of {name}")
                        for level, name in enumerate(norms)
                    ],
                    "expansion": _divide(path, feed_forward, features, "rows of enc1_transformer.linear1.weight_pw"),
                    "attention_conv": "full" if full else "grouped",
                    "rotary": "fixed" if full else "learned",  # the same numbers in use; they differ in training only
                    "activation": activation,
                    "feed_forward_mixing": "enc1_transformer.linear1.weight_dw" in state,
                    "decoder_block": "wide" if state["dec1.linear3.weight_pw"].shape[1] == 2 * bins else "narrow",
                    "qk_norm_order": qk_norm_order,
                },
            ),
        )
        config = completed(config)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its shapes give no network that is known here: {error}") from error
    logger.warning("%s does not say everything; assumed: %s", path.name, "; ".join(assumed))
    return config


def convert_state(path: Path, original: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The original's tensors in our layout and in float32.

    Raises:
        CheckpointError: a tensor is missing, unexpected, misshapen (shapes are named as they are here) or not finite.
    """
    state = {}
    for name, tensor in original.items():
        if name.endswith(".weight_pw") and tensor.ndim == 3:
            tensor = tensor.transpose(1, 2)  # (channels, out, in) -> (channels, in, out)
        elif name.endswith("_proj.1.weight") and tensor.ndim == 4:
            tensor = tensor.transpose(2, 3)  # (out, in, 1, width) -> (out, in, width, 1)
        state[name] = tensor.float().contiguous()
    check_shapes(path, {name: tuple(tensor.shape) for name, tensor in state.items()}, expected_shapes(config))
    check_finite(path, state)
    return state


def _divide(path: Path, number: int, by: int, what: str) -> int:
    if number % by:
        raise CheckpointError(f"{path}: {number} {what} is no multiple of {by}")
    return number // by
