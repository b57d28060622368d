# SPDX-License-Identifier: Apache-2.0
"""Mix-Fusion on the compact backbone: a GC head at stride 4 and a Linear head on the mixed stride-16 tokens.

The smaller of the networks with trained weights, for small computers. It adds two heads of the DRL paper (section
III-B): correlation of fine features localizes the query, mixed attention rates each place of the map in its context.
Query and map have the same ground sample distance.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoloc_models.backbones.compact import Compact
from geoloc_models.drl.alignment_head import AlignmentHead
from geoloc_models.drl.heads import GroupCorrelation
from geoloc_models.drl.necks import FeaturePyramid, share_over_queries


@dataclass(frozen=True)
class QueryFeatures:
    """All that a map needs of a query, computed once per frame: (B, C, h, w) kernel, keys and values."""

    kernel: Tensor
    keys: list[tuple[Tensor, Tensor]]

    def for_maps(self, maps: int) -> "QueryFeatures":
        """Those of one query, for each of several maps."""
        keys = [(k.expand(maps, -1, -1, -1), v.expand(maps, -1, -1, -1)) for k, v in self.keys]
        return QueryFeatures(self.kernel.expand(maps, -1, -1, -1), keys)


@dataclass(frozen=True)
class MapFeatures:
    """What of a map depends on no query, computed once per crop: (B, C, H/4, W/4) and (B, C', H/16, W/16)."""

    fine: Tensor
    coarse: Tensor


class CompactMixFusion(nn.Module):
    """Query (B*K, 3, h, w) and map (B, 3, H, W), 0..255 -> logits (B*K, 1, H/4 + 1, W/4 + 1).

    K consecutive queries share a map; one query alone is searched in each map. Sides are multiples of 16 px. Logit node
    (r, c) is the score of the query's centre at map pixel-edge coordinate (4 r, 4 c). `alignment`: None in weights
    without one.
    """

    stride_px = 4
    multiple_px = 16

    def __init__(self, width: int = 64, head_channels: int = 32) -> None:
        super().__init__()
        self.backbone = Compact()
        self.neck = FeaturePyramid(self.backbone.channels, width)
        self.correlation = GroupCorrelation(width, head_channels, scale=8.0, mean=True)
        self.context = nn.Conv2d(self.backbone.channels[-1], 1, 1)
        self.alignment: AlignmentHead | None = None
        # Training starts from the correlation alone: attention takes far longer to leave its plateau.
        nn.init.zeros_(self.context.weight)

    def encode_query(self, query: Tensor) -> QueryFeatures:
        """query: (B, 3, h, w), 0..255."""
        levels = self.backbone(standardise(query))
        return QueryFeatures(self.neck(levels), self.backbone.mix_query(levels[-1]))

    def encode_map(self, search_map: Tensor) -> MapFeatures:
        """search_map: (B, 3, H, W), 0..255."""
        levels = self.backbone(standardise(search_map))
        return MapFeatures(self.neck(levels), levels[-1])

    def match(self, query: QueryFeatures, search_map: MapFeatures) -> Tensor:
        """Logits of K queries per map; K = queries / maps."""
        fine: Tensor = self.correlation(query.kernel, search_map.fine)
        count = query.kernel.shape[0] // search_map.fine.shape[0]
        coarse = share_over_queries(search_map.coarse, count)
        context = self.context(self.backbone.mix_search(coarse, query.keys)).float()
        return fine + cells_to_nodes(context, fine.shape[-2:])

    def forward(self, query: Tensor, search_map: Tensor) -> Tensor:
        seen = self.encode_query(query)
        if len(query) == 1:
            seen = seen.for_maps(len(search_map))
        return self.match(seen, self.encode_map(search_map))


def standardise(image: Tensor) -> Tensor:
    """Remove exposure and white balance: per-image, per-channel zero mean and unit spread."""
    image = image.float()
    return (image - image.mean((-2, -1), keepdim=True)) / (image.std((-2, -1), keepdim=True) + 4.0)


def cells_to_nodes(cells: Tensor, size: torch.Size) -> Tensor:
    """Bilinear values of a map given at cell centres on a finer lattice that spans the same area from edge to edge."""
    padded = F.pad(cells, (1, 1, 1, 1), mode="replicate")
    # Cell centres lie half a cell inside; with one cell of padding, averaging neighbours gives values on cell edges.
    return F.interpolate(F.avg_pool2d(padded, 2, 1), size=tuple(size), mode="bilinear", align_corners=True)
