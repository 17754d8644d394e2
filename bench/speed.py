"""How many times real time a separation runs, from file to files, and which part of it takes how much.

python -m bench.speed [--model MODEL] [--runtime auto] [--device auto] [--rounds 5] [--cores 2] [--seconds 60]

Without a model it is the one that `ft separate` takes. The song is the example, repeated. `engine alone` runs the same
windows through the same engine and does nothing else; both run in turn. Shares are of processor time, so that parts
which run beside each other still sum to one.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile

from bench.context import EXAMPLE
from bench.machine import load_average, use_cores
from bench.memory import repeat_example
from bench.rows import ModelFile, read_model_file
from bench.runners import Spec
from bench.worker import Worker, in_turn
from engines.machine import cpu_name

Found = dict[str, Any]


def make_song(folder: Path, seconds: int, rate: int = 44100) -> Path:
    """Writes the example, repeated, as a file of that rate."""
    path = folder / f"song-{seconds}-{rate}.flac"
    repeat_example(path, seconds)
    if rate != soundfile.info(EXAMPLE / "mixture.flac").samplerate:
        import soxr

        samples, own = soundfile.read(path, dtype="float32", always_2d=True)
        soundfile.write(path, np.clip(soxr.resample(samples, own, rate), -1, 1), rate, "PCM_16")
    return path


def end_to_end(
    model: ModelFile | None, song: Path, rounds: int, *, runtime: str = "auto", device: str = "auto"
) -> Found:
    """Gives a row of file to files, beside the engine alone on the same windows.

    Args:
        model: None is what `load_engine` takes then; the row has the name of its file.
    Raises:
        WorkerError: the engine cannot be used, or failed.
    """
    spec = Spec("song", "" if model is None else model.path, runtime=runtime, device=device, song=str(song))
    info = soundfile.info(song)
    with Worker(spec) as whole, Worker(Spec(**{**vars(spec), "kind": "windows"})) as alone:
        facts = whole.ask("open")
        alone.ask("open")
        answers: list[Found] = []

        def separate() -> float:
            answers.append(whole.ask("run"))
            return float(answers[-1]["seconds"])

        separate()  # warms up, as does the first run of the other
        alone.seconds(warm=0)
        times = in_turn({"whole": separate, "alone": lambda: alone.seconds(warm=0)}, rounds)
        peak = whole.ask("memory")["peak_mb"]
    median = {name: statistics.median(values) for name, values in times.items()}
    names = answers[-1]["shares"]
    return {
        "model": Path(facts["model"]).name if model is None else model.name,
        "engine": facts["name"],
        "version": facts["version"],
        "precision": facts["precision"],
        "device": facts["device"],
        "sample_rate": info.samplerate,
        "audio_seconds": round(info.duration, 2),
        "seconds": round(median["whole"], 4),
        "engine_seconds": round(median["alone"], 4),
        "ratio_to_engine": round(median["whole"] / median["alone"], 3),
        "times_real_time": round(info.duration / median["whole"], 2),
        "range": [round(info.duration / value, 2) for value in (max(times["whole"]), min(times["whole"]))],
        "shares": {name: round(statistics.median(a["shares"][name] for a in answers[1:]), 4) for name in names},
        "open_seconds": round(facts["seconds"], 3),
        "peak_ram_mb": round(peak),
        "rounds": rounds,
    }


def as_lines(rows: Sequence[Found]) -> Iterator[str]:
    """Gives a table for the terminal."""
    yield f"{'file to files':44}{'x real time':>12}{'to engine':>10}   decode resample  fft network write  rest"
    for row in rows:
        name = f"{row['model']} {row['engine']} {row['precision']} {row['device']} {row['sample_rate'] / 1000:g} kHz"
        parts = "".join(f"{row['shares'][part]:>8.1%}" for part in row["shares"])
        yield f"{name:44}{row['times_real_time']:>12.1f}{row['ratio_to_engine']:>10.2f}{parts}"


@click.command()
@click.option("--model", "--engine", "model", help="A model file. [default: default, the shipped one]")
@click.option("--runtime", default="auto", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--cores", default=2, show_default=True)
@click.option("--seconds", default=60, show_default=True)
def main(model: str | None, runtime: str, device: str, rounds: int, cores: int, seconds: int) -> None:
    """Prints the table, then the same as JSON."""
    use_cores(cores)
    with tempfile.TemporaryDirectory() as folder:
        song = make_song(Path(folder), seconds)
        row = end_to_end(
            None if model is None else read_model_file(model), song, rounds, runtime=runtime, device=device
        )
    for line in as_lines([row]):
        print(line)
    machine = f"load of the machine {load_average()}; {cpu_name()}, {cores} cores"
    print(f"model opened in {row['open_seconds']:.2f} s; {machine}")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
