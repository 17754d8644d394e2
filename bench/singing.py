"""How like singing a voice is: what can be measured of recordings without listening.

python -m bench.singing [NAME=]FOLDER... [--json FILE]

Each argument is a folder of recordings (or a file), `real=` before it names its row. Figures are taken from excerpts of
eight seconds spread over each recording; a row shows the median of its recordings and the 10th and 90th percentile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import soundfile

from ft.errors import AudioError
from ft.sing.voice import FRAME_SECONDS, find_pitch

EXCERPT_SECONDS, MOST_EXCERPTS = 8.0, 3
BLOCK_SECONDS = 0.02
# A block is silent 40 dB below the loud ones (95th percentile), and a hiss where most of it lies above 4 kHz.
SILENT_DB, HISS_HZ = -40.0, 4000.0
F0_CEIL = 1000.0
FIGURES = {
    "held": "share of voiced 100 ms whose pitch stays within a semitone",
    "pauses": "share of 20 ms that are 40 dB below the loud ones",
    "hisses": "share of sounding 20 ms with most of the power above 4 kHz",
    "above 5k": "dB of the power above 5 kHz to that of the whole",
    "above 10k": "dB of the power above 10 kHz to that of the whole",
    "slope": "dB per octave of voiced blocks from 1 to 16 kHz",
    "vowel 5k": "dB of the power above 5 kHz to that of the whole, median of voiced blocks",
    "flux": "median dB by which a 12th of an octave of a voiced block differs from 40 ms before",
    "jitter": "cents, median over voiced 100 ms of the deviation from a line, second of its pitch",
    "loudness": "dB between the 10th and 90th percentile of sounding blocks",
    "width": "dB of side to mid; nothing where the recording is mono",
}


def excerpts(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Up to three excerpts of eight seconds, `(samples, channels)`, evenly spread."""
    try:
        with soundfile.SoundFile(path) as file:
            rate, length = file.samplerate, round(EXCERPT_SECONDS * file.samplerate)
            count = max(1, min(MOST_EXCERPTS, file.frames // length))
            for index in range(count):
                file.seek(round((file.frames - length) * (index + 0.5) / count) if file.frames > length else 0)
                yield file.read(length, dtype="float32", always_2d=True), rate
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: no readable audio ({error}); expected WAV, FLAC or Ogg") from error


def measure(waveform: np.ndarray, rate: int) -> dict[str, float]:
    """Gives the figures of one excerpt, `(samples, channels)`; those that it has nothing of are left out."""
    mono = waveform.mean(axis=1).astype(np.float64)
    block = round(BLOCK_SECONDS * rate)
    blocks = len(mono) // block
    framed = mono[: blocks * block].reshape(blocks, block) * np.hanning(block)
    power = np.square(np.abs(np.fft.rfft(framed, 2048))) + 1e-14
    frequencies = np.fft.rfftfreq(2048, 1 / rate)
    level = 10 * np.log10(power.sum(axis=1))
    sounding = level > np.percentile(level, 95) + SILENT_DB
    found = {"pauses": float(1 - sounding.mean())}
    if sounding.sum() < 25:
        return found
    voiced, held, jitter = _pitch(mono, rate, blocks)
    total = power[sounding].sum()
    treble = power[:, frequencies > HISS_HZ].sum(axis=1) / power.sum(axis=1)
    found["hisses"] = float((treble[sounding] > 0.5).mean())
    found["above 5k"] = _db(power[sounding][:, frequencies > 5000].sum() / total)
    found["above 10k"] = _db(power[sounding][:, frequencies > 10000].sum() / total)
    found["loudness"] = float(np.ptp(np.percentile(level[sounding], [10, 90])))
    tone = voiced & sounding
    if tone.sum() >= 25:
        bands = _bands(power, frequencies)
        band_db = 10 * np.log10(bands)
        centres = np.log2(np.geomspace(100, 16000, bands.shape[1] + 1)[:-1])
        upper = centres > np.log2(1000)
        found["slope"] = float(np.polyfit(centres[upper], band_db[tone][:, upper].mean(axis=0), 1)[0])
        above = power[tone][:, frequencies > 5000].sum(axis=1) / power[tone].sum(axis=1)
        found["vowel 5k"] = _db(float(np.median(above)))
        pairs = tone[2:] & tone[:-2]
        if pairs.any():
            found["flux"] = float(np.median(np.abs(band_db[2:] - band_db[:-2])[pairs].mean(axis=1)))
    if held is not None:
        found["held"], found["jitter"] = held, jitter
    if waveform.shape[1] == 2:
        side = np.square(waveform[:, 0] - waveform[:, 1]).sum()
        if side > 0:
            found["width"] = _db(side / np.square(waveform.sum(axis=1)).sum())
    return found


def _db(share: float) -> float:
    return float(10 * np.log10(share + 1e-12))


def _bands(power: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Power in twelfths of an octave from 100 Hz to 16 kHz, by interpolating where bins are too wide."""
    edges = np.geomspace(100, 16000, 89)
    sums = np.concatenate([np.zeros((len(power), 1)), np.cumsum(power, axis=1)], axis=1)
    bins = np.concatenate([frequencies, frequencies[-1:]]) - frequencies[1] / 2
    at = np.searchsorted(bins, edges) - 1
    at = np.clip(at, 0, len(bins) - 2)
    share = (edges - bins[at]) / (bins[at + 1] - bins[at])
    cumulative = sums[:, at] * (1 - share) + sums[:, at + 1] * share
    return np.maximum(np.diff(cumulative, axis=1), 1e-14)


def _pitch(mono: np.ndarray, rate: int, blocks: int) -> tuple[np.ndarray, float | None, float]:
    """Says which blocks are voiced, the share of held pitch (None without voice), and jitter in cents."""
    f0, _, aperiodicity = find_pitch(mono, rate, F0_CEIL)
    f0 = np.where(aperiodicity[:, 1] < 0.5, f0, 0.0)
    per_block = round(BLOCK_SECONDS / FRAME_SECONDS)
    padded = np.zeros(blocks * per_block)
    padded[: min(len(f0), len(padded))] = f0[: len(padded)]
    voiced: np.ndarray = np.all(padded.reshape(blocks, per_block) > 0, axis=1)
    frames = f0[: len(f0) // 20 * 20].reshape(-1, 20)
    frames = frames[(frames > 0).all(axis=1)]
    if len(frames) < 5:
        return voiced, None, 0.0
    cents = 1200 * np.log2(frames)
    bend = np.diff(cents, 2, axis=1)
    return voiced, float((np.ptp(cents, axis=1) < 100).mean()), float(np.median(bend.std(axis=1)))


def row(path: Path) -> dict[str, list[float]]:
    """Gives each figure of each recording: the mean of its excerpts."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [file for file in found if file == path or file.suffix.lower() in (".wav", ".flac")]
    if not files:
        raise AudioError(f"{path}: no recordings; expected a folder with WAV or FLAC files")
    values: dict[str, list[float]] = {name: [] for name in FIGURES}
    for file in files:
        measured = [measure(waveform, rate) for waveform, rate in excerpts(file)]
        for name, column in values.items():
            numbers = [figures[name] for figures in measured if name in figures]
            if numbers:
                column.append(float(np.mean(numbers)))
    return values


@click.command()
@click.argument("folders", nargs=-1, required=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Writes every recording's figures too.")
def main(folders: tuple[str, ...], json_path: Path | None) -> None:
    """Prints one row of figures for each folder."""
    rows = {}
    for argument in folders:
        name, _, path = argument.rpartition("=")
        rows[name or Path(path).name] = row(Path(path))
    print(f"{'':16}" + "".join(f"{name:>18}" for name in FIGURES))
    for name, values in rows.items():
        cells = []
        for column in values.values():
            if not column:
                cells.append(f"{'-':>18}")
                continue
            low, middle, high = np.percentile(column, [10, 50, 90])
            cells.append(f"{middle:>7.2f}{f'({low:.2f} {high:.2f})':>11}"[:18].rjust(18))
        print(f"{name:16}" + "".join(cells))
    if json_path is not None:
        json_path.write_text(json.dumps(rows, indent=1), "utf-8")


if __name__ == "__main__":
    main()
