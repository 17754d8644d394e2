"""Global SDR."""

import numpy as np
import pytest

from ft.metrics import sdr


def test_silence_scores_zero_and_the_truth_is_finite():
    target = np.random.default_rng(0).standard_normal((2, 1000))
    assert sdr(np.zeros_like(target), target) == pytest.approx(0)
    assert sdr(target, target) > 100
    assert sdr(np.zeros(5), np.zeros(5)) == 0


def test_an_error_of_a_tenth_of_the_amplitude_is_20_db():
    target = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    assert sdr(1.1 * target, target) == pytest.approx(20, abs=1e-4)
    assert sdr(0.9 * target, target) == pytest.approx(20, abs=1e-4)


def test_all_samples_count_together():
    target = np.array([[1.0, 0.0], [0.0, 3.0]])
    estimate = np.array([[0.0, 0.0], [0.0, 3.0]])
    assert sdr(estimate, target) == pytest.approx(10)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="expected the same"):
        sdr(np.zeros(3), np.zeros((1, 3)))
