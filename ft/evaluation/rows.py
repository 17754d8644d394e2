"""The rows of `ft evaluate`: models, stems of other tools, and the baselines of both ends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ft.checkpoint import load_config
from ft.config import ModelConfig, Spectrogram
from ft.errors import AudioError
from ft.evaluation.baselines import band_of, ideal_mask, repet_sim
from ft.evaluation.songs import Array, Estimates, SongFolder, SongSound, find_estimates, read_estimates
from ft.files import FP32_MODEL, model_path
from ft.separate.separator import Separator
from ft.stems import MIXTURE, STEMS, recipe

BASELINES = ("silence", "mixture", "repet-sim", "ideal-ratio-mask", "ideal-phase-mask")


@dataclass(frozen=True)
class Row:
    """A row of the table: something that gives estimates of songs."""

    name: str
    kind: Literal["baseline", "engine", "estimates"]
    definition: str
    estimate: Callable[[SongFolder, SongSound], Estimates]
    """Gives its stems of a song, and says why others are missing. Raises AudioError or EngineError."""
    gives: Callable[[SongFolder], Collection[str]] = lambda song: ()
    """Names stems of a song that it gives."""
    facts: dict[str, Any] = field(default_factory=dict)


def engine_row(name: str, model: str, separator: Separator) -> Row:
    """Separates with a model; a sum of its stems is the instrumental where it has none."""
    engine, plan = separator.engine.describe(), separator.plan
    facts = {
        "model": model,
        "sha256": _digest(Path(engine.model)),
        "engine": engine.name,
        "device": engine.device,
        "precision": engine.precision,
        "version": engine.version,
        "window_frames": {"frames": plan.frames, "context": plan.left, "lookahead": plan.right, "fade": plan.fade},
        "config": separator.config.to_dict(),
    }
    stems = separator.config.all_stems
    # Without vocals, the sum of its parts is no instrumental.
    parts = recipe("instrumental", stems) if "vocals" in stems and "instrumental" not in stems else {}

    def estimate(song: SongFolder, sound: SongSound) -> Estimates:
        separator.ready()
        found = separator.separate(sound.mixture, sound.sample_rate)
        if parts:
            found["instrumental"] = np.sum([found[stem] for stem in parts], axis=0)
        return Estimates(found)

    given = (*stems, "instrumental") if parts else stems
    definition = f"{engine.name} on {engine.device}, {engine.precision}"
    return Row(name, "engine", definition, estimate, lambda song: given, facts)


def estimates_row(name: str, folder: Path, alone: bool, tolerance: float) -> Row:
    """Reads what something else wrote into a folder."""

    def gives(song: SongFolder) -> Collection[str]:
        try:
            found = find_estimates(folder, song, alone)[1]
        except AudioError:  # told of again where they are read
            found = {}
        return (*STEMS, *(stem for stem in found if stem not in (None, MIXTURE, *STEMS)))

    def estimate(song: SongFolder, sound: SongSound) -> Estimates:
        return read_estimates(folder, song, sound, alone, tolerance)

    return Row(name, "estimates", f"stems in {folder}", estimate, gives, {"folder": str(folder)})


def _baseline(name: str, definition: str, estimate: Callable[[SongSound], dict[str, Array]], **facts: str) -> Row:
    """Estimates from the song alone, or from the truth."""
    return Row(name, "baseline", definition, lambda song, sound: Estimates(estimate(sound)), facts=facts)


def floor(chosen: Collection[str]) -> Iterator[Row]:
    """Gives the chosen ones of what counts for nothing, and of what needs no training."""
    known: dict[str, tuple[str, Callable[[SongSound], dict[str, Array]]]] = {
        "silence": (
            "silence for every stem",
            lambda song: dict.fromkeys(song.stems, np.zeros_like(song.mixture)),
        ),
        "mixture": ("the mixture for every stem", lambda song: dict.fromkeys(song.stems, song.mixture)),
        "repet-sim": (
            "what repeats, by the median of the most similar frames (Rafii and Pardo 2012)",
            lambda song: repet_sim(song.mixture, song.sample_rate),
        ),
    }
    for name, (definition, estimate) in known.items():
        if name in chosen:
            yield _baseline(name, definition, estimate)


def ceilings(chosen: Collection[str], configs: Sequence[ModelConfig]) -> Iterator[Row]:
    """Ideal masks, for each STFT that a model of the table has; for that of the shipped one where none has any."""
    if not any(isinstance(config.front, Spectrogram) for config in configs):
        configs = [load_config(model_path(FP32_MODEL))]
    different: dict[tuple[str, ...], ModelConfig] = {}
    for config in configs:
        if isinstance(front := config.front, Spectrogram):
            band = "" if (bins := band_of(config)) is None else f", bins 0 to {bins - 1}"
            window = "" if front.window_length == front.n_fft else f", window {front.window_length}"
            sizes = (f"{front.n_fft}", f"{front.hop_length}", f"{config.sample_rate} Hz")
            different.setdefault((*sizes, front.stereo + window + band), config)
    several_rates = len({rate for _, _, rate, _ in different}) > 1
    for (n_fft, hop, rate, seen), config in different.items():
        where = f"n_fft {n_fft}, hop {hop}, {rate}, {seen}"
        suffix = f" ({n_fft}/{hop}, {f'{rate}, ' * several_rates}{seen})" if len(different) > 1 else ""
        kinds: dict[str, tuple[Literal["ratio", "phase"], str]] = {
            "ideal-ratio-mask": ("ratio", "|S| / (|S| + |R|) of a true stem and the rest of the song"),
            "ideal-phase-mask": ("phase", "Re(S / X) of a true stem, cut to 0..1"),
        }
        for name, (kind, formula) in kinds.items():
            if name in chosen:
                estimate = partial(_ideal, config, kind)
                yield _baseline(name + suffix, f"{formula}, at {where}", estimate, stft=where)


def _ideal(config: ModelConfig, kind: Literal["ratio", "phase"], song: SongSound) -> dict[str, Array]:
    return ideal_mask(song.mixture, song.stems, song.sample_rate, config, kind)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
