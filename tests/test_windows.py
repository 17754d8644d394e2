"""Windows: every frame once, context dropped, fades that sum to one, and what they cost."""

import numpy as np
import pytest
from networks import changed, format_1

from ft.config import ModelConfig, Segment, load_model_config, model_config_from_yaml
from ft.errors import ConfigError
from ft.format_1 import SCORES_BYTES
from ft.windows import (
    Blender,
    OriginalCrops,
    WindowPlan,
    cut_windows,
    rising_weights,
    window_grids,
)

PLANS = [
    *(WindowPlan(20, 4, 4, 3), WindowPlan(20, 0, 0, 0), WindowPlan(20, 9, 9, 1), WindowPlan(20, 0, 0, 10)),
    *(WindowPlan(1, 0, 0, 0), WindowPlan(20, 9, 2, 3)),
]


def blender_of(fade: int) -> Blender:
    rise = rising_weights(fade)
    return Blender(rise, rise[::-1])


def song(frames: int) -> np.ndarray:
    """(1, frames, 1): each frame holds its number."""
    return np.arange(frames, dtype=np.complex64).reshape(1, frames, 1)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("frames", [1, 19, 20, 21, 33, 40, 41, 200])
def test_windows_finish_every_frame_once_and_in_order(plan, frames):
    windows = list(cut_windows([song(frames)], plan))
    finished = np.concatenate([window.spec[:, window.finished] for window in windows], axis=1)
    assert np.array_equal(finished, song(frames))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_windows_do_not_depend_on_the_blocks(plan, size):
    whole = list(cut_windows([song(133)], plan))
    parts = list(cut_windows([song(133)[:, start : start + size] for start in range(0, 133, size)], plan))
    assert len(parts) == len(whole)
    for one, other in zip(parts, whole, strict=True):
        assert np.array_equal(one.spec, other.spec) and one.finished == other.finished


@pytest.mark.parametrize("plan", PLANS)
def test_what_is_kept_has_its_context(plan):
    windows = list(cut_windows([song(200)], plan))
    for window in windows:
        frames = window.spec.shape[1]
        first, last = window.spec[0, 0, 0].real, window.spec[0, -1, 0].real
        left = window.finished.start
        right = frames - window.finished.stop - window.fade_out
        assert left >= plan.left or first == 0
        assert right >= plan.right or last == 199
        assert frames == plan.frames or window is windows[-1]


GRIDS = [*([*window_grids(plan, tta=True)] for plan in PLANS), [OriginalCrops(8, 5), OriginalCrops(8, 20)]]


@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize("frames", [1, 7, 8, 9, 20, 21, 133])
def test_every_grid_finishes_every_frame_once_and_in_order(grids, frames):
    windows = list(cut_windows([song(frames)], *grids))
    for number in range(len(grids)):
        own = [window for window in windows if window.grid == number]
        finished = np.concatenate([window.spec[:, window.finished] for window in own], axis=1)
        assert np.array_equal(finished, song(frames))


@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize("size", [1, 7])
def test_the_order_of_the_windows_of_several_grids_does_not_depend_on_the_blocks(grids, size):
    whole = list(cut_windows([song(133)], *grids))
    parts = list(cut_windows([song(133)[:, start : start + size] for start in range(0, 133, size)], *grids))
    for one, other in zip(parts, whole, strict=True):
        assert np.array_equal(one.spec, other.spec) and (one.finished, one.grid) == (other.finished, other.grid)


@pytest.mark.parametrize("grids", GRIDS, ids=str)
def test_no_grid_runs_far_ahead_of_another(grids):
    """What must be held of one until the others have it is less than a window and a stride, however long the song."""
    done = [0] * len(grids)
    for window in cut_windows([song(1000)], *grids):
        done[window.grid] += window.finished.stop - window.finished.start
        assert max(done) - min(done) <= 2 * max(grid.frames for grid in grids)


def test_grids_are_shifted_by_thirds_of_a_stride():
    plan = WindowPlan(20, 4, 4, 2)
    borders: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for window in cut_windows([song(100)], *window_grids(plan, tta=True)):
        borders[window.grid].append(int(window.spec[0, window.finished, 0].real[0]))
    assert [starts[1] for starts in borders.values()] == [14, 11, 8]  # 20 less context and fade, then thirds of 10
    assert all(np.array_equal(np.diff(starts[1:]), [10] * (len(starts) - 2)) for starts in borders.values())


