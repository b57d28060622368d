# SPDX-License-Identifier: Apache-2.0
"""Both families: a view encoded once serves any map exactly; one view on many maps, many views on one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from geoloc_models.backbones.cvt import CvtMix, CvtStream, Stage
from geoloc_models.drl.heads import AttentionFusion, GroupCorrelation, LinearChain
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.necks import ChannelConvert, FeaturePyramid
from geoloc_models.drl.post_fusion import PostFusion
from geoloc_models.errors import GeolocError

SMALL = (
    Stage(channels=16, heads=1, blocks=1, kernel=7, stride=4, padding=2),
    Stage(channels=48, heads=3, blocks=1, kernel=3, stride=2, padding=1),
)


def mix(head: nn.Module, correlates: bool) -> MixFusion:
    backbone = CvtMix(SMALL)
    query_neck = FeaturePyramid(backbone.channels, 16) if correlates else None
    return MixFusion(backbone, FeaturePyramid(backbone.channels, 16), head, query_neck)


def post(head: nn.Module) -> PostFusion:
    return PostFusion(CvtStream(SMALL), CvtStream(SMALL), ChannelConvert(48, 16), ChannelConvert(48, 16), head)


NETWORKS: dict[str, Callable[[], MixFusion | PostFusion]] = {
    "mix_linear": lambda: mix(LinearChain((16, 8, 1)), correlates=False),
    "mix_gc": lambda: mix(GroupCorrelation(16), correlates=True),
    "post_gc": lambda: post(GroupCorrelation(16)),
    "post_caf": lambda: post(AttentionFusion(16, joint=False, heads=2)),
    "post_saf": lambda: post(AttentionFusion(16, joint=True, heads=2)),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> MixFusion | PostFusion:
    torch.manual_seed(2)
    network = NETWORKS[request.param]()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))


def test_cached_query_is_exact(network: MixFusion | PostFusion) -> None:
    """Encoded once, a view serves any map with the very numbers of the joint pass; no map changes it."""
    z, x1, x2 = images(1, 3, 32, 32), images(1, 3, 64, 48), images(1, 3, 48, 72)
    with torch.no_grad():
        cached = network.encode_query(z)
        for x in (x1, x2, x1):
            assert torch.equal(network.forward_map(cached, x), network(z, x))


def test_one_view_on_many_maps_and_many_views_on_one_map(network: MixFusion | PostFusion) -> None:
    views, maps = images(4, 3, 32, 32), images(2, 3, 64, 64)
    with torch.no_grad():
        one_view = network(views[:1], maps)
        many_views = network(views, maps)
        single = [[network(views[i : i + 1], maps[j : j + 1]) for j in range(2)] for i in range(4)]
    torch.testing.assert_close(one_view, torch.cat((single[0][0], single[0][1])), rtol=1e-4, atol=1e-5)
    in_order = [single[0][0], single[1][0], single[2][1], single[3][1]]
    torch.testing.assert_close(many_views, torch.cat(in_order), rtol=1e-4, atol=1e-5)
    with pytest.raises(GeolocError, match="3 query views"):
        network(views[:3], maps)
