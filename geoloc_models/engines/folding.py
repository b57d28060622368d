# SPDX-License-Identifier: Apache-2.0
"""Arithmetic that an evaluated network can leave out without changing its answer; exact but for rounding.

- Batch norm goes into the convolution before it: at evaluation it is one factor and one shift a channel. The
  convolution pads its input, before the norm, so borders agree too.
- A layer norm's factors and shifts go into the linear layer behind it, a layer scale's factors into the one before
  it: a linear map of a linear map.
- A head that is linear in each pixel (LinearChain, AveragePool, SoftmaxPool) goes into the neck's last convolution:
  the same. At stride 4 and 128 channels, 1.4 of 20 billion multiply-adds become a hundredth, before anything is
  enlarged.
- GC's 1x1 projections go into the necks' last convolutions: a 1x1 convolution behind a padded one pads nothing.

What else saves is in the networks themselves: one attention kernel (`mixed_attention`), pyramid levels that nothing
reads are not there, a view's features and keys serve all maps, and a map's features all views.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from geoloc_models.backbones import compact, cvt, vit
from geoloc_models.drl.heads import AveragePool, GroupCorrelation, LinearChain, SoftmaxPool
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.necks import ChannelConvert, FeaturePyramid, SimplePyramid
from geoloc_models.drl.post_fusion import PostFusion

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def folded(network: Network) -> Network:
    """A copy that gives the same answers with less arithmetic; for evaluation only."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, cvt.ConvProjection):
            module.conv, module.bn = _with_batch_norm(module.conv, module.bn), nn.Identity()
        elif isinstance(module, cvt.Block):
            module.norm2 = _into_next(module.norm2, module.mlp.fc1)
        elif isinstance(module, vit.Block):
            module.norm1 = _into_next(module.norm1, module.attn.qkv)
            module.norm2 = _into_next(module.norm2, module.mlp.fc1)
            for scale, linear in ((module.ls1, module.attn.proj), (module.ls2, module.mlp.fc2)):
                if isinstance(scale, vit.LayerScale):
                    _into_last(scale, linear)
            module.ls1 = module.ls2 = nn.Identity()
        elif isinstance(module, compact.MixBlock):
            module.norm1 = _into_next(module.norm1, module.qkv)
            first = module.mlp[0]
            assert isinstance(first, nn.Linear)
            module.norm2 = _into_next(module.norm2, first)
    if isinstance(network, MixFusion):
        network.head = _into_neck(network.head, network.query_neck, network.neck)
    elif isinstance(network, PostFusion):
        network.head = _into_neck(network.head, network.query_neck, network.map_neck)
    return network


def composed(first: nn.Conv2d, then: nn.Conv2d) -> nn.Conv2d:
    """The convolution that does what `first` and then the 1x1 convolution `then` do."""
    both = nn.Conv2d(
        first.in_channels,
        then.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
    )
    factors = then.weight[:, :, 0, 0]
    assert first.bias is not None and then.bias is not None and both.bias is not None
    with torch.no_grad():
        both.weight.copy_(torch.einsum("oc,cikl->oikl", factors, first.weight))
        both.bias.copy_(factors @ first.bias + then.bias)
    return both


def _with_batch_norm(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(norm, cvt.FrozenBatchNorm | nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    both = copy.deepcopy(conv)
    both.weight.mul_(scale[:, None, None, None])
    both.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
    return both


def _into_last(scale: vit.LayerScale, linear: nn.Linear) -> None:
    linear.weight.mul_(scale.gamma[:, None])
    linear.bias.mul_(scale.gamma)


def _into_next(norm: nn.LayerNorm, linear: nn.Linear) -> nn.LayerNorm:
    """The norm without factors and shifts, which go into the linear layer behind it."""
    linear.bias.add_(linear.weight @ norm.bias)
    linear.weight.mul_(norm.weight)
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


def _into_neck(head: nn.Module, query_neck: nn.Module | None, map_neck: nn.Module) -> nn.Module:
    """The head without what its necks can do for it."""
    if isinstance(head, GroupCorrelation):
        assert query_neck is not None
        for neck, projection in ((query_neck, head.project_z), (map_neck, head.project_x)):
            _set_last(neck, composed(_last(neck), projection))
        head.project_z = head.project_x = nn.Identity()  # type: ignore[assignment]
        return head
    weights = _linear(head, _last(map_neck).out_channels)
    if weights is None:
        return head
    single = nn.Conv2d(weights[0].numel(), 1, 1)
    single.weight.copy_(weights[0].reshape(1, -1, 1, 1))
    assert single.bias is not None
    single.bias.fill_(weights[1])
    _set_last(map_neck, composed(_last(map_neck), single))
    return nn.Identity()


def _linear(head: nn.Module, channels: int) -> tuple[Tensor, float] | None:
    """Factors (C,) and shift of a head that is linear in each pixel."""
    if isinstance(head, AveragePool):
        return torch.full((channels,), 1.0 / channels), 0.0
    if isinstance(head, SoftmaxPool):
        return head.p.softmax(0), 0.0
    if isinstance(head, LinearChain):
        shift = head(torch.zeros(1, channels, 1, 1))
        return (head(torch.eye(channels)[:, :, None, None]) - shift).flatten(), float(shift)
    return None


def _last(neck: nn.Module) -> nn.Conv2d:
    if isinstance(neck, ChannelConvert):
        return neck.convert
    if isinstance(neck, FeaturePyramid):
        return neck.smooth
    assert isinstance(neck, SimplePyramid)
    last = neck.layers[-1]
    assert isinstance(last, nn.Conv2d)
    return last


def _set_last(neck: nn.Module, conv: nn.Conv2d) -> None:
    if isinstance(neck, ChannelConvert):
        neck.convert = conv
    elif isinstance(neck, FeaturePyramid):
        neck.smooth = conv
    else:
        assert isinstance(neck, SimplePyramid)
        neck.layers[-1] = conv
