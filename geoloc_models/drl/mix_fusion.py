# SPDX-License-Identifier: Apache-2.0
"""DRL Mix-Fusion (section III-B2): a one-stream backbone fuses view and map; neck and head give logits."""

from dataclasses import dataclass

from torch import Tensor, nn

from geoloc_models.backbones.mixed_attention import MixBackbone, QueryFeatures
from geoloc_models.drl.heads import Enlarge
from geoloc_models.drl.necks import queries_per_map, share_over_queries


@dataclass(frozen=True)
class EncodedQuery:
    """What a map needs of a query view; template: what a correlating head slides over the map."""

    features: QueryFeatures
    template: Tensor | None


class MixFusion(nn.Module):
    """Query views (B, 3, h, w) and maps (B, 3, H, W), RGB 0..255 -> logits (B, 1, H_out, W_out).

    Node (r, c) of the logits lies at the fractions r / (H_out - 1), c / (W_out - 1) of the map's sides: the
    convention of the published labels. K B views on B maps give K B results, and one view on B maps gives B.
    """

    def __init__(
        self,
        backbone: MixBackbone,
        neck: nn.Module,
        head: nn.Module,
        query_neck: nn.Module | None = None,
        enlarge: Enlarge | None = None,
    ) -> None:
        """query_neck: for a head that compares with the view itself, head(template, x); without it the head
        reads the map alone, head(x). enlarge: how to enlarge the logits, or not at all.
        """
        super().__init__()
        self.backbone = backbone
        self.multiple_px = backbone.multiple_px
        self.neck = neck
        self.query_neck = query_neck
        self.head = head
        self.enlarge = enlarge

    def encode_query(self, z: Tensor) -> EncodedQuery:
        """Encode views once for any number of maps: exact, because no feature of the view depends on the map."""
        features = self.backbone.encode_query(z.float() / 255.0)
        template = None if self.query_neck is None else self.query_neck(features.pyramid)
        return EncodedQuery(features, template)

    def forward_map(self, query: EncodedQuery, x: Tensor) -> Tensor:
        """Logits of maps given encoded views."""
        features, template = query.features, query.template
        views, maps = features.pyramid[0].shape[0], x.shape[0]
        if views == 1:
            features = features.expand(maps)
            template = None if template is None else template.expand(maps, -1, -1, -1)
        else:
            x = share_over_queries(x, queries_per_map(views, maps))
        pyramid = self.neck(self.backbone.forward_map(features, x.float() / 255.0))
        logits: Tensor = self.head(pyramid) if template is None else self.head(template, pyramid)
        return logits if self.enlarge is None else self.enlarge(logits, x.shape[-2:])

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.forward_map(self.encode_query(z), x)
