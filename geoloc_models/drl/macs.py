# SPDX-License-Identifier: Apache-2.0
"""Parameters and multiply-accumulates of a network, counted exactly and in the paper's way."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from geoloc_models.drl.heads import GroupCorrelation


@dataclass(frozen=True)
class Cost:
    """One forward pass; FFTs count as the correlation that they compute, elementwise work not at all."""

    parameters: int
    macs: int
    counted_parameters: int
    counted_macs: int
    """The paper's way: modules of convolution, linear layer and batch norm (4 per value). This omits the matrix
    products of attention, `nn.MultiheadAttention` altogether, correlation and layer norms.
    """
    macs_by_part: dict[str, int]
    """True count of every submodule, by its name."""


def count_cost(model: nn.Module, *inputs: Tensor) -> Cost:
    """Count on the meta device: no arithmetic is done, and `model` is not changed."""
    meta = model if _is_meta(model) else copy.deepcopy(model).to("meta")
    meta.eval()
    seen: set[nn.Module] = set()
    counted_macs = 0
    correlated: dict[str, int] = {}

    def count_layer(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal counted_macs
        seen.add(layer)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            counted_macs += 4 * out.numel()
        elif isinstance(layer, nn.Linear):
            counted_macs += out.numel() * layer.in_features
        else:
            assert isinstance(layer.weight, Tensor)
            places = given[0] if isinstance(layer, nn.ConvTranspose2d) else out
            counted_macs += places.numel() * layer.weight[0].numel()

    names = {module: f"{type(meta).__name__}.{name}" for name, module in meta.named_modules()}

    def count_correlation(head: nn.Module, templates: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(head, GroupCorrelation)
        kernel = head.project_z.out_channels * templates[0][0, 0].numel()
        correlated[names[head]] = out.numel() * kernel

    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
    hooks = [m.register_forward_hook(count_layer) for m in meta.modules() if isinstance(m, layers)]
    hooks += [m.register_forward_hook(count_correlation) for m in meta.modules() if isinstance(m, GroupCorrelation)]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(*(tensor.to("meta") for tensor in inputs))
    for hook in hooks:
        hook.remove()
    flops = counter.get_flop_counts()
    by_part = {name: sum(flops[name].values()) // 2 for name in names.values() if name in flops}
    total = counter.get_total_flops() // 2
    for name, macs in correlated.items():
        # The products of spectra are counted as matrix products.
        spectra = sum(count for operation, count in flops[name].items() if "bmm" in str(operation)) // 2
        by_part[name] += macs - spectra
        total += macs - spectra
    prefix = len(type(meta).__name__) + 1
    return Cost(
        parameters=sum(p.numel() for p in meta.parameters()),
        macs=total,
        counted_parameters=sum(p.numel() for layer in seen for p in layer.parameters()),
        counted_macs=counted_macs,
        macs_by_part={name[prefix:]: macs for name, macs in by_part.items()},
    )


def _is_meta(model: nn.Module) -> bool:
    return all(p.is_meta for p in model.parameters())
