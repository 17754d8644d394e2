"""BSSEval against the figures of museval 0.4.1 and mir_eval 0.8.2, each run once on the signals of `sources`."""

import numpy as np
import pytest
import soundfile

from ft.metrics import bss_eval, bss_eval_v4
from ft.metrics.bss import _solved

MUSEVAL = {
    "sdr": [[5.065102468293, 4.957932157071, 4.123680191426], [9.593391418828, 9.557624857458, 9.367048926386]],
    "isr": [[12.616111331382, 12.657206681882, 12.729951582124], [9.628101902313, 9.621317311378, 9.627439756431]],
    "sir": [[3.538490278105, 3.644664983655, 2.578179790290], [21.698916180330, 21.622238632101, 22.724449872659]],
    "sar": [[32.661231766600, 32.584471135503, 32.061450458802], [28.509585362360, 29.139111401414, 26.939554691809]],
}
"""`museval.metrics.bss_eval(..., window=44100, hop=44100)`."""
MIR_EVAL = {
    "sdr": [2.829148789615, 21.404577074775],
    "sir": [2.833311551290, 22.437938959738],
    "sar": [34.835971383933, 28.171039916536],
    "permutation": [1, 0],
}
"""`mir_eval.separation.bss_eval_sources` of the left channels, estimates in the other order."""


@pytest.fixture(scope="module")
def sources(example):
    """Three seconds of both stems, and estimates that are scaled, mixed and bent; each (2, 2, samples)."""
    part = {"start": 441000, "frames": 3 * 44100, "dtype": "float64"}
    vocals, music = (soundfile.read(example / f"{stem}.flac", **part)[0].T for stem in ("vocals", "instrumental"))
    first = np.tanh(3 * (0.8 * vocals + 0.3 * music)) / 3
    second = np.tanh(3 * (0.7 * music + 0.1 * np.roll(vocals, 7, axis=1))) / 3
    return np.stack([vocals, music]), np.stack([first, second])


def test_version_4_is_that_of_museval(sources):
    found = bss_eval_v4(*sources, 44100)
    for name, values in MUSEVAL.items():
        assert getattr(found, name) == pytest.approx(np.array(values), abs=1e-6), name
    assert found.medians()["sdr"] == pytest.approx(np.median(MUSEVAL["sdr"], axis=1))


def test_version_3_is_that_of_mir_eval(sources):
    references, estimates = sources
    found = bss_eval(references[:, 0], estimates[::-1, 0])
    for name, values in MIR_EVAL.items():
        assert getattr(found, name) == pytest.approx(values, abs=1e-6), name


def test_one_source_has_no_interference():
    rng = np.random.default_rng(0)
    target, noise = rng.standard_normal((2, 6000))
    found = bss_eval(target, target + 0.1 * noise)
    assert found.sdr == pytest.approx(found.sar, abs=1e-6) and found.sdr == pytest.approx([20], abs=1.5)
    assert found.sir[0] > 150 and found.permutation.tolist() == [0]


def test_filters_up_to_512_samples_are_forgiven_by_version_3_only():
    target = np.random.default_rng(0).standard_normal((2, 1, 20000))
    target[..., -1000:] = 0
    late = np.roll(target, 300, axis=2)
    assert (bss_eval(target[:, 0], late[:, 0]).sdr > 40).all()
    assert (np.abs(bss_eval_v4(target, late, 20000).sdr + 3) < 0.5).all()
    assert (bss_eval(target[:, 0], np.roll(target[:, 0], 900, axis=1)).sdr < 0).all()


def test_windows_in_which_a_source_is_silent_do_not_count():
    rng = np.random.default_rng(0)
    references, noise = rng.standard_normal((2, 2, 1, 9000))
    estimates = references + 0.1 * noise
    estimates[0, :, 3000:6000] = 0
    found = bss_eval_v4(references, estimates, 3000)
    assert np.isnan(found.sdr).tolist() == [[False, True, False]] * 2
    assert found.medians()["sdr"] == pytest.approx(np.mean(found.sdr[:, ::2], axis=1))
    estimates[1, :, :3000] = references[0, :, 6000:] = 0
    empty = bss_eval_v4(references, estimates, 3000)
    assert np.isnan(list(empty.medians().values())).all()


def test_an_unfinished_window_is_left_out_and_a_short_sound_is_one():
    references, noise = np.random.default_rng(0).standard_normal((2, 2, 1, 2500))
    assert bss_eval_v4(references, references + noise, 1000).sdr.shape == (2, 2)
    assert bss_eval_v4(references, references + noise, np.int64(1000), np.float32(500)).sdr.shape == (2, 4)
    assert bss_eval_v4(references, references + noise, 5000).sdr.shape == (2, 1)


def test_a_voice_in_the_middle_is_no_trouble():
    """Its channels are the same, so that the filters are not determined; the projections are."""
    rng = np.random.default_rng(0)
    voice, music, noise = rng.standard_normal((1, 8000)), rng.standard_normal((2, 8000)), rng.standard_normal((2, 8000))
    references = np.stack([voice.repeat(2, axis=0), music])
    estimates = references + 0.3 * references[::-1] + 0.1 * noise
    found = bss_eval_v4(references, estimates, 4000)
    assert found.sdr[0] == pytest.approx(10 * np.log10(1 / 0.1), abs=0.3)
    assert found.sir[0] == pytest.approx(20 * np.log10(1 / 0.3), abs=0.6)
    assert np.isfinite(found.sar).all()


def test_filters_that_are_finite_and_solve_nothing_are_not_taken(monkeypatch):
    """What LAPACK gives, at random, for a matrix that is singular but for rounding."""
    voice = np.random.default_rng(0).standard_normal((20, 60))
    gram = np.concatenate([voice, voice]) @ np.concatenate([voice, voice]).T
    cross, solve, given = gram @ np.ones((40, 2)), np.linalg.solve, []

    def solved(matrix, right):
        given.append(1e16 * (-1.0) ** np.arange(80).reshape(40, 2) if not given else solve(matrix, right))
        return given[-1]

    monkeypatch.setattr(np.linalg, "solve", solved)
    filters = _solved(gram, cross)
    assert len(given) == 2
    np.testing.assert_allclose(gram @ filters, cross, rtol=1e-6)


@pytest.mark.parametrize(
    ("references", "estimates", "message"),
    [
        (np.ones((2, 9)), np.ones((2, 8)), "expected"),
        (np.ones((2, 9)) * [[1], [0]], np.ones((2, 9)), "silent reference"),
        (np.ones((2, 9)), np.ones((2, 9)) * [[1], [0]], "silent estimate"),
        (np.ones((2, 9)), np.full((2, 9), np.nan), "not finite"),
        (np.ones((9, 9)), np.ones((9, 9)), "at most 8"),
        (np.ones((2, 0)), np.ones((2, 0)), "expected"),
    ],
)
def test_what_has_no_figures_is_refused(references, estimates, message):
    with pytest.raises(ValueError, match=message):
        bss_eval(references, estimates)
