"""The network: its geometry, and each part against a formula written down a second time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from networks import DENSE, golden, random_input, tiny_config, tiny_model

from ft.config import Network, load_model_config
from ft.models import count_parameters, make_network
from ft.models.frame_layers import (
    FrameConvolution,
    FrameDrop,
    FrameNorm,
    MultichannelLinear,
    MultichannelMultiheadAttention,
    RotaryEmbedding,
    mix_channels,
)
from ft.models.frame_transformer import Config

COUNTS = {
    "original-dense": 329_654_232,
    "original-gelu": 357_493_618,
    "original": 353_026_426,
    "base": 357_493_618,
}

# Of original-gelu, module by module, as the original implementation gives them.
MODULE_COUNTS = {
    "enc1": 12_584_992,
    "enc1_transformer": 50_336_124,
    "enc2": 18_876_544,
    "enc2_transformer": 25_168_360,
    "enc3": 9_438_720,
    "enc3_transformer": 12_584_640,
    "enc4": 4_196_160,
    "enc4_transformer": 4_719_888,
    "enc5": 1_774_336,
    "enc5_transformer": 2_360_916,
    "enc6": 903_296,
    "enc6_transformer": 1_182_402,
    "dec5": 2_179_008,
    "dec5_transformer": 3_148_840,
    "dec4": 4_329_792,
    "dec4_transformer": 6_293_792,
    "dec3": 10_750_208,
    "dec3_transformer": 16_780_160,
    "dec2": 23_070_656,
    "dec2_transformer": 33_558_480,
    "dec1": 46_140_528,
    "dec1_transformer": 67_115_768,
}

# (channels, expansion) -> original-dense, original-gelu, original; all at n_fft 2048, stereo.
OTHER_COUNTS = {
    (2, 2): (135_345_876, 148_933_620, 147_085_384),
    (4, 2): (266_567_768, 293_661_554, 289_948_026),
    (8, 4): (655_525_328, 710_852_494, 701_859_678),
}


@pytest.mark.parametrize("preset", COUNTS)
def test_parameter_count(preset):
    assert count_parameters(load_model_config(preset)) == COUNTS[preset]


@pytest.mark.parametrize("size", OTHER_COUNTS)
def test_parameter_count_at_other_sizes(size):
    channels, expansion = size
    models = [load_model_config(name) for name in ("original-dense", "original-gelu", "original")]
    counts = []
    for config in models:
        numbers = {**config.network.numbers, "channels": channels, "expansion": expansion}
        counts.append(count_parameters(replace(config, network=Network(config.network.kind, numbers))))
    assert tuple(counts) == OTHER_COUNTS[size]


def test_parameter_count_of_each_module():
    with torch.device("meta"):
        model = make_network(load_model_config("original-gelu"))
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    assert counts == MODULE_COUNTS
    assert model.out.numel() == 8


@pytest.mark.parametrize(("name", "tensors"), [("original-dense", 420), ("original-gelu", 381), ("original", 381)])
def test_state_dict_has_the_names_of_the_original(name, tensors):
    with torch.device("meta"):
        names = set(make_network(load_model_config(name)).state_dict())
    assert len(names) == tensors
    assert names == set(golden(name)[0])


@pytest.mark.parametrize("shape", [(1, 2, 65, 9), (1, 1, 64, 9), (2, 64, 9)])
def test_another_shape_is_refused_with_the_expected_one(shape):
    with pytest.raises(ValueError, match=r"2 channels, 64 bins, frames"):
        tiny_model()(torch.zeros(shape))


def test_batch_items_do_not_meet():
    model = tiny_model()
    x = random_input(model.model_config, 21, batch=3)
    with torch.inference_mode():
        together = model(x)
        alone = torch.cat([model(item[None]) for item in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_every_weight_but_the_unused_norm_moves_the_logits():
    model = tiny_model(tiny_config(**DENSE))
    model(random_input(model.model_config, 12)).square().sum().backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert {name.split(".", 1)[1] for name in still} == {"norm3.norm.weight", "norm3.norm.bias"}
    assert all(name.startswith("enc") for name in still)


def test_linear_is_position_wise_then_depth_wise():
    linear = MultichannelLinear(3, 5, 8, 6)
    x = torch.randn(2, 3, 7, 8)
    assert linear.weight_pw is not None and linear.weight_dw is not None
    expected = torch.einsum("ec,cfo,bctf->beto", linear.weight_dw, linear.weight_pw, x)
    torch.testing.assert_close(linear(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "variant",
    [{}, DENSE, {"attention_conv": "none", "rotary": "none", "qk_norm": False}, {"standardize": True}],
    ids=str,
)
def test_network_and_gradients_are_the_same_in_training(variant):
    """Training takes its products in another order, and attention apart; what comes out must not tell."""
    config = tiny_config(dropout=0.0, frame_dropout=0.0, **variant)
    model, x = tiny_model(config).double(), random_input(config, 20).double()
    wanted, found = {}, {}
    for mode, gradients in ((False, wanted), (True, found)):
        model.train(mode).zero_grad()
        logits = model(x)
        logits.square().mean().backward()
        gradients |= {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        gradients["logits"] = logits.detach()
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"transformer": False}, "_transformer."),
        ({"heads": (0, 0)}, ".attn"),
        ({"attention_conv": "none"}, "_proj.1.weight"),
        ({"qk_norm": False}, ".q_norm."),
    ],
    ids=str,
)
def test_a_part_that_is_left_out_has_no_weights_and_the_rest_keeps_its_names(change, gone):
    whole, part = tiny_model().state_dict(), tiny_model(tiny_config(**change)).state_dict()
    assert part.keys() < whole.keys()
    assert any(gone in name for name in whole) and not any(gone in name for name in part)
    logits = tiny_model(tiny_config(**change))(random_input(tiny_config(), 9))
    assert logits.shape == random_input(tiny_config(), 9).shape and torch.isfinite(logits).all()


def test_without_rotary_embedding_the_order_of_frames_is_known_by_the_convolution_alone():
    config = tiny_config(rotary="none", attention_conv="none")
    model, x = tiny_model(config), random_input(config, 12)
    order = torch.randperm(12)
    torch.testing.assert_close(model(x)[..., order], model(x[..., order]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("sizes", "flags", "has"),
    [
        ((2, 2, 8, 8), (True, True), (True, True)),
        ((2, 2, 8, 8), (False, False), (False, False)),
        ((2, 3, 8, 8), (False, False), (False, True)),
        ((2, 2, 8, 4), (False, False), (True, False)),
        ((2, 3, 8, 4), (False, False), (True, True)),
        ((2, 2, 8, 8), (True, False), (True, False)),
        ((2, 2, 8, 8), (False, True), (False, True)),
    ],
)
def test_linear_has_a_weight_where_something_changes_or_is_asked_for(sizes, flags, has):
    linear = MultichannelLinear(*sizes, *flags)
    assert (linear.weight_pw is not None, linear.weight_dw is not None) == has
    x = torch.randn(1, sizes[0], 3, sizes[2])
    assert linear(x).shape == (1, sizes[1], 3, sizes[3])


def test_linear_starts_within_its_bounds():
    linear = MultichannelLinear(16, 32, 400, 100)
    for weight, fan_in in ((linear.weight_pw, 400), (linear.weight_dw, 16)):
        assert weight is not None
        bound = 1 / math.sqrt(fan_in)
        assert 0.95 * bound < weight.abs().max() <= bound
        assert abs(weight.mean()) < 0.1 * bound


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(16, 128, 384), (1, 2, 3)], ids=str)
def test_the_gradient_of_channel_mixing_comes_out_in_bfloat16(shape, one_thread):
    """Of the first shape, on one thread, the plain product ends the process on processors with AMX."""
    batch, frames, features = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 2, frames, features, generator=generator)
    weight = torch.randn(2, 2, generator=generator)
    gradients = []
    for inputs, mixing in (((x, weight), True), ((x.bfloat16(), weight.bfloat16()), True), ((x, weight), False)):
        given = [value.clone().requires_grad_() for value in inputs]
        mix_channels(*given, whole=mixing).square().sum().backward()
        gradients.append([value.grad.float() for value in given])
    for whole, half, plain in zip(*gradients, strict=True):
        # Sums of 786,432 float32 values each, in another order: up to 4e-4 of the largest apart.
        torch.testing.assert_close(whole, plain, rtol=0, atol=1e-3 * plain.abs().max().item())
        assert (half - plain).norm() < 0.02 * plain.norm()


def test_norm_is_over_the_features_of_each_frame_with_one_affine_pair():
    norm = FrameNorm(64)
    x = torch.randn(2, 3, 5, 64) * 7 + 2
    plain = norm(x)
    torch.testing.assert_close(plain.mean(-1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.var(-1, unbiased=False), torch.ones(2, 3, 5), atol=1e-4, rtol=0)
    with torch.no_grad():
        norm.norm.weight.copy_(torch.randn(64))
        norm.norm.bias.copy_(torch.randn(64))
    torch.testing.assert_close(norm(x), plain * norm.norm.weight + norm.norm.bias)
    assert sum(p.numel() for p in norm.parameters()) == 128


def rotate(rotary, x):
    return rotary(x, *rotary.angles(x.shape[2]))


def test_rotary_turns_by_frame_times_frequency():
    rotary = RotaryEmbedding(16, "fixed")
    assert torch.allclose(rotary.freqs, torch.tensor([10000 ** (-2 * i / 8) for i in range(4)]))
    x = torch.randn(1, 1, 6, 16)
    values = torch.view_as_complex(x[..., :8].unflatten(-1, (4, 2)).contiguous())
    angle = torch.arange(6.0)[:, None] * rotary.freqs
    expected = torch.view_as_real(values * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
    torch.testing.assert_close(rotate(rotary, x)[..., :8], expected)


def test_rotary_is_learned_or_a_buffer_under_one_name():
    assert list(dict(RotaryEmbedding(8, "learned").named_parameters())) == ["freqs"]
    fixed = RotaryEmbedding(8, "fixed")
    assert not list(fixed.parameters()) and list(fixed.state_dict()) == ["freqs"]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_rotary_of_a_narrow_head_does_nothing(width):
    rotary = RotaryEmbedding(width, "learned")
    x = torch.randn(1, 2, 5, width)
    assert rotary.freqs.numel() == 0
    assert torch.equal(rotate(rotary, x), x)


def attention(channels=3, features=32, heads=4, **changes):
    config = Config(**changes)
    torch.manual_seed(0)
    module = MultichannelMultiheadAttention(channels, features, heads, config).eval()
    with torch.no_grad():
        for norm in (module.q_norm, module.k_norm):
            norm.norm.weight.add_(torch.randn(features // heads) * 0.3)
            norm.norm.bias.add_(torch.randn(features // heads) * 0.3)
    return module


@pytest.mark.parametrize(("conv", "reached"), [("grouped", [1]), ("full", [0, 1, 2])])
def test_channels_meet_in_attention_only_through_a_full_convolution(conv, reached):
    module = attention(attention_conv=conv)
    x = torch.randn(1, 3, 9, 32)
    touched = x.clone()
    touched[:, 1] += 1
    difference = (module(touched) - module(x)).abs().amax(dim=(0, 2, 3))
    assert [channel for channel in range(3) if difference[channel] > 0] == reached


def test_a_head_one_value_wide_is_legal():
    model = tiny_model(tiny_config(heads=(64, 32)))
    assert all(m.head_width == 1 for m in model.modules() if isinstance(m, MultichannelMultiheadAttention))
    assert torch.isfinite(model(random_input(model.model_config, 5))).all()


@pytest.mark.parametrize("frames", [1, 4, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_convolution_is_the_same_map_in_training(frames, channels):
    convolution = FrameConvolution(channels, channels)
    results = []
    for mode in (True, False):
        x = torch.randn(2, channels, frames, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = convolution.train(mode)(x)
        weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
        results.append((y, *torch.autograd.grad((y * weights).sum(), (x, convolution.weight))))
    for trained, plain in zip(*results, strict=True):
        torch.testing.assert_close(trained, plain, atol=1e-4, rtol=1e-4)


def test_convolution_is_the_plain_one_beyond_the_longest_band(monkeypatch):
    convolution = FrameConvolution(2, 2).train()
    monkeypatch.setattr(FrameConvolution, "LONGEST_BAND", 8)
    monkeypatch.setattr(FrameConvolution, "_band", lambda self, frames: pytest.fail("a band of too many frames"))
    assert convolution(torch.randn(1, 2, 9, 4)).shape == (1, 2, 9, 4)


def test_standardised_bins_have_the_same_spread_after_the_fit_and_the_logits_are_scaled_and_shifted():
    model_config = tiny_config(standardize=True)
    channels, bins = model_config.channels, model_config.front.used_bins
    model, plain = tiny_model(model_config).eval(), tiny_model(tiny_config()).eval()
    spread = torch.logspace(0, -1.5, bins)[:, None]
    x = (0.3 * spread * torch.randn(4, channels, bins, 200) - spread).float()
    model.fit(x)
    found = model.standard_in(model.prepared(x).transpose(2, 3))
    torch.testing.assert_close(found.mean((0, 2)), torch.zeros(channels, bins), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std((0, 2)), torch.ones(channels, bins), atol=0.02, rtol=0)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "standard" not in name})
    with torch.no_grad():
        model.standard_out.scale.fill_(2.0)
        model.standard_out.shift.fill_(0.5)
        expected = 2 * plain(found.transpose(2, 3), prepared=True) + 0.5
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_a_bin_that_is_always_silent_is_not_raised_without_end():
    model = tiny_model(tiny_config(standardize=True))
    silent = torch.zeros(2, 2, 64, 8)
    model.fit(silent)
    assert torch.isfinite(model(silent)).all()
    some = silent.clone()
    some[:, :, 0] = torch.randn(2, 2, 8)
    model.fit(some)
    assert (
        model.standard_in.scale.max()
        <= 1.01 * model.standard_in.scale[..., 0].min() / model.standard_in.LEAST_DEVIATION
    )


def test_dropout_acts_in_training_only_and_in_both_kinds_of_blocks():
    for only in ("dropout", "frame_dropout"):
        rates = {"dropout": 0.0, "frame_dropout": 0.0, only: 0.5}
        model = tiny_model(tiny_config(**rates))
        x = random_input(model.model_config, 6)
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))
    assert isinstance(model.enc1.dropout, FrameDrop)
