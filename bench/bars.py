"""The bars that this project sets itself, checked on two cores: each with its figure, met or missed.

python -m bench.bars [--model FP32.onnx] [--int8 INT8.onnx] [--baseline tests/oracle.py] [--json FILE]

The network is the original's structure with 45 million parameters. Without `--model` it is made, with random weights,
in the folder `--work`, exported in fp32 and int8, and kept there for the next time. All ratios are of medians from one
run, against the plain implementation in `--baseline`; the last line says whether every bar is met. A bar without a
figure, because what it needs failed, is missed, and says why.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click

from bench.compare import compare
from bench.context import EXAMPLE
from bench.machine import use_cores
from bench.original import PLAIN, Songs, separate_in_both_ways
from bench.report import write_report
from bench.rows import ModelFile, read_model_file
from bench.speed import as_lines, end_to_end, make_song
from bench.worker import WorkerError
from ft.audio.open import read_audio
from ft.files import FP32_MODEL, INT8_MODEL
from ft.metrics import sdr

logger = logging.getLogger("bench")

Found = dict[str, Any]

CORES = 2
FRAMES = 256
OVERRIDES = (
    "front.n_fft=1024",
    "front.hop_length=512",
    "front.bins=512",
    "network.channels=2",
    "network.expansion=4",
    "segment.seconds=8.4",
)
"""These numbers give the preset `original-gelu` 45,234,057 parameters."""
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
        return {**asdict(self), "figure": figure, "met": self.met}

    def as_line(self) -> str:
        figure = "nothing" if self.figure is None else f"{self.figure:.4g}"
        verdict = "met" if self.met else "MISSED"
        return f"{verdict:7}{self.name:64}{figure:>9} {self.unit:3}({self.kind} {self.limit:g}) {self.note}"


def make_models(work: Path) -> tuple[Path, Path]:
    """Gives the fp32 and int8 exports of the network with 45 million parameters; made where they are not there yet."""
    import torch

    from export.to_onnx import export_onnx
    from ft.checkpoint import save_checkpoint
    from ft.config import model_config_from_yaml
    from ft.models import make_network
    from ft.settings import load_yaml, override

    checkpoint, whole, small = (work / f"original-45m{suffix}" for suffix in (".safetensors", ".onnx", ".int8.onnx"))
    work.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        values = override(load_yaml("original-gelu"), OVERRIDES)
        config = model_config_from_yaml(values, "original-gelu")
        torch.manual_seed(0)
        save_checkpoint(checkpoint, make_network(config).state_dict(), config)
    if not whole.exists():
        logger.info("exporting %s", whole)
        export_onnx(checkpoint, whole)
    if not small.exists():
        logger.info("exporting %s", small)
        export_onnx(checkpoint, small, precision="int8")
    return whole, small


def window_bars(rows: Sequence[Found], default: str) -> Iterator[Bar]:
    """Gives the bars of one window of 256 frames. `default`: the engine that `auto` takes."""
    rows = [row for row in rows if row["device"] == "cpu"]
    baseline = [row for row in rows if row["engine"] == "baseline"]
    plain = next((row for row in baseline if row["status"] == "ok"), None)
    whole = [row for row in rows if row["precision"] == "fp32" and row["engine"] in ENGINES]
    small = [row for row in rows if row["precision"] == "int8" and row["engine"] in ENGINES]
    share, name = plain["matmul_share"] if plain else None, "plain implementation, share of torch's fp32 matrix rate"
    note = "or it would be no fair comparison" if plain else _why(baseline)
    yield Bar(name, share, "at least", 0.45, note=note)
    chosen = {
        ("default engine", 1.9): [row for row in whole if row["engine"] == default],
        ("best engine without loss", 2.4): whole,
        ("int8", 3.5): small,
    }
    for (name, limit), candidates in chosen.items():
        right = [row for row in candidates if row["status"] == "ok"]
        best = min(right, key=lambda row: row["latency_ms"]["median"], default=None)
        figure, note = None, _why([*baseline, *candidates])
        if best is not None and plain is not None:
            figure = plain["latency_ms"]["median"] / best["latency_ms"]["median"]
            note = best["engine"] + ("" if best["snr_db"] is None else f", {best['snr_db']:.0f} dB")
        yield Bar(f"{name} against the plain implementation, one window", figure, "at least", limit, "x", note)


def _why(rows: Iterable[Found]) -> str:
    """Gives the reasons of rows without a time."""
    return "; ".join(f"{row['engine']} {row['status']}: {row['reason']}" for row in rows if row["status"] != "ok")


def whole_song_bars(
    candidates: Sequence[tuple[ModelFile, str]], baseline: str, rounds: int, speed_limit: float | None
) -> Iterator[Bar]:
    """Against the original's way of separating the example: speed (where there is a limit), and what of SDR is lost.

    The fastest candidate is judged; speed is also that of the fastest in fp32, which gives what the original gives.

    Args:
        candidates: Files of one network, with the runtime of each; the plain implementation loads the first.
    """
    named = {f"{runtime} {file.precision}": (file, runtime) for file, runtime in candidates}
    songs = separate_in_both_ways(EXAMPLE / "mixture.flac", named, baseline, rounds)
    title = candidates[0][0].name
    if speed_limit is not None:
        exact = [name for name, (file, _) in named.items() if file.precision == "fp32"]
        for part, names in (("", list(named)), (", fp32 alone", exact)):
            yield _speed_bar(f"{title}: file to files against the original's way{part}", songs, names, speed_limit)
    name, best = f"{title}: SDR lost to the original's way", songs.fastest(named)
    if best is None or PLAIN not in songs.stems:
        yield Bar(name, None, "at most", 0.1, "dB", songs.note(songs.failures))
        return
    lost = {}
    for stem, estimate in songs.stems[best].items():
        target, _ = read_audio(EXAMPLE / f"{stem}.flac")
        lost[stem] = sdr(songs.stems[PLAIN][stem], target) - sdr(estimate, target)
    note = ", ".join(f"{stem} {value:+.3f}" for stem, value in lost.items()) + f" with {best}"
    yield Bar(name, max(lost.values()), "at most", 0.1, "dB", note)


def _speed_bar(name: str, songs: Songs, names: Sequence[str], limit: float) -> Bar:
    best = songs.fastest(names)
    known = [*songs.seconds, *songs.failures]
    note = songs.note(one for one in (*names, PLAIN) if one in known)
    figure = None if best is None or PLAIN not in songs.seconds else songs.seconds[PLAIN] / songs.seconds[best]
    return Bar(name, figure, "at least", limit, "x", note)


def engine_bars(model: str, whole: Found | WorkerError, shipped: Sequence[Found | WorkerError]) -> Iterator[Bar]:
    """Says how much `ft separate` adds to its engine, and how fast it is.

    Args:
        model: Name of the network with 45 million parameters.
        whole: Its row of file to files, or why there is none.
        shipped: Those of the shipped model, the first by the default engine.
    """
    figure: float | None
    for name, row, limit in ((model, whole, 1.18), ("shipped model", shipped[0], 1.6)):
        figure, note = None, f"failed: {row}"
        if not isinstance(row, WorkerError):
            figure, note = row["ratio_to_engine"], row["engine"]
        yield Bar(f"{name}: ft separate against its engine alone", figure, "at most", limit, "x", note)
    measured = [row for row in shipped if not isinstance(row, WorkerError)]
    figure, note = None, "; ".join(f"failed: {row}" for row in shipped)
    if measured:
        best = max(measured, key=lambda row: row["times_real_time"])
        figure, note = best["times_real_time"], f"{best['engine']} {best['precision']}"
    yield Bar("shipped model: file to files", figure, "at least", 40, "x real time", note)


def _attempt(file: ModelFile, song: Path, rounds: int, runtime: str = "auto") -> Found | WorkerError:
    try:
        return end_to_end(file, song, rounds, runtime=runtime, device="cpu")
    except WorkerError as error:
        logger.warning("%s, %s, file to files: %s", file.name, runtime, error)
        return error


def check(
    model: ModelFile, small: ModelFile | None, baseline: str, rounds: int, original_rounds: int, seconds: int
) -> Found:
    """Measures everything; the report has `bars` beside the rows."""
    shipped, exact = read_model_file(INT8_MODEL), read_model_file(FP32_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        song = make_song(Path(folder), seconds)
        whole = _attempt(model, song, rounds)
        # The first is what `ft separate` takes on a CPU that multiplies in eight bits.
        own = [_attempt(file, song, rounds, name) for file in (shipped, exact) for name in ENGINES]
    models = [model] if small is None else [model, small]
    report = compare(models, ENGINES, (1,), FRAMES, rounds, baseline=baseline)
    bars = [*window_bars(report["rows"], "" if isinstance(whole, WorkerError) else whole["engine"])]
    files = [(model, name) for name in ENGINES] + ([(small, "openvino")] if small is not None else [])
    bars += whole_song_bars(files, baseline, original_rounds, 50)
    bars += whole_song_bars([(exact, "onnxruntime"), (shipped, "onnxruntime")], baseline, 1, None)
    bars += engine_bars(model.name, whole, own)
    measured = [row for row in (whole, *own) if not isinstance(row, WorkerError)]
    return {**report, "end_to_end": measured, "bars": [bar.as_dict() for bar in bars]}


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
    report = check(
        read_model_file(model), read_model_file(small) if small else None, baseline, rounds, original_rounds, seconds
    )
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
