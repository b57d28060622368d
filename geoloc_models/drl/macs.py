# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of a network; the paper counts them without the matrix products of attention."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass."""

    without_attention: float
    total: float


def count_macs(model: nn.Module, *inputs: Tensor) -> Macs:
    """Count on the meta device: no arithmetic is done. FFTs and elementwise work do not count."""
    meta = copy.deepcopy(model).to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(*(tensor.to("meta") for tensor in inputs))
    flops = counter.get_flop_counts()["Global"]
    attention = sum(count for operation, count in flops.items() if "bmm" in str(operation))
    total = counter.get_total_flops()
    return Macs((total - attention) / 2, total / 2)
