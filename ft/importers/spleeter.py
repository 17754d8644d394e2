"""Weights of Spleeter (github.com/deezer/spleeter) as a model of this project.

TensorFlow numbers its layers through all stems: stem s has the convolutions from 7 s on, the transposed ones from 6 s
on and the norms from 12 s on. Kernels are (frames, bins, in, out) there, of transposed ones (frames, bins, out, in).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ft.checkpoint import NEEDS_TORCH, check_output, save_checkpoint
from ft.config import ModelConfig, Network, Output, Segment, Spectrogram
from ft.errors import CheckpointError
from ft.importers.tensorflow import read_bundle

Tensors = Mapping[str, NDArray[np.float32]]
STEMS = {
    2: ("vocals", "accompaniment"),
    4: ("vocals", "drums", "bass", "other"),
    5: ("vocals", "piano", "drums", "bass", "other"),
}
"""The stems of the published models, in the order of their networks."""
HALVINGS = 6
NORM_EPS = 1e-3

TWO_STEMS = ModelConfig(
    name="spleeter",
    license="MIT",
    stems=STEMS[2],
    rest=None,
    front=Spectrogram(n_fft=4096, hop_length=1024, bins=1024, scale="none", ends="zeros"),
    output=Output("magnitude", combine="ratio"),
    segment=Segment(context=0.0, overlap=0.0, frames=512),
    network=Network("spleeter"),
)
"""Windows are those of Spleeter: 512 frames, which follow each other without overlap."""


def import_spleeter(source: str | Path, output: str | Path, *, force: bool = False) -> ModelConfig:
    """Writes a TensorFlow checkpoint of Spleeter as a checkpoint of ours.

    Args:
        source: its `.index`, beside which lies its `.data-00000-of-00001`.
        output: the `.safetensors` file.
        force: overwrite `output`.
    Raises:
        CheckpointError: `source` is unreadable or holds another network, or `output` exists.
        FtError: `output` cannot be written.
    """
    source, output = Path(source), Path(output)
    check_output(output, force)
    try:
        data = source.with_suffix(".data-00000-of-00001").read_bytes()
        config, state = converted(read_bundle(source.read_bytes(), data))
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}; expected a TensorFlow checkpoint of Spleeter") from error
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"{output}: writing a checkpoint {NEEDS_TORCH}") from error
    tensors = {name: torch.tensor(values) for name, values in state.items()}
    save_checkpoint(output, tensors, config, {"ft_imported_from": source.name})
    return config


def converted(tensors: Tensors) -> tuple[ModelConfig, dict[str, NDArray[np.float32]]]:
    """Gives the model of the variables of a TensorFlow checkpoint, and the state of its network.

    Raises:
        ValueError: another number of stems than the published models have, or a variable is missing.
    """
    count = sum(name.startswith("conv2d") and name.endswith("/kernel") for name in tensors) // (2 * HALVINGS + 1)
    if count not in STEMS:
        raise ValueError(f"networks of {count} stems, expected {', '.join(map(str, STEMS))} as in the published models")
    state: dict[str, NDArray[np.float32]] = {}
    try:
        for stem in range(count):
            for level in range(HALVINGS):
                state |= _layer(tensors, "conv2d", 7 * stem + level, f"stems.{stem}.down.{level}")
                state |= _layer(tensors, "conv2d_transpose", 6 * stem + level, f"stems.{stem}.up.{level}")
                if level < HALVINGS - 1:  # nothing hears the norm of the innermost
                    state |= _norm(tensors, 12 * stem + level, f"stems.{stem}.down_gains.{level}")
                state |= _norm(tensors, 12 * stem + HALVINGS + level, f"stems.{stem}.up_gains.{level}")
            state |= _layer(tensors, "conv2d", 7 * stem + HALVINGS, f"stems.{stem}.last")
    except KeyError as error:
        raise ValueError(f"no variable {error.args[0]}, which Spleeter of {count} stems has") from error
    if count == 2:
        return TWO_STEMS, state
    numbers = {"activation": "elu", "across": "softmax" if count == 5 else "sigmoid"}
    return (
        dataclasses.replace(
            TWO_STEMS, name=f"spleeter-{count}", stems=STEMS[count], network=Network("spleeter", numbers)
        ),
        state,
    )


def _layer(tensors: Tensors, kind: str, number: int, name: str) -> dict[str, NDArray[np.float32]]:
    own = _numbered(kind, number)
    return {f"{name}.weight": tensors[f"{own}/kernel"].transpose(3, 2, 1, 0), f"{name}.bias": tensors[f"{own}/bias"]}


def _norm(tensors: Tensors, number: int, name: str) -> dict[str, NDArray[np.float32]]:
    own = _numbered("batch_normalization", number)
    gain = tensors[f"{own}/gamma"] / np.sqrt(tensors[f"{own}/moving_variance"] + np.float32(NORM_EPS))
    shift = tensors[f"{own}/beta"] - tensors[f"{own}/moving_mean"] * gain
    return {f"{name}.weight": gain, f"{name}.bias": shift}


def _numbered(kind: str, number: int) -> str:
    return f"{kind}_{number}" if number else kind
