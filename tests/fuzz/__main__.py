"""python -m tests.fuzz audio|pipes|models: see `tests/fuzz/__init__.py`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from .audio_cases import AudioCampaign
from .campaign import run_campaign
from .cases import Campaign
from .material import audio_files, model_files, tiny_models
from .model_cases import ModelCampaign
from .pipe_cases import PipeCampaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Damaged files through the command line.")
    parser.add_argument("what", choices=("audio", "pipes", "models"))
    parser.add_argument("--count", type=int, default=1000, help="Cases. [1000]")
    parser.add_argument("--seed", type=int, default=0, help="Of the first case; the next has the next number. [0]")
    parser.add_argument("--only", type=int, help="Run this seed alone and print what it said.")
    parser.add_argument("--formats", default="", help="Kinds of files, with commas between. [all]")
    parser.add_argument("--workers", type=int, default=1, help="Processes. [1]")
    parser.add_argument("--material", type=Path, help="Folder of the whole files, kept for the next time.")
    parser.add_argument("--report", type=Path, help="JSON Lines of the findings. [standard output]")
    parser.add_argument("--save", type=Path, help="With --only: folder for the damaged files.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        campaign = _campaign(given.what, given.material or Path(temporary), given.formats)
        if given.only is not None and given.save:
            given.save.mkdir(parents=True, exist_ok=True)
            for name, content in campaign.case(given.only).files.items():
                (given.save / name).write_bytes(content)
        seeds = range(given.seed, given.seed + given.count) if given.only is None else [given.only]
        file = given.report.open("w", encoding="utf-8") if given.report else sys.stdout

        def say(finding: dict[str, Any]) -> None:
            print(json.dumps(finding), file=file, flush=True)

        report = run_campaign(campaign, seeds, given.workers, say)
    for line in report.lines():
        print(line)
    return int(bool(report.findings))


def _campaign(what: str, folder: Path, formats: str) -> Campaign:
    wanted = formats.split(",") if formats else []
    checkpoint, onnx = tiny_models(folder / "tiny")
    audio = audio_files(folder / "audio")
    if what == "audio":
        return AudioCampaign({kind: paths for kind, paths in audio.items() if not wanted or kind in wanted}, onnx)
    if what == "pipes":
        return PipeCampaign(audio, onnx)
    models = model_files(folder / "models", checkpoint, onnx)
    return ModelCampaign({kind: path for kind, path in models.items() if not wanted or kind in wanted}, audio["wav"][0])


if __name__ == "__main__":
    sys.exit(main())
