"""Damaged audio files, several in one run of `ft separate`, so that what comes behind a bad one is looked at too."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .cases import MEMORY, Case, generator
from .damage import damage

STEMS = ("vocals", "instrumental")
OTHER_SUFFIXES = ("wav", "flac", "ogg", "opus", "mp3", "m4a", "aiff", "w64", "raw", "txt", "mp4")
OPEN_ENDED = ("mp3", "m4a")
"""Formats of which a file may be cut so that nothing shows it."""
JSON = 0.3
"""Share of the runs that report as JSON."""
OUTPUTS = (
    ("--bit-depth", "float"),
    ("--bit-depth", "16"),
    ("--bit-depth", "24"),
    (),
    ("--format", "flac"),
    ("--format", "ogg"),
    ("--format", "opus"),
    ("--format", "mp3"),
    ("--allow-truncated",),
)


def known_options() -> set[str]:
    """The flags that `ft separate` has."""
    from ft.cli import main

    return {flag for parameter in main.commands["separate"].params for flag in parameter.opts}  # type: ignore[attr-defined]


class AudioCampaign:
    """See `cases.Campaign`."""

    together = 8
    seconds = 30.0

    def __init__(self, material: Mapping[str, Sequence[Path]], model: Path) -> None:
        """`material`: of `material.audio_files`, or a part of it. `model`: an ONNX file."""
        self.material = {kind: [(path.suffix, path.read_bytes()) for path in paths] for kind, paths in material.items()}
        self.model = model
        known = known_options()
        self.outputs = [output for output in OUTPUTS if not output or output[0] in known]
        self.reads_media = importlib.util.find_spec("ft.audio.media") is not None

    def case(self, seed: int) -> Case:
        rng = generator("audio", seed)
        kinds = sorted(self.material)
        kind = rng.choice(kinds)
        suffix, data = rng.choice(self.material[kind])
        other = rng.choice(self.material[rng.choice((kind, rng.choice(kinds)))])[1]
        damaged, done = damage(rng, data, other)
        if rng.random() < 0.05:
            suffix = "." + rng.choice(OTHER_SUFFIXES)
            done = [*done, f"as {suffix}"]
        must = ""
        if done == ["keep"] and (kind != "m4a" or self.reads_media):
            must = "done"
        elif not damaged or (done == ["truncate"] and kind not in OPEN_ENDED and not self._allows(seed)):
            must = "fail"
        name = f"s{seed:07d}{suffix}"
        return Case(seed, kind, tuple(done), name, {name: damaged}, must)

    def job(self, cases: list[Case], folder: Path) -> dict[str, Any]:
        options = self._options(cases[0].seed)
        ending = options[1] if options[:1] == ("--format",) else "wav"
        out = folder / "out"
        inputs = [
            {
                "name": case.name,
                "path": str(folder / case.name),
                "must": case.must,
                "files": [str(out / Path(case.name).stem / f"{stem}.{ending}") for stem in STEMS],
            }
            for case in cases
        ]
        arguments = ["-q", "separate", *(item["path"] for item in inputs), "-o", str(out), "--engine", str(self.model)]
        arguments += ["--device", "cpu", "--threads", "1", "--segment-seconds", "1", "--context-seconds", "0.1"]
        if generator("listing", cases[0].seed // self.together).random() < JSON:
            arguments.append("--json")
        return {
            "arguments": [*arguments, *options],
            "inputs": inputs,
            "output": str(out),
            "folder": str(folder),
            "codes": [0, 1],
            "memory": MEMORY,
            "lists": True,
        }

    def _options(self, seed: int) -> tuple[str, ...]:
        """The same for all cases of one run, and for each of them when it is run again alone."""
        return generator("options", seed // self.together).choice(self.outputs)

    def _allows(self, seed: int) -> bool:
        return "--allow-truncated" in self._options(seed)
