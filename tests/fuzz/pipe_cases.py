"""Damaged sounds through pipes: WAV and bare samples that come in, one stem that goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from .audio_cases import OPEN_ENDED
from .cases import MEMORY, Case, generator
from .damage import damage

WAV = ("wav", "wav24", "wavfloat", "rf64")
RAW = {"s16le": "int16", "f32le": "float32"}


class PipeCampaign:
    """See `cases.Campaign`. A third each: WAV to WAV, bare samples to bare samples, and a file of any kind to WAV."""

    together = 1
    seconds = 30.0

    def __init__(self, material: Mapping[str, Sequence[Path]], model: Path) -> None:
        """`material`: of `material.audio_files`. `model`: an ONNX file."""
        self.material = {kind: [(path.suffix, path.read_bytes()) for path in paths] for kind, paths in material.items()}
        songs = [soundfile.read(path, dtype="float32", always_2d=True)[0] for path in material["wav"]]
        for encoding, dtype in RAW.items():
            scale = 32767 if encoding == "s16le" else 1
            self.material[encoding] = [
                (f".{song.shape[1]}.raw", (song * scale).astype(dtype).tobytes()) for song in songs
            ]
        self.model = model

    def case(self, seed: int) -> Case:
        rng = generator("pipes", seed)
        kinds = rng.choice((WAV, tuple(RAW), tuple(kind for kind in sorted(self.material) if kind not in RAW)))
        kind = rng.choice(kinds)
        suffix, data = rng.choice(self.material[kind])
        damaged, done = damage(rng, data, rng.choice(self.material[rng.choice(sorted(self.material))])[1])
        must = ""
        if done == ["keep"] and kind != "m4a":
            must = "done"
        elif not damaged or (kind in RAW and len(damaged) % (int(suffix[1]) * np.dtype(RAW[kind]).itemsize)):
            must = "fail"
        elif kind not in (*OPEN_ENDED, *RAW):
            must = "fail" if done == ["truncate"] else ""
        way = "file" if kinds not in (WAV, tuple(RAW)) else "pipe"
        name = f"p{seed:07d}{suffix}"
        return Case(seed, kind, (way, *done), name, {name: damaged}, must)

    def job(self, cases: list[Case], folder: Path) -> dict[str, Any]:
        (case,) = cases
        rng = generator("use", case.seed)
        path, raw = folder / case.name, case.kind if case.kind in RAW else None
        piped = case.damage[0] == "pipe"
        arguments = ["-q", "separate", "-" if piped else str(path), "-o", "-", "--stem"]
        arguments += [rng.choice(("vocals", "instrumental")), "--engine", str(self.model), "--device", "cpu"]
        arguments += ["--threads", "1", "--segment-seconds", "1", "--context-seconds", "0.1"]
        if raw is not None:
            arguments += ["--raw", raw, "--rate", "44100", "--channels", case.name.split(".")[1]]
        else:
            arguments += rng.choice(((), ("--bit-depth", "16"), ("--bit-depth", "24"), ("--bit-depth", "float")))
        item = {"name": "-" if piped else case.name, "path": str(path), "must": case.must, "files": []}
        return {
            "arguments": arguments,
            "inputs": [item],
            "output": str(folder / "out"),
            "folder": str(folder),
            "codes": [0, 1],
            "memory": MEMORY,
            "stdin": str(path) if piped else None,
            "pipe": {"raw": raw},
        }