@pytest.mark.parametrize("frames", [1, 8, 16, 17, 50])
def test_crops_of_the_original_stand_between_silence(frames):
    crop, padding = 8, 20
    padded = np.pad(song(frames) + 1, ((0, 0), (padding, padding + crop), (0, 0)))
    windows = list(cut_windows([song(frames) + 1], OriginalCrops(crop, padding)))
    assert len(windows) == -(-frames // crop)
    for index, window in enumerate(windows):
        expected = padded[:, index * crop : index * crop + crop + 2 * padding]
        assert np.array_equal(window.spec[:, : expected.shape[1]], expected)
        assert window.spec.shape[1] == crop + 2 * padding and not window.spec[:, expected.shape[1] :].any()
        assert window.finished.start == padding and window.fade_in == window.fade_out == 0


def test_sizes_of_the_original():
    plan = WindowPlan(20, 4, 4, 2)
    assert window_grids(plan, "original") == [OriginalCrops(512, 1024)]
    assert [(grid.crop, grid.padding) for grid in window_grids(plan, "original", tta=True)] == [
        (256, 256),
        (256, 512),
        (256, 1024),
    ]
    assert window_grids(plan) == [plan]


@pytest.mark.parametrize("plan", PLANS)
def test_fades_sum_to_one(plan):
    blender = blender_of(plan.fade)
    for window in cut_windows([song(200)], plan):
        blended = blender.push(window, np.ones((1, window.spec.shape[1], 4), np.float32))
        np.testing.assert_allclose(blended, 1, atol=1e-6)


def test_a_fade_is_gradual():
    blender = blender_of(3)
    windows = list(cut_windows([song(30)], WindowPlan(20, 4, 4, 3)))
    blender.push(windows[0], np.zeros((1, 20, 1), np.float32))
    blended = blender.push(windows[1], np.ones((1, windows[1].spec.shape[1], 1), np.float32))
    np.testing.assert_allclose(blended[0, :5, 0], [0.25, 0.5, 0.75, 1, 1])


def test_wide_networks_get_shorter_windows():
    """Files of the first format say nothing of windows, and hold the attention of all of a window at once."""
    assert load_model_config("small").segment.seconds == 20
    old = {"preset": "original-gelu", "mask_stem": "instrumental"}
    wide = ModelConfig.from_dict(format_1(model_config_from_yaml({"model": old}, "test")))
    frames = wide.segment.seconds * wide.frame_rate
    assert 10 < wide.segment.seconds < 20
    assert 0.99 * SCORES_BYTES < 4 * frames**2 * 96 * 4 <= SCORES_BYTES  # 4 heads on each of 96 channels


@pytest.mark.parametrize("preset", ["small", "original-gelu"])
@pytest.mark.parametrize("hop_length", [512, 1024])
@pytest.mark.parametrize("seconds", [1, 11.9, 12.1, 30, 61, 240, 3600])
def test_defaults_run_few_frames_twice(preset, hop_length, seconds):
    config = changed(load_model_config(preset), hop_length=hop_length)
    plan = WindowPlan.of(config.segment, config.frame_rate)
    frames = round(seconds * config.frame_rate)
    run = sum(window.spec.shape[1] for window in cut_windows([song(frames)], plan))
    assert run <= 1.35 * frames
    assert plan.cost <= 1.35


def test_a_segment_may_have_a_fixed_number_of_frames_and_look_less_ahead_than_behind():
    assert WindowPlan.of(Segment(context=0.5, lookahead=0.1, frames=96), 100.0) == WindowPlan(
        96, 50, 10, 2, multiple=96
    )
    assert WindowPlan.of(Segment(seconds=1.2, context=0.1, overlap=0, multiple=64), 100.0).frames == 128


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((12, 6, 0), "12: expected more than the 12 seconds of its context"),
        ((12, -1, 0), "context: -1, expected 0 or more"),
        ((12, 1, 0.6), "overlap: 0.6, expected 0 to 0.5"),
        ((float("nan"), 1, 0), "nan: expected more"),
        ((float("inf"), 1, 0), "inf: expected more"),
        ((0.014, 0.006, 0), "are all context"),
    ],
)
def test_impossible_plans_are_refused(arguments, text):
    seconds, context, overlap = arguments
    with pytest.raises(ConfigError, match=text):
        WindowPlan.of(Segment(seconds, context, overlap=overlap), 100.0)
