# SPDX-License-Identifier: Apache-2.0
"""Mix-Fusion on two backbones: the compact one for the exact position, a frozen DINOv2 trunk for the place.

The default network in flight. The trunk's tokens enter the compact network (`drl.compact`) in three places: its
stride-16 tokens before they mix, its fine features before they are correlated, and a second GC head that correlates
the trunk's own features at stride 16. All three add up in the logits, so each can be taken out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoloc_models.backbones.compact import Compact
from geoloc_models.backbones.vit_trunk import VitTrunk
from geoloc_models.drl.alignment_head import AlignmentHead
from geoloc_models.drl.compact_mix_fusion import CompactMixFusion, cells_to_nodes, standardise
from geoloc_models.drl.heads import GroupCorrelation
from geoloc_models.drl.necks import FeaturePyramid, share_over_queries

FINE_STRIDE_PX, COARSE_STRIDE_PX = 4, 16
VIEW_CELLS = 8
"""The trunk sees larger queries as this many cells a side, and the map in cells of the same size: recognizing a place
needs no more pixels, and attention over them would take most of the time.
"""
_PER_CELL = COARSE_STRIDE_PX // FINE_STRIDE_PX


@dataclass(frozen=True)
class HybridFeatures:
    """Everything of an image that depends on no other: at strides 4 and 16, and in the trunk's cells."""

    fine: Tensor
    coarse: Tensor
    semantic: Tensor

    def for_maps(self, maps: int) -> "HybridFeatures":
        """Those of one query, for each of several maps."""
        return HybridFeatures(*(level.expand(maps, -1, -1, -1) for level in (self.fine, self.coarse, self.semantic)))


class HybridMixFusion(nn.Module):
    """Query (B*K, 3, h, w) and map (B, 3, H, W), 0..255 -> logits (B*K, 1, H/4 + 1, W/4 + 1).

    K consecutive queries share a map; one query alone is searched in each map. Sides are multiples of 16 px; those of
    the map best of `cell_px` too. Logit node (r, c) is the score of the query's centre at map pixel-edge coordinate
    (4 r, 4 c). `alignment`: None in weights without one.
    """

    stride_px = FINE_STRIDE_PX
    multiple_px = COARSE_STRIDE_PX

    def __init__(self, width: int = 64, head_channels: int = 32, semantic_channels: int = 128) -> None:
        super().__init__()
        self.trunk = VitTrunk()
        self.backbone = Compact()
        coarse = self.backbone.channels[-1]
        self.semantic_norm = nn.GroupNorm(1, self.trunk.channels)
        self.to_coarse = nn.Conv2d(self.trunk.channels, coarse, 1)
        self.to_fine = nn.Conv2d(self.trunk.channels, width, 1)
        self.neck = FeaturePyramid(self.backbone.channels, width)
        self.correlation = GroupCorrelation(width, head_channels, scale=8.0, mean=True)
        self.semantic = GroupCorrelation(self.trunk.channels, semantic_channels, scale=0.2, mean=True)
        self.context = nn.Conv2d(coarse, _PER_CELL**2, 1)
        self.alignment: AlignmentHead | None = None
        # Start as the compact network does, or as the trained one that `start_from` brings: what is new adds nothing.
        for layer in (self.to_coarse, self.to_fine, self.context):
            nn.init.zeros_(layer.weight)
        for layer in (self.to_coarse, self.to_fine):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def start_from(self, compact: CompactMixFusion) -> None:
        """Take over a trained compact network; its one context logit a cell becomes the cell's 16."""
        for name in ("backbone", "neck", "correlation"):
            getattr(self, name).load_state_dict(getattr(compact, name).state_dict())
        assert self.context.bias is not None and compact.context.bias is not None
        self.context.weight.copy_(compact.context.weight.expand_as(self.context.weight))
        self.context.bias.copy_(compact.context.bias.expand_as(self.context.bias))

    @staticmethod
    def cell_px(query_px: int) -> float:
        """Side of the trunk's cells for queries of this side."""
        return max(COARSE_STRIDE_PX, query_px / VIEW_CELLS)

    def encode(self, image: Tensor, cell_px: float) -> HybridFeatures:
        """image: (B, 3, h, w), 0..255, query or map."""
        # Contiguous: GroupNorm's backward pass reads wild memory in the strides that the trunk's transposes leave.
        semantic = self.semantic_norm(self.trunk(image, cell_px).float().contiguous())
        levels = self.levels(standardise(image), semantic)
        fine = self.neck(levels)
        return HybridFeatures(fine + resized(self.to_fine(semantic), fine), levels[-1], semantic)

    def levels(self, standard: Tensor, semantic: Tensor) -> list[Tensor]:
        """The compact backbone's levels of a standardised image, the trunk's features added to the coarsest."""
        levels: list[Tensor] = self.backbone(standard)
        levels[-1] = levels[-1] + resized(self.to_coarse(semantic), levels[-1])
        return levels

    def match(self, query: HybridFeatures, search_map: HybridFeatures) -> Tensor:
        """Logits of K queries per map; K = queries / maps."""
        fine: Tensor = self.correlation(query.fine, search_map.fine)
        size = fine.shape[-2:]
        rough = self.semantic(query.semantic, search_map.semantic)
        rough = F.interpolate(rough, size=tuple(size), mode="bilinear", align_corners=True)
        coarse = share_over_queries(search_map.coarse, query.fine.shape[0] // search_map.fine.shape[0])
        mixed = self.backbone.mix_search(coarse, self.backbone.mix_query(query.coarse))
        return fine + rough + self.context_nodes(self.context(mixed), size)

    @staticmethod
    def context_nodes(context: Tensor, size: torch.Size) -> Tensor:
        """The mixed tokens' logits (B, 16, H/16, W/16) at the nodes (B, 1, *size)."""
        return cells_to_nodes(F.pixel_shuffle(context.float().contiguous(), _PER_CELL), size)

    def forward(self, query: Tensor, search_map: Tensor) -> Tensor:
        cell_px = self.cell_px(query.shape[-1])
        seen = self.encode(query, cell_px)
        if len(query) == 1:
            seen = seen.for_maps(len(search_map))
        return self.match(seen, self.encode(search_map, cell_px))


def resized(level: Tensor, like: Tensor) -> Tensor:
    """A level (B, C, h, w) at the size of another, bilinear."""
    size = like.shape[-2:]
    return level if level.shape[-2:] == size else F.interpolate(level, size=tuple(size), mode="bilinear")
