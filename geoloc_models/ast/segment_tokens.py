# SPDX-License-Identifier: Apache-2.0
"""Attention-guided segment tokens (AST paper, section 3.3).

The patches of an image are sorted by what the class token thinks of them in the last block (scores), cut into
groups of falling importance, and each group is averaged into one token. Group 0 holds the most attended patches.
"""

from typing import Literal

import torch
from torch import Tensor

from geoloc_models.errors import GeolocError

Strategy = Literal["increasing", "averaging", "decreasing", "adaptive"]
STRATEGIES: tuple[Strategy, ...] = ("increasing", "averaging", "decreasing", "adaptive")

MIN_SHARE = 1 / 32
"""Smallest share of the patches in a group of the adaptive strategy: one bright patch is no region."""


def group_sizes(patches: int, groups: int, strategy: Strategy = "increasing") -> list[int]:
    """Patches in each group of the fixed strategies, most attended first; no group is empty.

    Increasing is the paper's: softmax([1..groups]) of the patches, rounded half to even, the remainder to the last
    group; decreasing is its mirror image; averaging gives equal sizes. GeolocError: more groups than patches.
    """
    _check(patches, groups)
    if strategy == "averaging":
        shares = torch.full((groups,), 1 / groups, dtype=torch.float64)
    else:
        shares = torch.arange(1, groups + 1, dtype=torch.float64).softmax(0)
    sizes = [max(1, round(share * patches)) for share in shares.tolist()]
    sizes[-1] += patches - sum(sizes)
    # Many groups on few patches: what the minimum of one takes comes off the last, then off the largest.
    while sizes[-1] < 1:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[-1] += 1
    return sizes[::-1] if strategy == "decreasing" else sizes


def assign_groups(scores: Tensor, groups: int, strategy: Strategy = "increasing") -> Tensor:
    """The group of each patch, (B, n) int64 in 0..groups-1, from the class token's scores (B, n).

    Equal scores keep the order of their patches.
    """
    count = scores.shape[1]
    scores = scores.detach().float()
    ranked, order = scores.sort(dim=1, descending=True, stable=True)
    if strategy == "adaptive":
        by_rank = _natural_breaks(ranked.double(), groups)
    else:
        sizes = group_sizes(count, groups, strategy)
        groups_by_rank = [group for group, size in enumerate(sizes) for _ in range(size)]
        by_rank = torch.tensor(groups_by_rank, device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, by_rank)


def segment_tokens(patches: Tensor, scores: Tensor, assigned: Tensor, groups: int, weighted: bool) -> Tensor:
    """One token a group, (B, groups, C), from patch tokens (B, n, C), scores (B, n) and groups (B, n).

    weighted: each patch counts by the softmax of the scores within its group (eq. 8); else all count the same. The
    gradient reaches the scores through these weights, not through the grouping.
    """
    member = assigned[:, None, :] == torch.arange(groups, device=assigned.device)[None, :, None]
    logits = scores.float()[:, None, :] if weighted else torch.zeros_like(scores.float())[:, None, :]
    weights = logits.expand(member.shape).masked_fill(~member, -torch.inf).softmax(dim=-1)
    return weights @ patches.float()


def score_spread(scores: Tensor, assigned: Tensor, groups: int) -> Tensor:
    """Mean squared deviation of the scores from their group's mean, (B,): what a good grouping makes small.

    The paper explains the success of its proportions by it (section 4.4, ablation 3).
    """
    scores = scores.double()
    member = (assigned[:, None, :] == torch.arange(groups, device=scores.device)[None, :, None]).double()
    means = (member @ scores[..., None]) / member.sum(-1, keepdim=True)
    own = (member * means).sum(1)
    return (scores - own).square().mean(1)


def _natural_breaks(ranked: Tensor, groups: int) -> Tensor:
    """Groups of sorted scores (B, n) that leave the least squared deviation within groups, (B, n).

    Our answer to the paper's closing remark that fixed proportions do not suit every image: the boundaries go where
    the scores of this very image drop (one-dimensional k-means, exact by dynamic programming; Fisher 1958), with
    MIN_SHARE of the patches in each group at least.
    """
    batch, count = ranked.shape
    _check(count, groups)
    least = max(1, min(count // groups, round(count * MIN_SHARE)))
    zero = ranked.new_zeros(batch, 1)
    sums = torch.cat((zero, (ranked - ranked.mean(1, keepdim=True)).cumsum(1)), 1)
    squares = torch.cat((zero, (ranked - ranked.mean(1, keepdim=True)).square().cumsum(1)), 1)
    edge = torch.arange(count + 1, device=ranked.device)
    length = edge[None, :] - edge[:, None]
    # cost[b, i, j]: squared deviation within patches i..j-1 of the ranking.
    total = sums[:, None, :] - sums[:, :, None]
    cost = squares[:, None, :] - squares[:, :, None] - total.square() / length.clamp(min=1)
    cost = cost.masked_fill(length < least, torch.inf)
    best, starts = cost[:, 0], []
    for _ in range(groups - 1):
        best, start = (best[:, :, None] + cost).min(dim=1)
        starts.append(start)
    by_rank = torch.zeros_like(ranked, dtype=torch.int64)
    end = torch.full((batch, 1), count, device=ranked.device)
    for start in reversed(starts):
        end = start.gather(1, end)
        by_rank += edge[None, :count] >= end
    return by_rank


def _check(patches: int, groups: int) -> None:
    if not 1 <= groups <= patches:
        raise GeolocError(f"{patches} patches cannot be split into {groups} groups: ask for 1 to {patches}.")
