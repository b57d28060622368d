# SPDX-License-Identifier: Apache-2.0
"""Losses of AST (AST paper, section 3.4 and table 6).

Features are one part's, (B, W) of B drone and B satellite images with labels (B,): images of one label are
positives across the views, all others negatives. Similarities are cosines; squared distances are 2 - 2 cosine.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Metric = Literal["none", "contrastive", "max_margin", "soft_margin"]

ALPHA = 20.0
"""Of the weighted soft margin, on cosines; 10 on squared distances, as in CVM-Net."""
CONTRASTIVE_MARGIN = 1.0
TRIPLET_MARGIN = 0.3


def cosine_matrix(drone: Tensor, satellite: Tensor) -> Tensor:
    """Cosine of every drone feature (rows) with every satellite feature (columns), (B, B) float32."""
    return functional.normalize(drone.float(), dim=-1) @ functional.normalize(satellite.float(), dim=-1).T


def soft_margin_triplet(drone: Tensor, satellite: Tensor, labels: Tensor) -> Tensor:
    """Weighted soft-margin triplet loss: softplus(ALPHA (S_negative - S_positive)), eq. 9 and 10."""
    similarity = cosine_matrix(drone, satellite)
    return _triplets(similarity, labels, lambda gap: functional.softplus(ALPHA * gap))


def max_margin_triplet(drone: Tensor, satellite: Tensor, labels: Tensor) -> Tensor:
    """max(0, d_positive - d_negative + margin) on squared distances."""
    similarity = cosine_matrix(drone, satellite)
    # d_p - d_n = 2 S_n - 2 S_p
    return _triplets(similarity, labels, lambda gap: functional.relu(2 * gap + TRIPLET_MARGIN))


def contrastive(drone: Tensor, satellite: Tensor, labels: Tensor) -> Tensor:
    """Mean squared distance of positives plus mean hinge of negatives that are nearer than the margin."""
    distance = 2 - 2 * cosine_matrix(drone, satellite)
    positive = labels[:, None] == labels[None, :]
    pushed = functional.relu(CONTRASTIVE_MARGIN - distance[~positive])
    # Without negatives there is nothing to push.
    return distance[positive].mean() + (pushed.mean() if pushed.numel() else 0.0)


def _triplets(similarity: Tensor, labels: Tensor, penalty: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over the queries of both directions of the mean penalty over all (positive, negative) combinations.

    Queries without negatives do not count; a batch of one label alone has loss 0.
    """
    positive = labels[:, None] == labels[None, :]
    means = []
    for scores in (similarity, similarity.T):
        gaps = scores[:, None, :] - scores[:, :, None]  # [query, positive, negative]
        valid = positive[:, :, None] & ~positive[:, None, :]
        count = valid.sum((1, 2))
        total = torch.where(valid, penalty(gaps), 0.0).sum((1, 2))
        usable = count > 0
        means.append((total[usable] / count[usable]).mean() if usable.any() else similarity.sum() * 0.0)
    return (means[0] + means[1]) / 2


METRIC_LOSSES = {"contrastive": contrastive, "max_margin": max_margin_triplet, "soft_margin": soft_margin_triplet}


def ast_loss(
    drone: tuple[Tensor, Tensor | None],
    satellite: tuple[Tensor, Tensor | None],
    labels: Tensor,
    metric: Metric = "soft_margin",
) -> Tensor:
    """Cross-entropy of both views plus the metric loss, averaged over the parts.

    drone, satellite: features (B, P, W) and class logits (B, P, K), the latter None where nothing is classified.
    """
    parts = drone[0].shape[1]
    total = drone[0].new_zeros(())
    for part in range(parts):
        for _, logits in (drone, satellite):
            if logits is not None:
                total = total + functional.cross_entropy(logits[:, part].float(), labels)
        if metric != "none":
            total = total + METRIC_LOSSES[metric](drone[0][:, part], satellite[0][:, part], labels)
    return total / parts
