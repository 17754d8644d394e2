"""Fixtures that several test files share: real audio and tiny real networks."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable

# Threads that wait by spinning take the cores from each other where a machine has few; set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from ft.files import example_folder

if TYPE_CHECKING:
    from engines.tensorrt_build import BuiltPlan

EXAMPLE = example_folder()


@pytest.fixture(autouse=True, scope="session")
def what_is_imported_is_no_garbage() -> None:
    """Engines collect garbage when they close, hundreds of times in a run: half a second each with torch imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logs_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged is seen by `caplog`, even after a command of another test has set up handlers of its own."""
    for name in ("ft", "engines", "export", "bench"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


@pytest.fixture(scope="session")
def example() -> Path:
    """The folder of the example song: mixture.flac and its true stems."""
    return EXAMPLE


@pytest.fixture(scope="session")
def excerpt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of the example song, by which gates judge in a sixth of the time."""
    folder = tmp_path_factory.mktemp("excerpt")
    for stem in ("mixture", "vocals", "instrumental"):
        sound, rate = soundfile.read(EXAMPLE / f"{stem}.flac", start=10 * 44100, frames=4 * 44100, dtype="float32")
        soundfile.write(folder / f"{stem}.flac", sound, rate, subtype="PCM_24")
    return folder


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library in small, cut from the example: `instrumentals/`, `vocals/` and one pair in `pairs/song/`."""
    folder = tmp_path_factory.mktemp("music")
    stems = {}
    for stem in ("mixture", "vocals", "instrumental"):
        stems[stem], rate = soundfile.read(EXAMPLE / f"{stem}.flac", dtype="float32", always_2d=True)
    assert rate == 44100
    for name in ("instrumentals", "vocals", "pairs/song"):
        (folder / name).mkdir(parents=True)
    for number in range(3):
        part = slice(number * 4 * rate, (number + 1) * 4 * rate)
        soundfile.write(folder / "instrumentals" / f"{number}.flac", stems["instrumental"][part], rate)
        soundfile.write(folder / "vocals" / f"{number}.wav", stems["vocals"][part].mean(axis=1), rate)
    tail = slice(20 * rate, 26 * rate)
    for stem in ("mixture", "instrumental"):
        soundfile.write(folder / "pairs" / "song" / f"{stem}.flac", stems[stem][tail], rate)
    return folder


@pytest.fixture
def write_constant(tmp_path: Path):
    """Writes a stereo file of constant left and right values, so that a test can see where samples came from."""

    def write(name: str, left: float, right: float, samples: int = 4096, rate: int = 44100) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        waveform = np.tile(np.array([[left, right]], np.float32), (samples, 1))
        soundfile.write(path, waveform, rate, subtype="FLOAT")
        return path

    return write


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` filled, in whichever process of the run came first: exports take most of the run's time."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the preset `tiny` with random weights (`networks.tiny_model`)."""
    from networks import tiny_model

    from ft.checkpoint import save_checkpoint

    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    model = tiny_model()
    save_checkpoint(path, model.state_dict(), model.model_config)
    return path


@pytest.fixture(scope="session")
def tiny_onnx(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as `ft export` writes it."""
    from export.to_onnx import export_onnx

    return made_once(tmp_path_factory, "onnx", lambda to: export_onnx(tiny_checkpoint, to / "tiny.onnx")) / "tiny.onnx"


@pytest.fixture(scope="session")
def tiny_waveform(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with its transforms, as `ft export --io waveform` writes it."""
    from export.to_onnx import export_onnx

    name = "tiny.waveform.onnx"
    folder = made_once(tmp_path_factory, "waveform", lambda to: export_onnx(tiny_checkpoint, to / name, io="waveform"))
    return folder / name


@pytest.fixture(scope="session")
def tiny_half(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, excerpt_folder: Path) -> Path:
    """The same network as `ft export --fp16` writes it."""
    from export.to_onnx import export_onnx

    def make(to: Path) -> None:
        export_onnx(tiny_checkpoint, to / "fp16.onnx", precision="fp16", example=excerpt_folder)

    return made_once(tmp_path_factory, "half", make) / "fp16.onnx"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Puts a file in place of what an export would trace, which takes seconds."""
    import onnx_ir

    def use(path: Path) -> None:
        for name in ("export.graph.build_graph", "export.waveform.build_waveform_graph"):
            monkeypatch.setattr(name, lambda *_: onnx_ir.load(path))

    return use


@pytest.fixture(scope="session")
def tiny_plan(tiny_half: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BuiltPlan, list[float]]:
    """A plan of it by TensorRT-RTX, and what was told of the progress."""
    from export.to_tensorrt import build_plan

    path = tmp_path_factory.mktemp("plan") / "tiny.plan"
    progress: list[float] = []
    built = build_plan(tiny_half, path, kind="rtx", targets=["sm89", "sm86"], batch=4, progress=progress.append)
    return built, progress
