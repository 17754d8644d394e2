"""Whole files to damage: short pieces of the example song in every format, and tiny models of every kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import soundfile

from ft.checkpoint import CONFIG_KEY, read_metadata
from ft.config import ModelConfig
from ft.files import example_folder

LIBSNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wavfloat": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "flac24": ("FLAC", "PCM_24"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_24"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
}
FORMATS = (*LIBSNDFILE, "m4a")
SUFFIXES = {"wav24": "wav", "wavfloat": "wav", "flac24": "flac", "rf64": "wav"}
VARIANTS = 3


def audio_files(folder: Path) -> dict[str, list[Path]]:
    """Format -> files of it, mono and stereo, 0.3 to 0.6 s."""
    folder.mkdir(parents=True, exist_ok=True)
    song, rate = soundfile.read(example_folder() / "mixture.flac", dtype="float32", always_2d=True)
    files: dict[str, list[Path]] = {}
    for name in FORMATS:
        for variant in range(VARIANTS):
            part = song[(5 + 3 * variant) * rate :][: int((0.3 + 0.15 * variant) * rate)]
            part = part[:, :1] if variant == 1 else part
            path = folder / f"{name}{variant}.{SUFFIXES.get(name, name)}"
            if name == "m4a":
                _write_m4a(path, part, rate)
            else:
                kind, subtype = LIBSNDFILE[name]
                soundfile.write(path, part, 48000 if name == "opus" else rate, subtype=subtype, format=kind)
            files.setdefault(name, []).append(path)
    return files


def _write_m4a(path: Path, samples: np.ndarray, rate: int) -> None:
    import av

    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def tiny_models(folder: Path) -> tuple[Path, Path]:
    """A checkpoint of the preset `tiny` with random weights, and its ONNX file; made where they are not there yet."""
    checkpoint, onnx = folder / "tiny.safetensors", folder / "tiny.onnx"
    if not onnx.is_file():
        import torch

        from export.to_onnx import export_onnx
        from ft.checkpoint import save_checkpoint
        from ft.config import load_model_config
        from ft.models import make_network

        folder.mkdir(parents=True, exist_ok=True)
        config = load_model_config("tiny")
        torch.manual_seed(0)
        save_checkpoint(checkpoint, make_network(config).state_dict(), config)
        export_onnx(checkpoint, onnx)
    return checkpoint, onnx


def model_files(folder: Path, checkpoint: Path, onnx: Path) -> dict[str, Path]:
    """Kind -> file: safetensors, onnx, int8, plan (with its .json beside it) and pth."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from ft.onnx_metadata import append_onnx_metadata

    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"whole.{name}" for name in ("safetensors", "onnx", "plan", "pth")}
    files["int8"] = folder / "whole-int8.onnx"
    shutil.copyfile(checkpoint, files["safetensors"])
    shutil.copyfile(onnx, files["onnx"])
    quantize_dynamic(onnx, files["int8"], op_types_to_quantize=["MatMul"], weight_type=QuantType.QUInt8)
    metadata = read_metadata(onnx)
    append_onnx_metadata(files["int8"], {**metadata, "ft_precision": "int8"})
    _write_plan(files["plan"], ModelConfig.from_dict(json.loads(metadata[CONFIG_KEY])))
    golden = Path(__file__).parents[1] / "golden" / "original.npz"
    with np.load(golden) as arrays:
        prefix = "state_dict/"
        names = [name for name in arrays.files if name.startswith(prefix)]
        state = {name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in names}
    torch.save(state, files["pth"])
    return files


def _write_plan(path: Path, config: ModelConfig) -> None:
    from engines.plan import PlanManifest, Profile, write_plan

    (spec,) = config.reads
    least, shape = spec.sized(1, 1), spec.sized(1, 40)
    profiles = (Profile("window", {spec.name: (shape,) * 3}), Profile("tail", {spec.name: (least, shape, shape)}))
    manifest = PlanManifest(
        plan_sha256="",
        model="tiny.onnx",
        model_sha256="0" * 64,
        kind="full",
        version="11.0",
        targets=("sm86",),
        precision="fp16",
        io="network",
        batch=1,
        frames=40,
        profiles=profiles,
        fused=0,
        decomposed=0,
        parameters=None,
        gate=None,
        config=config,
    )
    write_plan(path, np.random.default_rng(0).bytes(5000), manifest)
