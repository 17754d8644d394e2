"""The script that draws training curves."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from bench import curve


def test_curve_is_drawn_from_the_log(tmp_path: Path):
    lines = [{"step": step, "train/loss": 1 / step, "lr": 1e-3} for step in range(1, 5)]
    lines += [{"step": 2, "valid/sdr_vocals": 1.5}, {"step": 4, "valid/sdr_vocals": 1.25}]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)))
    assert curve.read_log(log)["valid/sdr_vocals"] == [(2, 1.5), (4, 1.25)]
    result = CliRunner().invoke(curve.main, [str(log), "-o", str(tmp_path / "curve.png")])
    assert result.exit_code == 0, result.output
    assert "best 1.50 dB at step 2, last 1.25 dB at step 4" in result.output
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
