"""SDR of a model over whole songs with known stems, between the worst and the best that a mask could do.

python -m bench.song FOLDER... [--engine MODEL]

Each folder holds `mixture`, `vocals` and `instrumental`. Global SDR: ten times the log10 of the energy of the reference
over that of the error, over the whole song and both channels (`ft.metrics.sdr`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from ft.audio import read_audio
from ft.config import ModelConfig
from ft.dsp import istft, magnitude, stft
from ft.errors import AudioError
from ft.metrics import sdr
from ft.separate import Array, Separator

STEMS = ("vocals", "instrumental")


def read_song(folder: Path) -> tuple[dict[str, Array], int]:
    """`mixture`, `vocals` and `instrumental` of a folder, and their rate. Raises AudioError for one that is missing."""
    song = {}
    for name in ("mixture", *STEMS):
        files = sorted(folder.glob(f"{name}.*"))
        if not files:
            raise AudioError(f"{folder}: no {name}.*; expected mixture, vocals and instrumental")
        song[name], sample_rate = read_audio(files[0])
    return song, sample_rate


def ideal_ratio_mask(song: dict[str, Array], config: ModelConfig) -> dict[str, Array]:
    """Stems by the mask |V| / (|V| + |I|) at the model's own STFT and band: the ceiling of such a mask."""
    audio = config.audio
    specs = {name: stft(song[name], audio.n_fft, audio.hop_length) for name in STEMS}
    size = {name: magnitude(spec) for name, spec in specs.items()}
    mask = size["vocals"] / np.maximum(size["vocals"] + size["instrumental"], 1e-9)
    if not audio.extend_mask:
        mask[:, audio.bins :] = 0
    mixture = stft(song["mixture"], audio.n_fft, audio.hop_length)
    vocals = istft(mask * mixture, audio.n_fft, audio.hop_length, song["mixture"].shape[1])
    return {"vocals": vocals, "instrumental": song["mixture"] - vocals}


def rows(folder: Path, separator: Separator) -> Iterator[tuple[str, dict[str, float]]]:
    """Name of an estimate and its SDR for each stem."""
    song, sample_rate = read_song(folder)
    estimates = {
        "silence": dict.fromkeys(STEMS, np.zeros_like(song["mixture"])),
        "the mixture": dict.fromkeys(STEMS, song["mixture"]),
        "model": separator.separate(song["mixture"], sample_rate),
        "ideal ratio mask": ideal_ratio_mask(song, separator.config),
    }
    for name, stems in estimates.items():
        yield name, {stem: round(sdr(stems[stem], song[stem]), 2) for stem in STEMS}


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--engine", "model", default="default", show_default=True, help="default: the shipped one in fp32.")
def main(folders: tuple[Path, ...], model: str) -> None:
    """Prints a table for each song, then the same as JSON."""
    found = {}
    with Separator(model) as separator:
        for folder in folders:
            print(f"{folder.name:20}{'vocals':>10}{'instrumental':>14}")
            found[folder.name] = dict(rows(folder, separator))
            for name, scores in found[folder.name].items():
                print(f"{name:20}{scores['vocals']:>7.2f} dB{scores['instrumental']:>11.2f} dB")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
