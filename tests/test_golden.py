"""The stems of the shipped models are those that they always gave, whatever is made of the way to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from networks import GOLDEN

from ft.audio.open import read_audio
from ft.separate import Separator

LEVELS = json.loads((GOLDEN / "levels.json").read_text())
OPTIONS = {
    "fp32": {},
    "int8": {},
    "tta": {"tta": True},
    "original": {"windows": "original"},
    "short": {"segment_seconds": 4, "context_seconds": 0.5},
    "postprocess": {"postprocess": True},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name == "original")) for name in OPTIONS]
)
def test_levels_of_the_vocals_are_what_they_were(name, example):
    mixture, rate = read_audio(example / "mixture.flac")
    model = "default-int8" if name == "int8" else "default-fp32"
    with Separator(model, device="cpu", **OPTIONS[name]) as separator:
        vocals = separator.separate(mixture[:, : 8 * rate], rate)["vocals"]
    found = np.sqrt((vocals.reshape(2, 16, -1) ** 2).mean(axis=(0, 2)))
    # Processors differ in the products of eight bits; what float32 differs by is far below.
    np.testing.assert_allclose(found, LEVELS[name], atol=1e-3 if name == "int8" else 1e-6)
