"""The bars that this project sets itself, checked on two cores: each with its figure, met or missed.

python -m bench.bars [--model FP32.onnx] [--int8 INT8.onnx] [--baseline tests/oracle.py] [--json FILE]

The network is the original's structure with 45 million parameters. Without `--model` it is made, with random weights,
in the folder `--work`, exported in fp32 and int8, and kept there for the next time. All ratios are of medians from one
run, against the plain implementation in `--baseline`; the last line says whether every bar is met.
"""

from __future__ import annotations

import contextlib
import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

from bench.compare import compare
from bench.context import EXAMPLE
from bench.machine import use_cores
from bench.report import write_report
from bench.rows import Model, read_model
from bench.runners import Spec
from bench.speed import as_lines, end_to_end, make_song
from bench.worker import Worker, in_turn
from ft.audio import read_audio
from ft.files import DEFAULT_MODEL, INT8_MODEL
from ft.metrics import sdr

logger = logging.getLogger("bench")

Found = dict[str, Any]

CORES = 2
FRAMES = 256
OVERRIDES = (
    "audio.n_fft=1024",
    "audio.hop_length=512",
    "audio.bins=512",
    "model.channels=2",
    "model.expansion=4",
)
"""Of the preset `original-gelu`: 45,234,057 parameters."""
ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Bar:
    """A figure and what it must reach."""

    name: str
    figure: float | None
    """None where nothing could be measured."""
    kind: Literal["at least", "at most"]
    limit: float
    unit: str = ""
    note: str = ""

    @property
    def met(self) -> bool:
        if self.figure is None:
            return False
        return self.figure >= self.limit if self.kind == "at least" else self.figure <= self.limit

    def as_dict(self) -> Found:
        figure = None if self.figure is None else float(f"{self.figure:.4g}")
        found = {"name": self.name, "figure": figure, "kind": self.kind, "limit": self.limit, "unit": self.unit}
        return {**found, "met": self.met, "note": self.note}

    def as_line(self) -> str:
        figure = "nothing" if self.figure is None else f"{self.figure:.3g}"
        verdict = "met" if self.met else "MISSED"
        return f"{verdict:7}{self.name:64}{figure:>9} {self.unit:3}({self.kind} {self.limit:g}) {self.note}"


def make_models(work: Path) -> tuple[Path, Path]:
    """The fp32 and int8 exports of the network with 45 million parameters; made where they are not there yet."""
    import torch

    from export.to_onnx import export_onnx
    from ft.checkpoint import save_checkpoint
    from ft.config import load_yaml, model_config_from_yaml, override
    from ft.models.frame_transformer import FrameTransformer

    checkpoint, whole, small = (work / f"original-45m{suffix}" for suffix in (".safetensors", ".onnx", ".int8.onnx"))
    work.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        values = override(load_yaml("original-gelu"), OVERRIDES)
        config = model_config_from_yaml(values, "original-gelu")
        torch.manual_seed(0)
        save_checkpoint(checkpoint, FrameTransformer(config.network).state_dict(), config)
    if not whole.exists():
        logger.info("exporting %s", whole)
        export_onnx(checkpoint, whole)
    if not small.exists():
        logger.info("exporting %s", small)
        export_onnx(checkpoint, small, precision="int8")
    return whole, small


def window_bars(rows: Sequence[Found], default: str) -> Iterator[Bar]:
    """Those of one window of 256 frames. `default`: the engine that `auto` takes."""
    usable = [row for row in rows if row["status"] == "ok" and row["device"] == "cpu"]
    plain = next((row for row in usable if row["engine"] == "baseline"), None)
    whole = [row for row in usable if row["precision"] == "fp32" and row["engine"] in ENGINES]
    small = [row for row in usable if row["precision"] == "int8" and row["engine"] in ENGINES]
    yield Bar(
        "plain implementation, share of torch's fp32 matrix rate",
        plain["matmul_share"] if plain else None,
        "at least",
        0.45,
        note="or it would be no fair comparison",
    )
    chosen = {
        ("default engine", 1.9): [row for row in whole if row["engine"] == default],
        ("best engine without loss", 2.4): whole,
        ("int8", 3.5): small,
    }
    for (name, limit), candidates in chosen.items():
        best = min(candidates, key=lambda row: row["latency_ms"]["median"], default=None)
        figure = plain["latency_ms"]["median"] / best["latency_ms"]["median"] if best and plain else None
        note = f"{best['engine']}, {best['snr_db']:.0f} dB" if best and best["snr_db"] is not None else ""
        yield Bar(f"{name} against the plain implementation, one window", figure, "at least", limit, "x", note)


