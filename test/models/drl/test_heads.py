# SPDX-License-Identifier: Apache-2.0
"""Heads and necks against naive loops, with the published parameter counts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from geoloc_models.drl.heads import (
    AttentionFusion,
    AveragePool,
    Enlarge,
    GeneralizedMean,
    GroupCorrelation,
    LinearChain,
    SoftmaxPool,
    correlate,
)
from geoloc_models.drl.necks import ChannelConvert, FeaturePyramid, SimplePyramid
from geoloc_models.errors import GeolocError


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def naive_correlation(x: np.ndarray, z: np.ndarray, padding: bool) -> np.ndarray:
    """One map (C, H, W) and one kernel (C, h, w) in float64, zeros outside the map if padded."""
    _, height, width = x.shape
    _, h, w = z.shape
    pad_h, pad_w = (h // 2, w // 2) if padding else (0, 0)
    padded = np.pad(x.astype(np.float64), ((0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    out = np.zeros((height + 2 * pad_h - h + 1, width + 2 * pad_w - w + 1))
    for row in range(out.shape[0]):
        for col in range(out.shape[1]):
            out[row, col] = (padded[:, row : row + h, col : col + w] * z).sum()
    return out


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize(
    ("map_size", "kernel_size"), [((24, 24), (8, 8)), ((15, 22), (6, 10)), ((12, 13), (3, 5)), ((9, 30), (8, 7))]
)
def test_correlation_by_fft_equals_naive_loops(
    map_size: tuple[int, int], kernel_size: tuple[int, int], padding: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, *map_size, generator=generator)
    z = torch.randn(4, 5, *kernel_size, generator=generator)
    scores = correlate(x, z, padding)
    for index in range(4):  # two consecutive queries a map
        expected = naive_correlation(x[index // 2].numpy(), z[index].numpy(), padding)
        np.testing.assert_allclose(scores[index, 0].numpy(), expected, atol=1e-4)


def test_published_group_correlation() -> None:
    """128 channels, 8x8 over 24x24, padding 4, one group a sample: 25x25, 33,025 parameters."""
    torch.manual_seed(1)
    head = GroupCorrelation(128).double()
    assert parameters(head) == 33_025
    assert head.scale.item() == pytest.approx(3e-5)
    z, x = torch.randn(3, 128, 8, 8, dtype=torch.float64), torch.randn(3, 128, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        logits = head(z, x)
        kernel, source = head.project_z(z), head.project_x(x)
        expected = functional.conv2d(source.reshape(1, 3 * 128, 24, 24), kernel, padding=4, groups=3)[0] * head.scale
    assert logits.shape == (3, 1, 25, 25)
    torch.testing.assert_close(logits[:, 0].double(), expected, rtol=1e-4, atol=1e-6)
    # Without padding 17x17: the inner part.
    unpadded = GroupCorrelation(128, padding=False).double()
    unpadded.load_state_dict(head.state_dict())
    with torch.no_grad():
        inner = unpadded(z, x)
    assert inner.shape == (3, 1, 17, 17)
    torch.testing.assert_close(logits[:, :, 4:21, 4:21], inner, rtol=1e-4, atol=1e-6)


def test_query_larger_than_an_unpadded_map_is_refused() -> None:
    with pytest.raises(GeolocError, match=r"10x8 cells .* 12x7"):
        correlate(torch.zeros(1, 3, 7, 12), torch.zeros(1, 3, 8, 10), padding=False)


def test_correlation_peaks_where_the_query_was_cut_out() -> None:
    x = torch.randn(1, 16, 30, 40, generator=torch.Generator().manual_seed(3))
    z = x[:, :, 9:17, 20:28]
    best = correlate(x, z)[0, 0].argmax().item()
    assert divmod(best, 41) == (13, 24)  # cell edges: the middle of rows 9..16 is edge 13


def test_correlation_has_gradients() -> None:
    x = torch.randn(1, 3, 7, 6, requires_grad=True)
    z = torch.randn(1, 3, 4, 4, requires_grad=True)
    weights = torch.randn(1, 1, 8, 7)
    by_fft = torch.autograd.grad((correlate(x, z) * weights).sum(), (x, z))
    by_convolution = torch.autograd.grad((functional.conv2d(x, z, padding=2) * weights).sum(), (x, z))
    for first, second in zip(by_fft, by_convolution, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_pooling_heads() -> None:
    x = torch.randn(2, 128, 6, 5)
    mean = x.mean(1, keepdim=True)
    assert torch.equal(AveragePool()(x), mean)
    pool = SoftmaxPool(128)
    assert parameters(pool) == 128
    torch.testing.assert_close(pool(x), mean, rtol=1e-4, atol=1e-6)  # the plain mean at first
    with torch.no_grad():
        pool.p[7] = 50.0
    torch.testing.assert_close(pool(x)[:, 0], x[:, 7], rtol=1e-4, atol=1e-5)


def test_generalized_mean_equals_its_definition() -> None:
    head = GeneralizedMean().double()
    x = torch.rand(2, 16, 3, 4, dtype=torch.float64) - 0.2
    expected = [
        (sum(max(float(value), 1e-6) ** 3 for value in x[1, :, row, col]) / 16) ** (1 / 3)
        for row in range(3)
        for col in range(4)
    ]
    np.testing.assert_allclose(head(x)[1, 0].detach().numpy().ravel(), expected, rtol=1e-12)
    assert parameters(head) == 1


def naive_layer(layer: nn.Module, tokens: np.ndarray, context: np.ndarray, residual: bool) -> np.ndarray:
    """One fusion layer of one sample by loops: tokens (n, C) attend to context (m, C)."""
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    channels, heads = tokens.shape[1], layer.attention.num_heads
    width = channels // heads
    q, k, v = (
        given @ weights["attention.in_proj_weight"][part].T + weights["attention.in_proj_bias"][part]
        for given, part in (
            (tokens, slice(0, channels)),
            (context, slice(channels, 2 * channels)),
            (context, slice(2 * channels, 3 * channels)),
        )
    )
    mixed = np.zeros_like(q)
    for head in range(heads):
        cols = slice(head * width, (head + 1) * width)
        for row in range(len(q)):
            score = np.exp([q[row, cols] @ key / width**0.5 for key in k[:, cols]])
            mixed[row, cols] = sum(s * value for s, value in zip(score, v[:, cols], strict=True)) / score.sum()
    mixed = mixed @ weights["attention.out_proj.weight"].T + weights["attention.out_proj.bias"]
    t = tokens + mixed
    t = (t - t.mean(1, keepdims=True)) / np.sqrt(t.var(1, keepdims=True) + 1e-5)
    t = t * weights["norm.weight"] + weights["norm.bias"]
    hidden = np.maximum(t @ weights["linear1.weight"].T + weights["linear1.bias"], 0)
    out = hidden @ weights["linear2.weight"].T + weights["linear2.bias"]
    return t + out if residual else out


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("joint", [False, True])
def test_attention_fusion_equals_naive_loops(joint: bool, residual: bool) -> None:
    """CAF: the map attends to the query; SAF: all attend to all. Two consecutive queries a map."""
    torch.manual_seed(6)
    head = AttentionFusion(16, joint, residual, layers=2, heads=4, hidden=24).double().eval()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    z, x = torch.randn(4, 16, 2, 3, dtype=torch.float64), torch.randn(2, 16, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        logits = head(z, x)
    assert logits.shape == (4, 1, 4, 3)
    for index in range(4):
        query = z[index].flatten(1).T.numpy()
        tokens = x[index // 2].flatten(1).T.numpy()
        if joint:
            tokens = np.concatenate((query, tokens))
        for layer in head.layers:
            tokens = naive_layer(layer, tokens, tokens if joint else query, residual)
        expected = tokens[-12:] @ head.out.weight.detach().numpy()[0] + head.out.bias.item()
        np.testing.assert_allclose(logits[index].numpy().ravel(), expected, rtol=1e-9)


def test_attention_fusion_has_the_published_sizes_and_drops_out_in_training_only() -> None:
    head = AttentionFusion(128, joint=True)
    layer = 4 * (128 * 128 + 128) + (128 * 256 + 256) + (256 * 128 + 128) + 2 * 128
    assert parameters(head) == 4 * layer + 129
    z, x = torch.randn(1, 128, 2, 2), torch.randn(1, 128, 3, 3)
    assert not torch.equal(head(z, x), head(z, x))
    head.eval()
    assert torch.equal(head(z, x), head(z, x))


@pytest.mark.parametrize(("stride", "expected"), [(1, (24, 16)), (2, (12, 8)), (4, (6, 4))])
def test_logits_are_enlarged_by_repeating_them(stride: int, expected: tuple[int, int]) -> None:
    logits = torch.arange(6.0).reshape(1, 1, 3, 2)
    enlarged = Enlarge(stride)(logits, torch.Size((24, 16)))
    assert enlarged.shape[-2:] == expected
    times = 8 // stride
    assert torch.equal(enlarged, logits.repeat_interleave(times, 2).repeat_interleave(times, 3))


def test_linear_heads_have_the_published_sizes_and_collapse_to_one_map() -> None:
    assert parameters(LinearChain((128, 64, 16, 1))) == 9_313
    head = LinearChain((128, 64, 32, 8, 1)).double()
    x = torch.randn(2, 128, 6, 5, dtype=torch.float64)
    # Linear without activations: the response to a sum is the sum of the responses, but for the bias.
    y = torch.randn_like(x)
    bias = head(torch.zeros_like(x))
    torch.testing.assert_close(head(x + y), head(x) + head(y) - bias)
    assert head(x).shape == (2, 1, 6, 5)
    torch.testing.assert_close(head(x)[1, 0, 4, 2], head.layers(x[1, :, 4, 2])[0])


def test_channel_convert() -> None:
    neck = ChannelConvert(384, 128)
    assert parameters(neck) == 49_280
    coarse = torch.randn(1, 384, 3, 4)
    expected = torch.einsum("oc,bchw->bohw", neck.convert.weight[:, :, 0, 0], coarse) + neck.convert.bias[:, None, None]
    torch.testing.assert_close(neck((torch.zeros(1, 64, 12, 16), coarse)), expected, rtol=1e-4, atol=1e-5)


def test_feature_pyramid_equals_its_definition() -> None:
    """Even and odd grids; the smoothing convolutions of unused levels (2 x 147,584) are left out."""
    neck = FeaturePyramid((64, 192, 384), 128)
    assert parameters(neck) + 2 * 147_584 == 525_056
    low, mid, top = torch.randn(1, 64, 13, 18), torch.randn(1, 192, 7, 9), torch.randn(1, 384, 4, 5)
    to_low, to_mid, to_top = (lambda t, layer=layer: layer(t) for layer in neck.lateral)

    def doubled(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        height, width = like.shape[-2:]
        rows = torch.arange(height) * t.shape[-2] // height
        cols = torch.arange(width) * t.shape[-1] // width
        return t[:, :, rows][:, :, :, cols]

    merged = to_mid(mid)
    merged = merged + doubled(to_top(top), merged)
    merged = to_low(low) + doubled(merged, low)
    torch.testing.assert_close(neck((low, mid, top)), neck.smooth(merged), rtol=1e-4, atol=1e-5)


def test_feature_pyramid_at_stride_eight_leaves_the_finest_level_out() -> None:
    neck = FeaturePyramid((64, 192, 384), 128, finest=1)
    low, mid, top = (torch.full((1, 64, 12, 8), torch.nan), torch.randn(1, 192, 6, 4), torch.randn(1, 384, 3, 2))
    merged = neck.lateral[0](mid) + neck.lateral[1](top).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(neck((low, mid, top)), neck.smooth(merged), rtol=1e-4, atol=1e-5)


def test_simple_pyramid_quarters_the_stride_and_keeps_places() -> None:
    """A change in one token changes the 4x4 cells under it, and others only through normalisation."""
    torch.manual_seed(4)
    neck = SimplePyramid(48, 16)
    tokens = torch.randn(1, 48, 5, 7)
    changed = tokens.clone()
    changed[:, :, 2, 3] += 1.0
    with torch.no_grad():
        difference = (neck((changed,)) - neck((tokens,))).abs().sum(1)[0]
    assert difference.shape == (20, 28)
    assert difference[8:12, 12:16].mean() > 10 * difference[:4, :4].mean()
