# SPDX-License-Identifier: Apache-2.0
"""Heads and necks against naive loops, with the published parameter counts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from geoloc_models.drl.heads import AveragePool, GroupCorrelation, LinearChain, SoftmaxPool, correlate
from geoloc_models.drl.necks import ChannelConvert, FeaturePyramid, SimplePyramid


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def naive_correlation(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """One map (C, H, W) and one kernel (C, h, w) in float64, zeros outside the map."""
    _, height, width = x.shape
    _, h, w = z.shape
    pad_h, pad_w = h // 2, w // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    out = np.zeros((height + 2 * pad_h - h + 1, width + 2 * pad_w - w + 1))
    for row in range(out.shape[0]):
        for col in range(out.shape[1]):
            out[row, col] = (padded[:, row : row + h, col : col + w] * z).sum()
    return out


@pytest.mark.parametrize(
    ("map_size", "kernel_size"),
    [((24, 24), (8, 8)), ((15, 22), (6, 10)), ((12, 13), (3, 5)), ((9, 30), (8, 7))],
)
def test_correlation_by_fft_equals_naive_loops(
    map_size: tuple[int, int], kernel_size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, *map_size, generator=generator)
    z = torch.randn(4, 5, *kernel_size, generator=generator)
    scores = correlate(x, z)
    for index in range(4):  # two consecutive queries a map
        expected = naive_correlation(x[index // 2].numpy(), z[index].numpy())
        np.testing.assert_allclose(scores[index, 0].numpy(), expected, atol=1e-4)


def test_published_group_correlation() -> None:
    """128 channels, 8x8 over 24x24, padding 4, one group a sample: 25x25, 33,025 parameters (spec 2.4)."""
    torch.manual_seed(1)
    head = GroupCorrelation(128).double()
    assert parameters(head) == 33_025
    assert head.scale.item() == pytest.approx(3e-5)
    z, x = torch.randn(3, 128, 8, 8, dtype=torch.float64), torch.randn(3, 128, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        logits = head(z, x)
        kernel, source = head.project_z(z), head.project_x(x)
        expected = (
            functional.conv2d(source.reshape(1, 3 * 128, 24, 24), kernel, padding=4, groups=3)[0] * head.scale
        )
    assert logits.shape == (3, 1, 25, 25)
    torch.testing.assert_close(logits[:, 0].double(), expected, rtol=1e-4, atol=1e-6)
    # Without padding it would be 17x17: the inner part.
    unpadded = functional.conv2d(source.reshape(1, 3 * 128, 24, 24), kernel, groups=3)[0] * head.scale
    torch.testing.assert_close(logits[:, 0, 4:21, 4:21].double(), unpadded, rtol=1e-4, atol=1e-6)


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
    expected = (
        torch.einsum("oc,bchw->bohw", neck.convert.weight[:, :, 0, 0], coarse)
        + neck.convert.bias[:, None, None]
    )
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
