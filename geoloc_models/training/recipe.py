# SPDX-License-Identifier: Apache-2.0
"""What a training run is set to: our recipe and the paper's, learning rate and loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from geoloc_models.drl.losses import PublishedLoss, published_loss, spatial_cross_entropy


@dataclass(frozen=True)
class TrainingSettings:
    """One run; the defaults are our recipe for picture pairs.

    Learning rate: linear warm-up from a hundredth, then a cosine down to a hundredth (spec 3.4).
    """

    samples: int = 120_000
    """Query/map pairs in all; the schedule ends here. It may be changed on resuming."""
    maps_per_batch: int = 8
    """Of all processes together."""
    learning_rate: float = 1.2e-3
    weight_decay: float = 0.02
    decay_all: bool = False
    """Whether biases and norms decay too."""
    warmup_batches: int = 200
    gradient_norm: float = 2.0
    """Longer gradients are cut to this length."""
    target_sigma_nodes: float = 0.7
    """Spread of the soft target; about 1 m of the pairs' truth is noise."""
    loss: PublishedLoss | Literal["spatial"] = "spatial"
    """spatial: cross-entropy of the softmax over the map; wbl and the rest: of single cells, as in the paper."""
    positive_cells: int = 7
    """R: side of the square of positive cells; about 32 / stride - 1."""
    negative_weight: float = 130.0
    """w_neg of wbl and hann."""
    average_decay: float = 0.998
    """Exponential moving average of the weights, which is what is checked and shipped; 0: the weights themselves."""
    half: bool = True
    """Mixed precision: the network's forward pass in bfloat16; weights, loss and optimiser stay float32."""
    checkpoint_batches: int = 50
    check_batches: int = 150
    best_from: float | None = None
    """Ship the weights of the best held-out RDS after this share of the run; None: the last ones."""
    seed: int = 666


PAPER = TrainingSettings(
    learning_rate=1.5e-4,
    weight_decay=5e-4,
    decay_all=True,
    gradient_norm=math.inf,
    warmup_batches=500,
    loss="wbl",
    average_decay=0.0,
    half=False,
    checkpoint_batches=200,
    best_from=0.5,
)
"""Optimisation as in the paper and its published code (spec 3.4), save that the best is chosen on held-out places."""


def loss_function(settings: TrainingSettings) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of logits (B, 1, H, W) and targets (B, 2), (row, col) fractions of the map's sides."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        if settings.loss != "spatial":
            return published_loss(
                settings.loss, logits, target, settings.positive_cells, settings.negative_weight
            )
        nodes = target * target.new_tensor([logits.shape[-2] - 1, logits.shape[-1] - 1])
        return spatial_cross_entropy(logits, nodes, settings.target_sigma_nodes)

    return loss


def schedule(step: int, total: int, warmup: int) -> float:
    """Share of the learning rate at a batch."""
    if step < warmup:
        return 0.01 + 0.99 * step / warmup
    done = (step - warmup) / max(1, total - warmup)
    return max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
