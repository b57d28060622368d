# SPDX-License-Identifier: Apache-2.0
"""Post-Fusion as a whole: streams that do not see each other, sharing, its heads, bad requests."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from geoloc_models.backbones.cvt import CvtStream, Stage
from geoloc_models.drl.heads import AttentionFusion, Enlarge, GroupCorrelation
from geoloc_models.drl.losses import weighted_balance_loss
from geoloc_models.drl.necks import ChannelConvert
from geoloc_models.drl.post_fusion import PostFusion
from geoloc_models.drl.presets import build, build_on_meta

SMALL = (
    Stage(channels=16, heads=1, blocks=1, kernel=7, stride=4, padding=2),
    Stage(channels=48, heads=3, blocks=1, kernel=3, stride=2, padding=1, class_token=True),
)


def small_network(head: nn.Module, shared: bool = False, enlarge: Enlarge | None = None) -> PostFusion:
    torch.manual_seed(2)
    network = PostFusion(
        CvtStream(SMALL),
        None if shared else CvtStream(SMALL),
        ChannelConvert(48, 16),
        ChannelConvert(48, 16),
        head,
        enlarge,
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


HEADS = {
    "gc": lambda: GroupCorrelation(16),
    "caf": lambda: AttentionFusion(16, joint=False, heads=2),
    "saf": lambda: AttentionFusion(16, joint=True, heads=2),
}
parametrise_heads = pytest.mark.parametrize("head", HEADS)


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))


def test_equals_its_parts_by_hand() -> None:
    """Each image through its own stream and neck, then the query as one convolution kernel over the map."""
    network = small_network(GroupCorrelation(16))
    z, x = images(2, 3, 32, 32), images(2, 3, 64, 48)
    with torch.no_grad():
        logits = network(z, x)
        assert network.map_backbone is not None
        template = network.head.project_z(network.query_neck(network.query_backbone(z / 255)))
        features = network.head.project_x(network.map_neck(network.map_backbone(x / 255)))
        scores = [functional.conv2d(features[i : i + 1], template[i : i + 1], padding=2) for i in range(2)]
    assert logits.shape == (2, 1, 9, 7)
    torch.testing.assert_close(logits, torch.cat(scores) * network.head.scale, rtol=1e-4, atol=1e-5)


def test_shared_weights_are_one_backbone_and_two_necks() -> None:
    shared, own = small_network(GroupCorrelation(16), shared=True), small_network(GroupCorrelation(16))
    count = {n: sum(p.numel() for p in n.parameters()) for n in (shared, own, own.query_backbone)}
    assert count[shared] == count[own] - count[own.query_backbone]
    image = images(1, 3, 32, 32)
    with torch.no_grad():
        features = shared.query_backbone(image / 255)[-1]
        shared.head.project_z = shared.head.project_x = nn.Identity()
        kernel, source = shared.query_neck([features]), shared.map_neck([features])
        expected = functional.conv2d(source, kernel, padding=2) * shared.head.scale
        torch.testing.assert_close(shared(image, image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"), [("post_cvt13_ccn_gc", 39_355_009), ("post_cvt13_ccn_gc_shared", 19_743_297)]
)
def test_parameters_of_the_published_networks(name: str, expected: int) -> None:
    """Two streams of 19,611,712, two necks of 49,280 and a head of 33,025."""
    assert sum(p.numel() for p in build_on_meta(name).parameters()) == expected


def test_first_scale_of_the_published_head() -> None:
    """Mix-Fusion starts at 3e-5."""
    assert build("post_resnet50_ccn_gc").head.scale.item() == pytest.approx(1e-4)


def test_logits_are_enlarged_to_the_map() -> None:
    network = small_network(AttentionFusion(16, joint=False, heads=2), enlarge=Enlarge(2))
    assert network(images(1, 3, 32, 32), images(1, 3, 64, 48)).shape == (1, 1, 32, 24)


@parametrise_heads
def test_gradients_reach_every_parameter(head: str) -> None:
    network = small_network(HEADS[head]()).train()
    logits = network(images(2, 3, 32, 32), images(2, 3, 64, 64))
    weighted_balance_loss(logits, torch.tensor([[0.25, 0.75], [0.5, 0.25]]), 1, 15.0).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters() if p.ndim > 1)
    assert all(p.grad is not None for p in network.parameters())
