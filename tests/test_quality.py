"""What raises the quality: several grids, the original's windows, postprocess and several models."""

import dataclasses
import re
import weakref
from collections import deque

import numpy as np
import pytest
import soundfile
from ft.separate.masks import GridMean
from ft.separate.song_stream import SongStream
from oracle import load, separate
from stubs import StubEngine, WaveformStub, all_ones, each_frame_alone, stub_config, with_neighbours

from engines.base import Array
from engines.runner import Runner
from ft.dsp import istft, magnitude, stft
from ft.errors import ConfigError, EngineError
from ft.options import SeparateOptions
from ft.separate import Separator, song_stream
from ft.windows import WindowPlan, cut_windows, window_grids

RATE = 8000
SHORT = {"segment_seconds": 0.5, "context_seconds": 0.05, "overlap": 0.1}
"""Windows of 125 frames of the stub model, so that a second holds several."""
N_FFT, HOP, BINS = 64, 32, 32
"""Of the stub model."""


def noise(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def streamed(separator: Separator, mixture: np.ndarray, size: int, peak: float | None = None) -> np.ndarray:
    blocks = (mixture[:, start : start + size] for start in range(0, mixture.shape[1], size))
    return np.concatenate([part["vocals"] for part in separator.stream(blocks, RATE, peak)], axis=1)


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
    peak = separator.track_peak([mixture], RATE) if known else None
    whole = streamed(separator, mixture, mixture.shape[1], peak)
    for size in (61, 7001):
        np.testing.assert_allclose(streamed(separator, mixture, size, peak), whole, atol=1e-5)


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
    plan = WindowPlan.from_seconds(0.5, 0.05, 0, RATE / HOP)
    masks = np.zeros((3, frames), np.float32)
    for grid, shift in enumerate((0, plan.stride // 3, plan.stride * 2 // 3)):
        start = 0
        length = plan.frames - shift
        while True:
            last = start + length >= frames
            length = min(length, frames - start)
            begin = plan.context if start else 0
            end = length if last else length - plan.context
            masks[grid, start + begin : start + end] = np.linspace(0, 1, length)[begin:end]
            if last:
                break
            start, length = start + end - plan.context, plan.frames
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
    audio = dataclasses.replace(oracle.config.audio, normalize="track", extend_mask=0)
    oracle.config = dataclasses.replace(oracle.config, audio=audio, mask_stem="vocals")
    engine = StubEngine(lambda batch: oracle.mask(torch.from_numpy(batch)).numpy(), oracle.config)
    found = Separator(engine, windows="original").separate(mixture.T, rate)
    expected = separate(oracle, np.ascontiguousarray(mixture.T))
    assert np.abs(expected["vocals"]).max() > 0.01
    np.testing.assert_allclose(found["vocals"], expected["vocals"], atol=1e-6)


def test_memory_of_several_grids_does_not_grow_with_the_song():
    plan = WindowPlan(40, 4, 3)
    for grids in (window_grids(plan, tta=True), window_grids(plan, "original", tta=True)):
        mean, most = GridMean(grids), 0
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

    monkeypatch.setattr(song_stream, "cut_windows", watched)
    engines = [StubEngine(all_ones) for _ in range(models)]
    for engine in engines:
        engine.batches = deque(maxlen=0)
    separator = Separator(engines, **options)
    list(separator.stream((noise(4000, seed=seed) for seed in range(40)), RATE))
    assert len(alive) > 15
    assert most <= 8


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
    engines = [StubEngine(each_frame_alone), StubEngine(all_ones, stub_config("instrumental"))]
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
    runners = [Runner(engine, size) for engine, size in zip(engines, (3, 1), strict=True)]
    for engine in engines:
        engine.open()
    plan = WindowPlan.from_seconds(0.5, 0.05, 0.1, RATE / HOP)
    peak = float(magnitude(stft(mixture, N_FFT, HOP)).max())
    list(SongStream(runners, plan, SeparateOptions()).stems([mixture], RATE, peak))
    assert max(len(batch) for batch in engines[0].batches) == 3
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


@pytest.mark.parametrize(
    ("audio", "text"),
    [
        ({"sample_rate": 16000}, "sample_rate 16000 and the first one (stub) 8000"),
        ({"n_fft": 256}, "n_fft 256 and the first one (stub) 128"),
        ({"hop_length": 16}, "hop_length 16 and the first one (stub) 32"),
        ({"bins": 64}, "bins 64 and the first one (stub) 32; expected models that agree in it"),
    ],
)
def test_models_that_read_other_spectrograms_are_refused(audio, text):
    configs = [stub_config(**{"n_fft": 128, **changes}) for changes in ({}, {}, audio)]
    with pytest.raises(ConfigError, match=re.escape(f"ensemble: model 3 (stub) has {text}")):
        Separator([StubEngine(all_ones, config) for config in configs])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"tta": True}, "--tta"),
        ({"windows": "original"}, "--windows original"),
        ({"postprocess": True}, "--postprocess"),
    ],
)
def test_what_needs_masks_is_refused_for_models_that_give_none(options, name):
    runner = Runner(WaveformStub(all_ones), 1)
    with pytest.raises(ConfigError, match=f"^{name}: none takes waveforms and gives no masks"):
        SongStream([runner], WindowPlan(20, 4, 2), SeparateOptions(**options))


@pytest.mark.parametrize("order", [1, -1])
def test_an_ensemble_needs_masks(order):
    runners = [Runner(StubEngine(all_ones), 1), Runner(WaveformStub(all_ones), 1)][::order]
    with pytest.raises(ConfigError, match=r"^--ensemble: none takes waveforms"):
        SongStream(runners, WindowPlan(20, 4, 2), SeparateOptions())


def stems_and_read(engine, eager: bool, options: SeparateOptions, plan: WindowPlan) -> list[tuple[int, int]]:
    """(samples read, samples given) whenever stems come."""
    engine.open()
    read = given = 0
    pairs = []

    def blocks():
        nonlocal read
        for seed in range(200):
            read += HOP
            yield noise(HOP, seed=seed)

    for part in SongStream([Runner(engine, 4)], plan, options).stems(blocks(), RATE, eager=eager):
        given += part["vocals"].shape[1]
        pairs.append((read, given))
    assert given == 200 * HOP
    return pairs


@pytest.mark.parametrize("kind", [StubEngine, WaveformStub])
def test_eager_stems_come_before_anything_behind_their_window_is_read(kind):
    plan = WindowPlan(20, 4, 2)
    pairs = stems_and_read(kind(all_ones), True, SeparateOptions(), plan)
    # A window and one frame; a frame is complete with the hop behind its centre.
    assert pairs[0][0] <= (plan.frames + 1) * HOP
    delay = max(read - given for read, given in pairs[:-1])
    assert delay <= (plan.stride + plan.context + plan.fade + 5) * HOP
    assert len(pairs) >= 200 // plan.stride
    late = stems_and_read(kind(all_ones), False, SeparateOptions(), plan)
    assert late[0][0] > pairs[0][0]


def test_eager_stems_are_the_same_as_others():
    mixture = noise(20_000)
    for options in (SeparateOptions(), SeparateOptions(tta=True), SeparateOptions(postprocess=True)):
        engine = StubEngine(with_neighbours(3))
        engine.open()
        found = []
        for eager in (False, True):
            song = SongStream([Runner(engine, 3)], WindowPlan(60, 6, 4), options)
            parts = [part["vocals"] for part in song.stems([mixture], RATE, eager=eager)]
            found.append(np.concatenate(parts, axis=1))
        np.testing.assert_allclose(found[1], found[0], atol=1e-6)
