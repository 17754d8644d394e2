"""The postprocess against its rules written plainly, and its stream against the whole."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ft.separate.postprocess import QuietRuns


def merge_artifacts(mask: np.ndarray, **rules: float) -> np.ndarray:
    """The mask (channels, bins, frames) of an instrumental with 1 where no vocals are."""
    runs = QuietRuns(**rules)
    weights = np.concatenate((runs.push(mask.min(axis=(0, 1))), runs.finish()))
    return mask + weights * (1 - mask)


def by_the_rules(mask: np.ndarray, threshold: float = 0.05, min_range: int = 64, fade: int = 32) -> np.ndarray:
    """Rule by rule on the whole mask (channels, bins, frames)."""
    frames = mask.shape[2]
    above = [bool(value) for value in mask.min(axis=(0, 1)) > threshold]
    runs, start = [], None
    for frame, value in enumerate([*above, False]):
        if value and start is None:
            start = frame
        elif not value and start is not None:
            runs.append((start, frame - 1))
            start = None
    weight, previous = np.zeros(frames, np.float32), None
    for start, end in runs:
        if end - start <= min_range:
            continue
        if previous is not None and start - previous < fade:
            start = previous - 2 * fade
        if start != 0:
            weight[start : start + fade] = np.linspace(0, 1, fade)
        else:
            start -= fade
        weight[end - fade : end] = np.linspace(1, 0, fade)
        weight[start + fade : end - fade] = 1
        previous = end
    return mask + weight * (1 - mask)


def with_runs(*lengths: int) -> np.ndarray:
    """A mask (2, 3, frames) of frames without and with vocals in turn; values above 0.05 differ from bin to bin."""
    frames = sum(lengths)
    mask = np.random.default_rng(frames).uniform(0.1, 0.9, (2, 3, frames)).astype(np.float32)
    end = 0
    for index, length in enumerate(lengths):
        if index % 2:
            mask[1, 2, end : end + length] = 0.05
        end += length
    return mask


def streamed(mask: np.ndarray, cuts: list[int], **rules: int) -> np.ndarray:
    """The weights of a mask that comes in pieces, each as soon as the delay allows."""
    runs, weights, come = QuietRuns(**rules), [], 0
    for size in cuts:
        weights.append(runs.push(mask[..., come : come + size].min(axis=(0, 1))))
        come = min(come + size, mask.shape[2])
        assert sum(map(len, weights)) == max(come - runs.delay, 0)
    weights += [runs.push(mask[..., come:].min(axis=(0, 1))), runs.finish()]
    return np.concatenate(weights)


def test_what_was_measured_of_the_original():
    mask = np.zeros((2, 4, 400), np.float32)
    mask[..., 100:300] = 0.5
    merged = merge_artifacts(mask)[0, 0]
    assert merged[100] == 0.5 and merged[115] == pytest.approx(0.742, abs=5e-4)
    assert (merged[131:268] == 1).all() and merged[268] < 1 and (merged[298:300] == 0.5).all()
    assert not merged[:100].any() and not merged[300:].any()
    assert mask.max() == 0.5  # what was given stays


@pytest.mark.parametrize(("length", "touched"), [(64, False), (65, False), (66, True)])
def test_only_long_runs_count(length, touched):
    mask = with_runs(5, 20, length, 20)[..., 5:]
    assert np.array_equal(merge_artifacts(mask), mask) != touched


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 4, 300), np.float32), np.zeros((1, 1, 0), np.float32), with_runs(0, 90)], ids=str
)
def test_a_mask_that_is_never_above_the_threshold_stays(mask):
    assert np.array_equal(merge_artifacts(mask), mask)


def test_a_fade_longer_than_half_a_run_is_refused():
    with pytest.raises(ValueError, match="min_range: 63, expected at least twice the fade of 32"):
        merge_artifacts(with_runs(100), min_range=63)


RUNS = st.lists(st.integers(1, 150), max_size=12)
CUTS = st.lists(st.integers(0, 90), max_size=30)


@settings(max_examples=150, deadline=None)
@given(RUNS, CUTS)
@example([300], [])  # a song without vocals: no fade in, but one out
@example([0, 5, 70, 30, 70, 40], [1] * 200)  # a gap that closes
@example([0, 5, 70, 31, 70, 40], [200])  # one frame too long
@example([0, 5, 70, 10, 40, 10, 70, 9], [7] * 30)  # with a run between that is too short
def test_any_mask_follows_the_rules_whole_and_in_pieces(lengths, cuts):
    mask = with_runs(*lengths)
    if not mask.shape[2]:
        return
    expected = by_the_rules(mask)
    assert np.array_equal(merge_artifacts(mask), expected)
    assert np.array_equal(mask + streamed(mask, cuts) * (1 - mask), expected)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=25), CUTS, st.integers(0, 3), st.integers(0, 4))
def test_other_lengths_follow_the_rules_too(lengths, cuts, fade, more):
    """Short ones, so that every way in which runs and gaps can meet occurs."""
    mask, min_range = with_runs(*lengths), 2 * fade + more
    if not mask.shape[2]:
        return
    expected = by_the_rules(mask, min_range=min_range, fade=fade)
    assert np.array_equal(merge_artifacts(mask, min_range=min_range, fade=fade), expected)
    assert np.array_equal(mask + streamed(mask, cuts, min_range=min_range, fade=fade) * (1 - mask), expected)


def test_the_delay_is_no_longer_than_it_must_be():
    """Two songs that are alike up to a frame, and unlike as far before it as the delay is long."""
    one, other = with_runs(0, 5, 70, 30, 66, 5), with_runs(0, 5, 70, 30, 65, 6)
    unlike = np.flatnonzero(streamed(one, []) != streamed(other, []))
    assert 5 + 70 + 30 + 65 - unlike[0] == QuietRuns().delay == 160
