"""What is wrong with a command that trains, averages or imports is said before torch is imported or anything made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RUN = """
import json, sys
from click.testing import CliRunner
from ft.cli import main
found = []
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(main, words)
    found.append([result.exit_code, result.output, "torch" in sys.modules])
print(json.dumps(found))
"""
SET = ["train", "config.yaml", "--set"]
STEMS = ["train", "stems.yaml", "--set", "train.stems.drums=music"]
BASS = ["--set", "train.stems.vocals=music", "--set", "model.stems=[bass, drums, vocals]"]
SETS = "{instrumentals: music, vocals: music}"
CACHE = ["data", "prepare", "cache", "config.yaml", "--examples", "4", "-o", "cache"]
REFUSED = {
    "train: unknown key 'sed'; did you mean 'seed'?": ["train", "tiny", "--set", "train.sed=1"],
    "gone.yaml: no such file or preset": ["train", "gone.yaml"],
    "library/train/instrumentals/eif: no such folder, and 17 more": ["train", "small"],
    "train.instrumentals: none; name a folder": ["train", "tiny", "--dry-run"],
    "gone: no such folder; expected what train: names": [*SET, "train.vocals=gone"],
    "an epoch of 1 items is less than one step": [*SET, "train.epoch_size=1"],
    "missing: no such folder": [*CACHE, "--set", "train.vocals=missing"],
    "cannot be written": [*CACHE[:-1], "config.yaml/cache"],
    "nowhere: no such folder": [*SET, "train.validation.songs=nowhere"],
    "cache: no such folder": [*SET, "train.cache=cache"],
    "device 'gpu', expected auto, cpu or cuda[:N]": ["train", "config.yaml", "--device", "gpu"],
    "'cuda:x', expected auto, cpu or": ["train", "config.yaml", "--device", "cuda:x"],
    "cannot be written (Not a directory)": ["train", "config.yaml", "-o", "config.yaml"],
    "done: holds a run already": ["train", "config.yaml", "-o", "done"],
    "new: no run to go on with": ["train", "config.yaml", "-o", "new", "--resume"],
    "away.safetensors: no such file; expected a checkpoint": [*SET, "train.init_from=away.safetensors"],
    "patience: needs a score": [*SET, "train.patience=2"],
    "stft_n_fft: 262144 is more than": [*SET, "train.losses={stft_convergence: 1, stft_n_fft: 262144}"],
    "denoise with a network of kind open-unmix": [*SET, "train.task=denoise", "--set", "network={kind: open-unmix}"],
    "weights of a network whose number of bins is 384, expected 64": [*SET, "train.init_from=default"],
    "crops of 256 frames; this network takes a multiple of 7": [*SET, "segment.multiple=7"],
    "train.instrumentals and train.vocals: no drums, and nothing to make it of": [*SET, "model.stems=[drums, vocals]"],
    "train.stems: no vocals, and nothing to make it of; found bass, drums": [*STEMS, "--set", "train.stems.bass=music"],
    "train: stems: beside instrumentals or vocals": [*SET, "train.stems={drums: music, vocals: music}"],
    "ft: songs/song: no vocals, and nothing to make it of": [*SET, "train.pairs=songs"],
    "song: no vocals, and nothing to make it of; found mixture": [*SET, "train.validation.songs=songs"],
    "validation.instrumentals and vocals: no bass": [
        *STEMS,
        *BASS,
        "--set",
        "train.stems.bass=music",
        "--set",
        f"train.validation={SETS}",
    ],
    "train.stems: no vocals, and nothing to make it of; found drums": [
        "data",
        "prepare",
        "cache",
        *STEMS[1:],
        *CACHE[-4:],
    ],
    "1 model to average": ["average", "one.safetensors", "-o", "mean.safetensors"],
    "two.safetensors: no such file; expected a checkpoint": ["average", "two.safetensors", "b", "-o", "m.safetensors"],
    "taken.safetensors: exists; use another": ["average", "one", "two", "-o", "taken.safetensors"],
    "mean.safetensors: cannot be written": ["average", "one", "two", "-o", "config.yaml/mean.safetensors"],
    "absent.pth: no such file; expected weights": ["import", "absent.pth"],
    "out.safetensors: cannot be written": ["import", "absent.pth", "-o", "config.yaml/out.safetensors"],
    "taken.safetensors: exists; use": ["import", "taken.pth"],
    "an empty file": ["import", "empty.pth"],
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> tuple[dict[str, list], set[str]]:
    """Exit code, output and whether torch is there, of every command above in one process; and the files there are."""
    folder = tmp_path_factory.mktemp("checks")
    (folder / "done").mkdir()
    for name in ("empty.pth", "taken.pth", "taken.safetensors", "done/state.safetensors"):
        (folder / name).touch()
    (folder / "music").mkdir()
    sources = {"instrumentals": ["music"], "vocals": ["music"]}
    (folder / "songs" / "song").mkdir(parents=True)
    (folder / "songs" / "song" / "mixture.wav").touch()
    (folder / "stems.yaml").write_text(yaml.safe_dump({"model": {"preset": "tiny"}}))
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"preset": "tiny"}, "train": sources}))
    before = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    command = [sys.executable, "-c", RUN, json.dumps(list(REFUSED.values()))]
    path = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=path)
    made = {str(path.relative_to(folder)) for path in folder.rglob("*")} - before
    return dict(zip(REFUSED, json.loads(done.stdout.splitlines()[-1]), strict=True)), made


@pytest.mark.parametrize("line", REFUSED)
def test_a_mistake_is_said_without_torch(answers, line):
    code, output, torch_is_there = answers[0][line]
    assert line in output and code in (1, 2) and output.count("\n") == 1
    assert not torch_is_there


def test_nothing_is_made_by_what_is_refused(answers):
    assert not answers[1]
