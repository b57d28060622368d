# SPDX-License-Identifier: Apache-2.0
"""Mix-Fusion on the compact backbone: feature pyramid to stride 4 and a GC head (spec 2.1, 2.3, 2.4).

What this repository ships and what runs in flight. Query and map come at the same ground sample distance.
"""

import torch
from torch import Tensor, nn

from geoloc_models.backbones.compact import Compact
from geoloc_models.drl.heads import GroupCorrelation
from geoloc_models.drl.necks import FeaturePyramid, share_over_queries


class QueryFeatures:
    """All that a map needs to know of a query, computed once per frame."""

    def __init__(self, keys: list[tuple[Tensor, Tensor]], kernel: Tensor) -> None:
        self.keys = keys
        self.kernel = kernel


class CompactMixFusion(nn.Module):
    """Query (B*K, 3, h, w) and map (B, 3, H, W) -> logits (B*K, 1, H/4 + 1, W/4 + 1).

    K queries of one map share the map's convolutional levels. Sides are multiples of 16 px. Logit node (r, c) is the
    score of the query's centre at map pixel-edge coordinate (4 r, 4 c).
    """

    stride_px = 4
    multiple_px = 16

    def __init__(self, backbone: Compact | None = None, width: int = 64, head_channels: int = 32) -> None:
        super().__init__()
        self.backbone = backbone or Compact()
        self.neck = FeaturePyramid(self.backbone.channels, width)
        self.head = GroupCorrelation(width, head_channels, scale=8.0, mean=True)

    @staticmethod
    def standardise(image: Tensor) -> Tensor:
        """Remove exposure and white balance: per-image, per-channel zero mean and unit spread."""
        image = image.float()
        mean = image.mean((-2, -1), keepdim=True)
        spread = image.std((-2, -1), keepdim=True)
        return (image - mean) / (spread + 4.0)

    def encode_query(self, query: Tensor) -> QueryFeatures:
        """query: (B, 3, h, w), 0..255."""
        z4, z8, z16 = self.backbone.local_levels(self.standardise(query))
        z16, keys = self.backbone.mix_query(z16)
        return QueryFeatures(keys, self.neck((z4, z8, z16)))

    def encode_map(self, search_map: Tensor) -> list[Tensor]:
        """search_map: (B, 3, H, W), 0..255 -> levels that no query has touched: reusable over frames."""
        return self.backbone.local_levels(self.standardise(search_map))

    def match(self, query: QueryFeatures, levels: list[Tensor]) -> Tensor:
        """Logits of K queries per map; K = queries / maps."""
        count = query.kernel.shape[0] // levels[0].shape[0]
        x4, x8, x16 = (share_over_queries(level, count) for level in levels)
        x16 = self.backbone.mix_search(x16, query.keys)
        logits: Tensor = self.head(query.kernel, self.neck((x4, x8, x16)))
        return logits

    def forward(self, query: Tensor, search_map: Tensor) -> Tensor:
        return self.match(self.encode_query(query), self.encode_map(search_map))


def parameter_count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


if __name__ == "__main__":
    print(parameter_count(CompactMixFusion()), torch.get_num_threads())
