"""What raises the quality: several grids, the original's windows, postprocess and several models."""

import weakref
from collections import deque

import numpy as np
import pytest
import soundfile
from networks import changed
from oracle import load, separate
from stubs import StubEngine, WaveformStub, all_ones, each_frame_alone, noise, streamed, stub_config, with_neighbours

from engines.base import Array
from engines.runner import Runner
from ft.config import Segment
from ft.dsp import istft, magnitude, stft
from ft.errors import ConfigError, EngineError
from ft.options import SeparateOptions
from ft.separate import Separator, stream
from ft.separate.back import GridMean
from ft.separate.stream import ModelStream, SongStream
from ft.windows import Blender, WindowPlan, cut_windows, rising_weights, window_grids

RATE = 8000
SHORT = {"segment_seconds": 0.5, "context_seconds": 0.05, "overlap": 0.1}
"""Windows of 125 frames of the stub model, so that a second holds several."""
N_FFT, HOP, BINS = 64, 32, 32
"""Of the stub model."""


def vocals_of(mask: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """Vocals by a mask (channels, 32 bins, frames) of the vocals; above it they are silent."""
    spec = stft(mixture, N_FFT, HOP)
    return istft(spec * np.pad(mask, ((0, 0), (0, 1), (0, 0))), N_FFT, HOP, mixture.shape[1])


def position(batch: Array) -> Array:
    """A mask that depends on where in its window a frame stands, so that borders are seen."""
    ramp = np.linspace(0, 1, batch.shape[3], dtype=np.float32)
    return np.broadcast_to(ramp, batch.shape).copy()


def constant(value: float):
    return lambda batch: np.full_like(batch, value)


QUALITIES = [
    {"tta": True, **SHORT},
    {"windows": "original"},
    {"windows": "original", "tta": True},
    {"postprocess": True, **SHORT},
    {"tta": True, "postprocess": True, **SHORT},
]


@pytest.mark.parametrize("options", QUALITIES, ids=str)
@pytest.mark.parametrize("samples", [1, 33, 1000, 20_001])
@pytest.mark.parametrize("channels", [1, 2])
def test_stems_have_the_mixtures_length_and_sum_to_it(options, samples, channels):
    mixture = noise(samples, channels)
    stems = Separator(StubEngine(each_frame_alone), **options).separate(mixture, RATE)
    assert stems["vocals"].shape == mixture.shape
    np.testing.assert_allclose(stems["vocals"] + stems["instrumental"], mixture, atol=1e-6)


@pytest.mark.parametrize("options", QUALITIES, ids=str)
@pytest.mark.parametrize("known", [True, False])
def test_the_result_does_not_depend_on_the_blocks(options, known):
    """Not even where every window is scaled by the peak of what came before it, on whichever grid."""
    mixture = noise(20_007) * np.linspace(0.1, 1, 20_007, dtype=np.float32)
    separator = Separator(StubEngine(np.sqrt, stub_config(normalize="track")), **options)
    levels = separator.levels([mixture], RATE) if known else None
    whole = streamed(separator, mixture, RATE, mixture.shape[1], levels)["vocals"]
    for size in (61, 7001):
        np.testing.assert_allclose(streamed(separator, mixture, RATE, size, levels)["vocals"], whole, atol=1e-5)


@pytest.mark.parametrize("options", QUALITIES[:3], ids=str)
def test_a_mask_of_each_frame_alone_is_the_same_on_every_grid(options):
    mixture = noise(20_007)
    expected = Separator(StubEngine(each_frame_alone)).separate(mixture, RATE)["vocals"]
    found = Separator(StubEngine(each_frame_alone), **options).separate(mixture, RATE)["vocals"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tta_is_the_mean_of_three_shifted_grids():
    """Against windows cut from the whole song by hand; without fades every frame belongs to one window of each grid."""
    mixture = noise(30_011)
    frames = stft(mixture, N_FFT, HOP).shape[2]
    plan = WindowPlan.of(Segment(0.5, 0.05, overlap=0), RATE / HOP)
    masks = np.zeros((3, frames), np.float32)
    for grid, shift in enumerate((0, plan.stride // 3, plan.stride * 2 // 3)):
        start = 0
        length = plan.frames - shift
        while True:
            last = start + length >= frames
            length = min(length, frames - start)
            begin = plan.left if start else 0
            end = length if last else length - plan.left
            masks[grid, start + begin : start + end] = np.linspace(0, 1, length)[begin:end]
            if last:
                break
            start, length = start + end - plan.left, plan.frames
    expected = vocals_of(np.broadcast_to(masks.mean(axis=0), (2, BINS, frames)), mixture)
    settings = {**SHORT, "overlap": 0}
    found = Separator(StubEngine(position), **settings, tta=True).separate(mixture, RATE)["vocals"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    engine = StubEngine(position)
    Separator(engine, **settings, tta=True).separate(mixture, RATE)
    assert engine.frames_run <= 3 * plan.cost * frames + 3 * plan.frames


def original_mask(mask, values: np.ndarray, crop: int, padding: int) -> np.ndarray:
    """Spec A.10 on whole arrays: `values` (channels, bins, frames) in 0..1 to a mask of that shape."""
    frames = values.shape[2]
    right = crop - frames % crop
    padded = np.pad(values, ((0, 0), (0, 0), (padding, right + padding)))
    masks = []
    for start in range(0, frames + right, crop):
        masks.append(mask(padded[None, :, :, start : start + crop + 2 * padding])[0, :, :, padding : padding + crop])
    return np.concatenate(masks, axis=2)[:, :, :frames]


@pytest.mark.parametrize("frames", [1, 100, 255, 511, 512, 513, 1024, 1500])
@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("network", [position, with_neighbours(40)], ids=["position", "neighbours"])
def test_windows_of_the_original_are_those_of_its_description(frames, tta, network):
    mixture = noise(max((frames - 1) * HOP, 1))
    values = magnitude(stft(mixture, N_FFT, HOP))
    assert values.shape[2] == frames or frames == 1
    scaled = values[:, :BINS] / values.max()
    sizes = [(256, 256), (256, 512), (256, 1024)] if tta else [(512, 1024)]
    mask = np.mean([original_mask(network, scaled, *size) for size in sizes], axis=0)
    separator = Separator(StubEngine(network, stub_config(normalize="track")), windows="original", tta=tta)
    np.testing.assert_allclose(separator.separate(mixture, RATE)["vocals"], vocals_of(mask, mixture), atol=1e-6)


def test_a_real_network_gives_what_the_plain_implementation_gives(tiny_checkpoint, example):
    import torch

    mixture, rate = soundfile.read(example / "mixture.flac", frames=80_000, dtype="float32", always_2d=True)
    oracle = load(str(tiny_checkpoint))
    # The plain implementation scales by the song's peak and has no mask above the network's bins.
    oracle.config = changed(oracle.config, scale="track-peak")
    engine = StubEngine(lambda batch: oracle.mask(torch.from_numpy(batch)).numpy(), oracle.config)
    found = Separator(engine, windows="original").separate(mixture.T, rate)
    expected = separate(oracle, np.ascontiguousarray(mixture.T))
    assert np.abs(expected["vocals"]).max() > 0.01
    np.testing.assert_allclose(found["vocals"], expected["vocals"], atol=1e-6)


def test_memory_of_several_grids_does_not_grow_with_the_song():
    plan = WindowPlan(40, 4, 4, 3)
    for grids in (window_grids(plan, tta=True), window_grids(plan, "original", tta=True)):
        rises = [rising_weights(grid.fade) for grid in grids]
        mean, most = GridMean([Blender(rise, rise[::-1]) for rise in rises]), 0
        blocks = (np.ones((1, 90, 3), np.complex64) for _ in range(100))
        done = 0
        for window in cut_windows(blocks, *grids):
            spec, mask = mean.push(window, np.ones(window.spec.shape, np.float32))
            assert spec.shape == mask.shape
            done += spec.shape[1]
            most = max(most, mean.waiting)
        assert done == 9000
        assert most <= 2 * max(grid.frames for grid in grids)


@pytest.mark.parametrize("options", [SHORT, {**SHORT, "tta": True}, {"windows": "original", "tta": True}], ids=str)
@pytest.mark.parametrize("models", [1, 3])
def test_windows_are_forgotten_when_they_are_done(options, models, monkeypatch):
    alive: list[weakref.ref] = []
    most = 0

    def watched(*arguments):
        nonlocal most
        for window in cut_windows(*arguments):
            alive.append(weakref.ref(window))
            most = max(most, sum(reference() is not None for reference in alive))
            yield window

    monkeypatch.setattr(stream, "cut_windows", watched)
    engines = [StubEngine(all_ones) for _ in range(models)]
    for engine in engines:
        engine.batches = deque(maxlen=0)
    separator = Separator(engines, **options)
    list(separator.stream((noise(4000, seed=seed) for seed in range(40)), RATE))
    assert len(alive) > 15 * models
    assert most <= 8 * models


def quiet_in_the_middle(batch: Array) -> Array:
    """The vocals' share of each frame, small where the song is quiet."""
    loud = batch.max(axis=(1, 2), keepdims=True) > 0.2
    return np.where(np.broadcast_to(loud, batch.shape), 0.97, 0.3).astype(np.float32)


@pytest.mark.parametrize("mask_stem", ["vocals", "instrumental"])
def test_postprocess_silences_vocals_where_they_are_quiet_for_long(mask_stem):
    level = np.ones(400 * HOP, np.float32)
    level[100 * HOP : 300 * HOP] = 0.01
    mixture = noise(400 * HOP) * level
    network = quiet_in_the_middle if mask_stem == "vocals" else lambda batch: 1 - quiet_in_the_middle(batch)
    engine = StubEngine(network, stub_config(mask_stem, extend_mask=2, normalize="track"))
    plain = Separator(engine, **SHORT).separate(mixture, RATE)["vocals"]
    found = Separator(engine, **SHORT, postprocess=True).separate(mixture, RATE)["vocals"]
    silent, before, after = slice(140 * HOP, 260 * HOP), slice(0, 95 * HOP), slice(305 * HOP, 400 * HOP)
    assert np.abs(plain[:, silent]).max() > 1e-3
    assert np.abs(found[:, silent]).max() < 1e-7  # in all bins, also above those of the network
    for part in (before, after):
        np.testing.assert_allclose(found[:, part], plain[:, part], atol=1e-6)


def test_the_mean_of_models_is_that_of_their_masks():
    mixture = noise(20_000)
    engines = [StubEngine(each_frame_alone), StubEngine(all_ones, stub_config("instrumental", extend_mask=1))]
    found = Separator(engines, **SHORT).separate(mixture, RATE)["vocals"]
    spec = magnitude(stft(mixture, N_FFT, HOP))[:, :BINS]
    np.testing.assert_allclose(found, vocals_of(each_frame_alone(spec[None])[0] / 2, mixture), atol=1e-5)


@pytest.mark.parametrize(
    ("by", "values", "expected"),
    [
        ("mean", (0.1, 0.2, 0.9), 0.4),
        ("median", (0.1, 0.2, 0.9), 0.2),
        ("median", (0.9, 0.1, 0.2), 0.2),
        ("median", (0.1, 0.3), 0.2),
        ("mean", (0.3,), 0.3),
    ],
)
@pytest.mark.parametrize("options", [SHORT, {"windows": "original", "tta": True}], ids=["blended", "original"])
def test_masks_are_combined_by_mean_or_median(by, values, expected, options):
    mixture = noise(9000)
    engines = [StubEngine(constant(value)) for value in values]
    found = Separator(engines, **options, ensemble_by=by).separate(mixture, RATE)["vocals"]
    alone = Separator(StubEngine(constant(expected)), **options).separate(mixture, RATE)["vocals"]
    np.testing.assert_allclose(found, alone, atol=1e-6)


def test_each_model_of_several_has_its_own_scale_and_its_own_batches():
    mixture = noise(30_000) * np.linspace(0.01, 1, 30_000, dtype=np.float32)
    engines = [StubEngine(all_ones, stub_config(normalize=normalize)) for normalize in ("track", "window")]
    Separator(engines, **SHORT).separate(mixture, RATE)
    track, window = (np.concatenate([batch.max(axis=(1, 2, 3)) for batch in engine.batches]) for engine in engines)
    assert len(track) == len(window) > 3
    assert track[0] < 0.2 and (window > 0.7).all()


def test_models_run_in_step_over_a_song():
    """The source is not read to its end for the first model before the second one begins."""
    read = 0

    def blocks():
        nonlocal read
        for seed in range(200):
            read += 1
            yield noise(400, seed=seed)

    stream = Separator([StubEngine(all_ones), StubEngine(all_ones)], **SHORT).stream(blocks(), RATE)
    next(stream)
    assert read < 80
    stream.close()


def test_a_failing_model_of_several_fails_the_song():
    engines = [StubEngine(all_ones), StubEngine(constant(np.nan))]
    with pytest.raises(EngineError, match="not finite"):
        Separator(engines, **SHORT).separate(noise(9000), RATE)


def test_models_of_other_spectrograms_and_rates_vote_together():
    mixture = noise(20_000)
    configs = [stub_config(), stub_config(n_fft=256, hop_length=64, bins=128), stub_config(sample_rate=16_000)]
    engines = [StubEngine(constant(value), config) for value, config in zip((0.9, 0.3, 0.3), configs, strict=True)]
    found = Separator(engines).separate(mixture, RATE)
    alone = [Separator(engine).separate(mixture, RATE)["vocals"] for engine in engines]
    np.testing.assert_allclose(found["vocals"], np.mean(alone, axis=0), atol=1e-6)
    np.testing.assert_allclose(found["vocals"] + found["instrumental"], mixture, atol=1e-6)


@pytest.mark.parametrize("order", [1, -1])
def test_models_of_masks_and_of_waveforms_vote_together(order):
    mixture = noise(20_000)
    engines = [StubEngine(constant(0.2)), WaveformStub(constant(0.4))][::order]
    found = Separator(engines, **SHORT).separate(mixture, RATE)["vocals"]
    np.testing.assert_allclose(found, Separator(StubEngine(constant(0.3))).separate(mixture, RATE)["vocals"], atol=1e-5)


def test_models_without_a_stem_in_common_are_refused():
    other = changed(stub_config(), stems=("drums",), rest="no_drums")
    with pytest.raises(ConfigError, match=r"ensemble: model 2 .* gives drums, no_drums and the first one vocals"):
        Separator([StubEngine(all_ones), StubEngine(all_ones, other)])


def test_postprocess_is_refused_for_models_that_give_no_masks():
    with pytest.raises(ConfigError, match=r"^`postprocess`: none gives no masks of vocals"):
        Separator(WaveformStub(all_ones), postprocess=True)


def song_stream(engine, batch_size: int, plan: WindowPlan, options: SeparateOptions) -> SongStream:
    engine.open()
    return SongStream([ModelStream(Runner(engine, batch_size), plan, options)])


def stems_and_read(engine, eager: bool, options: SeparateOptions, plan: WindowPlan) -> list[tuple[int, int]]:
    """(samples read, samples given) whenever stems come."""
    read = given = 0
    pairs = []

    def blocks():
        nonlocal read
        for seed in range(200):
            read += HOP
            yield noise(HOP, seed=seed)

    for part in song_stream(engine, 4, plan, options).stems(blocks(), RATE, [None], eager=eager):
        given += part["vocals"].shape[1]
        pairs.append((read, given))
    assert given == 200 * HOP
    return pairs


@pytest.mark.parametrize("kind", [StubEngine, WaveformStub])
def test_eager_stems_come_before_anything_behind_their_window_is_read(kind):
    plan = WindowPlan(20, 4, 4, 2)
    pairs = stems_and_read(kind(all_ones), True, SeparateOptions(), plan)
    # A window and one frame; a frame is complete with the hop behind its centre.
    assert pairs[0][0] <= (plan.frames + 1 + (kind is WaveformStub)) * HOP
    delay = max(read - given for read, given in pairs[:-1])
    assert delay <= (plan.stride + plan.left + plan.fade + 5) * HOP
    assert len(pairs) >= 200 // plan.stride
    late = stems_and_read(kind(all_ones), False, SeparateOptions(), plan)
    assert late[0][0] > pairs[0][0]


def test_eager_stems_are_the_same_as_others():
    mixture = noise(20_000)
    for options in (SeparateOptions(), SeparateOptions(tta=True), SeparateOptions(postprocess=True)):
        found = []
        for eager in (False, True):
            song = song_stream(StubEngine(with_neighbours(3)), 3, WindowPlan(60, 6, 6, 4), options)
            parts = [part["vocals"] for part in song.stems([mixture], RATE, [None], eager=eager)]
            found.append(np.concatenate(parts, axis=1))
        np.testing.assert_allclose(found[1], found[0], atol=1e-6)