def whole_song_bars(
    candidates: Sequence[tuple[Model, str]], baseline: str, rounds: int, speed_limit: float | None
) -> Iterator[Bar]:
    """Against the original's way of separating the example: speed (where there is a limit), and what of SDR is lost.

    Args:
        candidates: Files of one network, with the runtime of each; the first is what the plain implementation loads,
            and the fastest is judged.
    """
    song, model = EXAMPLE / "mixture.flac", candidates[0][0]
    plain = Worker(Spec("baseline-song", model.path, song=str(song), baseline=baseline))
    ours = {
        f"{runtime} {file.precision}": Worker(Spec("song", file.path, runtime=runtime, song=str(song)))
        for file, runtime in candidates
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        saved = str(Path(folder) / "stems.npy")
        for worker in (plain, *ours.values()):
            stack.enter_context(worker)
            worker.ask("open")
        answers = {name: worker.ask("run") for name, worker in ours.items()}
        calls: dict[str, Callable[[], float]] = {name: partial(worker.seconds, warm=0) for name, worker in ours.items()}
        times = in_turn({**calls, "plain": lambda: float(plain.ask("run", save=saved)["seconds"])}, rounds)
        median = {name: statistics.median(values) for name, values in times.items()}
        best = min(ours, key=lambda name: median[name])
        stems = dict(zip(model.config.stems, np.load(saved), strict=True))
        answer = answers[best]
        found = {stem: read_audio(Path(file))[0] / answer["gain"] for stem, file in answer["files"].items()}
    if speed_limit is not None:
        note = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in median.items())
        ratio = median["plain"] / median[best]
        yield Bar(f"{model.name}: file to files against the original's way", ratio, "at least", speed_limit, "x", note)
    lost = {}
    for stem, estimate in found.items():
        target, _ = read_audio(EXAMPLE / f"{stem}.flac")
        lost[stem] = sdr(stems[stem], target) - sdr(estimate, target)
    note = ", ".join(f"{stem} {value:+.3f}" for stem, value in lost.items()) + f" with {best}"
    yield Bar(f"{model.name}: SDR lost to the original's way", max(lost.values()), "at most", 0.1, "dB", note)


def engine_bars(whole: Found, shipped: Sequence[Found]) -> Iterator[Bar]:
    """How much `ft separate` adds to its engine; `shipped`: rows of that model, the first by the default engine."""
    ratio = "ft separate against its engine alone"
    yield Bar(f"{whole['model']}: {ratio}", whole["ratio_to_engine"], "at most", 1.18, "x", whole["engine"])
    yield Bar(f"shipped model: {ratio}", shipped[0]["ratio_to_engine"], "at most", 1.6, "x", shipped[0]["engine"])
    best = max(shipped, key=lambda row: row["times_real_time"])
    note = f"{best['engine']} {best['precision']}"
    yield Bar("shipped model: file to files", best["times_real_time"], "at least", 40, "x real time", note)


def check(model: Model, small: Model | None, baseline: str, rounds: int, original_rounds: int, seconds: int) -> Found:
    """Measures everything; the report has `bars` beside the rows."""
    shipped, exact = read_model(INT8_MODEL), read_model(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        song = make_song(Path(folder), seconds)
        whole = end_to_end(model, song, rounds, device="cpu")
        # The first is what `ft separate` takes on a CPU.
        own = [
            end_to_end(file, song, rounds, runtime=name, device="cpu") for file in (shipped, exact) for name in ENGINES
        ]
    models = [model] if small is None else [model, small]
    report = compare(models, ENGINES, (1,), FRAMES, rounds, baseline=baseline)
    bars = [*window_bars(report["rows"], whole["engine"])]
    files = [(model, name) for name in ENGINES] + ([(small, "openvino")] if small is not None else [])
    bars += whole_song_bars(files, baseline, original_rounds, 50)
    bars += whole_song_bars([(exact, "onnxruntime"), (shipped, "onnxruntime")], baseline, 1, None)
    bars += engine_bars(whole, own)
    return {**report, "end_to_end": [whole, *own], "bars": [bar.as_dict() for bar in bars]}


def tell_progress() -> None:
    """Shows what the benchmark itself logs, on standard error; other libraries stay silent."""
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)


@click.command()
@click.option("--model", type=click.Path(exists=True), help="The network in fp32, as ONNX. [default: made in --work]")
@click.option("--int8", "small", type=click.Path(exists=True), help="The same in int8.")
@click.option("--work", default="runs/bars", show_default=True, type=click.Path(path_type=Path))
@click.option("--baseline", default="tests/oracle.py", show_default=True, type=click.Path(exists=True))
@click.option("--rounds", default=10, show_default=True)
@click.option("--original-rounds", default=3, show_default=True, help="Of the original's way; each takes two minutes.")
@click.option("--seconds", default=60, show_default=True, help="Length of the song for `ft separate`.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Report to write.")
def main(
    model: str | None,
    small: str | None,
    work: Path,
    baseline: str,
    rounds: int,
    original_rounds: int,
    seconds: int,
    output: Path | None,
) -> None:
    """Prints each bar; exit code 1 where one is missed."""
    tell_progress()
    use_cores(CORES)
    if model is None:
        model, small = (str(path) for path in make_models(work))
    report = check(read_model(model), read_model(small) if small else None, baseline, rounds, original_rounds, seconds)
    report["command"] = "python -m bench.bars"
    bars = [Bar(**{name: bar[name] for name in Bar.__dataclass_fields__}) for bar in report["bars"]]
    for line in as_lines(report["end_to_end"]):
        print(line)
    for bar in bars:
        print(bar.as_line())
    if output is not None:
        write_report(output, report)
    missed = [bar.name for bar in bars if not bar.met]
    print(json.dumps({"met": len(bars) - len(missed), "missed": missed, "load": report["load"]}))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
