# SPDX-License-Identifier: Apache-2.0
"""What is left out does not change the answer, and what is compared with computes what was published."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from geoloc_models.backbones.cvt import FrozenBatchNorm
from geoloc_models.backbones.vit import LayerScale
from geoloc_models.drl.heads import LinearChain
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.presets import Network, build, build_on_meta
from geoloc_models.engines.folding import folded
from geoloc_models.engines.plain_engine import PlainMixFusion


def with_nothing_plain(name: str) -> Network:
    """A network whose norms, scales and shifts all matter."""
    torch.manual_seed(4)
    network = build(name).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.LayerNorm | nn.BatchNorm2d | FrozenBatchNorm | nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
            if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm):
                module.running_mean.normal_(std=0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            elif isinstance(module, LayerScale):
                module.gamma.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.normal_(std=0.3)
    return network


def images(side: int, seed: int) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 255


def leftovers(network: nn.Module) -> Iterator[str]:
    """Names of modules that are still there and need not be; norms before convolutions must stay."""
    for name, module in network.named_modules():
        dead = isinstance(module, FrozenBatchNorm | nn.BatchNorm2d | LayerScale | LinearChain)
        if dead or (isinstance(module, nn.LayerNorm) and "norm2" in name and module.elementwise_affine):
            yield name


@pytest.mark.parametrize(
    "name",
    [
        "mix_cvt13_fpn_linear",
        "mix_cvt13_ccn_gem",
        "mix_cvt13_ccn_avg",
        "mix_cvt13_ccn_gc",
        "mix_vits14_pyramid_gc",
        "post_cvt13_ccn_gc",
        "post_cvt13_ccn_saf",
        "mix_compact",
    ],
)
@torch.inference_mode()
def test_a_folded_network_gives_the_same_logits(name: str) -> None:
    network = with_nothing_plain(name)
    side = 70 if "vits14" in name else 64
    view, search = images(side, 0), images(2 * side, 1)
    expected = network(view, search)
    cheap = folded(network)
    assert list(leftovers(network)) and not list(leftovers(cheap))
    torch.testing.assert_close(cheap(view, search), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    # The network itself is left as it was.
    assert torch.equal(network(view, search), expected)


@pytest.mark.parametrize(("name", "giga"), [("mix_cvt13_fpn_linear", 20.35), ("mix_cvt13_ccn_gc", 18.15)])
def test_the_plain_network_costs_what_the_published_one_does(name: str, giga: float) -> None:
    """Against the specification's multiply-adds of the published code, attention and unread branches included."""
    network = build_on_meta(name)
    assert isinstance(network, MixFusion)

    def cost(module: nn.Module) -> float:
        view, search = (torch.empty(1, 3, side, side, device="meta") for side in (128, 384))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            module(view, search)
        return counter.get_total_flops() / 2e9

    published = cost(PlainMixFusion(network))
    assert published == pytest.approx(giga, abs=0.06)
    if "fpn" in name:
        # A 3x3 convolution of 128 channels at stride 4 and all branches that nobody reads.
        assert published - cost(folded_on_meta(network)) == pytest.approx(1.36 + 0.64 + 0.085, abs=0.02)


def folded_on_meta(network: MixFusion) -> nn.Module:
    """`folded` without the numbers: the linear head is one convolution of the neck's."""
    assert isinstance(network.neck.smooth, nn.Conv2d)
    network.neck.smooth = nn.Conv2d(128, 1, 3, padding=1, device="meta")
    network.head = nn.Identity()
    return network


@pytest.mark.parametrize("name", ["mix_cvt13_fpn_linear", "mix_cvt13_ccn_gc"])
@torch.inference_mode()
def test_the_plain_network_gives_the_same_logits(name: str) -> None:
    network = with_nothing_plain(name)
    assert isinstance(network, MixFusion)
    view, search = images(64, 2), images(128, 3)
    expected = network(view, search)
    found = PlainMixFusion(network)(view, search)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
